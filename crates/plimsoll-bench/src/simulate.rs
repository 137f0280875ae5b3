//! How fast the simulator is.

use std::time::Instant;

use anyhow::{Context as _, Result};
use plimsoll_sim::batch::{Progress, run};
use plimsoll_sim::catalogue::Contender;
use plimsoll_sim::scenario::find;

use crate::row::{Bound, Row, Unit};

/// What is simulated: the engine with next to no policy, and with agents on the nodes.
const RUNS: [(&str, &str, &str); 3] = [
    ("simulate:connections", "c-mix", "random"),
    ("simulate:requests", "p-hot", "jsq-work"),
    ("simulate:agents", "p-hot", "waterline:counter"),
];
/// The best of so many counts: others use the machine, too.
const TRIES: u64 = 5;

/// Simulated events per second on one core.
pub(crate) fn events() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, scenario, policy) in RUNS {
        let scenario = find(scenario).with_context(|| format!("there is no scenario {scenario}"))??;
        let contender = Contender::named(policy)?;
        let mut best: f64 = 0.0;
        for seed in 1..=TRIES {
            let began = Instant::now();
            let steps = run(&scenario, contender, seed, None, &Progress::default()).measured.steps;
            best = best.max(steps as f64 / began.elapsed().as_secs_f64() / 1e6);
        }
        // What agents cost is the balancer's business; it has rows of its own.
        let least = if policy.starts_with("waterline") { 0.0 } else { 3.0 };
        rows.push(Row::recorded(name, best, Unit::MillionsPerSecond, Bound::AtLeast(least)));
    }
    Ok(rows)
}
