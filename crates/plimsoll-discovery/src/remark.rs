//! What a discovery has to say of a Service besides what it is: what is left to the proxy below, and what is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use plimsoll_core::service::Key;

/// The remarks on each Service that has any, by its name; each list is replaced as a whole when it changes.
pub type Remarks = BTreeMap<Arc<str>, Arc<[Remark]>>;

/// Something that whoever runs a Service should know. Displays as a sentence without the Service's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// Something of it is left to the proxy below.
    Left(LeftAlone),
    /// Something that people wrote is not understood; a default is in its place.
    Problem(Problem),
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::Left(left) => left.fmt(f),
            Remark::Problem(problem) => problem.fmt(f),
        }
    }
}

/// What is left to the proxy below, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftAlone {
    /// Which key; `None`: all of the Service.
    pub key: Option<Key>,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "{key} is not taken over: {}", self.reason),
            None => write!(f, "it is not taken over: {}", self.reason),
        }
    }
}

/// Why something is left to the proxy below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has no address that a proxy serves.
    Headless,
    /// It is a name in the DNS.
    ExternalName,
    /// Its label gives it to this other proxy.
    OtherProxy(Box<str>),
    /// It has no cluster address yet.
    NoAddress,
    /// Its clients stay with their endpoints, which the proxy below remembers and nobody can take over.
    Affinity,
    /// What the proxy below does is not known.
    ProxyUnknown,
    /// The load balancer's address is not for the nodes to serve.
    ServedByLoadBalancer,
    /// The proxy below lets only some clients pass, in a way that does not hold in front of it.
    SourceRanges,
    /// The proxy below serves node ports at no address of this node that is known.
    NoNodePortAddress,
    /// Its connections come through this node only by a mark of the proxy below.
    Forwarding,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Headless => f.write_str("it is headless, so clients choose by themselves"),
            Reason::ExternalName => f.write_str("it is an ExternalName, which no proxy serves"),
            Reason::OtherProxy(name) => {
                write!(f, "its label service.kubernetes.io/service-proxy-name gives it to `{name}`")
            }
            Reason::NoAddress => f.write_str("it has no cluster address yet"),
            Reason::Affinity => f.write_str(
                "its sessionAffinity is ClientIP, and clients may change their endpoint once when it is taken over; \
                 annotate it with plimsoll.dev/affinity: take-over if they may",
            ),
            Reason::ProxyUnknown => f.write_str(
                "kube-proxy's configuration could not be read, so it is only observed; see the discovery's trouble in \
                 `plimsoll status`, or set `discovery.kubernetes.kube_proxy.assume`",
            ),
            Reason::ServedByLoadBalancer => {
                f.write_str("its ipMode is Proxy: the load balancer itself serves the address")
            }
            Reason::SourceRanges => f.write_str(
                "the Service has loadBalancerSourceRanges, which kube-proxy enforces only for what it translates \
                 itself in this mode; in its nftables mode the address can be taken",
            ),
            Reason::Forwarding => f.write_str(
                "some of its endpoints are no Pods with addresses of their own, and this node's FORWARD chain, whose \
                 policy is DROP, lets connections to those pass only by kube-proxy's own mark; with \
                 `iptables -P FORWARD ACCEPT` it can be taken",
            ),
            Reason::NoNodePortAddress => {
                f.write_str("kube-proxy's nodePortAddresses name no address of this node that is known")
            }
        }
    }
}

/// Something that people wrote and that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object, as in `Service shop/web` or `Namespace shop`.
    pub object: Box<str>,
    /// What of it, as in `annotation plimsoll.dev/policy`.
    pub part: Box<str>,
    /// What it says.
    pub value: Box<str>,
    /// What is wrong, what would be right, and what happens instead.
    pub what: Box<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: `{}` {}", self.object, self.part, self.value, self.what)
    }
}
