//! Laws of the guard, and a small world in which its loop is closed.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::tests::{KINDS, any_rows, endpoint, group, row, sound};
use crate::policy::{self, Policy};
use crate::service::PolicyKind as Kind;
use crate::table::{FULL_WEIGHT, Weighted};

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
                open: self.open[i].len() as f64,
                young: aged(0.0, HORIZON),
                middle: aged(HORIZON, 2.0 * HORIZON),
                opens_per_second: self.opens[i],
                failures_per_second: self.failures[i],
                seconds_eligible: now - self.born[i],
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
        let group =
            Group { rows: &rows, elapsed: TICK, delay: 1.0, horizon: HORIZON, slow_start: Duration::ZERO };
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
        println!(
            "{bad} closing: {first} {later}, unguarded {:?}",
            after_fault(bad, MIX, false, |world, i| world.closing[i] = true)
        );
        assert!(first <= 1.1, "{bad} bad: {first} in the first 5 s");
        assert!(later <= 1.0 / 3.0, "{bad} bad: {later} after 15 s");
    }
}

#[test]
fn endpoints_that_refuse_attract_nothing() {
    for bad in [1, 6] {
        let (first, later) = after_fault(bad, MIX, true, |world, i| world.refusing[i] = true);
        println!("{bad} refusing: {first} {later}");
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
        println!("fill {guarded} free {free}");
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
        println!("guarded {guarded} free {free}");
        assert!(guarded < 1.15 * free, "{guarded} without the guard {free}");
    }
}
