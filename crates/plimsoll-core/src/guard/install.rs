//! From shares to weights in the dataplane: quantised, and left alone where the change is too small to matter.

use crate::policy::{Row, Share};
use crate::table::{FULL_WEIGHT, Weighted};

/// The weights for these shares (one per row), given those in the dataplane; both sorted by endpoint. An old
/// weight stays unless the share moved beyond the dead band; a new endpoint gets its share at once, and one that
/// has no row vanishes.
pub fn install(old: &[Weighted], rows: &[Row], shares: &[Share], dead_band: f64) -> Vec<Weighted> {
    if let [only] = rows {
        return vec![Weighted { endpoint: only.endpoint, weight: FULL_WEIGHT }];
    }
    let full = f64::from(FULL_WEIGHT);
    let small = 0.2 / rows.len() as f64;
    let mut old = old.iter().peekable();
    let weighted = rows.iter().zip(shares).map(|(row, share)| {
        while old.next_if(|old| old.endpoint < row.endpoint).is_some() {}
        let present = old.next_if(|old| old.endpoint == row.endpoint);
        let weight = match present {
            Some(present) => {
                let before = f64::from(present.weight) / full;
                let moved = (share.share - before).abs() > dead_band * before.max(small) + 0.5 / full;
                if moved { quantised(share.share) } else { present.weight }
            }
            None => quantised(share.share),
        };
        Weighted { endpoint: row.endpoint, weight }
    });
    weighted.collect()
}

fn quantised(share: f64) -> u32 {
    (libm::round(share * f64::from(FULL_WEIGHT)) as u32).clamp(1, FULL_WEIGHT)
}
