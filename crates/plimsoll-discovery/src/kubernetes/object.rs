//! What is remembered of the API's objects: as little as the Services to be made need.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use plimsoll_core::service::{Conditions, Family, NodeName, Protocol, TrafficPolicy};

use super::wire;

/// All of our labels and annotations begin with this.
pub(super) const PREFIX: &str = "plimsoll.dev/";
/// The label that switches a Service on.
pub(super) const BALANCE: &str = "plimsoll.dev/balance";
/// The label of a slice that names its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const ZONE: &str = "topology.kubernetes.io/zone";
/// How long a client stays with its endpoint where the Service does not say, by the API's documentation.
const AFFINITY: Duration = Duration::from_hours(3);
/// More names than this are not kept for sharing: some may be long gone.
const MOST_NAMES: usize = 10_000;

/// The annotations of an object that begin with [`PREFIX`].
pub(super) type Annotations = BTreeMap<Box<str>, Box<str>>;

/// A Service, mostly as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    /// Namespace and name, as in `shop/web`.
    pub(super) name: Arc<str>,
    pub(super) uid: Box<str>,
    pub(super) balance: Box<str>,
    /// Other labels of ours, which mean nothing.
    pub(super) strange_labels: Vec<Box<str>>,
    pub(super) annotations: Annotations,
    pub(super) has_selector: bool,
    pub(super) is_external_name: bool,
    pub(super) is_headless: bool,
    pub(super) proxy_name: Option<Box<str>>,
    pub(super) cluster_ips: Vec<IpAddr>,
    pub(super) external_ips: Vec<Box<str>>,
    pub(super) ingress: Vec<Ingress>,
    pub(super) ports: Vec<Port>,
    pub(super) internal_policy: TrafficPolicy,
    pub(super) external_policy: TrafficPolicy,
    pub(super) affinity: Option<Duration>,
    pub(super) has_source_ranges: bool,
}

/// An address of a load balancer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ingress {
    pub(super) address: IpAddr,
    /// Whether the load balancer itself serves it.
    pub(super) is_proxied: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Port {
    pub(super) name: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
}

/// A slice of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice {
    /// Namespace and name of the slice.
    pub(super) name: Box<str>,
    /// Namespace and name of its Service.
    pub(super) service: Arc<str>,
    pub(super) family: Family,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<Endpoint>,
    /// An address that no endpoint can have, if there are such.
    pub(super) bad: Option<Box<str>>,
}

/// A port that the endpoints of a slice listen on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SlicePort {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// An endpoint, at whatever ports.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) node: Option<NodeName>,
    pub(super) conditions: Conditions,
    pub(super) for_zones: Vec<Arc<str>>,
    pub(super) for_nodes: Vec<NodeName>,
}

/// What is known of a Node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) zone: Option<Arc<str>>,
    pub(super) pod_ranges: Vec<IpNet>,
    /// Its internal addresses, in the order of the API.
    pub(super) addresses: Vec<IpAddr>,
}

/// A slice of the endpoints of the Service of the agents.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Agents {
    /// Namespace and name of the slice.
    pub(super) name: Box<str>,
    pub(super) nodes: Vec<crate::Node>,
}

/// A Namespace and what it says of its Services.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Namespace {
    pub(super) name: Box<str>,
    pub(super) annotations: Annotations,
}

