//! Feedback without agents: endpoints are measured, a rule makes weights of that, and all nodes choose by them.

use std::time::Duration;

use plimsoll_core::time::Timestamp;

use super::gauge::{Figures, Gauge};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::scenario::Scenario;
use crate::selection::{self, Kind, Selection, Weight};
use crate::steering::Steering;

/// What weights follow from what was measured.
pub trait Rule: Send {
    /// How nodes choose by the weights.
    const SELECTION: Kind;
    /// How often weights are decided anew.
    const INTERVAL: Duration;

    /// A request was answered after so many seconds.
    fn answered(&mut self, _endpoint: usize, _seconds: f64) {}

    /// That answer was an error.
    fn erred(&mut self, _endpoint: usize) {}

    /// The weights of those that serve.
    fn decide(&mut self, now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight>;

    /// The same when endpoints came or went, and once at the start.
    fn members_changed(&mut self, now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        self.decide(now, seen, cluster)
    }

    /// The share of an endpoint, where the rule knows shares.
    fn share(&self, _endpoint: usize) -> Option<f64> {
        None
    }
}

/// All nodes, with weights by one rule.
pub struct Feedback<R> {
    rule: R,
    gauge: Gauge,
    measure_at: Timestamp,
    decide_at: Timestamp,
    selections: Vec<Box<dyn Selection>>,
    written: Vec<Weight>,
    changes: u64,
    dice: Dice,
}

impl<R: Rule> Feedback<R> {
    /// Nodes that follow this rule.
    pub fn new(rule: R, scenario: &Scenario, cluster: &Cluster, mut dice: Dice) -> Feedback<R> {
        let selections =
            (0..cluster.nodes).map(|_| selection::build(R::SELECTION, false, &mut dice)).collect();
        let mut feedback = Feedback {
            rule,
            gauge: Gauge::new(scenario, Dice::new(dice.bits(), 0)),
            measure_at: Timestamp::ZERO,
            decide_at: Timestamp::ZERO + R::INTERVAL,
            selections,
            written: Vec::new(),
            changes: 0,
            dice,
        };
        feedback.members_changed(Timestamp::ZERO, cluster);
        feedback
    }

    fn write(&mut self, now: Timestamp, weights: Vec<Weight>, nodes: usize) {
        let changed = weights.iter().filter(|weight| !self.written.contains(weight)).count();
        self.changes += (changed * nodes) as u64;
        for selection in &mut self.selections {
            selection.set(now, &weights, &mut self.dice);
        }
        self.written = weights;
    }
}

impl<R: Rule> Steering for Feedback<R> {
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        self.selections[node].choose(now, cluster.own(node), &mut self.dice)
    }

    fn answered(&mut self, _now: Timestamp, _node: usize, endpoint: usize, seconds: f64) {
        self.rule.answered(endpoint, seconds);
    }

    fn erred(&mut self, endpoint: usize) {
        self.rule.erred(endpoint);
    }

    fn members_changed(&mut self, now: Timestamp, cluster: &Cluster) {
        let weights = self.rule.members_changed(now, self.gauge.seen(), cluster);
        self.write(now, weights, cluster.nodes);
    }

    fn next_wake(&self) -> Timestamp {
        self.measure_at.min(self.decide_at)
    }

    fn wake(&mut self, now: Timestamp, cluster: &Cluster) {
        if now >= self.measure_at {
            self.measure_at = self.gauge.measure(now, cluster);
        }
        if now >= self.decide_at {
            self.decide_at = now + R::INTERVAL;
            let weights = self.rule.decide(now, self.gauge.seen(), cluster);
            self.write(now, weights, cluster.nodes);
        }
    }

    fn share(&self, _node: usize, endpoint: usize) -> Option<f64> {
        self.rule.share(endpoint)
    }

    fn weight_changes(&self) -> u64 {
        self.changes
    }
}
