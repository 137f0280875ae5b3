//! IPVS' choices by the node's own connections: weighted least connections and shortest expected delay.
//!
//! Source: `net/netfilter/ipvs/ip_vs_wlc.c` and `ip_vs_sed.c` of Linux.

use plimsoll_core::time::Timestamp;

use super::{Selection, Weight};
use crate::dice::Dice;

/// The least of `(own + extra) / weight` wins, the first in the node's order on a tie.
pub(super) struct Least {
    extra: u64,
    entries: Vec<Weight>,
}

impl Least {
    pub(super) fn connections() -> Least {
        Least { extra: 0, entries: Vec::new() }
    }

    pub(super) fn delay() -> Least {
        Least { extra: 1, entries: Vec::new() }
    }
}

impl Selection for Least {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], dice: &mut Dice) {
        let find = |endpoint| weights.binary_search_by_key(&endpoint, |weight| weight.endpoint);
        self.entries.retain(|entry| find(entry.endpoint).is_ok());
        for entry in &mut self.entries {
            if let Ok(at) = find(entry.endpoint) {
                *entry = weights[at];
            }
        }
        if self.entries.len() < weights.len() {
            let known: Vec<usize> = self.entries.iter().map(|entry| entry.endpoint).collect();
            self.entries.extend(weights.iter().filter(|weight| !known.contains(&weight.endpoint)));
            dice.shuffle(&mut self.entries);
        }
    }

    fn choose(&mut self, _now: Timestamp, own: &[u32], _dice: &mut Dice) -> Option<usize> {
        let mut best: Option<(u64, Weight)> = None;
        for entry in &self.entries {
            let load = u64::from(own[entry.endpoint]) + self.extra;
            let is_better = best.is_none_or(|(least, chosen)| {
                load * u64::from(chosen.weight) < least * u64::from(entry.weight)
            });
            if is_better {
                best = Some((load, *entry));
            }
        }
        best.map(|(_, chosen)| chosen.endpoint)
    }
}
