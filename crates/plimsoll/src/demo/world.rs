//! The demo's cluster: nodes, endpoints of unequal size, clients with uneven arrivals, the stand-in proxy below.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_lab::client::{Client, Limits, poisson};
use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::proxy;
use plimsoll_lab::random::Random;
use plimsoll_lab::server::Server;

/// The two Services that get the same load: one balanced by the law, one by static weights.
pub(super) const SERVICES: [Twin; 2] = [
    Twin {
        name: "demo/web",
        policy: "waterline",
        counter: "web",
        address: Ipv4Addr::new(10, 96, 0, 1),
        port: 8080,
    },
    Twin {
        name: "demo/static",
        policy: "static",
        counter: "fixed",
        address: Ipv4Addr::new(10, 96, 0, 2),
        port: 8081,
    },
];

/// One of the two Services.
pub(super) struct Twin {
    pub(super) name: &'static str,
    policy: &'static str,
    /// Its counter in the stand-in proxy.
    pub(super) counter: &'static str,
    address: Ipv4Addr,
    /// The port its endpoints listen on.
    port: u16,
}

/// Name, node, true size, and whether the file tells the size.
const ENDPOINTS: [(&str, usize, f64, bool); 10] = [
    ("a", 0, 1.0, true),
    ("b", 1, 1.0, true),
    ("c", 2, 2.0, true),
    ("d", 0, 2.0, true),
    ("e", 1, 3.0, true),
    ("f", 2, 3.0, true),
    ("g", 0, 4.0, true),
    ("h", 1, 2.0, false),
    // These two come with the scale-out.
    ("i", 2, 2.0, true),
    ("j", 1, 3.0, true),
];
/// How many of them there are from the start.
pub(super) const AT_START: usize = 8;
/// Connections per second to each of the Services, from all nodes together.
const RATE: f64 = 90.0;
/// Which part of them each node sends.
const ARRIVALS: [f64; 3] = [0.6, 0.3, 0.1];
/// Which part of them is long.
const LONG: f64 = 0.3;
/// How long those live.
const LONG_SECONDS: std::ops::Range<f64> = 10.0..15.0;
/// How long the others live, in the mean.
const SHORT: Duration = Duration::from_millis(100);
/// When the clients end by themselves, whatever happens.
const LONGEST_RUN: Duration = Duration::from_mins(4);

/// An endpoint: one server per Service, in one namespace.
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    pub(super) node: usize,
    pub(super) size: f64,
    is_size_known: bool,
    address: Ipv4Addr,
    servers: [Server; 2],
}

impl Endpoint {
    /// Connections open at the server of this Service.
    pub(super) fn open(&self, service: usize) -> u64 {
        self.servers[service].open()
    }

    /// What the agents call it in the Service that is balanced by the law.
    pub(super) fn id(&self) -> String {
        format!("tcp/{}:{}", self.address, SERVICES[0].port)
    }

    /// From now on everything takes this many times as long.
    pub(super) fn slow(&self, factor: f64) {
        for server in &self.servers {
            server.slow(factor);
        }
    }
}

/// The demo's cluster.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) endpoints: Vec<Endpoint>,
    /// How many of the endpoints exist by now.
    pub(super) present: usize,
    /// The file of Services that the agents watch.
    pub(super) services: PathBuf,
    callers: Vec<Host>,
    clients: [Vec<Client>; 2],
    seed: u64,
}

impl World {
    /// Builds everything but the clients, with the endpoints of the start.
    pub(super) fn build(directory: &Path, seed: u64) -> anyhow::Result<World> {
        let mut cluster = Cluster::new(ARRIVALS.len())?;
        let mut endpoints = Vec::new();
        for (name, node, size, is_size_known) in ENDPOINTS {
            let host = cluster.add_endpoint(node)?;
            let server = |service: &Twin| {
                Server::start(&host.namespace, name, &[SocketAddr::new(host.v4.into(), service.port)])
            };
            let servers = [server(&SERVICES[0])?, server(&SERVICES[1])?];
            endpoints.push(Endpoint { name, node, size, is_size_known, address: host.v4, servers });
        }
        let callers: Result<Vec<Host>, _> =
            (0..ARRIVALS.len()).map(|node| cluster.add_endpoint(node)).collect();
        let mut world = World {
            cluster,
            endpoints,
            present: 0,
            services: directory.join("services.yaml"),
            callers: callers?,
            clients: [Vec::new(), Vec::new()],
            seed,
        };
        world.set_present(AT_START)?;
        Ok(world)
    }

