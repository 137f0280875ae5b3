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

    /// What a run reached; `None` if there was nothing to measure: no connection was open, or no request answered.
    fn read(self, measured: &Measured) -> Option<f64> {
        match self {
            Figure::MaxOverMean => measured.max_over_mean,
            Figure::P99 => measured.outcome.latency.quantile(0.99),
            Figure::FailedShare => Some(measured.outcome.failed_share()),
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

/// Runs against those of somebody else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// How many runs could be compared.
    pub compared: usize,
    /// How many could not, since there was nothing to measure in them, or in the other's.
    pub incomparable: usize,
    /// Those that were worse.
    pub worse: Vec<Worse>,
}

/// Compares the contenders' runs with those of `other` with the same seed: who was worse by more than [`TOLERANCE`]?
pub fn compare(
    scenarios: &[Named],
    contenders: &[Contender],
    runs: &[Vec<Vec<Run>>],
    other: Contender,
) -> Comparison {
    let mut found = Comparison::default();
    let Some(place) = contenders.iter().position(|contender| *contender == other) else { return found };
    for (named, runs) in scenarios.iter().zip(runs) {
        let figure = Figure::of(&named.scenario);
        let rivals = contenders.iter().zip(runs).filter(|(contender, _)| **contender != other);
        for (contender, own) in rivals {
            for ((own, others), seed) in own.iter().zip(&runs[place]).zip(1..) {
                let figures = figure.read(&own.measured).zip(figure.read(&others.measured));
                let Some((reached, other)) = figures else {
                    found.incomparable += 1;
                    continue;
                };
                found.compared += 1;
                if reached > other * (1.0 + TOLERANCE) {
                    let scenario = named.name.clone();
                    found.worse.push(Worse { scenario, contender: *contender, seed, figure, reached, other });
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
        let than_random = compare(&scenarios, &contenders, &runs, contenders[1]);
        assert_eq!(than_random, Comparison { compared: 4, ..Comparison::default() });
        let Comparison { worse: than_oracle, .. } = compare(&scenarios, &contenders, &runs, contenders[0]);
        assert_eq!(than_oracle.iter().map(|worse| worse.seed).collect::<Vec<_>>(), [1, 2, 1, 2]);
        assert!(than_oracle.iter().all(|worse| worse.reached > worse.other));
    }

    #[test]
    fn what_measured_nothing_is_as_good_as_nobody() {
        // So rare and so short that no look meets one.
        let text = "about = \"rare\"\nuntil = \"20s\"\nmeasured_from = \"10s\"\n[[endpoints]]\ncount = 2\n[clients]\n\
                    rate = 0.2\nlong_part = 0.0\nshort_life = \"1ms\"\n";
        let scenario = Scenario::parse("rare", text).expect("it is a scenario");
        let scenarios = [Named { name: "rare".into(), scenario }];
        let contenders = ["random", "waterline"].map(|name| Contender::named(name).expect("it exists"));
        let runs = run_all(&scenarios, &contenders, 2, 1, Traced::None, &Progress::default());
        let comparison = compare(&scenarios, &contenders, &runs, contenders[0]);
        assert_eq!(comparison, Comparison { incomparable: 2, ..Comparison::default() });
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
