//! Golden cases and laws of the choice per connection.

use proptest::prelude::*;

use super::aperture::{arcs, masses, parts, width};
use super::edf::{Order, Parameters, count_correction};
use super::excess::Bucket;
use crate::time::Timestamp;

fn near(a: &[f64], b: &[f64], within: f64) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= within), "{a:?} is not {b:?}");
}

#[test]
fn aperture_golden() {
    let arcs = arcs(&[60.0, 30.0, 10.0]);
    let expected = [
        [0.334_450, 0.176_863, 0.043_459, 0.040_000],
        [0.024_199, 0.120_159, 0.117_211, 0.039_085],
        [0.041_352, 0.002_978, 0.039_330, 0.020_915],
    ];
    let mut m = Vec::new();
    for (arc, expected) in arcs.iter().zip(expected) {
        masses(*arc, &[0.4, 0.3, 0.2, 0.1], 0.5, &mut m);
        near(&m, &expected, 1e-5);
    }
    near(&[width(4, 0.25, 4.0), width(8, 0.25, 4.0), width(100, 0.25, 4.0)], &[1.0, 0.5, 0.25], 0.0);
}

#[test]
fn stride_golden() {
    let weights = [0.5, 0.3, 0.2];
    let unbounded = Parameters { early_step: f64::INFINITY, ..Parameters::default() };
    let run = |parameters, young: [f64; 3]| {
        let mut order = Order::new(parameters, vec![0.5; 3]);
        let chosen: Vec<_> = (0..20).map(|_| order.choose(&weights, &young, &[0.0; 3]).unwrap()).collect();
        (chosen, order.phases().to_vec())
    };
    for parameters in [unbounded, Parameters::default()] {
        let (chosen, phases) = run(parameters, [0.0; 3]);
        assert_eq!(chosen, [0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 0, 1, 2, 0, 0, 1, 0, 2, 1, 0]);
        near(&phases, &[1.0, 0.8, 0.7], 1e-5);
    }
    let (chosen, phases) = run(unbounded, [1.0, 0.0, 0.0]);
    assert_eq!(chosen, [1, 2, 1, 0, 2, 1, 0, 1, 2, 0, 1, 0, 2, 1, 0, 1, 2, 0, 1, 0]);
    near(&phases, &[-1.0, 1.0, 0.5], 1e-5);
}

#[test]
fn no_weight_no_choice_and_a_smaller_weight_owes_less() {
    let mut order = Order::new(Parameters::default(), vec![0.0, -1.0]);
    assert_eq!(order.choose(&[0.0, 0.0], &[0.0; 2], &[0.0; 2]), None);
    order.reweigh(1, 0.4, 0.1);
    near(order.phases(), &[0.0, -0.25], 1e-12);
    near(&[count_correction(1.0), count_correction(-9.0)], &[0.3, -0.5], 1e-12);
}

/// One early choice of an endpoint with a small weight leaves the others where they were, nearly.
#[test]
fn what_is_chosen_early_is_no_long_time_for_others() {
    let weights = [0.001, 0.333, 0.333, 0.333];
    let mut order = Order::new(Parameters::default(), vec![0.5; 4]);
    let pulled = [-0.5, 0.0, 0.0, 0.0];
    assert_eq!(order.choose(&weights, &[0.0; 4], &pulled), Some(0));
    near(&order.phases()[1..], &[0.0; 3], 0.51);
    let mut chosen = [0; 4];
    for _ in 0..1000 {
        chosen[order.choose(&weights, &[0.0; 4], &pulled).unwrap()] += 1;
    }
    assert!(chosen[0] <= 3, "{chosen:?}");
}

#[test]
fn what_is_beyond_the_usual_rate_is_excess() {
    let mut bucket = Bucket::default();
    let mut usual = |millis: u64| bucket.takes(Timestamp::from_nanos(millis * 1_000_000), 10.0);
    assert!((1..=200).all(|turn| usual(1000 + 100 * turn)), "the usual rate");
    let burst = (0..100).filter(|_| usual(21_001)).count();
    assert!(burst <= 5, "{burst} of a burst of 100");
}

proptest! {
    #[test]
    fn parts_of_all_nodes_are_the_shares(
        nodes in prop::collection::vec((any::<u64>(), 1.0..100.0f64), 1..8),
        raw in prop::collection::vec((any::<u64>(), 0.01..1.0f64), 1..20),
    ) {
        let sum: f64 = raw.iter().map(|(_, share)| share).sum();
        let endpoints: Vec<_> = raw.iter().map(|(key, share)| (*key, share / sum)).collect();
        // How much each sends: its part of the ring, which the floor of `arcs` makes a little more even.
        let rates: Vec<f64> = nodes.iter().map(|(_, rate)| *rate).collect();
        let mut sent = vec![0.0; endpoints.len()];
        for (here, (from, to)) in arcs(&rates).iter().enumerate() {
            let mut served = Vec::new();
            parts(&nodes, here, &endpoints, &mut served);
            prop_assert!((served.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (sent, part) in sent.iter_mut().zip(&served) {
                *sent += part * (to - from);
            }
        }
        for (sent, (_, share)) in sent.iter().zip(&endpoints) {
            prop_assert!((sent - share).abs() < 1e-9);
        }
    }

    #[test]
    fn the_ring_keeps_shares(
        rates in prop::collection::vec(0.0..100.0f64, 1..10),
        raw in prop::collection::vec(0.01..1.0f64, 1..10),
        least in 0.05..1.0f64,
    ) {
        let sum: f64 = raw.iter().sum();
        let shares: Vec<f64> = raw.iter().map(|x| x / sum).collect();
        let arcs = arcs(&rates);
        for w in [width(shares.len(), least, 1.0), 1.0] {
            let mut sums = vec![0.0; shares.len()];
            let mut m = Vec::new();
            for (a, b) in &arcs {
                masses((*a, *b), &shares, w, &mut m);
                prop_assert!((m.iter().sum::<f64>() - (b - a)).abs() < 1e-9);
                for (sum, m) in sums.iter_mut().zip(&m) {
                    *sum += m;
                }
                if w >= 1.0 {
                    for (m, share) in m.iter().zip(&shares) {
                        prop_assert!((m / (b - a) - share).abs() < 1e-9 / (b - a));
                    }
                }
            }
            for (sum, share) in sums.iter().zip(&shares) {
                prop_assert!((sum - share).abs() < 1e-9);
            }
        }
    }
}

/// Numbers in [0, 1) that are the same in each run (Knuth's MMIX generator).
fn dice() -> impl FnMut() -> f64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn stride_order_keeps_to_the_weights() {
    let mut dice = dice();
    for case in 0..500 {
        let count = 1 + case % 20;
        let raw: Vec<f64> = (0..count).map(|_| 0.5 + 4.0 * dice()).collect();
        let sum: f64 = raw.iter().sum();
        let weights: Vec<f64> = raw.iter().map(|w| w / sum).collect();
        let phases = (0..count).map(|_| (-libm::log(1.0 - dice())).min(3.0)).collect();
        let none = vec![0.0; count];
        let mut order = Order::new(Parameters::default(), phases);
        let mut counts = none.clone();
        for m in 1..=400 {
            counts[order.choose(&weights, &none, &none).unwrap()] += 1.0;
            for (count, weight) in counts.iter().zip(&weights) {
                let off = count - f64::from(m) * weight;
                assert!(off.abs() <= 4.0, "case {case}, {m} choices: {off}");
            }
        }
    }
}
