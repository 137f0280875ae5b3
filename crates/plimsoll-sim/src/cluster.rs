//! The cluster as it truly is: its endpoints, and what each node holds of each. Only oracles see all of it.

use plimsoll_core::time::Timestamp;

use crate::dice::Dice;
use crate::processor::Processor;
use crate::scenario::{Failure, Misreading, Scenario};

/// Whether an endpoint gets connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gets new connections.
    Serving,
    /// It gets none any more, and keeps those it has.
    Draining,
    /// It is gone.
    Gone,
}

/// One endpoint as it truly is.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What it can take when nothing disturbs it.
    pub capacity: f64,
    /// What the agents are told of that.
    pub stated: Option<f64>,
    /// The node whose agent counts it.
    pub host: Option<usize>,
    /// Whether it gets connections.
    pub standing: Standing,
    /// When it was added; the beginning for those that were there.
    pub since: Timestamp,
    /// Its speed as a part of its full speed, by all that disturbs it.
    pub speed: f64,
    /// In which way it fails.
    pub failure: Option<Failure>,
    /// What is read of its CPU instead of the truth.
    pub misreading: Option<Misreading>,
    /// Its pressure reads too high by this.
    pub pressure_bias: f64,
    /// Open connections.
    pub open: u32,
    /// Connections opened so far.
    pub opened: u64,
    /// Its CPU.
    pub processor: Processor,
}

impl Endpoint {
    /// An idle one that nothing disturbs, hosted outside.
    pub fn new(capacity: f64, parallel: f64) -> Endpoint {
        Endpoint {
            capacity,
            stated: Some(capacity),
            host: None,
            standing: Standing::Serving,
            since: Timestamp::ZERO,
            speed: 1.0,
            failure: None,
            misreading: None,
            pressure_bias: 0.0,
            open: 0,
            opened: 0,
            processor: Processor::new(capacity, parallel),
        }
    }
}

/// The cluster as it truly is.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// All endpoints there ever were, known by index.
    pub endpoints: Vec<Endpoint>,
    /// How many nodes there are.
    pub nodes: usize,
    /// Whether connections cost CPU.
    pub has_work: bool,
    /// Those that get new connections, in order.
    pub serving: Vec<usize>,
    /// Open connections by sending node, then endpoint.
    own: Vec<Vec<u32>>,
}

impl Cluster {
    /// A cluster without connections.
    pub fn new(endpoints: Vec<Endpoint>, nodes: usize, has_work: bool) -> Cluster {
        let own = vec![vec![0; endpoints.len()]; nodes];
        let mut cluster = Cluster { endpoints, nodes, has_work, serving: Vec::new(), own };
        cluster.refresh();
        cluster
    }

    /// The cluster of a scenario before anybody connected.
    pub fn of(scenario: &Scenario, dice: &mut Dice) -> Cluster {
        let parallel = scenario.work.as_ref().map_or(1.0, |work| work.parallel);
        let bias = scenario.signals.as_ref().map_or(0.0, |signals| signals.pressure_bias);
        let mut endpoints = Vec::new();
        for group in &scenario.endpoints {
            for _ in 0..group.count {
                let host = endpoints.len() % scenario.nodes.count;
                let stated = if group.hidden { None } else { Some(group.stated.unwrap_or(group.capacity)) };
                endpoints.push(Endpoint {
                    stated,
                    host: (!group.outside).then_some(host),
                    pressure_bias: dice.between(0.0, bias),
                    ..Endpoint::new(group.capacity, parallel)
                });
            }
        }
        Cluster::new(endpoints, scenario.nodes.count, scenario.work.is_some())
    }

    /// Adds an endpoint.
    pub fn add(&mut self, endpoint: Endpoint) {
        self.endpoints.push(endpoint);
        for own in &mut self.own {
            own.push(0);
        }
        self.refresh();
    }

    /// Changes whether an endpoint gets connections.
    pub fn set_standing(&mut self, endpoint: usize, standing: Standing) {
        self.endpoints[endpoint].standing = standing;
        self.refresh();
    }

    fn refresh(&mut self) {
        self.serving.clear();
        let serving = |(_, endpoint): &(usize, &Endpoint)| endpoint.standing == Standing::Serving;
        self.serving.extend(self.endpoints.iter().enumerate().filter(serving).map(|(index, _)| index));
    }

    /// A node's own open connections, by endpoint.
    pub fn own(&self, node: usize) -> &[u32] {
        &self.own[node]
    }

    /// Takes note of a connection that opened.
    pub fn open(&mut self, node: usize, endpoint: usize) {
        self.own[node][endpoint] += 1;
        self.endpoints[endpoint].open += 1;
        self.endpoints[endpoint].opened += 1;
    }

    /// Takes note of a connection that closed.
    pub fn close(&mut self, node: usize, endpoint: usize) {
        self.own[node][endpoint] -= 1;
        self.endpoints[endpoint].open -= 1;
    }

    /// Changes an endpoint's speed by a factor.
    pub fn change_speed(&mut self, now: Timestamp, endpoint: usize, factor: f64) {
        let endpoint = &mut self.endpoints[endpoint];
        endpoint.speed *= factor;
        endpoint.processor.set_cores(now, endpoint.capacity * endpoint.speed);
    }

    /// What the agents are told of an endpoint's capacity, or 1.
    pub fn nominal(&self, endpoint: usize) -> f64 {
        self.endpoints[endpoint].stated.unwrap_or(1.0)
    }
}
