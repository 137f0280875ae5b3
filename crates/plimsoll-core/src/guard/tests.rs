//! Laws of the guard, and a small world in which its loop is closed.

// Exact figures are meant to be exact.
#![allow(clippy::float_cmp)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::load::Load;
use crate::policy::tests::{KINDS, any_rows, endpoint, group, row, sound};
use crate::policy::{self, Heard, Policy};
use crate::service::PolicyKind as Kind;
use crate::table::{Weighted, full_weight};

/// How connections of the world live.
#[derive(Clone, Copy)]
struct Traffic {
    per_second: f64,
    long_part: f64,
    short_seconds: f64,
    long_seconds: f64,
}

/// The traffic of a web site with websockets.
const MIX: Traffic = Traffic { per_second: 400.0, long_part: 0.05, short_seconds: 0.05, long_seconds: 120.0 };

const STEP: f64 = 0.05;
const TICK: f64 = 0.5;
const HORIZON: f64 = 2.0;

/// Endpoints, clients and one node that balances by a policy and the guard, with reports half a second old.
/// Arrivals are evenly spaced, placed in smooth weighted round robin order; lives are drawn with a fixed seed.
struct World {
    traffic: Traffic,
    now: f64,
    /// When each open connection was opened and will end, per endpoint.
    open: Vec<Vec<(f64, f64)>>,
    /// Endpoints that close at once.
    closing: Vec<bool>,
    /// Endpoints that refuse.
    refusing: Vec<bool>,
    born: Vec<f64>,
    weights: Vec<f64>,
    credit: Vec<f64>,
    opens: Vec<f64>,
    failures: Vec<f64>,
    report: Vec<Row>,
    policy: Box<dyn Policy>,
    guard: Option<Guard>,
    shares: Vec<Share>,
    dice: u64,
    due: f64,
    /// Connections that went to each endpoint since somebody looked.
    sent: Vec<f64>,
}

impl World {
    fn new(endpoints: usize, traffic: Traffic, guarded: bool) -> World {
        let mut world = World {
            traffic,
            now: 0.0,
            open: vec![],
            closing: vec![],
            refusing: vec![],
            born: vec![],
            weights: vec![],
            credit: vec![],
            opens: vec![],
            failures: vec![],
            report: vec![],
            policy: policy::build(Kind::Waterline, &policy::Parameters::default()),
            guard: guarded.then(|| Guard::new(&Parameters::default())),
            shares: vec![],
            dice: 1,
            due: 0.0,
            sent: vec![],
        };
        for _ in 0..endpoints {
            world.add(f64::NEG_INFINITY);
        }
        world
    }

