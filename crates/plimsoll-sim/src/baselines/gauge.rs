//! What baselines that need it measure of the endpoints: connections, new connections and CPU, a moment ago.

use std::collections::VecDeque;
use std::time::Duration;

use plimsoll_core::time::Timestamp;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::processor::Reading;
use crate::scenario::{Misreading, Scenario};

/// The time constant of rates and CPU, in seconds; as the agents have it.
const TIME_CONSTANT: f64 = 0.7;

/// What was measured of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Open connections.
    pub open: f64,
    /// Connections opened per second, filtered.
    pub opens_per_second: f64,
    /// Cores in use, filtered; `None` where nobody reads it.
    pub cpu: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Past {
    opened: u64,
    reading: Reading,
}

/// Measures all endpoints every so often. What is measured is seen by everybody a moment later: one delay for all.
pub(super) struct Gauge {
    interval: Duration,
    delay: Duration,
    noise: f64,
    reads_cpu: bool,
    measured: Timestamp,
    past: Vec<Past>,
    /// Oldest first; the first is what is seen.
    figures: VecDeque<(Timestamp, Vec<Figures>)>,
    dice: Dice,
}

impl Gauge {
    /// Measures as often as the scenario's agents, and tells as late as its mesh at the latest.
    pub(super) fn new(scenario: &Scenario, dice: Dice) -> Gauge {
        Gauge {
            interval: scenario.mesh.interval.0,
            delay: scenario.mesh.most_delay.0,
            noise: scenario.signals.as_ref().map_or(0.0, |signals| signals.noise),
            reads_cpu: scenario.signals.is_some(),
            measured: Timestamp::ZERO,
            past: Vec::new(),
            figures: VecDeque::new(),
            dice,
        }
    }

    /// Measures at `now`; when it wants to measure again.
    pub(super) fn measure(&mut self, now: Timestamp, cluster: &Cluster) -> Timestamp {
        let elapsed = now.seconds_since(self.measured);
        self.measured = now;
        let mut figures = self.figures.back().map(|(_, figures)| figures.clone()).unwrap_or_default();
        figures.resize(cluster.endpoints.len(), Figures::default());
        self.past.resize(cluster.endpoints.len(), Past::default());
        let gain = 1.0 - libm::exp(-elapsed / TIME_CONSTANT);
        for ((figures, past), endpoint) in figures.iter_mut().zip(&mut self.past).zip(&cluster.endpoints) {
            let reading = endpoint.processor.reading(now);
            figures.open = f64::from(endpoint.open);
            if elapsed > 0.0 {
                let opens = (endpoint.opened - past.opened) as f64 / elapsed;
                figures.opens_per_second += gain * (opens - figures.opens_per_second);
                let used = (reading.busy - past.reading.busy) / elapsed;
                let noisy = (used * (1.0 + self.noise * self.dice.normal())).max(0.0);
                let read = match endpoint.misreading {
                    None => Some(noisy),
                    Some(Misreading::Missing) => None,
                    Some(Misreading::Idle) => Some(0.0),
                    Some(Misreading::Full) => Some(endpoint.capacity),
                };
                figures.cpu = read
                    .filter(|_| self.reads_cpu)
                    .map(|read| figures.cpu.map_or(read, |before| before + gain * (read - before)));
            }
            *past = Past { opened: endpoint.opened, reading };
        }
        self.figures.push_back((now, figures));
        while self.figures.len() > 1 && self.figures[1].0 + self.delay <= now {
            self.figures.pop_front();
        }
        now + self.interval
    }

    /// What is seen now; nothing before the first measurement arrived.
    pub(super) fn seen(&self) -> &[Figures] {
        self.figures.front().map_or(&[], |(_, figures)| figures)
    }
}

/// The level of an endpoint: CPU in use per stated capacity or, without that, connections per stated capacity.
pub(super) fn level(cluster: &Cluster, seen: &[Figures], endpoint: usize) -> Option<f64> {
    let figures = seen.get(endpoint)?;
    let load = if cluster.has_work { figures.cpu? } else { figures.open };
    Some(load / cluster.nominal(endpoint))
}
