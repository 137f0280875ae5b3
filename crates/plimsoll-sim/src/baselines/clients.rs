//! Balancing in the clients or in a proxy that sees requests: by latency, by requests in flight, by what endpoints
//! say of themselves. A layer 4 balancer sees none of that: these show what it would be worth.

use std::collections::VecDeque;
use std::time::Duration;

use plimsoll_core::time::Timestamp;

use super::feedback::Rule;
use super::gauge::Figures;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::selection::{Kind, Weight};
use crate::steering::Steering;

/// Peak EWMA: of two random endpoints the one with the lower product of latency and requests in flight.
///
/// Source: Twitter Finagle, `loadbalancer/PeakEwma.scala` and `p2c/P2CPick.scala`: the estimate jumps to a slower answer
/// at once and is forgotten within 10 s, at each answer and each look. Where there are no requests nothing is ever
/// answered, and what is in flight is the connections.
pub struct PeakEwma {
    /// By node, then endpoint.
    estimates: Vec<Vec<Estimate>>,
    dice: Dice,
}

/// What a node knows of an endpoint's latency.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Estimate {
    /// In seconds; 0 before the first answer.
    latency: f64,
    updated: Timestamp,
    in_flight: u32,
}

/// How fast a peak is forgotten, in seconds.
const DECAY: f64 = 10.0;
/// What an endpoint costs that was asked and did not answer yet.
const PENALTY: f64 = 1e9;

impl Estimate {
    fn observe(&mut self, now: Timestamp, seconds: f64) {
        if seconds > self.latency {
            self.latency = seconds;
        } else {
            let keep = libm::exp(-now.seconds_since(self.updated) / DECAY);
            self.latency = self.latency * keep + seconds * (1.0 - keep);
        }
        self.updated = now;
    }

    /// What one more request would cost; to look is to forget.
    fn cost(&mut self, now: Timestamp, in_flight: u32) -> f64 {
        self.observe(now, 0.0);
        let in_flight = f64::from(in_flight);
        if self.latency == 0.0 && in_flight > 0.0 {
            PENALTY + in_flight
        } else {
            self.latency * (in_flight + 1.0)
        }
    }
}

impl PeakEwma {
    /// Knows no latency yet.
    pub fn new(cluster: &Cluster, dice: Dice) -> PeakEwma {
        PeakEwma { estimates: vec![Vec::new(); cluster.nodes], dice }
    }

    fn estimate(&mut self, node: usize, endpoint: usize) -> &mut Estimate {
        let estimates = &mut self.estimates[node];
        if estimates.len() <= endpoint {
            estimates.resize(endpoint + 1, Estimate::default());
        }
        &mut estimates[endpoint]
    }

    fn cost(&mut self, now: Timestamp, node: usize, endpoint: usize, cluster: &Cluster) -> f64 {
        let estimate = self.estimate(node, endpoint);
        let in_flight = if cluster.has_work { estimate.in_flight } else { cluster.own(node)[endpoint] };
        estimate.cost(now, in_flight)
    }
}

impl Steering for PeakEwma {
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        let [first, others @ ..] = &cluster.serving[..] else { return None };
        if others.is_empty() {
            return Some(*first);
        }
        let a = self.dice.below(cluster.serving.len());
        let b = self.dice.below(others.len());
        let [a, b] = [a, if b >= a { b + 1 } else { b }].map(|at| cluster.serving[at]);
        Some(if self.cost(now, node, a, cluster) < self.cost(now, node, b, cluster) { a } else { b })
    }

    fn asked(&mut self, node: usize, endpoint: usize) {
        self.estimate(node, endpoint).in_flight += 1;
    }

    fn answered(&mut self, now: Timestamp, node: usize, endpoint: usize, seconds: f64) {
        let estimate = self.estimate(node, endpoint);
        estimate.in_flight -= 1;
        estimate.observe(now, seconds);
    }
}