    fn add(&mut self, born: f64) {
        self.open.push(vec![]);
        self.closing.push(false);
        self.refusing.push(false);
        self.born.push(born);
        self.weights.push(1.0 / self.born.len() as f64);
        self.credit.push(0.0);
        self.opens.push(0.0);
        self.failures.push(0.0);
        self.sent.push(0.0);
    }

    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 11) as f64 / (1u64 << 53) as f64
    }

    fn connect(&mut self) -> (usize, bool) {
        let sum: f64 = self.weights.iter().sum();
        let mut chosen = 0;
        for i in 0..self.weights.len() {
            self.credit[i] += self.weights[i] / sum;
            if self.credit[i] > self.credit[chosen] {
                chosen = i;
            }
        }
        self.credit[chosen] -= 1.0;
        self.sent[chosen] += 1.0;
        let mean = if self.roll() < self.traffic.long_part {
            self.traffic.long_seconds
        } else {
            self.traffic.short_seconds
        };
        let life = -libm::log(1.0 - self.roll()) * mean;
        if self.refusing[chosen] {
            return (chosen, false);
        }
        if !self.closing[chosen] {
            self.open[chosen].push((self.now, self.now + life));
        }
        (chosen, true)
    }

    fn rows(&self) -> Vec<Row> {
        let now = self.now;
        let rows = (0..self.open.len()).map(|i| {
            let aged = |from: f64, to: f64| {
                self.open[i].iter().filter(|(at, _)| now - at >= from && now - at < to).count() as f64
            };
            Row {
                age: 0.0,
                seconds_eligible: now - self.born[i],
                load: Load {
                    open: self.open[i].len() as f64,
                    young: aged(0.0, HORIZON),
                    middle: aged(HORIZON, 2.0 * HORIZON),
                    opens_per_second: self.opens[i],
                    failures_per_second: self.failures[i],
                    ..Load::default()
                },
                ..row(i as u32)
            }
        });
        rows.collect()
    }

    fn decide(&mut self) {
        let seen = self.rows();
        let rows = std::mem::replace(&mut self.report, seen);
        if rows.is_empty() {
            return;
        }
        let group = Group {
            rows: &rows,
            elapsed: TICK,
            delay: 1.0,
            horizon: HORIZON,
            slow_start: Duration::ZERO,
            floor: None,
        };
        self.policy.decide(&group, &mut self.shares);
        if let Some(guard) = &mut self.guard {
            guard.bound(&group, &mut self.shares);
        }
        for (weight, share) in self.weights.iter_mut().zip(&self.shares) {
            *weight = share.share;
        }
    }

    /// Lets `seconds` pass; returns the part of all connections that went to each endpoint meanwhile.
    fn run(&mut self, seconds: f64) -> Vec<f64> {
        self.sent.fill(0.0);
        for step in 1..=libm::round(seconds / STEP) as u32 {
            self.now += STEP;
            let (mut opened, mut failed) = (vec![0.0; self.open.len()], vec![0.0; self.open.len()]);
            self.due += self.traffic.per_second * STEP;
            while self.due >= 1.0 {
                self.due -= 1.0;
                let (chosen, served) = self.connect();
                if served { opened[chosen] += 1.0 } else { failed[chosen] += 1.0 }
            }
            let gain = 1.0 - libm::exp(-STEP / 0.7);
            for i in 0..self.open.len() {
                self.opens[i] += gain * (opened[i] / STEP - self.opens[i]);
                self.failures[i] += gain * (failed[i] / STEP - self.failures[i]);
                let now = self.now;
                self.open[i].retain(|(_, end)| *end > now);
            }
            if step % 10 == 0 {
                self.decide();
            }
        }
        let all: f64 = self.sent.iter().sum();
        self.sent.iter().map(|sent| sent / all).collect()
    }
}

/// The part of connections sent to the first `bad` of 12 endpoints, relative to static shares: in the first five
/// seconds after they went bad, and from the 15th to the 60th.
fn after_fault(bad: usize, traffic: Traffic, guarded: bool, fault: impl Fn(&mut World, usize)) -> (f64, f64) {
    let mut world = World::new(12, traffic, guarded);
    world.run(200.0);
    for i in 0..bad {
        fault(&mut world, i);
    }
    let fair = bad as f64 / 12.0;
    let of_bad = |sent: Vec<f64>| sent[..bad].iter().sum::<f64>() / fair;
    let first = of_bad(world.run(5.0));
    world.run(10.0);
    (first, of_bad(world.run(45.0)))
}

#[test]
fn endpoints_that_close_at_once_attract_nothing() {
    for bad in [1, 6] {
        let (first, later) = after_fault(bad, MIX, true, |world, i| world.closing[i] = true);
        assert!(first <= 1.1, "{bad} bad: {first} in the first 5 s");
        assert!(later <= 1.0 / 3.0, "{bad} bad: {later} after 15 s");
    }
}

#[test]
fn endpoints_that_refuse_attract_nothing() {
    for bad in [1, 6] {
        let (first, later) = after_fault(bad, MIX, true, |world, i| world.refusing[i] = true);
        assert!(first <= 1.1, "{bad} bad: {first} in the first 5 s");
        assert!(later <= 1.0 / 3.0, "{bad} bad: {later} after 15 s");
    }
}

#[test]
fn new_endpoints_fill() {
    let few = Traffic { per_second: 10.0, long_part: 0.2, ..MIX };
    for (traffic, seconds) in [(MIX, 20.0), (few, 60.0)] {
        let fill = |guarded| {
            let mut world = World::new(12, traffic, guarded);
            world.run(300.0);
            for _ in 0..4 {
                world.add(300.0);
            }
            let sent = world.run(seconds);
            sent[12..].iter().sum::<f64>() / 4.0 * 16.0
        };
        let (guarded, free) = (fill(true), fill(false));
        assert!(
            guarded > 1.8 && guarded > 0.8 * free,
            "{guarded} of the fair share; without the guard {free}"
        );
    }
}

