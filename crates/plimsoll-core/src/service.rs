//! What exists: Services, the keys they are reached by, and their endpoints.
//!
//! A [`Service`] here is what is balanced as one: one port, one protocol, one address family. A Service of the
//! outside world with two ports and two families is four of them, told apart by [`ServiceId`].

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A node's name, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Takes the name as it is.
    pub fn new(name: &str) -> NodeName {
        NodeName(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that a set of names can be asked for one that is only read.
impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol that can be balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections with a handshake and an end.
    Tcp,
    /// A conntrack entry that has seen a reply is a connection until it expires.
    Udp,
    /// As UDP: opened at the first reply, closed when conntrack lets go of it.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with this number in the IP header.
    pub const fn from_number(number: u8) -> Option<Protocol> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

/// Who an endpoint is: where its connections end. Displays as `tcp/10.1.0.11:8080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// The endpoint's own address, never a Service's.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The protocol it speaks.
    pub protocol: Protocol,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, std::net::SocketAddr::new(self.address, self.port))
    }
}

/// Which Service, which of its ports, which family. Displays as `shop/web:http/ipv4` (`shop/web/ipv4` without a
/// port name).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The Service's name, with its namespace where there are namespaces (`shop/web`).
    pub name: Arc<str>,
    /// The port's name; empty where a Service has one port without a name.
    pub port: Arc<str>,
    /// The family of its addresses and endpoints.
    pub family: Family,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}", self.family)
    }
}

/// One way to reach a Service on this node: what is taken over, or left to the proxy below, as a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The address clients connect to.
    pub place: Place,
    /// The port clients connect to.
    pub port: u16,
    /// The protocol they speak.
    pub protocol: Protocol,
}

/// The address part of a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// An address inside the cluster (a ClusterIP).
    Internal(IpAddr),
    /// An address that outside clients use (an external or load-balancer address).
    External(IpAddr),
    /// Every address of the node itself but loopback (a NodePort).
    AnyLocal(Family),
}

impl Place {
    /// The family of the addresses this stands for.
    pub const fn family(self) -> Family {
        match self {
            Place::Internal(address) | Place::External(address) => Family::of(address),
            Place::AnyLocal(family) => family,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Internal(address) | Place::External(address) => {
                write!(f, "{}/{}", self.protocol, std::net::SocketAddr::new(address, self.port))
            }
            Place::AnyLocal(family) => write!(f, "{}/{family}-node-port:{}", self.protocol, self.port),
        }
    }
}

/// Which endpoints may serve clients of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints of the node that the connection entered.
    Local,
}

/// What an endpoint says of itself, with Kubernetes' meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conditions {
    /// It wants new connections.
    pub ready: bool,
    /// It could still serve some.
    pub serving: bool,
    /// It is about to end.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions { ready: true, serving: true, terminating: false }
    }
}

/// One endpoint of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Who it is.
    pub id: EndpointId,
    /// The node that hosts it and whose agent counts its connections; `None` where no agent does.
    pub node: Option<NodeName>,
    /// Its size relative to the other endpoints of the Service (or cores, where its load is measured); `None`
    /// where nobody knows.
    pub capacity: Option<f64>,
    /// Whether it wants connections.
    pub conditions: Conditions,
    /// Topology hints: zones whose nodes should use it; empty means no hint.
    pub for_zones: Vec<Arc<str>>,
    /// Topology hints: nodes that should use it; empty means no hint.
    pub for_nodes: Vec<NodeName>,
}

/// Whether a Service's connections are steered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Counted and steered.
    #[default]
    Enabled,
    /// Counted and explained; the proxy below chooses.
    Observe,
}

/// The policies there are: who gets which share of the new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// Water-filling on predicted load: the law.
    #[default]
    Waterline,
    /// The classic of the LVS documentation: weights follow load by a cube root.
    LvsFeedback,
    /// The same share for all.
    Equal,
    /// Shares in proportion to capacities.
    Static,
}

/// What is balanced as one: one port of a Service in one family.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Which one it is.
    pub id: ServiceId,
    /// The protocol of its port.
    pub protocol: Protocol,
    /// The ways to reach it, all of `id.family` and `protocol`.
    pub keys: Vec<Key>,
    /// Who may serve clients of internal keys.
    pub internal_policy: TrafficPolicy,
    /// Who may serve outside clients of external keys.
    pub external_policy: TrafficPolicy,
    /// How long a client address stays with its endpoint after its last new connection; `None`: it does not.
    pub affinity: Option<Duration>,
    /// Whether it is steered.
    pub mode: Mode,
    /// The policy for this Service alone, by name; `None`: the configured one.
    pub policy: Option<PolicyKind>,
    /// How long a new endpoint is eased in; zero: not at all.
    pub slow_start: Duration,
    /// The least that an endpoint gets, as a part of its fair share, [`Service::FLOORS`]; `None`: the configured one.
    pub floor: Option<f64>,
    /// Its endpoints, sorted by `id`, each once.
    pub endpoints: Vec<Endpoint>,
}

impl Service {
    /// The floors that there are.
    pub const FLOORS: RangeInclusive<f64> = 0.005..=0.1;

    /// One of its endpoints.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints
            .binary_search_by_key(id, |endpoint| endpoint.id)
            .ok()
            .map(|place| &self.endpoints[place])
    }
}

/// A change of what exists.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceChange {
    /// All there is: what is not in it is gone.
    All(Vec<Arc<Service>>),
    /// A Service came or changed.
    Set(Arc<Service>),
    /// A Service went.
    Remove(ServiceId),
}

/// What the node that decides must know of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Here {
    /// Its name.
    pub node: NodeName,
    /// Its zone, for topology hints.
    pub zone: Option<Arc<str>>,
}
