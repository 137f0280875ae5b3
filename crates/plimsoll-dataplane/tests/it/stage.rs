//! Nodes with endpoints, servers and a dataplane each, for tests that compare counts with what servers saw.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use plimsoll_core::load::{Count, Counts};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::Dataplane;
use plimsoll_dataplane::conntrack::RECEIVE_BUFFER;
use plimsoll_dataplane::nftables::{Config, NftablesDataplane, Setup, Terms};
use plimsoll_lab::client::{self, Client, Limits};
use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::server::{Close, Server};
use plimsoll_lab::{eventually, proxy};

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Where the endpoints listen.
pub(crate) const PORT: u16 = 8080;

pub(crate) fn vip(v6: bool) -> SocketAddr {
    if v6 { "[fd96::1]:80" } else { "10.96.0.1:80" }.parse().unwrap()
}

/// A Service that only the table below serves.
pub(crate) fn vip_below(v6: bool) -> SocketAddr {
    if v6 { "[fd96::2]:80" } else { "10.96.0.2:80" }.parse().unwrap()
}

pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) node: usize,
    pub(crate) server: Server,
}

impl Endpoint {
    pub(crate) fn at(&self, v6: bool) -> SocketAddr {
        let address = if v6 { IpAddr::V6(self.host.v6) } else { IpAddr::V4(self.host.v4) };
        SocketAddr::new(address, PORT)
    }

    pub(crate) fn id(&self, protocol: Protocol, v6: bool) -> EndpointId {
        EndpointId { address: self.at(v6).ip(), port: PORT, protocol }
    }
}

/// How the dataplanes of a stage are opened.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) slot_length: Duration,
    pub(crate) first_slot: u8,
    pub(crate) event_buffer: usize,
    pub(crate) attended: bool,
    pub(crate) unowned: bool,
}

impl Default for Options {
    fn default() -> Options {
        let hour = Duration::from_hours(1);
        Options {
            slot_length: hour,
            first_slot: 0,
            event_buffer: RECEIVE_BUFFER,
            attended: true,
            unowned: false,
        }
    }
}

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) dataplanes: Vec<Option<NftablesDataplane>>,
    options: Options,
}

impl Stage {
    /// So many nodes with so many endpoints on each, a table below, and dataplanes still to be opened.
    pub(crate) fn new(nodes: usize, endpoints_each: usize, options: Options) -> Stage {
        let mut cluster = Cluster::new(nodes).unwrap();
        let mut endpoints = Vec::new();
        for node in 0..nodes {
            for index in 0..endpoints_each {
                let host = cluster.add_endpoint(node).unwrap();
                let at = [SocketAddr::new(host.v4.into(), PORT), SocketAddr::new(host.v6.into(), PORT)];
                let server = Server::start(&host.namespace, &format!("e{node}.{index}"), &at).unwrap();
                endpoints.push(Endpoint { host, node, server });
            }
        }
        let service = |name: &str, keys| proxy::Service {
            name: name.into(),
            protocol: "tcp",
            keys,
            node_port: None,
            endpoints: endpoints.iter().flat_map(|e: &Endpoint| [e.at(false), e.at(true)]).collect(),
        };
        let below = proxy::equal_random(&[
            service("both", vec![vip(false), vip(true)]),
            service("below", vec![vip_below(false), vip_below(true)]),
        ]);
        for node in &cluster.nodes {
            node.host.namespace.nft(&below).unwrap();
        }
        let dataplanes = (0..nodes).map(|_| None).collect();
        Stage { cluster, endpoints, dataplanes, options }
    }

    /// Opens a node's dataplane, with a plan that serves everything.
    pub(crate) fn open(&mut self, node: usize) {
        let Options { slot_length, first_slot, event_buffer, attended, unowned } = self.options;
        let setup = Setup { node_offset: node as u16, first_slot, unowned };
        let terms = Terms { event_buffer, attended, ..Terms::new(setup, slot_length) };
        let config = Config {
            local_sources: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/48".parse().unwrap()],
            ..Config::default()
        };
        let host = &self.cluster.nodes[node].host;
        let mut dataplane = host.namespace.run(|| NftablesDataplane::open(config, terms)).unwrap();
        dataplane.apply(&self.plan(node)).unwrap();
        self.dataplanes[node] = Some(dataplane);
    }

