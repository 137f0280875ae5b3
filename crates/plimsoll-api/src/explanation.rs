//! One Service explained: every endpoint, its share, and why.

use std::time::Duration;

use plimsoll_core::explain::{self, EndpointExplanation};
use plimsoll_core::policy::Limit;
use plimsoll_core::service::{Mode, NodeName, PolicyKind};
use plimsoll_core::table::Choose;
use plimsoll_core::view::Origin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/explain?service=NAME`: one Service, port and family, and why each endpoint has its weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Which Service, as `name:port/family`; without `:port` where the port has no name.
    pub service: String,
    /// The node whose weights these are.
    pub node: String,
    /// `enabled` or `observe`.
    pub mode: String,
    /// The policy in force: `waterline`, `lvs-feedback`, `equal` or `static`.
    pub policy: String,
    /// Whether the dataplane is a dry run: nothing of this is in the kernel.
    #[serde(default)]
    pub dry_run: bool,
    /// The ways to reach it.
    pub keys: Vec<Key>,
    /// Its endpoints, sorted.
    pub endpoints: Vec<Endpoint>,
}

/// One way to reach a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Protocol, address and port: `tcp/10.96.0.1:80`, or `tcp/ipv4-node-port:30080`.
    pub key: String,
    /// Whether the dataplane serves it, or would in a dry run.
    pub taken: bool,
    /// Among which endpoints is chosen, or why it is left to the proxy below.
    pub because: String,
}

/// One endpoint and why it has its weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Protocol, address and port: `tcp/10.0.1.11:8080`.
    pub endpoint: String,
    /// The node that hosts it; `null` where no agent does.
    pub node: Option<String>,
    /// Its part of this node's new connections, 0 to 1; `null`: it gets none.
    pub share: Option<f64>,
    /// Its part of those that must stay on this node, 0 to 1; `null`: it gets none of them.
    pub local_share: Option<f64>,
    /// The part of the load that is its due, 0 to 1.
    pub fair_share: f64,
    /// Its capacity as the Service states it, relative to the other endpoints; `null`: it does not.
    pub nominal_capacity: Option<f64>,
    /// The capacity that was reckoned with, stated or not.
    pub capacity: f64,
    /// Open connections, of all nodes together.
    pub open: f64,
    /// Open connections that this node opened.
    pub sent: f64,
    /// Open connections that are younger than the horizon, of all nodes together.
    pub young: f64,
    /// Open connections per capacity relative to the Service's mean: 1 is the waterline; `null` without connections.
    pub level: Option<f64>,
    /// Connections opened per second.
    pub opens_per_second: f64,
    /// Connections refused or never answered per second.
    pub failures_per_second: f64,
    /// CPU in use, in cores; `null`: not measured.
    pub cpu_cores: Option<f64>,
    /// Share of time in which some task waited for CPU, 0 to 1; `null`: not measured.
    pub pressure: Option<f64>,
    /// Whose figures its are: those of a node by name, `this node`, `this node as sender`, `3 senders`, `nobody yet`.
    pub reported_by: String,
    /// Seconds since its connections were counted; `null` where nobody did.
    pub age_seconds: Option<f64>,
    /// The limit its share ran into: `floor`, `ceiling`, `slow-start`, `no-evidence`, `failing`, `recovering` or
    /// `frozen`; `null`: none.
    pub limit: Option<String>,
    /// Why it has its share, in a sentence.
    pub because: String,
}

impl Explanation {
    /// The explanation as given on the node `here`.
    pub fn new(here: &NodeName, explanation: &explain::Explanation) -> Explanation {
        let taken = explanation.taken.iter().map(|entry| Key {
            key: entry.key.to_string(),
            taken: true,
            because: choice(entry.choose).into(),
        });
        let left = explanation.left.iter().map(|(key, reason)| Key {
            key: key.to_string(),
            taken: false,
            because: reason.to_string(),
        });
        let mean = mean_level(&explanation.endpoints);
        Explanation {
            service: explanation.service.to_string(),
            node: here.to_string(),
            mode: match explanation.mode {
                Mode::Enabled => "enabled",
                Mode::Observe => "observe",
            }
            .into(),
            policy: policy(explanation.policy).into(),
            dry_run: false,
            keys: taken.chain(left).collect(),
            endpoints: explanation.endpoints.iter().map(|endpoint| convert(endpoint, mean)).collect(),
        }
    }
}

fn convert(endpoint: &EndpointExplanation, mean: Option<f64>) -> Endpoint {
    let eligible = endpoint.share.is_some();
    let level = mean.filter(|_| eligible).map(|mean| endpoint.open / endpoint.capacity / mean);
    Endpoint {
        endpoint: endpoint.endpoint.to_string(),
        node: endpoint.node.as_ref().map(NodeName::to_string),
        share: endpoint.share,
        local_share: endpoint.local_share,
        fair_share: endpoint.target,
        nominal_capacity: endpoint.nominal_capacity,
        capacity: endpoint.capacity,
        open: endpoint.open,
        sent: endpoint.sent,
        young: endpoint.young,
        level,
        opens_per_second: endpoint.opens_per_second,
        failures_per_second: endpoint.failures_per_second,
        cpu_cores: endpoint.cpu,
        pressure: endpoint.pressure,
        reported_by: match &endpoint.origin {
            Origin::Here => "this node".into(),
            Origin::Host(node) => node.to_string(),
            Origin::Senders(0) => "this node as sender".into(),
            Origin::Senders(others) => format!("{} senders", others + 1),
            Origin::Nobody => "nobody yet".into(),
        },
        age_seconds: endpoint.age.map(|age: Duration| age.as_secs_f64()),
        limit: endpoint.limit.map(|limit| limit_name(limit).into()),
        because: because(endpoint, level),
    }
}

/// Open connections per capacity over all eligible endpoints; `None` without connections.
fn mean_level(endpoints: &[EndpointExplanation]) -> Option<f64> {
    let eligible = || endpoints.iter().filter(|endpoint| endpoint.share.is_some());
    let open: f64 = eligible().map(|endpoint| endpoint.open).sum();
    let capacity: f64 = eligible().map(|endpoint| endpoint.capacity).sum();
    (open > 0.0 && capacity > 0.0).then(|| open / capacity)
}

fn because(endpoint: &EndpointExplanation, level: Option<f64>) -> String {
    if endpoint.share.is_none() && endpoint.local_share.is_none() {
        return "it is not ready, or meant for other zones or nodes".into();
    }
    if let Some(limit) = endpoint.limit {
        return explain::advice(limit).into();
    }
    let gets_more = endpoint.share.is_some_and(|share| share > 1.05 * endpoint.target);
    match level {
        Some(level) if level > 1.02 && gets_more => {
            "the others are held back, so it gets what they do not".into()
        }
        None => "there are no connections yet: shares follow capacity".into(),
        Some(level) if level > 1.02 => {
            format!("it holds {:.0} % more than its part, so it gets less", (level - 1.0) * 100.0)
        }
        Some(level) if level < 0.98 => {
            format!("it holds {:.0} % less than its part, so it gets more", (1.0 - level) * 100.0)
        }
        Some(_) => "it is at the waterline".into(),
    }
}

fn choice(choose: Choose) -> &'static str {
    match choose {
        Choose::Cluster => "connections go to the cluster's endpoints",
        Choose::Local => "connections go to this node's endpoints",
        Choose::LocalForOutside => "outside clients go to this node's endpoints, others to the cluster's",
    }
}

fn policy(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Waterline => "waterline",
        PolicyKind::LvsFeedback => "lvs-feedback",
        PolicyKind::Equal => "equal",
        PolicyKind::Static => "static",
    }
}

fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Floor => "floor",
        Limit::Ceiling => "ceiling",
        Limit::SlowStart => "slow-start",
        Limit::NoEvidence => "no-evidence",
        Limit::Failing => "failing",
        Limit::Recovering => "recovering",
        Limit::Frozen => "frozen",
    }
}
