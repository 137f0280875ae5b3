//! Smooth weighted round robin: each endpoint earns its weight at each choice, the richest pays for all.
//!
//! Source: I. Sysoev, "Upstream: smooth weighted round-robin balancing", nginx 1.3.1, 2012.

use plimsoll_core::time::Timestamp;

use super::{Selection, Weight};
use crate::dice::Dice;

struct Entry {
    weight: Weight,
    credit: i64,
}

/// Smooth weighted round robin; which of equals comes first is each node's own.
#[derive(Default)]
pub(super) struct Smooth {
    entries: Vec<Entry>,
    sum: i64,
}

impl Selection for Smooth {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], dice: &mut Dice) {
        let find = |endpoint| weights.binary_search_by_key(&endpoint, |weight| weight.endpoint);
        let old_sum = self.sum.max(1);
        self.sum = weights.iter().map(|weight| i64::from(weight.weight)).sum();
        self.entries.retain(|entry| find(entry.weight.endpoint).is_ok());
        for entry in &mut self.entries {
            if let Ok(at) = find(entry.weight.endpoint) {
                entry.weight = weights[at];
            }
            // Credits are in parts of the sum.
            entry.credit = entry.credit * self.sum / old_sum;
        }
        if self.entries.len() < weights.len() {
            let known: Vec<usize> = self.entries.iter().map(|entry| entry.weight.endpoint).collect();
            let new = weights.iter().filter(|weight| !known.contains(&weight.endpoint));
            let new: Vec<Entry> = new.map(|weight| Entry { weight: *weight, credit: 0 }).collect();
            self.entries.extend(new);
            dice.shuffle(&mut self.entries);
        }
    }

    fn choose(&mut self, _now: Timestamp, _own: &[u32], _dice: &mut Dice) -> Option<usize> {
        let mut best = 0;
        let mut most = i64::MIN;
        for (at, entry) in self.entries.iter_mut().enumerate() {
            entry.credit += i64::from(entry.weight.weight);
            if entry.credit > most {
                (best, most) = (at, entry.credit);
            }
        }
        let winner = self.entries.get_mut(best)?;
        winner.credit -= self.sum;
        Some(winner.weight.endpoint)
    }
}
