//! An agent's state in a page: its Services in a line each, and the other nodes.

use plimsoll_core::explain::NodeStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::explanation::Explanation;

/// `GET /v1/status`: this agent, its Services and the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// Seconds since the agent started.
    pub uptime_seconds: f64,
    /// Whether everything it needs has answered.
    pub ready: bool,
    /// What it still waits for, or what hangs.
    pub waiting_for: Vec<String>,
    /// What is wrong at the moment and being retried: an invalid file, a peer that does not resolve.
    pub troubles: Vec<String>,
    /// Seconds since the dataplane carried out a plan; leases are renewed by plans. `null` before the first.
    pub plan_age_seconds: Option<f64>,
    /// Seconds since the dataplane counted. `null` before the first time.
    pub counts_age_seconds: Option<f64>,
    /// The kind of dataplane: `nftables` or `dry_run`.
    pub dataplane: String,
    /// The kind of store: `local` or `mesh`.
    pub store: String,
    /// The Services, sorted.
    pub services: Vec<ServiceSummary>,
    /// The other nodes that reported, sorted.
    pub nodes: Vec<Node>,
}

/// A Service in a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceSummary {
    /// Which Service, as `name:port/family`; without `:port` where the port has no name.
    pub service: String,
    /// `enabled` or `observe`.
    pub mode: String,
    /// The policy in force: `waterline`, `lvs-feedback`, `equal` or `static`.
    pub policy: String,
    /// Keys served by the dataplane, or that would be in a dry run.
    pub keys_taken: usize,
    /// Keys left to the proxy below.
    pub keys_left: usize,
    /// All its endpoints.
    pub endpoints: usize,
    /// Endpoints that may get new connections from this node.
    pub eligible: usize,
    /// Open connections of the eligible endpoints, of all nodes together. Not always a whole number: the figures of
    /// other nodes are carried forward.
    pub open: f64,
    /// The fullest endpoint's connections per capacity, relative to the mean; `null` without connections.
    pub max_over_mean: Option<f64>,
    /// Endpoints that the guard holds back.
    pub held_back: usize,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Seconds since its last report.
    pub age_seconds: f64,
    /// Connections it opens per second.
    pub opens_per_second: f64,
}

/// What the API answers when it cannot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What is wrong and what to do.
    pub error: String,
}

impl Node {
    /// A node as the core knows it.
    pub fn new(node: &NodeStatus) -> Node {
        Node {
            node: node.node.to_string(),
            age_seconds: node.age.as_secs_f64(),
            opens_per_second: node.opens_per_second,
        }
    }
}

impl ServiceSummary {
    /// What the figures of a Service's endpoints come to.
    pub fn new(explanation: &Explanation) -> ServiceSummary {
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
}

/// Whether a limit is the guard's, as opposed to one that comes and goes with the load.
fn is_held_back(limit: Option<&str>) -> bool {
    matches!(limit, Some("failing" | "recovering" | "frozen"))
}