    /// Ends a node's dataplane, and waits until its table is gone: a program that another test begins to start has the
    /// socket, too, until it is that program.
    pub(crate) fn close(&mut self, node: usize) {
        self.dataplanes[node] = None;
        let namespace = &self.cluster.nodes[node].host.namespace;
        let is_gone = || !namespace.text("nft", &["list", "tables"]).unwrap().contains("inet plimsoll");
        assert!(eventually(SOON, is_gone), "the table outlives its owner");
    }

    pub(crate) fn plan(&self, node: usize) -> Plan {
        let mut plan = Plan { fresh: true, ..Plan::default() };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for v6 in [false, true] {
                plan.changes.push(self.service(protocol, v6));
                for endpoint in &self.endpoints {
                    let id = endpoint.id(protocol, v6);
                    plan.know.insert(id);
                    if endpoint.node == node {
                        plan.host.insert(id);
                    }
                }
            }
        }
        plan
    }

    fn service(&self, protocol: Protocol, v6: bool) -> Change {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let id = ServiceId { name: "web".into(), port: protocol.to_string().into(), family };
        let key = Key { place: Place::Internal(vip(v6).ip()), port: vip(v6).port(), protocol };
        let keys = vec![KeyEntry { key, choose: Choose::Cluster, masquerade: Masquerade::FromOutside }];
        let mut cluster: Vec<_> =
            self.endpoints.iter().map(|e| Weighted { endpoint: e.id(protocol, v6), weight: 1 }).collect();
        cluster.sort_by_key(|weighted| weighted.endpoint);
        Change::Replace(id, ServiceTable { protocol, keys, affinity: None, cluster, local: Vec::new() })
    }

    /// Has a node's conntrack entries of an endpoint released.
    pub(crate) fn release(&mut self, node: usize, endpoint: EndpointId) {
        let dataplane = self.dataplanes[node].as_mut().unwrap();
        settle(dataplane);
        dataplane.apply(&Plan { release: [endpoint].into(), ..Plan::default() }).unwrap();
        let due = dataplane.due().expect("it waits for others");
        assert!(eventually(SOON, || due <= Instant::now()));
        settle(dataplane);
    }

    pub(crate) fn read(&mut self, node: usize) -> Counts {
        let dataplane = self.dataplanes[node].as_mut().unwrap();
        settle(dataplane);
        dataplane.read().unwrap()
    }

    /// The count of an endpoint in both families, by the node that hosts it.
    pub(crate) fn hosted(&mut self, endpoint: usize) -> [Count; 2] {
        let counts = self.read(self.endpoints[endpoint].node);
        [false, true].map(|v6| find(&counts.hosted, self.endpoints[endpoint].id(Protocol::Tcp, v6)))
    }

    /// Connections open at all servers.
    pub(crate) fn open_at_servers(&self) -> u64 {
        self.endpoints.iter().map(|endpoint| endpoint.server.open()).sum()
    }

    /// Entries in a node's conntrack; asking also lets the kernel drop those whose time is over.
    pub(crate) fn entries(&self, node: usize, arguments: &[&str]) -> usize {
        let arguments: Vec<&str> = [&["-L"], arguments].concat();
        let text = self.cluster.nodes[node].host.namespace.text("conntrack", &arguments).unwrap();
        text.lines().count()
    }
}

/// Does what is due now, as the agent does between readings.
pub(crate) fn settle(dataplane: &mut NftablesDataplane) {
    while dataplane.due().is_some_and(|due| due <= Instant::now()) {
        dataplane.step().unwrap();
    }
}

/// An endpoint's count; nothing if it is not there.
pub(crate) fn find(counts: &[Count], endpoint: EndpointId) -> Count {
    counts.iter().find(|count| count.endpoint == endpoint).cloned().unwrap_or(Count::none(endpoint))
}

/// Opens connections and waits until their servers have greeted: then the kernel has counted them.
pub(crate) fn hold(from: &Host, count: usize, to: SocketAddr, close: Close) -> Client {
    let limits = Limits { close, ..Limits::default() };
    let client = Client::start(&from.namespace, client::held(count, to), limits).unwrap();
    let greeted = || client.by_endpoint().values().sum::<u64>() == count as u64;
    assert!(eventually(SOON, greeted), "{} of {count} connections to {to}", client.opened());
    client
}
