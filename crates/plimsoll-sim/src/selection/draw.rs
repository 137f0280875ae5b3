//! Choices by a number that falls into an endpoint's interval: random, counted, or the better of two.

use plimsoll_core::order::{self, Interval};
use plimsoll_core::time::Timestamp;

use super::{Selection, Weight};
use crate::dice::Dice;

/// Where the number comes from.
enum Source {
    /// nftables' `numgen random`.
    Random,
    /// nftables' `numgen inc` through the order map; nodes are kept out of step by an offset.
    Counter { next: u32, offset: u32 },
}

/// Intervals of steps, laid out as the nftables dataplane lays them out.
pub(super) struct Draw {
    source: Source,
    steps: u32,
    /// The endpoints, and the interval of each by its place among them.
    endpoints: Vec<usize>,
    intervals: Vec<Interval>,
    /// Where each interval ends.
    ends: Vec<u32>,
}

impl Draw {
    pub(super) fn random() -> Draw {
        Draw::new(Source::Random)
    }

    pub(super) fn counter(dice: &mut Dice) -> Draw {
        Draw::new(Source::Counter { next: 0, offset: dice.bits() as u32 })
    }

    fn new(source: Source) -> Draw {
        Draw { source, steps: 0, endpoints: Vec::new(), intervals: Vec::new(), ends: Vec::new() }
    }
}

impl Selection for Draw {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], _dice: &mut Dice) {
        let endpoints: Vec<usize> = weights.iter().map(|weight| weight.endpoint).collect();
        let steps = order::steps(endpoints.len()).unwrap_or(0);
        if endpoints != self.endpoints || steps != self.steps {
            self.intervals.clear();
        }
        (self.endpoints, self.steps) = (endpoints, steps);
        self.ends.clear();
        if weights.is_empty() || steps == 0 {
            return;
        }
        let numbers: Vec<u32> = weights.iter().map(|weight| weight.weight).collect();
        self.intervals = match self.source {
            Source::Random => in_order(&order::parts(&numbers, steps)),
            Source::Counter { offset, .. } => order::lay_out(&numbers, steps, offset, &self.intervals),
        };
        let mut end = 0;
        self.ends.extend(self.intervals.iter().map(|interval| {
            end += interval.steps;
            end
        }));
    }

    fn choose(&mut self, _now: Timestamp, _own: &[u32], dice: &mut Dice) -> Option<usize> {
        if self.ends.is_empty() {
            return None;
        }
        let step = match &mut self.source {
            Source::Random => dice.below(self.steps as usize) as u32 + 1,
            Source::Counter { next, offset } => {
                let step = order::value(*next % self.steps, self.steps, *offset);
                *next = (*next + 1) % self.steps;
                step
            }
        };
        let place = self.ends.partition_point(|end| *end < step);
        self.intervals.get(place).map(|interval| self.endpoints[interval.endpoint])
    }
}

/// A random draw does not mind where an interval lies.
fn in_order(parts: &[u32]) -> Vec<Interval> {
    let intervals = parts.iter().enumerate().map(|(endpoint, &steps)| Interval { endpoint, steps });
    intervals.filter(|interval| interval.steps > 0).collect()
}

/// Two weighted draws; the one with fewer of the node's own connections per weight wins, the first on a tie.
///
/// Source: M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE Transactions on Parallel
/// and Distributed Systems 12, 2001.
#[derive(Default)]
pub(super) struct TwoChoices {
    weights: Vec<Weight>,
    sums: Vec<f64>,
}

impl Selection for TwoChoices {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], _dice: &mut Dice) {
        self.weights = weights.to_vec();
        let mut sum = 0.0;
        self.sums.clear();
        self.sums.extend(weights.iter().map(|weight| {
            sum += f64::from(weight.weight);
            sum
        }));
    }

    fn choose(&mut self, _now: Timestamp, own: &[u32], dice: &mut Dice) -> Option<usize> {
        if self.weights.is_empty() {
            return None;
        }
        let [first, second] =
            [dice.weighted(&self.sums), dice.weighted(&self.sums)].map(|at| self.weights[at]);
        let held = |weight: Weight| u64::from(own[weight.endpoint]);
        let second_is_better =
            held(second) * u64::from(first.weight) < held(first) * u64::from(second.weight);
        Some(if second_is_better { second.endpoint } else { first.endpoint })
    }
}
