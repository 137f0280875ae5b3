//! What each way to choose makes of weights.

use super::*;

/// The first `count` choices by these weights, the node holding `own` throughout.
fn choices(kind: Kind, weights: &[u32], own: &[u32], count: usize) -> Vec<usize> {
    let mut dice = Dice::new(1, 0);
    let mut selection = build(kind, true, &mut dice);
    selection.set(Timestamp::ZERO, &listed(weights), &mut dice);
    (0..count).map(|_| selection.choose(Timestamp::ZERO, own, &mut dice).unwrap()).collect()
}

fn listed(weights: &[u32]) -> Vec<Weight> {
    weights.iter().enumerate().map(|(endpoint, weight)| Weight { endpoint, weight: *weight }).collect()
}

fn runs(choices: &[usize]) -> usize {
    choices.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap_or(0)
}

#[test]
fn weights_are_kept_in_the_long_run() {
    let weights = [1000, 4000, 500, 1500];
    for kind in [Kind::Random, Kind::Counter, Kind::Wrr, Kind::IpvsWrr, Kind::Edf] {
        let choices = choices(kind, &weights, &[0; 4], 60_000);
        for (endpoint, weight) in weights.iter().enumerate() {
            let part = choices.iter().filter(|chosen| **chosen == endpoint).count() as f64 / 60_000.0;
            let expected = f64::from(*weight) / 7000.0;
            assert!((part / expected - 1.0).abs() < 0.05, "{}: {part} for {expected}", kind.name());
        }
    }
}

#[test]
fn only_ipvs_goes_in_runs() {
    let weights = [1000, 900, 899, 850];
    assert!(runs(&choices(Kind::IpvsWrr, &weights, &[0; 4], 200)) > 2);
    for kind in [Kind::Wrr, Kind::Counter] {
        assert!(runs(&choices(kind, &weights, &[0; 4], 200)) <= 2, "{}", kind.name());
    }
}

#[test]
fn ipvs_starts_over_at_each_edit() {
    let mut dice = Dice::new(1, 0);
    let mut wrr = build(Kind::IpvsWrr, true, &mut dice);
    let mut choose = |weights: &[u32]| {
        wrr.set(Timestamp::ZERO, &listed(weights), &mut dice);
        wrr.choose(Timestamp::ZERO, &[0; 2], &mut dice).unwrap()
    };
    let first = choose(&[32, 32]);
    assert_ne!(choose(&[32, 32]), first, "nothing was edited");
    // Edited before each choice, the same one comes first each time.
    let edited: Vec<usize> = (0..6).map(|i| choose(&[32, 31 - i % 2])).collect();
    assert_eq!(runs(&edited), 6, "{edited:?}");
}

#[test]
fn own_connections_count_where_they_should() {
    let own = [6, 2, 0];
    assert_eq!(choices(Kind::Wlc, &[4, 1, 0].map(|w: u32| w.max(1)), &own, 1), [2]);
    // (6 + 1) / 4 < (2 + 1) / 1 and < (0 + 1) / 1 is not: the last one is empty and small.
    assert_eq!(choices(Kind::Sed, &[8, 1, 1], &own, 1), [0]);
    let two = choices(Kind::TwoChoices, &[1, 1, 1], &own, 3000);
    let of = |endpoint| two.iter().filter(|chosen| **chosen == endpoint).count();
    assert!(of(0) < of(1) && of(1) < of(2), "{} {} {}", of(0), of(1), of(2));
}

#[test]
fn who_goes_is_not_chosen_and_who_stays_keeps_its_place() {
    for kind in Kind::ALL {
        let mut dice = Dice::new(4, 0);
        let mut selection = build(kind, false, &mut dice);
        assert_eq!(selection.choose(Timestamp::ZERO, &[0; 5], &mut dice), None, "{}", kind.name());
        selection.set(Timestamp::ZERO, &listed(&[5, 5, 5, 5]), &mut dice);
        for _ in 0..7 {
            selection.choose(Timestamp::ZERO, &[0; 5], &mut dice);
        }
        let fewer: Vec<Weight> = [0, 2, 4].map(|endpoint| Weight { endpoint, weight: 5 }).into();
        selection.set(Timestamp::ZERO, &fewer, &mut dice);
        for _ in 0..100 {
            let chosen = selection.choose(Timestamp::ZERO, &[0; 5], &mut dice).unwrap();
            assert!([0, 2, 4].contains(&chosen), "{}", kind.name());
        }
    }
}

#[test]
fn young_connections_put_the_order_off() {
    let mut dice = Dice::new(1, 0);
    let mut edf = build(Kind::Edf, true, &mut dice);
    edf.set(Timestamp::ZERO, &listed(&[1, 1]), &mut dice);
    for _ in 0..3 {
        edf.opened(Timestamp::ZERO, 0);
    }
    let now = Timestamp::from_nanos(1);
    let first: Vec<usize> = (0..3).map(|_| edf.choose(now, &[3, 0], &mut dice).unwrap()).collect();
    assert_eq!(first, [1, 1, 1]);
    let later = Timestamp::from_nanos(2_000_000_000);
    let grown: Vec<usize> = (0..10).map(|_| edf.choose(later, &[3, 0], &mut dice).unwrap()).collect();
    assert!(grown.contains(&0), "they are not young any more: {grown:?}");
}