/// Prequal: three probes per connection; among those with few requests in flight the fastest, else the one with
/// fewest in flight.
///
/// Source: B. Wydrowski et al., "Load is not what you should balance: introducing Prequal", NSDI 2024. Probes take no
/// time here, which flatters it. Where connections cost nothing: the fewest open of three.
pub struct Prequal {
    /// By endpoint: latency in seconds, smoothed.
    latencies: Vec<f64>,
    /// Requests in flight as the last probes found them.
    found: VecDeque<usize>,
    sorted: Vec<usize>,
    dice: Dice,
}

const PROBES: usize = 3;
/// How many answers of probes the limit between cold and hot is drawn from, and at which quantile.
const REMEMBERED: usize = 128;
const HOT: f64 = 0.84;
const SMOOTHING: f64 = 0.02;

impl Prequal {
    /// Knows nothing yet.
    pub fn new(dice: Dice) -> Prequal {
        Prequal { latencies: Vec::new(), found: VecDeque::new(), sorted: Vec::new(), dice }
    }

    fn hot_from(&mut self) -> usize {
        self.sorted.clear();
        self.sorted.extend(&self.found);
        let place = (self.sorted.len() as f64 * HOT) as usize;
        if place >= self.sorted.len() {
            return usize::MAX;
        }
        *self.sorted.select_nth_unstable(place).1
    }
}

impl Steering for Prequal {
    fn choose(&mut self, _now: Timestamp, _node: usize, cluster: &Cluster) -> Option<usize> {
        let count = cluster.serving.len();
        if count == 0 {
            return None;
        }
        let mut probes = [(0, 0, 0.0); PROBES];
        for probe in &mut probes {
            let endpoint = cluster.serving[self.dice.below(count)];
            let true_one = &cluster.endpoints[endpoint];
            let running =
                if cluster.has_work { true_one.processor.running() } else { true_one.open as usize };
            *probe = (endpoint, running, self.latencies.get(endpoint).copied().unwrap_or(0.0));
            self.found.push_back(running);
        }
        while self.found.len() > REMEMBERED {
            self.found.pop_front();
        }
        let hot = self.hot_from();
        let cold = probes.iter().filter(|(_, running, _)| cluster.has_work && *running < hot);
        let fastest = cold.min_by(|a, b| a.2.total_cmp(&b.2));
        let chosen = fastest.or_else(|| probes.iter().min_by_key(|(_, running, _)| *running));
        chosen.map(|(endpoint, ..)| *endpoint)
    }

    fn answered(&mut self, _now: Timestamp, _node: usize, endpoint: usize, seconds: f64) {
        if self.latencies.len() <= endpoint {
            self.latencies.resize(endpoint + 1, 0.0);
        }
        let latency = &mut self.latencies[endpoint];
        *latency += if *latency == 0.0 { seconds } else { SMOOTHING * (seconds - *latency) };
    }
}

/// Client-side weighted round robin: each node weighs endpoints by the requests they serve per CPU that they use, errors
/// reckoned as CPU.
///
/// Source: gRFC A58 (`weighted_round_robin` with ORCA load reports) and Envoy's client-side weighted round robin, with
/// their defaults: every second; endpoints without a weight get the mean.
#[derive(Default)]
pub struct Orca {
    /// By endpoint: answers since the last decision, and how many of them were errors.
    answers: Vec<(u32, u32)>,
    weights: Vec<Reported>,
}

/// An endpoint's weight, and since when and until when it was reported without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reported {
    weight: f64,
    since: Option<Timestamp>,
    last: Timestamp,
}

/// How long an endpoint must report before its weight is used, and for how long it is used without another, in seconds.
const BLACKOUT: f64 = 10.0;
const EXPIRATION: f64 = 180.0;
/// `error_utilization_penalty`: what a part of all requests that are errors counts for, as a part of all CPU.
const ERROR_PENALTY: f64 = 1.0;

