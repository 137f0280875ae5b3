//! What the watches tell the one task that knows the cluster.

use std::fmt;
use std::sync::Arc;

use plimsoll_core::service::Family;

use super::facts::Facts;
use super::known::Step;
use super::object::{Agents, Namespace, Node, Service, Slice};

/// Something that was learnt.
#[derive(Debug)]
pub(super) enum News {
    /// Of Services that are switched on.
    Services(Step<Service>),
    /// Of slices that carry our label.
    Slices(Step<Slice>),
    /// Of the slices of one Service.
    SlicesOf(Arc<str>, Step<Slice>),
    /// Of the slices of the Service of the agents.
    Agents(Step<Agents>),
    /// Of this node's Node.
    Node(Step<Node>),
    /// Of namespaces.
    Namespaces(Step<Namespace>),
    /// What kube-proxy says of itself.
    Proxy(Facts),
    /// Of which families this node drops what comes through it, unless a rule of iptables accepts it.
    Forwarding(Vec<Family>),
    /// Somebody does not answer as expected; what to tell.
    Fails(Source, String),
    /// They do again.
    Works(Source),
}

/// Where news come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Services,
    Slices,
    SlicesOf(Arc<str>),
    Agents,
    /// That there are such.
    NoAgents,
    /// Those that are written.
    Events,
    Node,
    Namespaces,
    /// kube-proxy's answers.
    Proxy,
    /// What they mean on this node.
    ProxyHere,
}

impl Source {
    /// The resource in the API, and its group.
    pub(super) const fn resource(&self) -> (&'static str, &'static str) {
        match self {
            Source::Services => ("services", ""),
            Source::Slices | Source::SlicesOf(_) | Source::Agents => ("endpointslices", "discovery.k8s.io"),
            Source::Node => ("nodes", ""),
            Source::Namespaces => ("namespaces", ""),
            Source::Events => ("events", "events.k8s.io"),
            Source::NoAgents | Source::Proxy | Source::ProxyHere => ("", ""),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Services => f.write_str("Services"),
            Source::Slices => f.write_str("EndpointSlices"),
            Source::SlicesOf(service) => write!(f, "EndpointSlices of {service}"),
            Source::NoAgents => f.write_str("the Service of the agents"),
            Source::Events => f.write_str("Events"),
            Source::Agents => f.write_str("EndpointSlices of the agents"),
            Source::Node => f.write_str("this node's Node"),
            Source::Namespaces => f.write_str("Namespaces"),
            Source::Proxy => f.write_str("kube-proxy"),
            Source::ProxyHere => f.write_str("what kube-proxy does on this node"),
        }
    }
}