    /// The endpoints that exist by now.
    pub(super) fn present(&self) -> &[Endpoint] {
        &self.endpoints[..self.present]
    }

    /// Lets the first `present` endpoints exist: for the stand-in proxy, then for the agents.
    pub(super) fn set_present(&mut self, present: usize) -> anyhow::Result<()> {
        self.present = present;
        let lower: Vec<proxy::Service> = SERVICES
            .iter()
            .map(|service| proxy::Service {
                name: service.counter.into(),
                protocol: "tcp",
                keys: vec![SocketAddr::new(service.address.into(), 80)],
                node_port: None,
                endpoints: self
                    .present()
                    .iter()
                    .map(|endpoint| SocketAddr::new(endpoint.address.into(), service.port))
                    .collect(),
            })
            .collect();
        for node in &self.cluster.nodes {
            node.host.namespace.nft(&proxy::equal_random(&lower))?;
        }
        // As an operator would: write beside it, then rename over it.
        let beside = self.services.with_extension("new");
        std::fs::write(&beside, self.services_file())?;
        std::fs::rename(&beside, &self.services)?;
        Ok(())
    }

    fn services_file(&self) -> String {
        let mut text = String::from("nodes: [{name: node0}, {name: node1}, {name: node2}]\nservices:\n");
        for service in &SERVICES {
            let Twin { name, policy, address, port, .. } = service;
            let _ = write!(
                text,
                "  - name: {name}\n    addresses: [{address}]\n    policy: {policy}\n    ports:\n      \
                 - {{port: 80, endpoint_port: {port}}}\n    endpoints:\n"
            );
            for endpoint in self.present() {
                let Endpoint { node, address, size, .. } = endpoint;
                let capacity =
                    if endpoint.is_size_known { format!(", capacity: {size}") } else { String::new() };
                let _ = writeln!(text, "      - {{address: {address}, node: node{node}{capacity}}}");
            }
        }
        text
    }

    /// Starts the clients: on each node, to each Service, the same arrivals to both.
    pub(super) fn start_clients(&mut self) -> std::io::Result<()> {
        for (node, (caller, part)) in self.callers.iter().zip(ARRIVALS).enumerate() {
            for (service, clients) in SERVICES.iter().zip(&mut self.clients) {
                let to = SocketAddr::new(service.address.into(), 80);
                let seed = self.seed.wrapping_mul(1000).wrapping_add(node as u64);
                let arrivals = poisson(seed, RATE * part, LONGEST_RUN, to, life);
                let limits = Limits { length: LONGEST_RUN, ..Limits::default() };
                clients.push(Client::start(&caller.namespace, arrivals, limits)?);
            }
        }
        Ok(())
    }

    /// Connections to a Service established so far, and those that failed.
    pub(super) fn totals(&self, service: usize) -> (u64, u64) {
        let sum = |what: fn(&Client) -> u64| self.clients[service].iter().map(what).sum();
        (sum(Client::opened), sum(Client::failed))
    }

    /// How many connections to a Service from a node the stand-in proxy has seen since it was loaded.
    pub(super) fn fell_through(&self, node: usize, service: usize) -> anyhow::Result<u64> {
        Ok(proxy::seen(&self.cluster.nodes[node].host.namespace, SERVICES[service].counter)?)
    }

    /// Ends the clients.
    pub(super) fn stop_clients(&mut self) {
        self.clients = [Vec::new(), Vec::new()];
    }
}

/// How long a connection lives.
fn life(random: &mut Random) -> Duration {
    if random.unit() < LONG {
        let span = LONG_SECONDS.end - LONG_SECONDS.start;
        Duration::from_secs_f64(LONG_SECONDS.start + span * random.unit())
    } else {
        random.exponential(SHORT)
    }
}
