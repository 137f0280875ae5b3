//! Central feedback: a controller measures the endpoints and writes the same weights into all nodes.

use std::time::Duration;

use plimsoll_core::time::Timestamp;

use super::feedback::Rule;
use super::gauge::{Figures, level};
use crate::cluster::Cluster;
use crate::selection::{Kind, Weight};

/// How far a part moves per step at most (Unimog), and within which multiples of the capacity share it stays.
const STEP: f64 = 0.1;
const BOUNDS: (f64, f64) = (0.05, 5.0);
/// Fewer answers than this in an interval tell nothing (Knapsack).
const LEAST_ANSWERS: u32 = 20;

/// By endpoint; parts of a whole.
#[derive(Default)]
struct Parts(Vec<f64>);

impl Parts {
    /// Those that are new start with their capacity share.
    fn extend(&mut self, cluster: &Cluster) {
        let all: f64 = cluster.serving.iter().map(|e| cluster.nominal(*e)).sum();
        for endpoint in self.0.len()..cluster.endpoints.len() {
            self.0.push(cluster.nominal(endpoint) / all);
        }
    }

    fn weights(&mut self, cluster: &Cluster) -> Vec<Weight> {
        let sum: f64 = cluster.serving.iter().map(|e| self.0[*e]).sum();
        for endpoint in &cluster.serving {
            self.0[*endpoint] /= sum;
        }
        let weight =
            |e: &usize| Weight { endpoint: *e, weight: (libm::round(self.0[*e] * 4096.0) as u32).max(1) };
        cluster.serving.iter().map(weight).collect()
    }
}

/// Buckets move from those above the mean load to those below it.
///
/// Source: D. Wragg, "Unimog, Cloudflare's edge load balancer", 2020, after the description: every 2 s the part of an
/// endpoint changes by its distance from the mean load, by a tenth at most, within bounds.
#[derive(Default)]
pub struct Unimog {
    parts: Parts,
}

impl Rule for Unimog {
    const SELECTION: Kind = Kind::Random;
    const INTERVAL: Duration = Duration::from_secs(2);

    fn decide(&mut self, _now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        let known = || cluster.serving.iter().filter_map(|e| Some((*e, level(cluster, seen, *e)?)));
        let sized = |(load, size): (f64, f64), (e, level): (usize, f64)| {
            (load + level * cluster.nominal(e), size + cluster.nominal(e))
        };
        let (load, size) = known().fold((0.0, 0.0), sized);
        if load > 0.0 {
            let mean = load / size;
            let gain = if cluster.has_work { 1.0 } else { 0.3 };
            let all: f64 = cluster.serving.iter().map(|e| cluster.nominal(*e)).sum();
            for (endpoint, level) in known() {
                let fair = cluster.nominal(endpoint) / all;
                let factor = 1.0 + (gain * (mean - level) / mean).clamp(-STEP, STEP);
                let part = &mut self.parts.0[endpoint];
                *part = (*part * factor).clamp(BOUNDS.0 * fair, BOUNDS.1 * fair);
            }
        }
        self.parts.weights(cluster)
    }

    fn members_changed(&mut self, _now: Timestamp, _seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        self.parts.extend(cluster);
        self.parts.weights(cluster)
    }

    fn share(&self, endpoint: usize) -> Option<f64> {
        self.parts.0.get(endpoint).copied()
    }
}

/// Weights follow the square root of the mean latency over an endpoint's latency, every 10 s.
///
/// Source: R. Gandhi and S. Narayana, "`KnapsackLB`: enabling performance-aware layer-4 load balancing", 2024; the
/// rule stands in for its integer program, from latencies as it takes them.
#[derive(Default)]
pub struct Knapsack {
    parts: Parts,
    /// By endpoint: answers since the last decision, and the seconds they took.
    answers: Vec<(u32, f64)>,
}

impl Rule for Knapsack {
    const SELECTION: Kind = Kind::Wrr;
    const INTERVAL: Duration = Duration::from_secs(10);

    fn answered(&mut self, endpoint: usize, seconds: f64) {
        if let Some((count, sum)) = self.answers.get_mut(endpoint) {
            *count += 1;
            *sum += seconds;
        }
    }

    fn decide(&mut self, _now: Timestamp, _seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        let mean = |(count, seconds): (u32, f64)| seconds / f64::from(count);
        let told = |endpoint: &&usize| self.answers[**endpoint].0 >= LEAST_ANSWERS;
        let latencies: Vec<(usize, f64)> =
            cluster.serving.iter().filter(told).map(|e| (*e, mean(self.answers[*e]))).collect();
        let usual = latencies.iter().map(|(_, latency)| latency).sum::<f64>() / latencies.len().max(1) as f64;
        let least = 0.05 / cluster.serving.len().max(1) as f64;
        for (endpoint, latency) in latencies {
            let factor = (usual / latency).sqrt().clamp(0.67, 1.5);
            self.parts.0[endpoint] = self.parts.0[endpoint].max(least) * factor;
        }
        self.answers.fill((0, 0.0));
        self.parts.weights(cluster)
    }

    fn members_changed(&mut self, _now: Timestamp, _seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        self.parts.extend(cluster);
        self.answers.resize(cluster.endpoints.len(), (0, 0.0));
        self.parts.weights(cluster)
    }

    fn share(&self, endpoint: usize) -> Option<f64> {
        self.parts.0.get(endpoint).copied()
    }
}
