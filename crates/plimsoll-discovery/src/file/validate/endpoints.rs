//! The endpoints of a Service: each once, in one place, of a sane size, and not too many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_core::order::MAX_ENDPOINTS;
use plimsoll_core::service::{Conditions, Endpoint, EndpointId, Family, NodeName, Protocol};

use super::{Check, Finding, title};
use crate::file::format;
use crate::file::locate::Path;

/// The least and the largest capacity: beyond a ratio of 10^12 shares are noise.
const CAPACITIES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

impl format::Endpoint {
    /// Its addresses, however they are written.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.address.iter().chain(&self.addresses).map(|address| address.0)
    }
}

/// One address of an endpoint that was checked.
pub(super) struct Checked<'a> {
    pub(super) address: IpAddr,
    node: Option<NodeName>,
    for_zones: Vec<Arc<str>>,
    for_nodes: Vec<NodeName>,
    endpoint: &'a format::Endpoint,
}

impl Checked<'_> {
    /// It, as an endpoint of a port.
    pub(super) fn at(&self, port: u16, protocol: Protocol) -> Endpoint {
        let said = self.endpoint;
        Endpoint {
            id: EndpointId { address: self.address, port: said.port.unwrap_or(port), protocol },
            node: self.node.clone(),
            capacity: said.capacity,
            conditions: Conditions {
                ready: said.ready,
                serving: said.serving,
                terminating: said.terminating,
            },
            for_zones: self.for_zones.clone(),
            for_nodes: self.for_nodes.clone(),
        }
    }
}

