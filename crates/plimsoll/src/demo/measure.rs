//! What the demo measures: the servers' own counts, several times a second, and what each phase came to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::promises::FAIR;
use super::world::{AT_START, World};

/// The state of the world at one moment.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Seconds since the start.
    pub(super) at: f64,
    /// Per Service: each present endpoint's open connections per size, relative to the mean.
    pub(super) levels: [Vec<f64>; 2],
    /// Per Service: connections established and failed so far.
    pub(super) totals: [(u64, u64); 2],
}

impl Moment {
    pub(super) fn look(at: f64, world: &World) -> Moment {
        let levels = |service: usize| {
            let endpoints = world.present();
            let open: f64 = endpoints.iter().map(|endpoint| endpoint.open(service) as f64).sum();
            let size: f64 = endpoints.iter().map(|endpoint| endpoint.size).sum();
            let mean = open / size;
            let level = |open: u64, size: f64| if mean > 0.0 { open as f64 / size / mean } else { 1.0 };
            endpoints.iter().map(|endpoint| level(endpoint.open(service), endpoint.size)).collect()
        };
        Moment { at, levels: [levels(0), levels(1)], totals: [world.totals(0), world.totals(1)] }
    }

    fn max_over_mean(&self, service: usize) -> f64 {
        self.levels[service].iter().copied().fold(0.0, f64::max)
    }

    fn is_fair(&self, service: usize) -> bool {
        self.levels[service].iter().all(|level| (FAIR..=1.0 / FAIR).contains(level))
    }
}

/// What one phase came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    /// Seconds since the start of the demo.
    pub(super) began: f64,
    /// Seconds.
    pub(super) length: f64,
    /// The fullest endpoint relative to the mean, per size: mean over the last third of the phase.
    pub(super) max_over_mean: Option<f64>,
    /// The same for the Service with static weights.
    pub(super) static_max_over_mean: Option<f64>,
    /// Seconds from the beginning of the phase until every endpoint held between 80 % and 125 % of its fair share, for a
    /// second on end.
    pub(super) seconds_to_fair: Option<f64>,
    /// The same for the Service with static weights.
    pub(super) static_seconds_to_fair: Option<f64>,
    /// Connections established, to both Services.
    pub(super) opened_connections: u64,
    /// Connections that failed, to both Services.
    pub(super) failed_connections: u64,
    /// Seconds until the proxy below served, where that is what the phase is about.
    pub(super) fall_back_seconds: Option<f64>,
    /// Seconds until the agent served again, likewise.
    pub(super) take_over_seconds: Option<f64>,
    /// Each endpoint's level at the end.
    pub(super) levels: BTreeMap<String, f64>,
    /// In words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) remark: String,
}

impl Phase {
    /// What the moments of a phase come to; the first is that of its beginning.
    pub(super) fn new(name: &'static str, moments: &[Moment], names: &[String]) -> Phase {
        let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
            return Phase { name, ..Phase::default() };
        };
        let length = last.at - first.at;
        let settled: Vec<&Moment> =
            moments.iter().filter(|moment| moment.at >= last.at - length / 3.0).collect();
        let mean = |service: usize| {
            settled.iter().map(|moment| moment.max_over_mean(service)).sum::<f64>() / settled.len() as f64
        };
        let grown = |which: fn(&(u64, u64)) -> u64| {
            (0..2).map(|service| which(&last.totals[service]) - which(&first.totals[service])).sum()
        };
        Phase {
            name,
            began: first.at,
            length,
            max_over_mean: Some(mean(0)),
            static_max_over_mean: Some(mean(1)),
            seconds_to_fair: seconds_to_fair(moments, 0),
            static_seconds_to_fair: seconds_to_fair(moments, 1),
            opened_connections: grown(|totals| totals.0),
            failed_connections: grown(|totals| totals.1),
            levels: names.iter().cloned().zip(last.levels[0].iter().copied()).collect(),
            ..Phase::default()
        }
    }
}

/// When every endpoint began to hold its part for a second on end.
fn seconds_to_fair(moments: &[Moment], service: usize) -> Option<f64> {
    let first = moments.first()?.at;
    let mut since = None;
    for moment in moments {
        if !moment.is_fair(service) {
            since = None;
        } else if moment.at - *since.get_or_insert(moment.at) >= 1.0 {
            return since.map(|since| since - first);
        }
    }
    None
}

/// An endpoint, for the tables.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EndpointResult {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) size: f64,
    pub(super) from_the_start: bool,
}

/// What the whole demo came to.
pub(super) struct Results {
    pub(super) endpoints: Vec<EndpointResult>,
    pub(super) phases: Vec<Phase>,
    pub(super) moments: Vec<Moment>,
    /// Node 0's weights over time: seconds, and each endpoint's share.
    pub(super) weights: Vec<(f64, Vec<f64>)>,
    pub(super) broken: Vec<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    phases: &'a [Phase],
    endpoints: &'a [EndpointResult],
    broken_promises: &'a [String],
    ok: bool,
}

impl Results {
    pub(super) fn new(world: &World) -> Results {
        let endpoint = |(i, endpoint): (usize, &super::world::Endpoint)| EndpointResult {
            name: endpoint.name.into(),
            node: format!("node{}", endpoint.node),
            size: endpoint.size,
            from_the_start: i < AT_START,
        };
        Results {
            endpoints: world.endpoints.iter().enumerate().map(endpoint).collect(),
            phases: Vec::new(),
            moments: Vec::new(),
            weights: Vec::new(),
            broken: Vec::new(),
        }
    }

    pub(super) fn summary(&self) -> Summary<'_> {
        Summary {
            phases: &self.phases,
            endpoints: &self.endpoints,
            broken_promises: &self.broken,
            ok: self.broken.is_empty(),
        }
    }

    pub(super) fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}
