//! How close the order of choices stays to the exact shares.

use plimsoll_core::order::{lay_out, parts, steps, value};
use plimsoll_lab::random::Random;

use crate::row::{Bound, Row, Unit};

const VECTORS: usize = 1000;

/// The largest deviation from the exact shares, of any endpoint after any number of connections, over random
/// weight vectors of 2 to 50 endpoints: ours against that of smooth weighted round robin.
pub(crate) fn deviation() -> Vec<Row> {
    let mut random = Random::new(7);
    let (mut ours, mut smooth) = (Vec::new(), Vec::new());
    for _ in 0..VECTORS {
        let endpoints = 2 + random.below(49);
        let weights: Vec<u32> = (0..endpoints).map(|_| 1 + random.below(4096) as u32).collect();
        let Some(steps) = steps(endpoints) else { continue };
        let parts = parts(&weights, steps);
        let offset = random.below(steps as usize) as u32;
        ours.push(largest(&parts, by_steps(&weights, steps, offset)));
        smooth.push(largest(&parts, smooth_round_robin(&parts)));
    }
    let worst = |all: &[f64]| all.iter().fold(0.0, |a: f64, b| a.max(*b));
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let note = format!("means {:.2} and {:.2} of {} vectors", mean(&ours), mean(&smooth), ours.len());
    let bound = Bound::AtMost(2.0);
    vec![Row::against("order", worst(&ours), worst(&smooth), Unit::Connections, bound).noting(note)]
}

/// As the dataplane chooses.
fn by_steps(weights: &[u32], steps: u32, offset: u32) -> impl Iterator<Item = usize> {
    let intervals = lay_out(weights, steps, offset, &[]).into_iter();
    let owners = intervals.flat_map(|interval| vec![interval.endpoint; interval.steps as usize]);
    let owners: Vec<usize> = owners.collect();
    (0..steps).map(move |count| owners[value(count, steps, offset) as usize - 1])
}

/// Each gains its part, the largest credit wins and pays the sum (as nginx and IPVS do).
fn smooth_round_robin(parts: &[u32]) -> impl Iterator<Item = usize> + '_ {
    let sum: i64 = parts.iter().map(|part| i64::from(*part)).sum();
    let mut credit = vec![0; parts.len()];
    (0..sum).map(move |_| {
        let mut best = 0;
        for endpoint in 0..parts.len() {
            credit[endpoint] += i64::from(parts[endpoint]);
            if credit[endpoint] > credit[best] {
                best = endpoint;
            }
        }
        credit[best] -= sum;
        best
    })
}

/// The largest deviation of any endpoint's count from its exact share over all prefixes.
fn largest(parts: &[u32], chosen: impl Iterator<Item = usize>) -> f64 {
    let sum: u32 = parts.iter().sum();
    let shares: Vec<f64> = parts.iter().map(|part| f64::from(*part) / f64::from(sum)).collect();
    let mut counts = vec![0.0; parts.len()];
    let mut worst = 0.0_f64;
    for (before, endpoint) in chosen.enumerate() {
        counts[endpoint] += 1.0;
        for (count, share) in counts.iter().zip(&shares) {
            worst = worst.max((count - (before + 1) as f64 * share).abs());
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_told_apart() {
        assert_eq!(largest(&[1, 1], [0, 1].into_iter()), 0.5);
        assert_eq!(largest(&[2, 2], [0, 0, 1, 1].into_iter()), 1.0);
        assert_eq!(smooth_round_robin(&[4, 2, 1]).collect::<Vec<_>>(), [0, 1, 0, 2, 0, 1, 0]);
        assert_eq!(by_steps(&[4, 3, 1], 8, 0).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1, 0, 2]);
    }
}