impl<'a> Check<'a> {
    /// The endpoints of a Service, one for each address.
    pub(super) fn endpoints(&mut self, s: usize, service: &'a format::Service) -> Vec<Checked<'a>> {
        let at = Path::TOP.field("services").index(s).field("endpoints");
        for family in [Family::V4, Family::V6] {
            let all = service.endpoints.iter().flat_map(format::Endpoint::all);
            let number = all.filter(|&address| Family::of(address) == family).count();
            if number > MAX_ENDPOINTS {
                self.find(
                    at,
                    format!(
                        "{number} {} endpoints, and at most {MAX_ENDPOINTS} can be weighed in one Service; split it \
                         into several, or leave it out and to the proxy that is there",
                        title(family)
                    ),
                );
                return Vec::new();
            }
        }
        let mut first: HashMap<(IpAddr, u16), usize> = HashMap::new();
        let mut checked = Vec::new();
        for (e, endpoint) in service.endpoints.iter().enumerate() {
            self.endpoint(&at, e, service, endpoint);
            for address in endpoint.all() {
                self.host(s, e, address, endpoint);
                self.not_a_service(&at, e, address, service, endpoint);
                let port = endpoint.port.unwrap_or_else(|| only_port(service));
                if let Some(&other) = first.get(&(address, port)) {
                    let what = format!(
                        "the endpoint {address} is listed already, at {}; remove one",
                        Finding::OTHER
                    );
                    self.clash(at.index(e), at.index(other), what);
                } else {
                    first.insert((address, port), e);
                    checked.push(self.checked(address, endpoint));
                }
            }
        }
        checked
    }

    fn endpoint(&mut self, list: &Path, e: usize, service: &format::Service, endpoint: &format::Endpoint) {
        // A path costs more than the checks: it is made only for a finding.
        let at = || list.index(e);
        match (endpoint.address, endpoint.addresses.as_slice()) {
            (Some(address), []) => self.address(&|| at().field("address"), address.0),
            (None, [one]) => self.address(&|| at().field("addresses").index(0), one.0),
            (None, [one, two]) if Family::of(one.0) != Family::of(two.0) => {
                self.address(&|| at().field("addresses").index(0), one.0);
                self.address(&|| at().field("addresses").index(1), two.0);
            }
            _ => self.find(
                at(),
                "an endpoint has one `address`, or `addresses` with one of each family; several endpoints are several \
                 entries"
                    .into(),
            ),
        }
        if let Some(capacity) = endpoint.capacity
            && !CAPACITIES.contains(&capacity)
        {
            let what = format!(
                "{capacity} cannot be a capacity; write a number from 0.000001 to 1000000, or leave it out"
            );
            self.find(at().field("capacity"), what);
        }
        match endpoint.port {
            Some(0) => self.find(at().field("port"), "nothing can listen on port 0; write 1 to 65535".into()),
            Some(_) if service.ports.len() > 1 => self.find(
                at().field("port"),
                "the Service has several ports, and this does not say for which; use the ports' `endpoint_port`".into(),
            ),
            _ => {}
        }
        if let Some(node) = &endpoint.node {
            self.known_node(&|| at().field("node"), node);
        }
        for (i, node) in endpoint.for_nodes.iter().enumerate() {
            self.known_node(&|| at().field("for_nodes").index(i), node);
        }
        for (i, zone) in endpoint.for_zones.iter().enumerate() {
            self.name(&|| at().field("for_zones").index(i), zone, "a zone", 0);
        }
    }

    /// Its names are shared with all others that say the same.
    fn checked(&mut self, address: IpAddr, endpoint: &'a format::Endpoint) -> Checked<'a> {
        Checked {
            address,
            node: endpoint.node.as_deref().map(|node| self.names.get(node)),
            for_zones: endpoint.for_zones.iter().map(|zone| Arc::from(zone.as_str())).collect(),
            for_nodes: endpoint.for_nodes.iter().map(|node| self.names.get(node)).collect(),
            endpoint,
        }
    }

    fn known_node(&mut self, at: &dyn Fn() -> Path, node: &str) {
        if !self.names.are_listed() {
            self.name(at, node, "a node", 0);
        } else if !self.names.contain(node) {
            self.find(
                at(),
                format!("there is no node `{node}` in `nodes`; add it there or correct the name"),
            );
        }
    }

    /// An address is on one node, or its connections would be counted twice or not at all.
    fn host(&mut self, s: usize, e: usize, address: IpAddr, endpoint: &'a format::Endpoint) {
        let node = endpoint.node.as_deref();
        let &mut (said, other_s, other_e) = self.hosts.entry(address).or_insert((node, s, e));
        if said != node {
            let services = Path::TOP.field("services");
            let place =
                |node: Option<&str>| node.map_or_else(|| "on no node".into(), |node| format!("on `{node}`"));
            let what = format!(
                "{address} is {} here and {} at {}; say the same of it everywhere",
                place(node),
                place(said),
                Finding::OTHER
            );
            self.clash(
                services.index(s).field("endpoints").index(e),
                services.index(other_s).field("endpoints").index(other_e),
                what,
            );
        }
    }

    /// A connection is translated once: an endpoint that is itself reached by translation never gets it.
    fn not_a_service(
        &mut self,
        list: &Path,
        e: usize,
        address: IpAddr,
        service: &format::Service,
        endpoint: &format::Endpoint,
    ) {
        for port in &service.ports {
            let number = endpoint.port.or(port.endpoint_port).unwrap_or(port.port);
            let key = (Some(address), Family::of(address), number, port.protocol);
            if let Some(&(s, p)) = self.keys.get(&key) {
                let what = format!(
                    "{address} port {number}/{} is a Service, at {}, not an endpoint; write an endpoint's own address",
                    port.protocol,
                    Finding::OTHER
                );
                let other = Path::TOP.field("services").index(s).field("ports").index(p);
                self.clash(list.index(e), other, what);
                return;
            }
        }
    }
}

/// The port of endpoints without one of their own; 0 where there are several, which all endpoints then have.
fn only_port(service: &format::Service) -> u16 {
    match service.ports.as_slice() {
        [port] => port.endpoint_port.unwrap_or(port.port),
        _ => 0,
    }
}
