//! What is measured of a run: how even connections are, how long requests take, what fails.

use plimsoll_core::time::Timestamp;

use crate::cluster::Cluster;
use crate::histogram::Histogram;
use crate::scenario::Scenario;

/// How often levels are looked at.
pub const SAMPLED_EVERY: std::time::Duration = std::time::Duration::from_millis(500);
/// An added endpoint is full when it holds this part of what the others hold.
const FULL: f64 = 0.8;

/// How long requests took and how many attempts failed, in some time.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of requests that were answered.
    pub latency: Histogram,
    /// Connections and requests on open connections.
    pub attempts: u64,
    /// Of those, failed.
    pub failed: u64,
}

impl Outcome {
    /// The part of the attempts that failed.
    pub fn failed_share(&self) -> f64 {
        if self.attempts == 0 { 0.0 } else { self.failed as f64 / self.attempts as f64 }
    }
}

/// A window of the scenario, and what was measured in it.
#[derive(Clone, Debug)]
struct Span {
    name: String,
    times: Vec<(Timestamp, Timestamp)>,
    outcome: Outcome,
}

/// Endpoints that were added together and are not full yet.
#[derive(Clone, Debug)]
struct Filling {
    endpoints: Vec<usize>,
    since: Timestamp,
}

/// What is measured of a run, while it runs.
#[derive(Clone, Debug)]
pub struct Meter {
    from: Timestamp,
    outcome: Outcome,
    windows: Vec<Span>,
    filling: Vec<Filling>,
    /// How long it took, for those that were added together.
    filled: Vec<f64>,
    max_over_mean: f64,
    deviation: f64,
    samples: u64,
}

impl Meter {
    /// Nothing measured yet.
    pub fn new(scenario: &Scenario) -> Meter {
        let windows = scenario.windows.iter().map(|window| Span {
            name: window.name.clone(),
            times: window.spans().collect(),
            outcome: Outcome::default(),
        });
        Meter {
            from: Timestamp::from_duration(scenario.measured_from.0),
            outcome: Outcome::default(),
            windows: windows.collect(),
            filling: Vec::new(),
            filled: Vec::new(),
            max_over_mean: 0.0,
            deviation: 0.0,
            samples: 0,
        }
    }

    /// The outcomes that time counts for.
    fn outcomes(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Outcome> {
        let is_measured = now >= self.from;
        let windows = self
            .windows
            .iter_mut()
            .filter(move |window| window.times.iter().any(|(from, until)| (*from..*until).contains(&now)));
        is_measured.then_some(&mut self.outcome).into_iter().chain(windows.map(|window| &mut window.outcome))
    }

    /// A request was answered after so many seconds.
    pub fn answered(&mut self, now: Timestamp, seconds: f64) {
        for outcome in self.outcomes(now) {
            outcome.latency.add(seconds);
        }
    }

    /// Somebody connected, or asked on an open connection.
    pub fn attempted(&mut self, now: Timestamp, failed: bool) {
        for outcome in self.outcomes(now) {
            outcome.attempts += 1;
            outcome.failed += u64::from(failed);
        }
    }

    /// Endpoints were added.
    pub fn added(&mut self, now: Timestamp, endpoints: Vec<usize>) {
        self.filling.push(Filling { endpoints, since: now });
    }

    /// Looks at the levels.
    pub fn sample(&mut self, now: Timestamp, cluster: &Cluster) {
        let level = |endpoint: &usize| {
            let endpoint = &cluster.endpoints[*endpoint];
            f64::from(endpoint.open) / endpoint.capacity
        };
        self.sample_filling(now, cluster, level);
        if now < self.from {
            return;
        }
        let (mut open, mut capacity, mut most) = (0.0, 0.0, 0.0_f64);
        for endpoint in &cluster.serving {
            open += f64::from(cluster.endpoints[*endpoint].open);
            capacity += cluster.endpoints[*endpoint].capacity;
            most = most.max(level(endpoint));
        }
        if open == 0.0 {
            return;
        }
        let mean = open / capacity;
        let count = cluster.serving.len() as f64;
        let variance =
            cluster.serving.iter().map(|e| (level(e) - mean) * (level(e) - mean)).sum::<f64>() / count;
        self.max_over_mean += most / mean;
        self.deviation += variance.sqrt() / mean;
        self.samples += 1;
    }

    fn sample_filling(&mut self, now: Timestamp, cluster: &Cluster, level: impl Fn(&usize) -> f64) {
        if self.filling.is_empty() {
            return;
        }
        let is_filling =
            |endpoint: &usize| self.filling.iter().any(|filling| filling.endpoints.contains(endpoint));
        let old: Vec<f64> =
            cluster.serving.iter().filter(|endpoint| !is_filling(endpoint)).map(&level).collect();
        let mean = old.iter().sum::<f64>() / old.len().max(1) as f64;
        let filled = &mut self.filled;
        self.filling.retain(|filling| {
            let full = filling.endpoints.iter().all(|endpoint| level(endpoint) >= FULL * mean);
            if full {
                filled.push(now.seconds_since(filling.since));
            }
            !full
        });
    }

    /// What was measured.
    pub fn result(self, measured_seconds: f64, weight_changes: u64, steps: u64, nodes: usize) -> Measured {
        let samples = self.samples as f64;
        let mean = |sum: f64| (self.samples > 0).then(|| sum / samples);
        let fair = (!self.filled.is_empty() && self.filling.is_empty())
            .then(|| self.filled.iter().sum::<f64>() / self.filled.len() as f64);
        Measured {
            max_over_mean: mean(self.max_over_mean),
            deviation: mean(self.deviation),
            seconds_to_fair: fair,
            weight_changes_per_second: weight_changes as f64 / measured_seconds / nodes as f64,
            outcome: self.outcome,
            windows: self.windows.into_iter().map(|window| (window.name, window.outcome)).collect(),
            steps,
        }
    }
}

/// What was measured of a run.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The time average of the highest level of an endpoint (open connections per capacity) over the mean level.
    pub max_over_mean: Option<f64>,
    /// The time average of the levels' standard deviation over their mean.
    pub deviation: Option<f64>,
    /// How long endpoints that were added took to hold 80 % of what the others held, on average; `None` where none
    /// were added or some never did.
    pub seconds_to_fair: Option<f64>,
    /// Weights written, per node and second.
    pub weight_changes_per_second: f64,
    /// Latency and failures.
    pub outcome: Outcome,
    /// The same in each window.
    pub windows: Vec<(String, Outcome)>,
    /// How many events were simulated.
    pub steps: u64,
}