/// The mean of max/mean of open connections over two minutes.
fn unevenness(traffic: Traffic, guarded: bool) -> f64 {
    let mut world = World::new(12, traffic, guarded);
    world.run(300.0);
    let mut sum = 0.0;
    for _ in 0..240 {
        world.run(0.5);
        let counts = world.open.iter().map(Vec::len);
        let mean = counts.clone().sum::<usize>() as f64 / 12.0;
        sum += counts.max().unwrap() as f64 / mean;
    }
    sum / 240.0 - 1.0
}

#[test]
fn a_healthy_group_is_as_even_as_without_the_guard() {
    let few = Traffic { per_second: 10.0, long_part: 0.2, ..MIX };
    let sparse = Traffic { per_second: 2.0, long_part: 1.0, ..MIX };
    for traffic in [MIX, few, sparse] {
        let (guarded, free) = (unevenness(traffic, true), unevenness(traffic, false));
        assert!(guarded < 1.15 * free, "{guarded} without the guard {free}");
    }
}

#[test]
fn nobody_healthy_is_called_failing() {
    let short = Traffic { long_part: 0.0, ..MIX };
    let tiny = Traffic { long_part: 0.0, short_seconds: 0.001, ..MIX };
    let few = Traffic { per_second: 10.0, long_part: 0.2, ..MIX };
    let sparse = Traffic { per_second: 2.0, long_part: 1.0, ..MIX };
    for traffic in [MIX, short, tiny, few, sparse] {
        for seed in 1..4 {
            let mut world = World::new(12, traffic, true);
            world.dice = seed;
            for second in 0..400 {
                world.run(1.0);
                let guard = world.guard.as_ref().unwrap();
                let fine = guard.memory.values().iter().all(|watch| watch.standing == Standing::Fine);
                assert!(fine, "seed {seed}, {second} s, {} per s", traffic.per_second);
            }
        }
    }
}

#[test]
fn a_majority_that_slows_does_not_make_the_rest_look_broken() {
    let mut rows: Vec<Row> = (0..8)
        .map(|i| Row {
            load: Load { opens_per_second: 100.0, young: 4.0, open: 4.0, ..Load::default() },
            ..row(i)
        })
        .collect();
    let mut guard = Guard::new(&Parameters::default());
    let mut shares = vec![];
    for tick in 0..600 {
        if tick == 300 {
            for row in &mut rows[..6] {
                (row.load.young, row.load.open) = (150.0, 150.0);
            }
        }
        policy::build(Kind::Equal, &policy::Parameters::default()).decide(&group(&rows), &mut shares);
        guard.bound(&group(&rows), &mut shares);
        assert!(shares.iter().all(|share| share.share == 0.125), "tick {tick}: {shares:?}");
    }
}

#[test]
fn what_was_slow_for_a_burst_is_not_missing_when_it_is_over() {
    let mut guard = Guard::new(&Parameters::default());
    let (mut shares, mut young) = (vec![], [0.4; 8]);
    for tick in 0..1200 {
        // Bursts of 2 s in which requests wait at the small half of the endpoints, and some of 12 s in which they wait
        // everywhere; what waits is worked off within a second or two.
        let (burst, long) = (tick % 20 >= 16, tick % 160 >= 136);
        let opens = if burst || long { 120.0 } else { 20.0 };
        let rows: Vec<Row> = (0..8)
            .map(|i| {
                let seconds = if long || (burst && i < 4) { 0.6 } else { 0.02 };
                let young = &mut young[i as usize];
                *young += 0.4 * (opens * seconds - *young);
                let load = Load { opens_per_second: opens, young: *young, open: *young, ..Load::default() };
                Row { load, ..row(i) }
            })
            .collect();
        policy::build(Kind::Equal, &policy::Parameters::default()).decide(&group(&rows), &mut shares);
        guard.bound(&group(&rows), &mut shares);
        let fine = guard.memory.values().iter().all(|watch| watch.standing == Standing::Fine);
        assert!(fine, "tick {tick}");
    }
}