impl Reported {
    /// Takes in a report: of so many requests these errors, and the part of its CPU that is used.
    fn update(&mut self, now: Timestamp, requests: f64, errors: f64, utilisation: f64) {
        if requests > 0.0 && utilisation > 0.0 {
            self.weight = requests / (utilisation + errors / requests * ERROR_PENALTY);
            self.since.get_or_insert(now);
            self.last = now;
        }
    }

    fn weight(&mut self, now: Timestamp) -> Option<f64> {
        if now.seconds_since(self.last) >= EXPIRATION {
            self.since = None;
        }
        self.since.filter(|since| now.seconds_since(*since) >= BLACKOUT).map(|_| self.weight)
    }
}

impl Rule for Orca {
    const SELECTION: Kind = Kind::Wrr;
    const INTERVAL: Duration = Duration::from_secs(1);

    fn answered(&mut self, endpoint: usize, _seconds: f64) {
        self.answers[endpoint].0 += 1;
    }

    fn erred(&mut self, endpoint: usize) {
        self.answers[endpoint].1 += 1;
    }

    fn decide(&mut self, now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        for (e, ((requests, errors), weight)) in self.answers.iter_mut().zip(&mut self.weights).enumerate() {
            let cpu = seen.get(e).and_then(|figures| figures.cpu).unwrap_or(0.0);
            let (requests, errors) = (std::mem::take(requests), std::mem::take(errors));
            weight.update(now, f64::from(requests), f64::from(errors), cpu / cluster.nominal(e));
        }
        self.told(now, cluster)
    }

    fn members_changed(&mut self, now: Timestamp, _seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        self.answers.resize(cluster.endpoints.len(), (0, 0));
        self.weights.resize(cluster.endpoints.len(), Reported::default());
        self.told(now, cluster)
    }
}

impl Orca {
    /// The weights as they were reported last.
    fn told(&mut self, now: Timestamp, cluster: &Cluster) -> Vec<Weight> {
        let raw: Vec<Option<f64>> = cluster.serving.iter().map(|e| self.weights[*e].weight(now)).collect();
        let known: Vec<f64> = raw.iter().flatten().copied().collect();
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let scale = 1000.0 / mean;
        let scaled = |raw: &Option<f64>| (libm::round(raw.unwrap_or(mean) * scale).min(1e6) as u32).max(1);
        let weighted = cluster.serving.iter().zip(&raw);
        weighted.map(|(e, raw)| Weight { endpoint: *e, weight: scaled(raw) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn a_peak_is_forgotten_by_looking() {
        let mut estimate = Estimate::default();
        assert!(
            estimate.cost(at(0), 0) < estimate.cost(at(0), 1),
            "who never answered and has something to do waits"
        );
        estimate.observe(at(1), 2.0);
        assert_eq!([0, 1, 4].map(|in_flight| estimate.cost(at(1), in_flight)), [2.0, 4.0, 10.0]);
        let later = [6, 11].map(|second| estimate.cost(at(second), 0));
        assert!((later[0] - 2.0 * libm::exp(-0.5)).abs() < 1e-9, "{later:?}");
        assert!((later[1] - 2.0 * libm::exp(-1.0)).abs() < 1e-9, "{later:?}");
    }

    #[test]
    fn errors_count_as_cpu() {
        let mut reported = Reported::default();
        for second in 0..10 {
            assert_eq!(reported.weight(at(second)), None, "not before it reported for a while");
            reported.update(at(second), 100.0, 0.0, 0.5);
        }
        assert_eq!(reported.weight(at(10)), Some(200.0));
        reported.update(at(11), 100.0, 50.0, 0.5);
        assert_eq!(reported.weight(at(11)), Some(100.0));
        reported.update(at(12), 0.0, 0.0, 0.5);
        assert_eq!(reported.weight(at(190)), Some(100.0), "without requests it stays as it was");
        assert_eq!(reported.weight(at(191)), None);
    }
}
