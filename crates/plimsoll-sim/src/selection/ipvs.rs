//! IPVS' weighted round robin as it is: not smooth, and its cursor starts over at each edit.
//!
//! Source: `net/netfilter/ipvs/ip_vs_wrr.c` of Linux: a current weight falls from the largest weight by the greatest
//! common divisor; in each round every destination of at least the current weight is chosen once.

use plimsoll_core::time::Timestamp;

use super::{Selection, Weight};
use crate::dice::Dice;

/// Weights are written in this many levels: with fine weights the runs are as long as the weights are fine.
const LEVELS: u64 = 32;

/// IPVS' weighted round robin.
#[derive(Default)]
pub(super) struct Wrr {
    /// In the order in which the destinations were added, each node's own.
    entries: Vec<Weight>,
    cursor: usize,
    current: u32,
    largest: u32,
    divisor: u32,
}

impl Selection for Wrr {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], dice: &mut Dice) {
        let most = weights.iter().map(|weight| weight.weight).max().unwrap_or(1);
        let level = |weight: &Weight| {
            let level = (u64::from(weight.weight) * LEVELS + u64::from(most) / 2) / u64::from(most);
            Weight { endpoint: weight.endpoint, weight: (level as u32).max(1) }
        };
        let mut wanted: Vec<Weight> = weights.iter().map(level).collect();
        let present: Vec<Weight> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let at = wanted.binary_search_by_key(&entry.endpoint, |weight| weight.endpoint).ok()?;
                Some(wanted[at])
            })
            .collect();
        if present == self.entries && present.len() == wanted.len() {
            // Nothing is written, so nothing starts over.
            return;
        }
        wanted.retain(|weight| present.iter().all(|entry| entry.endpoint != weight.endpoint));
        dice.shuffle(&mut wanted);
        self.entries = present;
        self.entries.extend(wanted);
        self.divisor = self.entries.iter().map(|entry| entry.weight).fold(0, greatest_common_divisor).max(1);
        let largest = self.entries.iter().map(|entry| entry.weight).max().unwrap_or(0);
        self.largest = (largest + 1).saturating_sub(self.divisor);
        // Before the first: the search goes on with the next.
        self.cursor = self.entries.len();
        if self.current > self.largest || self.current == 0 {
            self.current = self.largest;
        } else if self.divisor > 1 {
            self.current = self.current / self.divisor * self.divisor + 1;
        }
    }

    fn choose(&mut self, _now: Timestamp, _own: &[u32], _dice: &mut Dice) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        loop {
            let from = if self.cursor >= self.entries.len() { 0 } else { self.cursor + 1 };
            let rest = self.entries[from..].iter().position(|entry| entry.weight >= self.current);
            if let Some(found) = rest {
                self.cursor = from + found;
                return Some(self.entries[self.cursor].endpoint);
            }
            self.cursor = self.entries.len();
            self.current = match self.current.checked_sub(self.divisor) {
                None | Some(0) => self.largest,
                Some(lower) => lower,
            };
        }
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