/// Bursts that are over between two counts as often as not: of a Service to all of its endpoints at once, and of other
/// Services to each by itself. All answer, but the first where it is `broken`: it closes at once after a while.
/// Which is called failing first within ten minutes.
fn called_failing(endpoints: usize, size: f64, seconds: f64, seed: u64, broken: bool) -> Option<usize> {
    let mut world = World::new(0, MIX, false);
    world.dice = seed;
    let mut guard = Guard::new(&Parameters::default());
    let (mut rates, mut shares) = (vec![0.0; endpoints], vec![]);
    let gain = 1.0 - libm::exp(-TICK / 0.7);
    for tick in 0..1200 {
        let mut burst = || (world.roll() < 0.2).then(|| (world.roll() * TICK + seconds > TICK, size));
        let common = burst();
        let mut rows = vec![];
        for (i, rate) in rates.iter_mut().enumerate() {
            let bursts = common.into_iter().chain(burst());
            let (opened, seen) = bursts.fold((0.0, 0.0), |(opened, seen), (is_seen, size)| {
                (opened + size, seen + if is_seen { size } else { 0.0 })
            });
            *rate += gain * (opened / TICK - *rate);
            let young = if broken && i == 0 && tick >= 300 { 0.0 } else { seen };
            let load = Load { opens_per_second: *rate, young, open: young, ..Load::default() };
            rows.push(Row { load, ..row(i as u32) });
        }
        policy::build(Kind::Equal, &policy::Parameters::default()).decide(&group(&rows), &mut shares);
        guard.bound(&group(&rows), &mut shares);
        let failing = |watch: &Watch| watch.standing == Standing::Failing;
        if let Some(endpoint) = guard.memory.values().iter().position(failing) {
            return Some(endpoint);
        }
    }
    None
}

#[test]
fn bursts_that_no_count_saw_are_no_failures() {
    for endpoints in [2, 3, 8] {
        for size in [4.0, 12.0, 24.0, 48.0] {
            for seconds in [0.01, 0.05, 0.2] {
                for seed in 1..21 {
                    let what = format!("{endpoints} endpoints, {size} for {seconds} s, seed {seed}");
                    assert_eq!(called_failing(endpoints, size, seconds, seed, false), None, "{what}");
                    if seconds == 0.2 {
                        assert_eq!(called_failing(endpoints, size, seconds, seed, true), Some(0), "{what}");
                    }
                }
            }
        }
    }
}

/// Decides and bounds `times` times; the last shares.
fn settle(guard: &mut Guard, kind: Kind, rows: &[Row], times: u32) -> Vec<Share> {
    let mut policy = policy::build(kind, &policy::Parameters::default());
    let mut shares = vec![];
    for _ in 0..times {
        policy.decide(&group(rows), &mut shares);
        guard.bound(&group(rows), &mut shares);
    }
    shares
}

#[test]
fn an_idle_cpu_under_flow_is_a_fault() {
    let mut rows: Vec<Row> = (0..8)
        .map(|i| Row {
            capacity: Some(2.0),
            load: Load {
                opens_per_second: 50.0,
                open: 20.0,
                young: 2.0,
                cpu: Some(1.0),
                pressure: Some(0.1),
                ..Load::default()
            },
            ..row(i)
        })
        .collect();
    let mut guard = Guard::new(&Parameters::default());
    settle(&mut guard, Kind::Waterline, &rows, 60);
    rows[3].load.cpu = Some(0.01);
    rows[3].load.pressure = Some(0.0);
    let shares = settle(&mut guard, Kind::Waterline, &rows, 3);
    assert!(shares[3].share <= shares[3].target * (1.0 + 1e-9), "{shares:?}");
    assert_eq!(shares[3].limit, Some(Limit::NoEvidence));
    let shares = settle(&mut guard, Kind::Waterline, &rows, 10);
    assert!(shares[3].share < 0.03 * shares[3].target, "{shares:?}");
    assert_eq!(shares[3].limit, Some(Limit::Failing));
    // The Service's own floor comes before the configured one.
    let mut policy = policy::build(Kind::Static, &policy::Parameters::default());
    for floor in [0.1, 0.005] {
        let (group, mut shares) = (Group { floor: Some(floor), ..group(&rows) }, vec![]);
        policy.decide(&group, &mut shares);
        guard.bound(&group, &mut shares);
        assert!((shares[3].share - floor * shares[3].target).abs() < 1e-9, "{shares:?}");
    }
}

