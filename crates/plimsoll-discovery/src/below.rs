//! What is known of the proxy below, in front of which this node's table stands.

use std::net::IpAddr;

use ipnet::IpNet;
use plimsoll_core::service::Family;

/// What the proxy below does on this node, as far as it matters to whoever stands in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// How it works.
    pub mode: ProxyMode,
    /// How it tells clients inside the cluster.
    pub local: LocalSources,
    /// Whether connections to addresses inside the cluster get the node's address as source, whoever opened them.
    pub masquerade_all: bool,
    /// Where it serves node ports.
    pub node_ports: NodePorts,
    /// The families of which connections that it masquerades come through this node only because it has them accepted
    /// by a mark of its own, which no other may set.
    pub accepts_marked: Vec<Family>,
}

/// Asks of which families this node drops what comes through it, unless a rule of iptables accepts it.
pub type DropsForwarded = fn() -> Vec<Family>;

/// How a proxy below works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// kube-proxy with iptables.
    Iptables,
    /// kube-proxy with IPVS.
    Ipvs,
    /// kube-proxy with nftables.
    Nftables,
}

/// How a proxy tells clients inside the cluster from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalSources {
    /// By their addresses; of a family without a range nobody is known to be outside.
    Ranges(Vec<IpNet>),
    /// By the interface their packets come from (a name, or the beginning of one with `*`).
    Interface(Box<str>),
}

/// At which addresses of the node a proxy serves node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// At all but loopback's.
    All,
    /// At these of this node.
    At(Vec<IpAddr>),
}
