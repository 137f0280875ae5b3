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

fn ours(weights: &[u32], w: u32, offset: u32) -> Vec<usize> {
    let intervals = lay_out(weights, w, offset, &[]);
    let owner: Vec<usize> = intervals.iter().flat_map(|of| vec![of.endpoint; of.steps as usize]).collect();
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
fn deviations(order: impl Fn(&[u32], u32) -> Vec<usize>) -> (f64, f64) {
    let (mut largest, mut sum) = (0.0f64, 0.0);
    for weights in vectors() {
        let steps = steps(weights.len()).unwrap();
        let parts = parts(&weights, steps);
        let deviation = deviation(&parts, &order(&parts, steps));
        largest = largest.max(deviation);
        sum += deviation / 1000.0;
    }
    (largest, sum)
}

// Counted: smooth weighted round robin never strays a whole connection from the exact shares, ours never two.
#[test]
fn the_order_stays_close_to_the_shares() {
    let of_smooth = deviations(|parts, _| smooth(parts));
    assert!(of_smooth.0 < 0.97 && of_smooth.1 < 0.90, "{of_smooth:?}");
    for offset in [0, 0b10_1101_0101] {
        let of_ours = deviations(|parts, steps| ours(parts, steps, offset));
        assert!(of_ours.0 <= place::MOST_STRAY && of_ours.1 < 1.9, "offset {offset}: {of_ours:?}");
    }
}

#[test]
fn four_three_one_alternates() {
    assert_eq!(parts(&[4, 3, 1], 8), [4, 3, 1]);
    assert_eq!(ours(&[4, 3, 1], 8, 0), [0, 1, 0, 1, 0, 1, 0, 2]);
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
    fn steps_go_by_largest_remainder(weights in prop::collection::vec(0..4097u32, 1..600), offset: u32) {
        prop_assume!(weights.iter().any(|&weight| weight > 0));
        let w = steps(weights.len()).unwrap();
        let parts = parts(&weights, w);
        prop_assert_eq!(parts.iter().sum::<u32>(), w);
        let mut laid = vec![0; weights.len()];
        let intervals = lay_out(&weights, w, offset, &[]);
        prop_assert!(intervals.iter().all(|interval| interval.steps > 0));
        prop_assert!(intervals.len() <= weights.iter().filter(|weight| **weight > 0).count() + 1);
        for interval in intervals {
            laid[interval.endpoint] += interval.steps;
        }
        prop_assert_eq!(&laid, &parts);
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
    let shares = parts(&weights, steps(501).unwrap());
    assert!(shares.iter().all(|&part| part > 0));
    assert_eq!(parts(&[4096, 1, 1, 0], 1024), [1022, 1, 1, 0]);
    // As many as there are steps.
    let mut weights = vec![1; 1023];
    weights.push(9);
    assert_eq!(parts(&weights, 1024), [1; 1024]);
}

proptest! {
    #[test]
    fn what_is_kept_strays_little_more(
        weights in prop::collection::vec(100..4097u32, 2..50),
        changes in prop::collection::vec((0..50usize, 100..4097u32), 1..5),
        offset: u32,
    ) {
        let w = steps(weights.len()).unwrap();
        let first = lay_out(&weights, w, offset, &[]);
        let mut changed = weights.clone();
        for (endpoint, weight) in changes {
            let place = endpoint % changed.len();
            changed[place] = weight;
        }
        let next = lay_out(&changed, w, offset, &first);
        prop_assert_eq!(next.iter().map(|interval| interval.steps).sum::<u32>(), w);
        prop_assert_eq!(lay_out(&changed, w, offset, &next), next, "the same weights change nothing");
    }
}
