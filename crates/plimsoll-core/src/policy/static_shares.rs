//! The policy that looks at sizes alone: shares in proportion to nominal capacities.

use super::{Group, Policy, Share, nominal_capacities};

#[derive(Default)]
pub(super) struct StaticShares {
    nominal: Vec<f64>,
}

impl Policy for StaticShares {
    fn decide(&mut self, group: &Group<'_>, shares: &mut Vec<Share>) {
        nominal_capacities(group.rows.iter().map(|row| row.capacity), &mut self.nominal);
        let sum: f64 = self.nominal.iter().sum();
        shares.clear();
        shares.extend(self.nominal.iter().map(|&capacity| {
            let share = capacity / sum;
            Share { share, target: share, capacity, limit: None }
        }));
    }
}
