//! What the balancer finds worth telling: the agent logs and counts it.

use std::fmt;

use crate::policy::Limit;
use crate::service::{EndpointId, Key, NodeName, ServiceId};
use crate::table::Left;

/// Something that changed and that an operator may want to know. Told on transitions only.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A key is served by the dataplane from now on.
    Taken {
        /// Of which Service.
        service: ServiceId,
        /// Which key.
        key: Key,
    },
    /// A key is left to the proxy below from now on.
    Left {
        /// Of which Service.
        service: ServiceId,
        /// Which key.
        key: Key,
        /// Why.
        reason: Left,
    },
    /// The guard holds an endpoint back from now on.
    Limited {
        /// In which Service.
        service: ServiceId,
        /// Which endpoint.
        endpoint: EndpointId,
        /// How.
        limit: Limit,
    },
    /// The guard does not hold the endpoint back any more.
    Unlimited {
        /// In which Service.
        service: ServiceId,
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// A node's agent left or fell silent; its last report ages.
    NodeLeft(NodeName),
    /// A node's agent became a live member.
    NodeJoined(NodeName),
    /// The dataplane refused a plan; a fresh one follows.
    Refused(String),
}

impl Notice {
    /// A short name for counting.
    pub const fn kind(&self) -> &'static str {
        match self {
            Notice::Taken { .. } => "taken",
            Notice::Left { .. } => "left",
            Notice::Limited { .. } => "limited",
            Notice::Unlimited { .. } => "unlimited",
            Notice::NodeLeft(_) => "node_left",
            Notice::NodeJoined(_) => "node_joined",
            Notice::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Taken { service, key } => write!(f, "{service}: {key} is balanced"),
            Notice::Left { service, key, reason } => {
                write!(f, "{service}: {key} is left to the proxy below: {reason}")
            }
            Notice::Limited { service, endpoint, limit } => {
                write!(f, "{service}: {endpoint}: {}", crate::explain::advice(*limit))
            }
            Notice::Unlimited { service, endpoint } => {
                write!(f, "{service}: {endpoint} is not held back any more")
            }
            Notice::NodeLeft(node) => write!(f, "{node} left; its last report ages"),
            Notice::NodeJoined(node) => write!(f, "{node} joined"),
            Notice::Refused(why) => write!(f, "the dataplane refused a plan, a fresh one follows: {why}"),
        }
    }
}
