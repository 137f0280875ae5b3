//! From shares to weights in the dataplane: quantised, and left alone where the change is too small to matter.

use crate::policy::{Row, Share};
use crate::table::{Weighted, full_weight};

/// The weights for these shares (one per row), given those in the dataplane; both sorted by endpoint. An old
/// weight stays unless the share moved beyond the dead band; a new endpoint gets its share at once, and one that
/// has no row vanishes.
pub fn install(old: &[Weighted], rows: &[Row], shares: &[Share], dead_band: f64) -> Vec<Weighted> {
    let full = full_weight(rows.len());
    if let [only] = rows {
        return vec![Weighted { endpoint: only.endpoint, weight: full }];
    }
    let small = 0.2 / rows.len() as f64;
    // Weights of another fineness do not compare.
    let old = if full_weight(old.len()) == full { old } else { &[] };
    let mut old = old.iter().peekable();
    let weighted = rows.iter().zip(shares).map(|(row, share)| {
        while old.next_if(|old| old.endpoint < row.endpoint).is_some() {}
        let present = old.next_if(|old| old.endpoint == row.endpoint);
        let stays = |present: &&Weighted| {
            let before = f64::from(present.weight) / f64::from(full);
            (share.share - before).abs() <= dead_band * before.max(small) + 0.5 / f64::from(full)
        };
        let weight = match present.filter(stays) {
            Some(present) => present.weight,
            None => (libm::round(share.share * f64::from(full)) as u32).clamp(1, full),
        };
        Weighted { endpoint: row.endpoint, weight }
    });
    weighted.collect()
}
