//! What leaves the process: status and explanations, as the HTTP API and `-o json` show them.
//!
//! Figures carry their unit in the name. Fields are only ever added; a reader ignores those it does not know.

mod convert;

use serde::{Deserialize, Serialize};

/// `GET /v1/status`: this agent, its Services and the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// Seconds since the agent started.
    pub uptime_seconds: f64,
    /// Whether everything it needs has answered.
    pub ready: bool,
    /// What it still waits for.
    pub waiting_for: Vec<String>,
    /// The kind of dataplane.
    pub dataplane: String,
    /// The kind of store.
    pub store: String,
    /// The Services, sorted.
    pub services: Vec<ServiceSummary>,
    /// The other nodes that reported, sorted.
    pub nodes: Vec<Node>,
}

/// A Service in a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// Which Service, as `name:port/family`.
    pub service: String,
    /// `enabled` or `observe`.
    pub mode: String,
    /// The policy in force.
    pub policy: String,
    /// Keys served by the dataplane.
    pub keys_taken: usize,
    /// Keys left to the proxy below.
    pub keys_left: usize,
    /// Its endpoints.
    pub endpoints: usize,
    /// Those of them that may get new connections from this node.
    pub eligible: usize,
    /// Open connections of the eligible ones, of all nodes together.
    pub open: f64,
    /// The fullest endpoint's connections per capacity, relative to the mean; `null` without connections.
    pub max_over_mean: Option<f64>,
    /// Endpoints that the guard holds back.
    pub held_back: usize,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// How old its last report is.
    pub age_seconds: f64,
    /// Connections it opens per second.
    pub opens_per_second: f64,
}

/// `GET /v1/explain?service=NAME`: one Service, port and family, and why each endpoint has its weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which Service, as `name:port/family`.
    pub service: String,
    /// The node whose weights these are.
    pub node: String,
    /// `enabled` or `observe`.
    pub mode: String,
    /// The policy in force.
    pub policy: String,
    /// The ways to reach it.
    pub keys: Vec<Key>,
    /// Its endpoints, sorted.
    pub endpoints: Vec<Endpoint>,
}

/// One way to reach a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Protocol, address and port.
    pub key: String,
    /// Whether the dataplane serves it.
    pub taken: bool,
    /// From which list it is served, or why it is left to the proxy below.
    pub because: String,
}

/// One endpoint and why it has its weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Protocol, address and port.
    pub endpoint: String,
    /// The node that hosts it.
    pub node: Option<String>,
    /// Its part of this node's new connections; `null`: it gets none.
    pub share: Option<f64>,
    /// Its part of those that must stay on this node; `null`: it gets none of them.
    pub local_share: Option<f64>,
    /// The part of the load that is its due.
    pub fair_share: f64,
    /// Its capacity as the Service states it.
    pub nominal_capacity: Option<f64>,
    /// The capacity that was reckoned with.
    pub capacity: f64,
    /// Open connections, of all nodes together.
    pub open: f64,
    /// Of those, opened by this node.
    pub sent: f64,
    /// Of those, younger than the horizon.
    pub young: f64,
    /// Open connections per capacity relative to the Service's mean: 1 is the waterline.
    pub level: Option<f64>,
    /// Connections opened per second.
    pub opens_per_second: f64,
    /// Connections refused or never answered per second.
    pub failures_per_second: f64,
    /// CPU in use.
    pub cpu_cores: Option<f64>,
    /// Share of time in which some task waited for CPU.
    pub pressure: Option<f64>,
    /// Whose figures these are.
    pub reported_by: String,
    /// How old they are; `null` where there are none.
    pub age_seconds: Option<f64>,
    /// The limit its share ran into, in a word.
    pub limit: Option<String>,
    /// Why it has its share, in a sentence.
    pub because: String,
}

/// What the API answers when it cannot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong and what to do.
    pub error: String,
}

/// What the figures of a Service's endpoints come to.
pub fn summary(explanation: &Explanation) -> ServiceSummary {
    let eligible = || explanation.endpoints.iter().filter(|endpoint| endpoint.share.is_some());
    let taken = explanation.keys.iter().filter(|key| key.taken).count();
    let levels = eligible().filter_map(|endpoint| endpoint.level);
    ServiceSummary {
        service: explanation.service.clone(),
        mode: explanation.mode.clone(),
        policy: explanation.policy.clone(),
        keys_taken: taken,
        keys_left: explanation.keys.len() - taken,
        endpoints: explanation.endpoints.len(),
        eligible: eligible().count(),
        open: eligible().map(|endpoint| endpoint.open).sum(),
        max_over_mean: levels.reduce(f64::max),
        held_back: eligible().filter(|endpoint| is_held_back(endpoint.limit.as_deref())).count(),
    }
}

/// Whether a limit is the guard's, as opposed to one that comes and goes with the load.
pub fn is_held_back(limit: Option<&str>) -> bool {
    matches!(limit, Some("failing" | "recovering" | "frozen"))
}
