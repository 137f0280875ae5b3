//! What should be in the dataplane: for each Service its keys and the weight of each endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::service::{EndpointId, Key, Protocol, ServiceId};

/// The weight of a sole endpoint; shares are quantised to `1 / FULL_WEIGHT`.
pub const FULL_WEIGHT: u32 = 4096;

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

/// Everything that should be in the dataplane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Per Service.
    pub services: BTreeMap<ServiceId, ServiceTable>,
    /// The endpoints this node hosts: all their connections are counted, whoever sent them.
    pub hosted: BTreeSet<EndpointId>,
    /// All endpoints of all Services: what this node sends to them is counted.
    pub known: BTreeSet<EndpointId>,
}
