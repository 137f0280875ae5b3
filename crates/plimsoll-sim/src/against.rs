//! Who did worse than somebody else, run by run: the promise to be never worse than what was there before.

use crate::batch::{Named, Run};
use crate::catalogue::Contender;
use crate::measure::Measured;
use crate::scenario::Scenario;

/// Worse by no more than this is as good.
pub const TOLERANCE: f64 = 0.03;

/// The figure that a scenario is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// `max/mean`, where only connections matter.
    MaxOverMean,
    /// The p99 of the latency, where requests cost CPU.
    P99,
    /// The part that failed, where endpoints fail.
    FailedShare,
}

impl Figure {
    /// The one that a scenario is about.
    pub fn of(scenario: &Scenario) -> Figure {
        if scenario.events.iter().any(|event| event.fail.is_some()) {
            Figure::FailedShare
        } else if scenario.work.is_some() {
            Figure::P99
        } else {
            Figure::MaxOverMean
        }
    }

    /// What to call it.
    pub const fn name(self) -> &'static str {
        match self {
            Figure::MaxOverMean => "max/mean",
            Figure::P99 => "p99 in seconds",
            Figure::FailedShare => "failed share",
        }
    }

    fn read(self, measured: &Measured) -> f64 {
        match self {
            Figure::MaxOverMean => measured.max_over_mean.unwrap_or(1.0),
            Figure::P99 => measured.outcome.latency.quantile(0.99).unwrap_or(0.0),
            Figure::FailedShare => measured.outcome.failed_share(),
        }
    }
}

/// A run that was worse than the other's with the same seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Worse {
    /// Which scenario.
    pub scenario: String,
    /// Who was worse.
    pub contender: Contender,
    /// With which seed.
    pub seed: u64,
    /// In which figure.
    pub figure: Figure,
    /// What it reached.
    pub reached: f64,
    /// What the other reached.
    pub other: f64,
}

/// Every run of a contender that was worse than that of `other` with the same seed, by more than [`TOLERANCE`].
pub fn worse(
    scenarios: &[Named],
    contenders: &[Contender],
    runs: &[Vec<Vec<Run>>],
    other: Contender,
) -> Vec<Worse> {
    let mut found = Vec::new();
    let Some(place) = contenders.iter().position(|contender| *contender == other) else { return found };
    for (named, runs) in scenarios.iter().zip(runs) {
        let figure = Figure::of(&named.scenario);
        for (contender, own) in contenders.iter().zip(runs) {
            for ((own, others), seed) in own.iter().zip(&runs[place]).zip(1..) {
                let (reached, other) = (figure.read(&own.measured), figure.read(&others.measured));
                if reached > other * (1.0 + TOLERANCE) {
                    let scenario = named.name.clone();
                    found.push(Worse { scenario, contender: *contender, seed, figure, reached, other });
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Progress, Traced, run_all};

    #[test]
    fn the_worse_ones_are_told_run_by_run() {
        let text = "about = \"small\"\nuntil = \"100s\"\nmeasured_from = \"40s\"\n[[endpoints]]\ncount = 6\n[clients]\n\
                    rate = 20\nlong_part = 0.5\nlong_life = \"20s\"\n";
        let scenario = Scenario::parse("small", text).expect("it is a scenario");
        assert_eq!(Figure::of(&scenario), Figure::MaxOverMean);
        let scenarios = [Named { name: "small".into(), scenario }];
        let contenders =
            ["jsq-work", "random", "waterline"].map(|name| Contender::named(name).expect("it exists"));
        let runs = run_all(&scenarios, &contenders, 2, 2, Traced::None, &Progress::default());
        let than_random = worse(&scenarios, &contenders, &runs, contenders[1]);
        assert!(than_random.is_empty(), "{than_random:?}");
        let than_oracle = worse(&scenarios, &contenders, &runs, contenders[0]);
        assert_eq!(than_oracle.iter().map(|worse| worse.seed).collect::<Vec<_>>(), [1, 2, 1, 2]);
        assert!(than_oracle.iter().all(|worse| worse.reached > worse.other));
    }

    #[test]
    fn what_a_scenario_is_about_shows_in_it() {
        let figure =
            |name| Figure::of(&crate::scenario::find(name).expect("it exists").expect("it is a scenario"));
        assert_eq!(
            ["c-mix", "c-refuse", "p-mix", "p-refuse"].map(figure),
            [Figure::MaxOverMean, Figure::FailedShare, Figure::P99, Figure::FailedShare]
        );
    }
}
