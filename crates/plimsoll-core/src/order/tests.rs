//! The order against smooth weighted round robin.

use proptest::prelude::*;

use super::*;

/// Smooth weighted round robin: each gains its weight, the largest credit wins and pays the sum.
fn smooth(parts: &[u32]) -> Vec<usize> {
    let sum: i64 = parts.iter().map(|&p| i64::from(p)).sum();
    let mut credit = vec![0i64; parts.len()];
    let choose = |_| {
        let mut best = 0;
        for i in 0..parts.len() {
            credit[i] += i64::from(parts[i]);
            if credit[i] > credit[best] {
                best = i;
            }
        }
        credit[best] -= sum;
        best
    };
    (0..sum).map(choose).collect()
}

fn ours(parts: &[u32], offset: u32) -> Vec<usize> {
    let w: u32 = parts.iter().sum();
    let owner: Vec<usize> = parts.iter().enumerate().flat_map(|(i, &p)| vec![i; p as usize]).collect();
    (0..w).map(|i| owner[value(i, w, offset) as usize - 1]).collect()
}

/// The largest deviation of any endpoint's count from its exact share over all prefixes.
fn deviation(parts: &[u32], chosen: &[usize]) -> f64 {
    let w = chosen.len() as f64;
    let mut counts = vec![0.0; parts.len()];
    let mut worst = 0.0f64;
    for (m, &c) in chosen.iter().enumerate() {
        counts[c] += 1.0;
        for (count, &part) in counts.iter().zip(parts) {
            worst = worst.max((count - (m + 1) as f64 * part as f64 / w).abs());
        }
    }
    worst
}

/// A thousand weight vectors of 2 to 50 endpoints, the same in each run.
fn vectors() -> Vec<Vec<u32>> {
    let mut state = 7u64;
    let mut dice = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut vector = || {
        let endpoints = 2 + dice() % 49;
        (0..endpoints).map(|_| 1 + dice() % 4096).collect()
    };
    (0..1000).map(|_| vector()).collect()
}

/// The largest and the mean deviation of these vectors, for an order of choices.
fn deviations(order: impl Fn(&[u32]) -> Vec<usize>) -> (f64, f64) {
    let (mut largest, mut sum) = (0.0f64, 0.0);
    for weights in vectors() {
        let parts = lay_out(&weights, steps(weights.len()).unwrap());
        let deviation = deviation(&parts, &order(&parts));
        largest = largest.max(deviation);
        sum += deviation / 1000.0;
    }
    (largest, sum)
}

// Counted: smooth weighted round robin never strays a whole connection from the exact shares, bit reversal over
// contiguous intervals up to three and a half. What one interval per endpoint costs.
#[test]
fn the_order_stays_close_to_the_shares() {
    let of_smooth = deviations(smooth);
    assert!(of_smooth.0 < 0.97 && of_smooth.1 < 0.90, "{of_smooth:?}");
    for offset in [0, 0b10_1101_0101] {
        let of_ours = deviations(|parts| ours(parts, offset));
        assert!(of_ours.0 < 3.6 && of_ours.1 < 2.8, "offset {offset}: {of_ours:?}");
    }
}

#[test]
fn four_three_one_alternates() {
    let parts = lay_out(&[4, 3, 1], 8);
    assert_eq!(parts, [4, 3, 1]);
    assert_eq!(ours(&parts, 0), [0, 1, 0, 1, 0, 1, 0, 2]);
}

#[test]
fn steps_grow_with_the_endpoints() {
    let cases = [(0, 1024), (1, 1024), (16, 1024), (17, 2048), (50, 4096), (512, 32_768), (16_384, 32_768)];
    for (endpoints, expected) in cases {
        assert_eq!(steps(endpoints), Some(expected), "{endpoints} endpoints");
    }
    assert_eq!([steps(16_385), steps(100_000), steps(usize::MAX)], [None; 3]);
}

#[test]
fn every_step_has_one_turn() {
    for w in [1, 2, 1024, 32_768] {
        for offset in [0, 1, 777, u32::MAX] {
            let mut seen = vec![false; w as usize];
            for i in 0..w {
                let step = value(i, w, offset);
                assert!((1..=w).contains(&step));
                assert!(!std::mem::replace(&mut seen[step as usize - 1], true));
            }
        }
    }
}

proptest! {
    #[test]
    fn steps_go_by_largest_remainder(weights in prop::collection::vec(0..4097u32, 1..600)) {
        prop_assume!(weights.iter().any(|&weight| weight > 0));
        let w = steps(weights.len()).unwrap();
        let parts = lay_out(&weights, w);
        prop_assert_eq!(parts.iter().sum::<u32>(), w);
        let total: u32 = weights.iter().sum();
        for (&weight, &part) in weights.iter().zip(&parts) {
            prop_assert_eq!(weight > 0, part > 0);
            // Those that need their one step may cost the others some, but few of 64 each.
            let exact = f64::from(weight) * f64::from(w) / f64::from(total);
            prop_assert!(part == 1 || (f64::from(part) - exact).abs() < 2.0, "{} for {}", part, exact);
        }
    }
}

#[test]
fn the_smallest_weights_keep_a_step() {
    let mut weights = vec![1; 500];
    weights.push(4096);
    let parts = lay_out(&weights, steps(501).unwrap());
    assert!(parts.iter().all(|&part| part > 0));
    let parts = lay_out(&[4096, 1, 1, 0], 1024);
    assert_eq!(parts, [1022, 1, 1, 0]);
    // As many as there are steps.
    let mut weights = vec![1; 1023];
    weights.push(9);
    assert_eq!(lay_out(&weights, 1024), [1; 1024]);
}
