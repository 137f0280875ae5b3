//! From the core's values to what people and programs read.

use std::time::Duration;

use plimsoll_core::explain::{self, EndpointExplanation, NodeStatus};
use plimsoll_core::policy::Limit;
use plimsoll_core::service::{Mode, NodeName, PolicyKind};
use plimsoll_core::table::Choose;
use plimsoll_core::view::Origin;

use crate::{Endpoint, Explanation, Key, Node};

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
            keys: taken.chain(left).collect(),
            endpoints: explanation.endpoints.iter().map(|endpoint| convert(endpoint, mean)).collect(),
        }
    }
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
    match level {
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
        Choose::Cluster => "balanced over the cluster's endpoints",
        Choose::Local => "balanced over this node's endpoints",
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
