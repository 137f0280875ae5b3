//! What is measured: 1,000 Services of 10 endpoints each on 100 nodes, of which 110 on the node itself.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::{EndpointId, Family, Key, NodeName, Place, Protocol, Service, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_discovery::file;

pub(crate) const SERVICES: usize = 1000;
pub(crate) const ENDPOINTS: usize = 10;
pub(crate) const NODES: usize = 100;
pub(crate) const PORT: u16 = 8080;

/// The cores that an endpoint can use.
const CAPACITY: f64 = 2.0;
/// The cores that an open connection uses.
const CPU_PER_CONNECTION: f64 = 0.02;

/// CPU (in cores) and pressure (0 to 1) of an endpoint with so many open connections. They agree with its size by the
/// formula that the law reads sizes with (Sakasegawa, 1977): from figures that no size explains it would go on learning.
pub(crate) fn load(open: u32) -> (f64, f64) {
    let cpu = f64::from(open) * CPU_PER_CONNECTION;
    (cpu, (cpu / CAPACITY).powf((2.0 * (CAPACITY + 1.0)).sqrt()).min(1.0))
}

/// The Services, and how often each endpoint was replaced.
#[derive(Clone)]
pub(crate) struct Scene {
    replaced: Vec<u8>,
}

/// The name of a node; the first is the one that is measured.
pub(crate) fn node(index: usize) -> NodeName {
    NodeName::new(&format!("node-{index:03}"))
}

/// The node of an endpoint: every 91st is on the first, which makes 110.
pub(crate) fn host(endpoint: usize) -> usize {
    if endpoint.is_multiple_of(91) { 0 } else { 1 + endpoint % (NODES - 1) }
}

fn service_address(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, (service / 250) as u8, (service % 250) as u8 + 1)
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene { replaced: vec![0; SERVICES * ENDPOINTS] }
    }

    /// Replaces an endpoint by one with another address.
    pub(crate) fn replace(&mut self, endpoint: usize) {
        self.replaced[endpoint] = (self.replaced[endpoint] + 1) % 90;
    }

    pub(crate) fn endpoint(&self, endpoint: usize) -> EndpointId {
        let (high, low) = ((endpoint / 250) as u8, (endpoint % 250) as u8 + 1);
        let address = IpAddr::from([10, 1 + self.replaced[endpoint], high, low]);
        EndpointId { address, port: PORT, protocol: Protocol::Tcp }
    }

    /// All endpoints.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        (0..self.replaced.len()).map(|endpoint| self.endpoint(endpoint))
    }

    /// The Services file.
    pub(crate) fn file(&self) -> String {
        let mut text = String::from("nodes:\n");
        for index in 0..NODES {
            let _ = writeln!(text, "- name: {}", node(index));
        }
        text.push_str("services:\n");
        for service in 0..SERVICES {
            let _ = writeln!(
                text,
                "- name: bench/s{service:03}\n  addresses: [{}]\n  ports:\n  - {{port: 80, endpoint_port: {PORT}}}\n  \
                 endpoints:",
                service_address(service)
            );
            for endpoint in service * ENDPOINTS..(service + 1) * ENDPOINTS {
                let (id, host) = (self.endpoint(endpoint), node(host(endpoint)));
                let _ = writeln!(text, "  - {{address: {}, node: {host}, capacity: {CAPACITY}}}", id.address);
            }
        }
        text
    }

    /// The Services as the discovery tells of them.
    pub(crate) fn services(&self) -> Result<Vec<Arc<Service>>> {
        let contents = file::parse(&self.file()).map_err(|problems| anyhow!("the scene: {problems}"))?;
        Ok(contents.services)
    }

    pub(crate) fn id(service: usize) -> ServiceId {
        ServiceId { name: format!("bench/s{service:03}").into(), port: "".into(), family: Family::V4 }
    }

    /// What the dataplane holds for a Service, with weights that depend on `round`.
    pub(crate) fn table(&self, service: usize, round: usize) -> ServiceTable {
        let place = Place::Internal(service_address(service).into());
        let key = Key { place, port: 80, protocol: Protocol::Tcp };
        let weighted = |i: usize| Weighted {
            endpoint: self.endpoint(service * ENDPOINTS + i),
            weight: 100 + ((service + i + 1) * (round + 7) * 37 % 311) as u32,
        };
        ServiceTable {
            protocol: Protocol::Tcp,
            keys: vec![KeyEntry { key, choose: Choose::Cluster, masquerade: Masquerade::FromOutside }],
            affinity: None,
            cluster: (0..ENDPOINTS).map(weighted).collect(),
            local: Vec::new(),
        }
    }

    /// Everything into the dataplane, with so many of the endpoints counted as hosted.
    pub(crate) fn first_plan(&self, hosted: usize) -> Plan {
        let changes = (0..SERVICES).map(|s| Change::Replace(Scene::id(s), self.table(s, 0))).collect();
        let host = self.endpoints().take(hosted).collect();
        Plan { fresh: true, changes, host, know: self.endpoints().collect(), ..Plan::default() }
    }

    /// What a node reports of its endpoints. `figure` gives the open connections of an endpoint.
    pub(crate) fn report(&self, of: usize, with_load: bool, figure: impl Fn(usize) -> u32) -> Report {
        let reported = |endpoint: usize| {
            let open = figure(endpoint);
            let (cpu, pressure) = load(open);
            EndpointReport {
                endpoint: self.endpoint(endpoint),
                open,
                young: open / 4,
                middle: open / 5,
                opens_per_second: open as f32 / 20.0,
                failures_per_second: 0.0,
                cpu: with_load.then_some(cpu as f32),
                pressure: with_load.then_some(pressure as f32),
            }
        };
        let all = 0..self.replaced.len();
        let mut hosted: Vec<_> = all.filter(|endpoint| host(*endpoint) == of).map(reported).collect();
        hosted.sort_by_key(|entry| entry.endpoint);
        Report { node: node(of), age: Duration::ZERO, opens_per_second: 100.0, hosted, sent: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_has_its_share_of_the_endpoints() {
        let mut scene = Scene::new();
        assert_eq!((0..SERVICES * ENDPOINTS).filter(|endpoint| host(*endpoint) == 0).count(), 110);
        assert_eq!(scene.services().unwrap().len(), SERVICES);
        let before = scene.endpoint(17);
        scene.replace(17);
        assert!(
            scene.endpoint(17) != before && scene.file().contains(&scene.endpoint(17).address.to_string())
        );
    }
}
