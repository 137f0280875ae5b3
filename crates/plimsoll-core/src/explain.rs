//! Why each endpoint has the weight it has: plain values, for whoever shows them.

use std::time::Duration;

use crate::policy::Limit;
use crate::service::{EndpointId, Key, Mode, NodeName, PolicyKind, ServiceId};
use crate::table::{KeyEntry, Left};
use crate::view::Origin;

/// One Service, and what is done with it on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Which Service.
    pub service: ServiceId,
    /// Whether it is steered.
    pub mode: Mode,
    /// By which policy.
    pub policy: PolicyKind,
    /// The keys in the dataplane and how each is served.
    pub taken: Vec<KeyEntry>,
    /// The keys left to the proxy below, each with the reason.
    pub left: Vec<(Key, Left)>,
    /// Every endpoint of the Service, sorted.
    pub endpoints: Vec<EndpointExplanation>,
}

/// One endpoint of a Service, and why it has its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointExplanation {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// The node that hosts it.
    pub node: Option<NodeName>,
    /// Its part of the new connections that are chosen among the cluster's endpoints; `None`: not eligible.
    pub share: Option<f64>,
    /// Its part of those that must stay on this node; `None`: not eligible for them.
    pub local_share: Option<f64>,
    /// The part of the load that it should carry.
    pub target: f64,
    /// Its capacity as the Service states it.
    pub nominal_capacity: Option<f64>,
    /// The capacity that was reckoned with.
    pub capacity: f64,
    /// Open connections, of all nodes together.
    pub open: f64,
    /// Of those, younger than the horizon.
    pub young: f64,
    /// Of those, opened by this node.
    pub sent: f64,
    /// Connections opened per second.
    pub opens_per_second: f64,
    /// Connections refused or unanswered per second.
    pub failures_per_second: f64,
    /// CPU in use, in cores.
    pub cpu: Option<f64>,
    /// CPU pressure, 0 to 1.
    pub pressure: Option<f64>,
    /// Whose figures these are.
    pub origin: Origin,
    /// How old they are; `None` where there are none.
    pub age: Option<Duration>,
    /// The limit its share ran into.
    pub limit: Option<Limit>,
}

/// A node, as this one sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// Which node.
    pub node: NodeName,
    /// How old its last report is.
    pub age: Duration,
    /// Connections it opens per second.
    pub opens_per_second: f64,
}

/// What a limit means, and what would lift it: for people.
pub fn advice(limit: Limit) -> &'static str {
    match limit {
        Limit::Floor => "it holds more than its part already; it gets the least share until connections end",
        Limit::Ceiling => "it holds less than its part; its share is as large as one endpoint may get",
        Limit::SlowStart => "it is new and is being eased in, as the Service asks",
        Limit::NoEvidence => {
            "its connections do not last like those of its peers; no more than its capacity share until they do"
        }
        Limit::Failing => "its connections fail; it gets the least share until they succeed again",
        Limit::Recovering => "its connections failed not long ago; it is being eased in again",
        Limit::Frozen => "all endpoints are overloaded; shares stay as they were: add capacity",
    }
}
