//! Central feedback: a controller measures the endpoints and writes the same weights into all nodes.

use std::time::Duration;

use plimsoll_core::time::Timestamp;

use super::gauge::{Gauge, level};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::scenario::Scenario;
use crate::selection::{self, Kind, Selection, Weight};
use crate::steering::Steering;

/// What the controller goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Buckets move from those above the mean load to those below it.
    ///
    /// Source: D. Wragg, "Unimog, Cloudflare's edge load balancer", 2020, after the description: every 2 s the part of
    /// an endpoint changes by its distance from the mean load, by a tenth at most, within bounds.
    Unimog,
    /// Weights follow the square root of the mean latency over an endpoint's latency, every 10 s.
    ///
    /// Source: R. Gandhi and S. Narayana, "`KnapsackLB`: enabling performance-aware layer-4 load balancing", 2024; the
    /// rule stands in for its integer program, from latencies as it takes them.
    Knapsack,
}

/// How far a part moves per step at most (Unimog), and within which multiples of the capacity share it stays.
const STEP: f64 = 0.1;
const BOUNDS: (f64, f64) = (0.05, 5.0);
/// Fewer answers than this in an interval tell nothing (Knapsack).
const LEAST_ANSWERS: u32 = 20;

/// A controller with all nodes.
pub struct Controller {
    rule: Rule,
    gauge: Gauge,
    measure_at: Timestamp,
    decide_at: Timestamp,
    /// By endpoint; parts of a whole.
    weights: Vec<f64>,
    /// By endpoint: answers since the last decision, and the seconds they took.
    answers: Vec<(u32, f64)>,
    selections: Vec<Box<dyn Selection>>,
    written: Vec<Weight>,
    changes: u64,
    dice: Dice,
}

impl Controller {
    /// A controller with this rule.
    pub fn new(rule: Rule, scenario: &Scenario, cluster: &Cluster, mut dice: Dice) -> Controller {
        let kind = match rule {
            Rule::Unimog => Kind::Random,
            Rule::Knapsack => Kind::Wrr,
        };
        let selections = (0..cluster.nodes).map(|_| selection::build(kind, false, &mut dice)).collect();
        let mut controller = Controller {
            rule,
            gauge: Gauge::new(scenario, Dice::new(dice.bits(), 0)),
            measure_at: Timestamp::ZERO,
            decide_at: Timestamp::ZERO + rule.interval(),
            weights: Vec::new(),
            answers: Vec::new(),
            selections,
            written: Vec::new(),
            changes: 0,
            dice,
        };
        controller.members_changed(Timestamp::ZERO, cluster);
        controller
    }

    fn decide(&mut self, cluster: &Cluster) {
        match self.rule {
            Rule::Unimog => self.move_buckets(cluster),
            Rule::Knapsack => self.follow_latency(cluster),
        }
        for answers in &mut self.answers {
            *answers = (0, 0.0);
        }
    }

    fn move_buckets(&mut self, cluster: &Cluster) {
        let seen = self.gauge.seen();
        let known = || cluster.serving.iter().filter_map(|e| Some((*e, level(cluster, seen, *e)?)));
        let sized = |(load, size): (f64, f64), (e, level): (usize, f64)| {
            (load + level * cluster.nominal(e), size + cluster.nominal(e))
        };
        let (load, size) = known().fold((0.0, 0.0), sized);
        if load <= 0.0 {
            return;
        }
        let mean = load / size;
        let gain = if cluster.has_work { 1.0 } else { 0.3 };
        let all: f64 = cluster.serving.iter().map(|e| cluster.nominal(*e)).sum();
        for (endpoint, level) in known() {
            let fair = cluster.nominal(endpoint) / all;
            let moved = self.weights[endpoint] * (1.0 + (gain * (mean - level) / mean).clamp(-STEP, STEP));
            self.weights[endpoint] = moved.clamp(BOUNDS.0 * fair, BOUNDS.1 * fair);
        }
    }

    fn follow_latency(&mut self, cluster: &Cluster) {
        let mean = |(count, seconds): (u32, f64)| seconds / f64::from(count);
        let told = |endpoint: &&usize| self.answers[**endpoint].0 >= LEAST_ANSWERS;
        let latencies: Vec<(usize, f64)> =
            cluster.serving.iter().filter(told).map(|e| (*e, mean(self.answers[*e]))).collect();
        let usual = latencies.iter().map(|(_, latency)| latency).sum::<f64>() / latencies.len().max(1) as f64;
        let least = 0.05 / cluster.serving.len().max(1) as f64;
        for (endpoint, latency) in latencies {
            let factor = (usual / latency).sqrt().clamp(0.67, 1.5);
            self.weights[endpoint] = self.weights[endpoint].max(least) * factor;
        }
    }

    fn write(&mut self, now: Timestamp, cluster: &Cluster) {
        let sum: f64 = cluster.serving.iter().map(|e| self.weights[*e]).sum();
        for endpoint in &cluster.serving {
            self.weights[*endpoint] /= sum;
        }
        let weight = |e: &usize| Weight {
            endpoint: *e,
            weight: (libm::round(self.weights[*e] * 4096.0) as u32).max(1),
        };
        let weights: Vec<Weight> = cluster.serving.iter().map(weight).collect();
        let changed = weights.iter().filter(|weight| !self.written.contains(weight)).count();
        self.changes += (changed * cluster.nodes) as u64;
        for selection in &mut self.selections {
            selection.set(now, &weights, &mut self.dice);
        }
        self.written = weights;
    }
}

impl Rule {
    fn interval(self) -> Duration {
        match self {
            Rule::Unimog => Duration::from_secs(2),
            Rule::Knapsack => Duration::from_secs(10),
        }
    }
}

impl Steering for Controller {
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        self.selections[node].choose(now, cluster.own(node), &mut self.dice)
    }

    fn answered(&mut self, _now: Timestamp, _node: usize, endpoint: usize, seconds: f64) {
        if let Some((count, sum)) = self.answers.get_mut(endpoint) {
            *count += 1;
            *sum += seconds;
        }
    }

    fn members_changed(&mut self, now: Timestamp, cluster: &Cluster) {
        // Those that are new start with their capacity share.
        let all: f64 = cluster.serving.iter().map(|e| cluster.nominal(*e)).sum();
        for endpoint in self.weights.len()..cluster.endpoints.len() {
            self.weights.push(cluster.nominal(endpoint) / all);
            self.answers.push((0, 0.0));
        }
        self.write(now, cluster);
    }

    fn next_wake(&self) -> Timestamp {
        self.measure_at.min(self.decide_at)
    }

    fn wake(&mut self, now: Timestamp, cluster: &Cluster) {
        if now >= self.measure_at {
            self.measure_at = self.gauge.measure(now, cluster);
        }
        if now >= self.decide_at {
            self.decide_at = now + self.rule.interval();
            self.decide(cluster);
            self.write(now, cluster);
        }
    }

    fn share(&self, _node: usize, endpoint: usize) -> Option<f64> {
        self.weights.get(endpoint).copied()
    }

    fn weight_changes(&self) -> u64 {
        self.changes
    }
}
