//! What a Services file looks like: its fields, their units and defaults. The reference page is generated from
//! these comments.

use std::fmt;
use std::net::IpAddr;

use plimsoll_core::service::{Mode, PolicyKind, Protocol, TrafficPolicy};
use plimsoll_core::time::Span;
use schemars::JsonSchema;
use serde::de::{self, Visitor};

/// A file of nodes, Services and endpoints. Replace it by renaming a complete file over it: whoever writes into
/// it in place risks that half of it is read.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The nodes that have an agent. Optional; where given, endpoints may only name these.
    pub nodes: Option<Vec<Node>>,
    /// The Services. `[]` where there are none.
    pub services: Vec<Service>,
}

/// A node that has an agent.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name, as its agent calls itself.
    pub name: String,
    /// Its zone, for endpoints with `for_zones`.
    pub zone: Option<String>,
}

/// A Service: addresses and ports that clients connect to, and the endpoints that serve them.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name; with a namespace where there are namespaces (`shop/web`). No two Services have the same.
    pub name: String,
    /// Addresses for clients inside the cluster; of one family or of both.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Addresses for clients outside the cluster.
    #[serde(default)]
    pub external_addresses: Vec<Address>,
    /// Its ports, at least one.
    pub ports: Vec<Port>,
    /// Who may serve clients inside the cluster: `cluster` (any endpoint) or `local` (those on the client's node).
    #[serde(default)]
    pub internal_policy: TrafficPolicy,
    /// Who may serve clients outside the cluster: `cluster` (any endpoint) or `local` (those on the node that the
    /// connection entered; clients keep their address).
    #[serde(default)]
    pub external_policy: TrafficPolicy,
    /// How long a client address stays with its endpoint after its last new connection, 1 s to 24 h. Left out: it
    /// does not.
    pub affinity: Option<Span>,
    /// Whether connections are steered (`enabled`) or only counted and explained (`observe`).
    #[serde(default)]
    pub mode: Mode,
    /// The policy for this Service alone. Left out: the agent's.
    pub policy: Option<PolicyKind>,
    /// How long a new endpoint is eased in, at most 24 h. `0s`: not at all.
    #[serde(default)]
    pub slow_start: Span,
    /// The least that an endpoint gets, as a part of its fair share: 0.005 to 0.1. Left out: the agent's.
    pub floor: Option<f64>,
    /// Its endpoints; at most 16,384 of a family.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// A port of a Service.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name. Needed where the Service has several ports.
    #[serde(default)]
    pub name: String,
    /// The port that clients connect to.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// The port that endpoints listen on. Left out: the same as `port`.
    pub endpoint_port: Option<u16>,
    /// A port at which every node answers on all of its own addresses but loopback.
    pub node_port: Option<u16>,
}

/// An endpoint of a Service.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its address; for an endpoint with one in each family, `addresses`.
    pub address: Option<Address>,
    /// Its addresses, one of each family.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// The port it listens on, where that differs from its Service's `endpoint_port`. Only where the Service has
    /// one port.
    pub port: Option<u16>,
    /// The node that hosts it, whose agent counts its connections. Left out where no agent does: then the nodes
    /// that send it connections add up theirs.
    pub node: Option<String>,
    /// Its size relative to the other endpoints of the Service, 0.000001 to 1,000,000. Left out: the
    /// median of those that are known is taken, or 1.
    pub capacity: Option<f64>,
    /// Whether it wants new connections.
    #[serde(default = "yes")]
    pub ready: bool,
    /// Whether it could still serve some when none is ready.
    #[serde(default = "yes")]
    pub serving: bool,
    /// Whether it is about to end.
    #[serde(default)]
    pub terminating: bool,
    /// Zones whose nodes should use it. Left out: all.
    #[serde(default)]
    pub for_zones: Vec<String>,
    /// Nodes that should use it. Left out: all.
    #[serde(default)]
    pub for_nodes: Vec<String>,
}

const fn tcp() -> Protocol {
    Protocol::Tcp
}

const fn yes() -> bool {
    true
}

/// An IPv4 or IPv6 address. Names are not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(transparent)]
pub struct Address(pub IpAddr);

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        deserializer.deserialize_str(FromText("an IP address", |text| match text.parse() {
            Ok(address) => Ok(Address(address)),
            Err(_) if text.contains('/') => {
                Err(format!("`{text}` is a range; write single addresses, without a prefix length"))
            }
            Err(_) => {
                Err(format!("`{text}` is not an IP address; write the address, names are not looked up"))
            }
        }))
    }
}

/// Reads a scalar by a function of its text; what it expects, and how it reads it.
struct FromText<T>(&'static str, fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }
}