#[test]
fn at_most_half_is_set_aside_and_the_worst_first() {
    let mut rows: Vec<Row> = (0..7)
        .map(|i| Row {
            load: Load { opens_per_second: 20.0, open: 50.0, young: 20.0, ..Load::default() },
            ..row(i)
        })
        .collect();
    for (i, row) in rows.iter_mut().enumerate().skip(1) {
        row.load.failures_per_second = 20.0 + i as f64;
    }
    let mut guard = Guard::new(&Parameters::default());
    let shares = settle(&mut guard, Kind::Static, &rows, 4);
    let failing: Vec<_> = (0..7).filter(|&i| shares[i].limit == Some(Limit::Failing)).collect();
    assert_eq!(failing, [4, 5, 6]);
    assert!(failing.iter().all(|&i| (shares[i].share - 0.02 / 7.0).abs() < 1e-9), "{shares:?}");
    assert!((shares.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn one_of_two_that_fails_comes_back() {
    let mut rows: Vec<Row> = (0..2)
        .map(|i| Row {
            load: Load { opens_per_second: 20.0, open: 50.0, young: 20.0, ..Load::default() },
            ..row(i)
        })
        .collect();
    rows[0].load.failures_per_second = 60.0;
    let mut guard = Guard::new(&Parameters::default());
    let limits = |shares: Vec<Share>| shares[0].limit;
    assert_eq!(limits(settle(&mut guard, Kind::Equal, &rows, 4)), Some(Limit::Failing));
    rows[0].load.failures_per_second = 0.0;
    assert_eq!(limits(settle(&mut guard, Kind::Equal, &rows, 8)), Some(Limit::Failing));
    let back = settle(&mut guard, Kind::Equal, &rows, 8);
    assert!(back[0].share < 0.4, "{back:?}");
    assert_eq!(limits(back), Some(Limit::Recovering));
    assert_eq!(settle(&mut guard, Kind::Equal, &rows, 30)[0].share, 0.5);
}

#[test]
fn to_leave_and_come_back_does_not_make_an_endpoint_better() {
    let mut rows: Vec<Row> = (0..4)
        .map(|i| Row {
            load: Load { opens_per_second: 20.0, open: 50.0, young: 20.0, ..Load::default() },
            ..row(i)
        })
        .collect();
    rows[1].load.failures_per_second = 60.0;
    let mut guard = Guard::new(&Parameters::default());
    let failing = settle(&mut guard, Kind::Equal, &rows, 4)[1];
    assert_eq!(failing.limit, Some(Limit::Failing));
    let others: Vec<Row> = [&rows[..1], &rows[2..]].concat();
    settle(&mut guard, Kind::Equal, &others, 6);
    // It answers now, but nobody has seen that yet.
    rows[1].load = Load::default();
    assert_eq!(settle(&mut guard, Kind::Equal, &rows, 1)[1].limit, Some(Limit::Failing));
    // Its term went on meanwhile; one that is long gone is a new one.
    settle(&mut guard, Kind::Equal, &others, 30);
    assert_eq!(settle(&mut guard, Kind::Equal, &rows, 1)[1].limit, Some(Limit::Recovering));
    settle(&mut guard, Kind::Equal, &others, 300);
    assert_eq!(settle(&mut guard, Kind::Equal, &rows, 1)[1].share, 0.25);
}

#[test]
fn a_common_overload_freezes_shares() {
    let mut rows: Vec<Row> = (0..4)
        .map(|i| Row {
            load: Load { cpu: Some(1.0), pressure: Some(0.5), open: 10.0 * i as f64, ..Load::default() },
            ..row(i)
        })
        .collect();
    let mut guard = Guard::new(&Parameters::default());
    let before = settle(&mut guard, Kind::Static, &rows, 3);
    for row in &mut rows {
        row.load.pressure = Some(0.95);
        row.capacity = Some(1.0 + row.load.open);
    }
    let during = settle(&mut guard, Kind::Static, &rows, 3);
    for (before, during) in before.iter().zip(&during) {
        assert!((before.share - during.share).abs() < 1e-12);
        assert_eq!(during.limit, Some(Limit::Frozen));
    }
    rows[0].load.pressure = Some(0.5);
    let after = settle(&mut guard, Kind::Static, &rows, 3);
    assert!(after[3].share > 1.5 * before[3].share, "{after:?}");
}

#[test]
fn slow_start_holds_for_every_policy() {
    for kind in KINDS {
        let mut rows: Vec<Row> = (0..4).map(row).collect();
        rows[1].seconds_eligible = 2.0;
        let group = Group { slow_start: Duration::from_secs(20), ..group(&rows) };
        let mut shares = vec![];
        policy::build(kind, &policy::Parameters::default()).decide(&group, &mut shares);
        Guard::new(&Parameters::default()).bound(&group, &mut shares);
        assert!((shares[1].share - 0.25 * ease_in(0.1, 3.0)).abs() < 1e-9, "{kind:?} {shares:?}");
        assert_eq!(shares[1].limit, Some(Limit::SlowStart));
    }
}

fn weights(weighted: &[Weighted]) -> Vec<u32> {
    weighted.iter().map(|w| w.weight).collect()
}

#[test]
fn small_changes_stay_out_of_the_dataplane() {
    let share = |share| Share { share, target: 0.25, capacity: 1.0, limit: None };
    let rows: Vec<Row> = [1, 2, 4, 5].map(row).to_vec();
    let old: Vec<Weighted> = [(0, 1000), (1, 1024), (2, 1024), (3, 50), (4, 1024)]
        .map(|(i, weight)| Weighted { endpoint: endpoint(i), weight })
        .to_vec();
    let new = install(&old, &rows, &[share(0.27), share(0.28), share(0.0001), share(0.4)], 0.1);
    assert_eq!(new.iter().map(|w| w.endpoint).collect::<Vec<_>>(), [1, 2, 4, 5].map(endpoint));
    // 8 % stays, 12 % moves, least is 1, a new endpoint gets its share.
    assert_eq!(weights(&new), [1024, 1147, 1, 1638]);
    assert_eq!(weights(&install(&[], &rows[..1], &[share(1.0)], 0.1)), [full_weight(1)]);
    assert!(install(&old, &[], &[], 0.1).is_empty());
}

#[test]
fn a_thousand_endpoints_can_have_their_floor() {
    let rows: Vec<Row> = (0..1000).map(row).collect();
    let fair = |_| Share { share: 0.001, target: 0.001, capacity: 1.0, limit: None };
    let mut shares: Vec<Share> = (0..1000).map(fair).collect();
    shares[7].share = 0.02 * 0.001;
    let weights = weights(&install(&[], &rows, &shares, 0.1));
    let part = f64::from(weights[7]) / f64::from(weights[8]);
    assert!(part < 0.04, "{part} of a fair share where two hundredths are meant");
}

#[test]
fn a_list_that_needs_finer_weights_gets_them_all_anew() {
    let shares = |count: u32| {
        let share = Share { share: 1.0 / f64::from(count), target: 0.1, capacity: 1.0, limit: None };
        vec![share; count as usize]
    };
    let rows: Vec<Row> = (0..100).map(row).collect();
    let old = install(&[], &rows[..60], &shares(60), 0.1);
    let weights = weights(&install(&old, &rows, &shares(100), 0.1));
    assert!(weights.iter().all(|weight| *weight == weights[0]), "{weights:?}");
}

#[test]
fn parameters_out_of_range_are_named() {
    assert_eq!(Parameters::default().check(), Ok(()));
    let wrong = Parameters { floor: 0.5, ..Parameters::default() };
    assert_eq!(wrong.check(), Err("floor is 0.5, must be from 0.005 to 0.1".to_owned()));
}

proptest! {
    // Whatever comes in, whatever the policy: shares are sound and no endpoint without evidence gets more than
    // its part; and installed weights are never 0.
    #[test]
    fn any_input_keeps_its_bounds(decisions in prop::collection::vec((any_rows(), 0.0..5.0f64), 1..6)) {
        for kind in KINDS {
            let mut policy = policy::build(kind, &policy::Parameters::default());
            let mut guard = Guard::new(&Parameters::default());
            let (mut shares, mut table) = (vec![], vec![]);
            for (rows, elapsed) in &decisions {
                let group = Group { elapsed: *elapsed, ..group(rows) };
                policy.decide(&group, &mut shares);
                guard.bound(&group, &mut shares);
                sound(rows, &shares)?;
                for share in &shares {
                    prop_assert!(share.share >= 0.02 * share.target * (1.0 - 1e-9));
                }
                let aside = guard.memory.values().iter().filter(|w| w.standing != Standing::Fine).count();
                prop_assert!(aside <= rows.len() / 2 || rows.len() < 2);
                table = install(&table, rows, &shares, 0.1);
                prop_assert!(table.iter().all(|w| w.weight > 0));
                prop_assert_eq!(table.len(), rows.len());
            }
        }
    }

    // A first decision, without any history, gives nobody more than its target.
    #[test]
    fn without_history_shares_are_targets(rows in any_rows()) {
        let bare = |row: Row| {
            let load = Load { young: 0.0, cpu: None, pressure: None, failures_per_second: 0.0, ..row.load };
            Row { load, heard: None, ..row }
        };
        let rows: Vec<Row> = rows.into_iter().map(bare).collect();
        let shares = settle(&mut Guard::new(&Parameters::default()), Kind::Waterline, &rows, 1);
        for share in shares {
            prop_assert!((share.share - share.target).abs() < 1e-9, "{:?}", share);
        }
    }
}

/// Two endpoints; after 20 s nothing is heard of the second any more, while our own connections to it end. What is
/// its share at last, if its figures bear their `age` or seem fresh?
fn share_of_a_silent_endpoint(bears_its_age: bool) -> f64 {
    let mut guard = Guard::new(&Parameters::default());
    let mut least: f64 = 1.0;
    for i in 0..240 {
        let now = f64::from(i) * 0.5;
        let silent = now >= 20.0;
        let heard = Row {
            age: 0.2,
            load: Load { open: 30.0, young: 8.0, opens_per_second: 10.0, ..Load::default() },
            ..row(1)
        };
        let age = if bears_its_age { now - 20.0 } else { 0.2 };
        let second = if silent {
            Row { age, load: Load { young: 0.0, ..heard.load }, ..heard.clone() }
        } else {
            heard.clone()
        };
        let rows = [heard, Row { endpoint: endpoint(2), ..second }];
        let group = Group { delay: 0.7, ..group(&rows) };
        let mut shares = [Share { share: 0.5, target: 0.5, capacity: 1.0, limit: None }; 2];
        guard.bound(&group, &mut shares);
        least = least.min(shares[1].share);
    }
    least
}

#[test]
fn figures_that_only_grow_old_do_not_accuse() {
    assert!(share_of_a_silent_endpoint(true) > 0.45);
    assert!(share_of_a_silent_endpoint(false) < 0.05, "the same from fresh figures does");
}

/// Four endpoints without an agent that open 250 connections per second each, of which half last, and a policy that
/// prefers the fourth: the least share that the guard lets it have after a while, and whether it ever is called
/// failing. `heard` tells, at each moment, for how long the same senders have been heard, the part of all connections
/// that those see, and whether the fourth closes at once.
fn hold_on_the_fourth(age: f64, heard: impl Fn(f64) -> (f64, f64, bool)) -> (f64, bool) {
    let mut guard = Guard::new(&Parameters::default());
    let (mut least, mut failing): (f64, bool) = (1.0, false);
    for i in 0..120 {
        let (seconds, part, closes) = heard(f64::from(i) * 0.5);
        let all = Load { open: 900.0, young: 250.0, opens_per_second: 250.0, ..Load::default() };
        let row = |i| {
            let young = if closes && i == 3 { 0.0 } else { part * all.young };
            let load =
                Load { open: part * all.open, young, opens_per_second: part * all.opens_per_second, ..all };
            Row { age, load: all, heard: Some(Heard { load, seconds }), ..row(i) }
        };
        let rows: Vec<Row> = (0..4).map(row).collect();
        let mut shares =
            [0.2, 0.2, 0.2, 0.4].map(|share| Share { share, target: 0.25, capacity: 1.0, limit: None });
        guard.bound(&group(&rows), &mut shares);
        failing |= shares[3].limit == Some(Limit::Failing);
        if i >= 30 {
            least = least.min(shares[3].share);
        }
    }
    (least, failing)
}

#[test]
fn one_silent_sender_does_not_blind() {
    let (least, failing) = hold_on_the_fourth(300.0, |now| (now, 0.7, now >= 20.0));
    assert!(failing && least < 0.01, "{least}");
    assert_eq!(hold_on_the_fourth(300.0, |now| (now, 0.7, false)), (0.4, false));
}

/// The node that sends nearly everything falls silent, and comes back.
#[test]
fn connections_that_are_not_heard_of_any_more_are_not_missing() {
    let part = |now: f64| if (20.0..40.0).contains(&now) { 0.01 } else { 1.0 };
    assert_eq!(hold_on_the_fourth(0.0, |now| (now % 20.0, part(now), false)), (0.4, false));
    let (untold, _) = hold_on_the_fourth(0.0, |now| (f64::INFINITY, part(now), false));
    assert!(untold < 0.26, "the same, if they had ended: {untold}");
}
