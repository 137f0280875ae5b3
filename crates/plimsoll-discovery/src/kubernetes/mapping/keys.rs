//! The keys of one port: which addresses kube-proxy serves it at, and which of them can be taken over.

use std::net::IpAddr;

use plimsoll_core::service::{Endpoint, Family, Key, Place, TrafficPolicy};

use super::super::object::{Port, Service, is_usable};
use super::Setting;
use crate::below::{NodePorts, Proxy, ProxyMode};
use crate::remark::{LeftAlone, Problem, Reason};

/// The keys of a port in a family that can be taken over; of the others it is told why not.
pub(super) fn keys(
    service: &Service,
    port: &Port,
    family: Family,
    proxy: Option<&Proxy>,
    left: &mut Vec<LeftAlone>,
    problems: &mut Vec<Problem>,
) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let mut leave = |place, reason| {
        let key = Key { place, port: port.port, protocol: port.protocol };
        left.push(LeftAlone { key: Some(key), reason });
        key
    };
    let mut not_taken: Vec<Key> = Vec::new();
    let mut places = Vec::new();
    let of_family = |address: &IpAddr| Family::of(*address) == family;
    places.extend(service.cluster_ips.iter().copied().filter(of_family).map(Place::Internal));
    for ingress in service.ingress.iter().filter(|ingress| of_family(&ingress.address)) {
        let place = Place::External(ingress.address);
        if ingress.is_proxied {
            leave(place, Reason::ServedByLoadBalancer);
        } else if service.has_source_ranges && !filters_before_translating(proxy) {
            not_taken.push(leave(place, Reason::SourceRanges));
        } else {
            places.push(place);
        }
    }
    for text in &service.external_ips {
        match text.parse() {
            Ok(address) if !is_usable(address) => problems.push(unusable(service, text)),
            Ok(address) if of_family(&address) => places.push(Place::External(address)),
            // Another family's turn comes, or came.
            Ok(_) => {}
            Err(_) => problems.push(unusable(service, text)),
        }
    }
    keys.extend(places.into_iter().map(|place| Key { place, port: port.port, protocol: port.protocol }));
    if let Some(number) = port.node_port {
        let at = |place| Key { place, port: number, protocol: port.protocol };
        match node_ports(family, proxy) {
            Some(places) => keys.extend(places.into_iter().map(at)),
            None => left.push(LeftAlone {
                key: Some(at(Place::AnyLocal(family))),
                reason: Reason::NoNodePortAddress,
            }),
        }
    }
    // An address may be given in more than one way, and the first (its own) counts.
    let mut seen: Vec<(Option<IpAddr>, u16)> = Vec::new();
    keys.retain(|key| {
        let is_new = !seen.contains(&(address(*key), key.port));
        seen.push((address(*key), key.port));
        is_new && !not_taken.contains(key)
    });
    keys
}

/// Takes out the keys whose connections would end in this node's FORWARD chain, which kube-proxy has let them pass by its
/// mark: those that are masqueraded on their way to an endpoint that is no Pod with an address of its own. (What goes to
/// the Pods' addresses the cluster's network has accepted.)
pub(super) fn leave_what_is_dropped(
    service: &Service,
    keys: &mut Vec<Key>,
    endpoints: &[Endpoint],
    setting: Setting<'_>,
    left: &mut Vec<LeftAlone>,
) {
    let Some(proxy) = setting.proxy else { return };
    let is_no_pod = |endpoint: &Endpoint| {
        let address = endpoint.id.address;
        proxy.accepts_marked.contains(&Family::of(address))
            && (endpoint.node.is_none() || setting.nodes.is_some_and(|nodes| nodes.contains(&address)))
    };
    if !endpoints.iter().any(is_no_pod) {
        return;
    }
    keys.retain(|key| {
        let is_masqueraded = match key.place {
            Place::Internal(_) => proxy.masquerade_all,
            Place::External(_) | Place::AnyLocal(_) => service.external_policy == TrafficPolicy::Cluster,
        };
        if is_masqueraded {
            left.push(LeftAlone { key: Some(*key), reason: Reason::Forwarding });
        }
        !is_masqueraded
    });
}

fn address(key: Key) -> Option<IpAddr> {
    match key.place {
        Place::Internal(address) | Place::External(address) => Some(address),
        Place::AnyLocal(_) => None,
    }
}

/// In nftables mode kube-proxy drops who is not in the ranges before anything is translated. In the others it drops
/// what was not translated by itself, which comes too late for what was translated in front of it.
fn filters_before_translating(proxy: Option<&Proxy>) -> bool {
    proxy.is_some_and(|proxy| proxy.mode == ProxyMode::Nftables)
}

/// Where node ports are served. A list of addresses is taken address by address: at all others they stay with
/// kube-proxy, which serves them or does not.
fn node_ports(family: Family, proxy: Option<&Proxy>) -> Option<Vec<Place>> {
    match proxy.map(|proxy| &proxy.node_ports) {
        None | Some(NodePorts::All) => Some(vec![Place::AnyLocal(family)]),
        Some(NodePorts::At(addresses)) => {
            let usable = addresses.iter().copied().filter(|address| is_usable(*address));
            let places = usable.filter(|address| Family::of(*address) == family).map(Place::External);
            Some(places.collect::<Vec<_>>()).filter(|places| !places.is_empty())
        }
    }
}

fn unusable(service: &Service, text: &str) -> Problem {
    Problem {
        object: format!("Service {}", service.name).into(),
        part: "externalIPs".into(),
        value: text.chars().take(60).collect(),
        what: "is no address that a Service can have; it is ignored; correct or remove it".into(),
    }
}
