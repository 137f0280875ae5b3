//! What should be in the dataplane: for each Service its keys and the weight of each endpoint.

use std::time::Duration;

use crate::order::{self, MAX_ENDPOINTS};
use crate::service::{EndpointId, Key, Mode, Place, Protocol, Service, TrafficPolicy};

/// The weight that stands for all connections, in a list of so many endpoints: shares are quantised to one part of
/// it. As fine as the order of choices can tell apart, so that in a long list the least weight is little too.
pub fn full_weight(endpoints: usize) -> u32 {
    order::steps(endpoints).map_or(LEAST_FULL_WEIGHT, |steps| steps.max(LEAST_FULL_WEIGHT))
}

/// Fine enough for any short list.
const LEAST_FULL_WEIGHT: u32 = 4096;

/// An endpoint and its part of the new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Its part; parts need not sum to anything, whoever chooses divides by the sum. Never 0: an endpoint that
    /// gets no new connections is not in the list.
    pub weight: u32,
}

/// Which list of endpoints serves a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choose {
    /// The cluster's.
    Cluster,
    /// This node's own.
    Local,
    /// The cluster's for clients inside the cluster and for this node itself, this node's own for others.
    LocalForOutside,
}

/// Which connections through a key get the node's address as their source. A connection from an endpoint to
/// itself always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// Those from outside the cluster (and from the node itself).
    FromOutside,
    /// All.
    Always,
    /// Those that the node itself opened.
    FromNode,
}

/// How one key is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Which key.
    pub key: Key,
    /// From which list.
    pub choose: Choose,
    /// With whose source address.
    pub masquerade: Masquerade,
}

/// What the dataplane holds for one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceTable {
    /// The protocol of its keys and endpoints.
    pub protocol: Protocol,
    /// The keys taken over, sorted; none where it is only observed.
    pub keys: Vec<KeyEntry>,
    /// How long a client address stays with its endpoint.
    pub affinity: Option<Duration>,
    /// The endpoints that clients may be sent to, sorted by endpoint.
    pub cluster: Vec<Weighted>,
    /// Those of them (or their own fall-back) on this node, sorted by endpoint.
    pub local: Vec<Weighted>,
}

/// Why a key is left to the proxy below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// The Service is only observed.
    Observed,
    /// No endpoint may serve it.
    NoEndpoint,
    /// No endpoint of this node may serve it, and only those are allowed to.
    NoLocalEndpoint,
    /// There are more endpoints than a list can hold.
    TooManyEndpoints,
    /// Another Service claims it too, and that one has it.
    Claimed,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Left::Observed => f.write_str("the Service is only observed"),
            Left::NoEndpoint => f.write_str("no endpoint may serve it"),
            Left::NoLocalEndpoint => {
                f.write_str("its traffic policy is Local and this node has no endpoint of it")
            }
            Left::Claimed => f.write_str("another Service claims it too, and comes first by name"),
            Left::TooManyEndpoints => {
                write!(f, "it has more endpoints than can be balanced ({MAX_ENDPOINTS})")
            }
        }
    }
}

/// How each key of the Service is served from lists of these lengths, and which keys are left to the proxy below.
pub fn keys(
    service: &Service,
    cluster: usize,
    local: usize,
    is_claimed: impl Fn(Key) -> bool,
) -> (Vec<KeyEntry>, Vec<(Key, Left)>) {
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for key in &service.keys {
        let entry = entry(service, *key);
        let needed = match entry.choose {
            Choose::Cluster | Choose::LocalForOutside => cluster,
            Choose::Local => local,
        };
        let reason = if service.mode == Mode::Observe {
            Some(Left::Observed)
        } else if is_claimed(*key) {
            Some(Left::Claimed)
        } else if order::steps(cluster).is_none() {
            Some(Left::TooManyEndpoints)
        } else if needed == 0 && entry.choose == Choose::Local && cluster > 0 {
            Some(Left::NoLocalEndpoint)
        } else if needed == 0 {
            Some(Left::NoEndpoint)
        } else {
            None
        };
        match reason {
            Some(reason) => left.push((*key, reason)),
            None => taken.push(entry),
        }
    }
    taken.sort_by_key(|entry| entry.key);
    (taken, left)
}

/// The rules of kube-proxy: internal keys follow the internal policy and hide only clients from outside; external
/// keys hide all clients, except under policy Local, which keeps the addresses of outside clients.
fn entry(service: &Service, key: Key) -> KeyEntry {
    let (choose, masquerade) = match (key.place, service.internal_policy, service.external_policy) {
        (Place::Internal(_), TrafficPolicy::Cluster, _) => (Choose::Cluster, Masquerade::FromOutside),
        (Place::Internal(_), TrafficPolicy::Local, _) => (Choose::Local, Masquerade::FromOutside),
        (_, _, TrafficPolicy::Cluster) => (Choose::Cluster, Masquerade::Always),
        (_, _, TrafficPolicy::Local) => (Choose::LocalForOutside, Masquerade::FromNode),
    };
    KeyEntry { key, choose, masquerade }
}