/// Namespace and name, or the name alone of what is in no namespace.
pub(super) fn full_name(metadata: &kube::api::ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn ours(metadata: &kube::api::ObjectMeta) -> Annotations {
    let all = metadata.annotations.iter().flatten();
    let ours = all.filter(|(name, _)| name.starts_with(PREFIX));
    ours.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}

/// The protocol by the API's word for it, which is TCP's where there is none.
fn protocol(word: Option<&str>) -> Option<Protocol> {
    match word {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn policy(word: Option<&str>) -> TrafficPolicy {
    match word {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

/// Whether an endpoint or a Service can have this address, as the API server sees it.
pub(super) fn is_usable(address: IpAddr) -> bool {
    let is_odd = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(is_odd || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

impl Service {
    /// What is remembered of an object of the API.
    pub(super) fn read(object: &wire::Service) -> Service {
        let spec = &object.spec;
        let label = |name: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let listed = spec.cluster_ips.iter().map(String::as_str);
        // Written by a server that knows one address only.
        let first = spec.cluster_ips.is_empty().then_some(spec.cluster_ip.as_str());
        let cluster_ips: Vec<&str> = listed.chain(first).collect();
        let is_ours = |name: &&String| name.starts_with(PREFIX) && *name != BALANCE;
        let strange = object.metadata.labels.iter().flatten().map(|(name, _)| name).filter(is_ours);
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let timeout = timeout.and_then(|client| client.timeout_seconds).map(Duration::from_secs);
        Service {
            name: full_name(&object.metadata).into(),
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            balance: label(BALANCE).map(String::as_str).unwrap_or_default().into(),
            strange_labels: strange.map(|name| name.as_str().into()).collect(),
            annotations: ours(&object.metadata),
            has_selector: !spec.selector.is_empty(),
            is_external_name: spec.kind == "ExternalName",
            is_headless: cluster_ips.contains(&"None") || label(HEADLESS).is_some(),
            proxy_name: label(PROXY_NAME).map(|name| name.as_str().into()),
            cluster_ips: cluster_ips.iter().filter_map(|address| address.parse().ok()).collect(),
            external_ips: spec.external_ips.iter().map(|address| address.as_str().into()).collect(),
            ingress: object.status.load_balancer.ingress.iter().filter_map(Ingress::read).collect(),
            ports: spec.ports.iter().filter_map(Port::read).collect(),
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            affinity: affinity.then_some(timeout.unwrap_or(AFFINITY)),
            has_source_ranges: !spec.load_balancer_source_ranges.is_empty(),
        }
    }

    /// Its namespace.
    pub(super) fn namespace(&self) -> &str {
        self.name.split_once('/').map_or("", |(namespace, _)| namespace)
    }
}

impl Ingress {
    /// Those with a host name only are nothing a proxy could serve.
    fn read(ingress: &wire::Ingress) -> Option<Ingress> {
        let address = ingress.ip.as_deref()?.parse().ok()?;
        Some(Ingress { address, is_proxied: ingress.ip_mode.as_deref() == Some("Proxy") })
    }
}

impl Port {
    fn read(object: &wire::ServicePort) -> Option<Port> {
        Some(Port {
            name: object.name.as_deref().unwrap_or_default().into(),
            protocol: protocol(object.protocol.as_deref())?,
            port: port(object.port)?,
            node_port: object.node_port.and_then(port),
        })
    }
}

/// The names that many endpoints have in common, each once in memory.
#[derive(Debug, Default)]
pub(super) struct Names {
    nodes: HashSet<NodeName>,
    zones: HashSet<Arc<str>>,
}

impl Names {
    fn node(&mut self, name: &str) -> NodeName {
        if let Some(known) = self.nodes.get(name) {
            return known.clone();
        }
        if self.nodes.len() >= MOST_NAMES {
            self.nodes.clear();
        }
        let name = NodeName::new(name);
        self.nodes.insert(name.clone());
        name
    }

    fn zone(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.zones.get(name) {
            return known.clone();
        }
        if self.zones.len() >= MOST_NAMES {
            self.zones.clear();
        }
        let name: Arc<str> = name.into();
        self.zones.insert(name.clone());
        name
    }
}

impl Slice {
    /// The name of the slice that an object of the API is.
    pub(super) fn name(object: &wire::EndpointSlice) -> Box<str> {
        full_name(&object.metadata).into()
    }

    /// What is remembered of an object of the API; `None` of one that belongs to no Service, or whose endpoints have
    /// names instead of addresses.
    pub(super) fn read(object: &wire::EndpointSlice, names: &mut Names) -> Option<Slice> {
        let family = match object.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let labels = object.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME)).filter(|name| !name.is_empty())?;
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let mut bad = None;
        let mut endpoints = Vec::with_capacity(object.endpoints.len());
        for endpoint in &object.endpoints {
            // The others of a list are not for proxies.
            let Some(text) = endpoint.addresses.first() else { continue };
            match text.parse().ok().filter(|address| is_usable(*address) && Family::of(*address) == family) {
                Some(address) => endpoints.push(Endpoint::read(address, endpoint, names)),
                None => bad = bad.or_else(|| Some(text.as_str().into())),
            }
        }
        Some(Slice {
            name: Slice::name(object),
            service: format!("{namespace}/{service}").into(),
            family,
            ports: object.ports.iter().filter_map(SlicePort::read).collect(),
            endpoints,
            bad,
        })
    }
}

impl SlicePort {
    /// A port without a number is one that no proxy can serve.
    fn read(object: &wire::EndpointPort) -> Option<SlicePort> {
        Some(SlicePort {
            name: object.name.as_deref().unwrap_or_default().into(),
            protocol: protocol(object.protocol.as_deref())?,
            number: port(object.port?)?,
        })
    }
}

impl Endpoint {
    fn read(address: IpAddr, object: &wire::Endpoint, names: &mut Names) -> Endpoint {
        let said = &object.conditions;
        let named = |named: &wire::Named| !named.name.is_empty();
        let zones = object.hints.for_zones.iter().filter(|zone| named(zone));
        let nodes = object.hints.for_nodes.iter().filter(|node| named(node));
        Endpoint {
            address,
            conditions: Conditions {
                ready: said.ready.unwrap_or(true),
                serving: said.serving.unwrap_or(true),
                terminating: said.terminating.unwrap_or(false),
            },
            for_zones: zones.map(|zone| names.zone(&zone.name)).collect(),
            for_nodes: nodes.map(|node| names.node(&node.name)).collect(),
            node: object.node_name.as_deref().filter(|name| !name.is_empty()).map(|name| names.node(name)),
        }
    }
}

impl Node {
    /// What is remembered of an object of the API.
    pub(super) fn read(object: &wire::Node) -> Node {
        let zone = object.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
        let internal = object.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        Node {
            zone: zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
            pod_ranges: object.spec.pod_cidrs.iter().filter_map(|range| range.parse().ok()).collect(),
            addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        }
    }
}

impl Agents {
    /// What is remembered of an object of the API. An agent is known by its node.
    pub(super) fn read(object: &wire::EndpointSlice) -> Agents {
        let node = |endpoint: &wire::Endpoint| {
            let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
            let name = endpoint.node_name.as_deref().filter(|name| !name.is_empty())?;
            is_usable(address).then(|| crate::Node {
                name: NodeName::new(name),
                zone: endpoint.zone.as_deref().map(Arc::from),
                addresses: vec![address],
            })
        };
        Agents {
            name: full_name(&object.metadata).into(),
            nodes: object.endpoints.iter().filter_map(node).collect(),
        }
    }
}

impl Namespace {
    /// What is remembered of an object of the API.
    pub(super) fn read(object: &wire::Namespace) -> Namespace {
        Namespace { name: full_name(&object.metadata).into(), annotations: ours(&object.metadata) }
    }
}
