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

/// Peak EWMA: of two random endpoints the one with the lower product of latency and outstanding connections.
///
/// Source: Twitter Finagle, `PeakEwma` (2016): the estimate jumps to a slower answer at once and forgets it in 10 s.
/// Where there are no requests it goes by connections alone.
pub struct PeakEwma {
    /// By node, then endpoint: the estimate in seconds, and when it was made.
    estimates: Vec<Vec<(f64, Timestamp)>>,
    dice: Dice,
}

/// How fast a peak is forgotten, and what is assumed of an endpoint that never answered, in seconds.
const DECAY: f64 = 10.0;
const FIRST_GUESS: f64 = 0.02;

impl PeakEwma {
    /// Knows no latency yet.
    pub fn new(cluster: &Cluster, dice: Dice) -> PeakEwma {
        PeakEwma { estimates: vec![Vec::new(); cluster.nodes], dice }
    }

    fn cost(&self, node: usize, endpoint: usize, cluster: &Cluster) -> f64 {
        let latency = self.estimates[node].get(endpoint).map_or(FIRST_GUESS, |(latency, _)| *latency);
        latency * f64::from(cluster.own(node)[endpoint] + 1)
    }
}

impl Steering for PeakEwma {
    fn choose(&mut self, _now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        let count = cluster.serving.len();
        if count == 0 {
            return None;
        }
        let [a, b] = [self.dice.below(count), self.dice.below(count)].map(|at| cluster.serving[at]);
        Some(if self.cost(node, b, cluster) < self.cost(node, a, cluster) { b } else { a })
    }

    fn answered(&mut self, now: Timestamp, node: usize, endpoint: usize, seconds: f64) {
        let estimates = &mut self.estimates[node];
        if estimates.len() <= endpoint {
            estimates.resize(endpoint + 1, (FIRST_GUESS, now));
        }
        let (estimate, updated) = &mut estimates[endpoint];
        if seconds > *estimate {
            *estimate = seconds;
        } else {
            let keep = libm::exp(-now.seconds_since(*updated) / DECAY);
            *estimate = *estimate * keep + seconds * (1.0 - keep);
        }
        *updated = now;
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

/// Client-side weighted round robin: each node weighs endpoints by the requests they serve per CPU that they use.
///
/// Source: gRFC A58 (`weighted_round_robin` with ORCA load reports) and Envoy's client-side weighted round robin:
/// every second; endpoints younger than 10 s get the mean weight.
#[derive(Default)]
pub struct Orca {
    /// By endpoint: answers since the last decision.
    answers: Vec<u32>,
}

const BLACKOUT: f64 = 10.0;

impl Rule for Orca {
    const SELECTION: Kind = Kind::Wrr;
    const INTERVAL: Duration = Duration::from_secs(1);

    fn answered(&mut self, endpoint: usize, _seconds: f64) {
        self.answers[endpoint] += 1;
    }

    fn decide(&mut self, now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        let weight = |e: &usize| {
            let utilisation = seen.get(*e)?.cpu? / cluster.nominal(*e);
            let seasoned = now.seconds_since(cluster.endpoints[*e].since) >= BLACKOUT
                || now.seconds_since(Timestamp::ZERO) < BLACKOUT;
            let answers = f64::from(self.answers[*e]);
            (seasoned && utilisation > 0.0 && answers > 0.0).then(|| answers / utilisation)
        };
        let raw: Vec<Option<f64>> = cluster.serving.iter().map(weight).collect();
        let known: Vec<f64> = raw.iter().flatten().copied().collect();
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let scale = 1000.0 / mean;
        let scaled = |raw: &Option<f64>| (libm::round(raw.unwrap_or(mean) * scale).min(1e6) as u32).max(1);
        self.answers.fill(0);
        let weighted = cluster.serving.iter().zip(&raw);
        weighted.map(|(e, raw)| Weight { endpoint: *e, weight: scaled(raw) }).collect()
    }

    fn members_changed(&mut self, now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
        self.answers.resize(cluster.endpoints.len(), 0);
        self.decide(now, seen, cluster)
    }
}
