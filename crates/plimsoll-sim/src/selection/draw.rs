//! Choices by a number that falls into an endpoint's interval: random, counted, or the better of two.

use plimsoll_core::order;
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
    endpoints: Vec<usize>,
    /// Where each endpoint's interval ends.
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
        Draw { source, steps: 0, endpoints: Vec::new(), ends: Vec::new() }
    }
}

impl Selection for Draw {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], _dice: &mut Dice) {
        self.endpoints.clear();
        self.endpoints.extend(weights.iter().map(|weight| weight.endpoint));
        self.ends.clear();
        self.steps = order::steps(weights.len()).unwrap_or(0);
        if weights.is_empty() || self.steps == 0 {
            return;
        }
        let weights: Vec<u32> = weights.iter().map(|weight| weight.weight).collect();
        let mut end = 0;
        self.ends.extend(order::lay_out(&weights, self.steps).iter().map(|part| {
            end += part;
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
        self.endpoints.get(place).copied()
    }
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
