//! Loads from counts and samples.

use std::time::Duration;

use super::*;
use crate::service::Protocol;

fn endpoint(last: u8) -> EndpointId {
    EndpointId { address: [10, 1, 0, last].into(), port: 8080, protocol: Protocol::Tcp }
}

fn loads() -> Loads {
    Loads::new(Filter {
        horizon: Duration::from_secs(1),
        time_constant: Duration::from_millis(700),
        sample_expiry: Duration::from_secs(5),
    })
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_duration(Duration::from_secs_f64(seconds))
}

/// Slots of half a second, the newest one `progress` seconds old.
fn counts(progress: f32, hosted: Vec<Count>) -> Counts {
    let mut slots = [0.0; AGE_SLOTS];
    for (i, began) in slots.iter_mut().enumerate() {
        *began = progress + 0.5 * i as f32;
    }
    Counts { slots, hosted, sent: Vec::new() }
}

fn count(last: u8, open: u32, opened: u64, by_age: &[u32]) -> Count {
    let mut count = Count { open, opened, ..Count::none(endpoint(last)) };
    count.open_by_age[..by_age.len()].copy_from_slice(by_age);
    count
}

#[test]
fn ages_divide_at_one_and_two_horizons() {
    let mut loads = loads();
    loads.count(at(1.0), &counts(0.5, vec![count(1, 100, 100, &[1, 2, 4, 8, 16])]), |_| {});
    let load = loads.hosted_load(&endpoint(1)).unwrap();
    assert_eq!((load.open, load.young, load.middle), (100.0, 3.0, 12.0));
}

#[test]
fn a_slot_across_the_horizon_counts_in_part() {
    let mut loads = loads();
    loads.count(at(1.0), &counts(0.25, vec![count(1, 100, 100, &[1, 2, 4, 8, 16])]), |_| {});
    let load = loads.hosted_load(&endpoint(1)).unwrap();
    assert_eq!((load.young, load.middle), (1.0 + 2.0 + 2.0, 2.0 + 8.0 + 8.0));
}

#[test]
fn the_rate_of_opens_follows_with_the_time_constant() {
    let mut loads = loads();
    loads.count(at(1.0), &counts(0.5, vec![count(1, 0, 500, &[])]), |_| {});
    assert_eq!(loads.hosted_load(&endpoint(1)).unwrap().opens_per_second, 0.0);
    loads.count(at(1.7), &counts(0.5, vec![count(1, 0, 570, &[])]), |_| {});
    let rate = |loads: &Loads| loads.hosted_load(&endpoint(1)).unwrap().opens_per_second;
    assert!((rate(&loads) - 100.0).abs() < 1e-6, "right from the first value on: {}", rate(&loads));
    for i in 1..100_u32 {
        let opened = 570 + 10 * u64::from(i);
        loads.count(at(1.7 + 0.1 * f64::from(i)), &counts(0.5, vec![count(1, 0, opened, &[])]), |_| {});
    }
    loads.count(at(12.3), &counts(0.5, vec![count(1, 0, 1560, &[])]), |_| {});
    let after = rate(&loads);
    assert!((after - 100.0 * libm::exp(-1.0)).abs() < 0.1, "then with the time constant: {after}");
}

#[test]
fn totals_that_begin_anew_are_no_burst() {
    let mut loads = loads();
    loads.count(at(1.0), &counts(0.5, vec![count(1, 0, 500, &[])]), |_| {});
    loads.count(at(2.0), &counts(0.5, vec![count(1, 0, 3, &[])]), |_| {});
    assert_eq!(loads.hosted_load(&endpoint(1)).unwrap().opens_per_second, 0.0);
}

#[test]
fn an_endpoint_that_is_not_counted_any_more_is_forgotten() {
    let mut loads = loads();
    loads.count(at(1.0), &counts(0.5, vec![count(1, 5, 5, &[])]), |_| {});
    loads.count(at(2.0), &counts(0.5, vec![]), |_| {});
    assert!(loads.hosted_load(&endpoint(1)).is_none());
}

#[test]
fn nonsense_and_old_samples_count_as_missing() {
    let mut loads = loads();
    loads.count(at(1.0), &counts(0.5, vec![count(1, 5, 5, &[])]), |_| {});
    for nonsense in [f64::NAN, f64::INFINITY, -1.0] {
        let endpoint = endpoint(1);
        loads.sample(&Sample { endpoint, at: at(1.0), cpu: Some(nonsense), pressure: Some(nonsense) });
        let load = loads.hosted_load(&endpoint).unwrap();
        assert_eq!((load.cpu, load.pressure), (None, None));
    }
    loads.sample(&Sample { endpoint: endpoint(1), at: at(1.0), cpu: Some(0.5), pressure: Some(7.0) });
    let load = *loads.hosted_load(&endpoint(1)).unwrap();
    assert_eq!((load.cpu, load.pressure), (Some(0.5), Some(1.0)));
    loads.expire(at(6.5));
    assert_eq!(loads.hosted_load(&endpoint(1)).unwrap().cpu, None);
}

#[test]
fn counters_that_went_wild_are_survived() {
    let mut loads = loads();
    for opened in [0, u64::MAX] {
        let wild =
            |last| Count { refused: opened, unanswered: opened, ..count(last, 1, opened, &[u32::MAX; 16]) };
        let sent = vec![wild(1), wild(2)];
        let counts = Counts { sent: sent.clone(), ..counts(0.1, sent) };
        loads.count(at(1.0 + opened.min(1) as f64), &counts, |_| {});
    }
    let load = loads.hosted_load(&endpoint(1)).unwrap();
    assert!(load.young <= load.open && load.opens_per_second.is_finite(), "{load:?}");
}
