//! The policy that knows nothing: the same share for all.

use super::{Group, Policy, Share};

pub(super) struct Equal;

impl Policy for Equal {
    fn decide(&mut self, group: &Group<'_>, shares: &mut Vec<Share>) {
        let share = 1.0 / group.rows.len() as f64;
        shares.clear();
        shares.extend(group.rows.iter().map(|_| Share { share, target: share, capacity: 1.0, limit: None }));
    }
}
