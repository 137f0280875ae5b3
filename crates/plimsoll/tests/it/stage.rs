//! Nodes with endpoints, a stand-in for the installed proxy, a file of Services, and agents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plimsoll_lab::client::{Client, End, Limits, Outcome, poisson};
use plimsoll_lab::cluster::{Cluster, Host, POD_NETWORK_V4, POD_NETWORK_V6};
use plimsoll_lab::server::Server;
use plimsoll_lab::{eventually, proxy};
use tempfile::TempDir;

use crate::agent::Agent;

/// What the tests need besides namespaces.
pub(crate) const PROGRAMS: &[&str] = &["ip", "nft", "conntrack"];
/// How long to wait for what should come soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The lease of the agents.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Where the endpoints listen, by TCP and by UDP.
const PORT: u16 = 8080;
/// Connections per second of a [`Load`].
const RATE: f64 = 60.0;

/// Where clients reach the Service by TCP.
pub(crate) fn http(v6: bool) -> SocketAddr {
    if v6 { "[fd96::1]:80" } else { "10.96.0.1:80" }.parse().unwrap()
}

/// Where clients reach it by UDP.
pub(crate) fn dns(v6: bool) -> SocketAddr {
    if v6 { "[fd96::1]:53" } else { "10.96.0.1:53" }.parse().unwrap()
}

/// An endpoint, with one server in each family.
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) node: usize,
    pub(crate) servers: [Server; 2],
}

impl Endpoint {
    fn at(&self, v6: bool) -> SocketAddr {
        at(&self.host, v6)
    }

    /// What the agents call it.
    pub(crate) fn id(&self, v6: bool) -> String {
        format!("tcp/{}", self.at(v6))
    }

    /// The same, of both families.
    pub(crate) fn ids(&self) -> [String; 2] {
        [false, true].map(|v6| self.id(v6))
    }

    /// Connections that its servers accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.servers.iter().map(Server::accepted).sum()
    }

    /// Connections open at its servers.
    pub(crate) fn open(&self) -> u64 {
        self.servers.iter().map(Server::open).sum()
    }
}

fn at(host: &Host, v6: bool) -> SocketAddr {
    let address: IpAddr = if v6 { host.v6.into() } else { host.v4.into() };
    SocketAddr::new(address, PORT)
}

pub(crate) struct Stage {
    // First, so that the agents end before what they run in goes.
    pub(crate) agents: Vec<Agent>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// A client's place on each node.
    pub(crate) callers: Vec<Host>,
    pub(crate) cluster: Cluster,
    directory: TempDir,
}

impl Stage {
    /// So many nodes with so many endpoints on each, all served by the table below; agents still to be started.
    pub(crate) fn new(nodes: usize, endpoints_each: usize) -> Stage {
        let mut cluster = Cluster::new(nodes).unwrap();
        let mut endpoints = Vec::new();
        for node in 0..nodes {
            for index in 0..endpoints_each {
                let host = cluster.add_endpoint(node).unwrap();
                let servers = [false, true].map(|v6| {
                    let name = format!("e{node}.{index}{}", if v6 { "/6" } else { "/4" });
                    Server::start(&host.namespace, &name, &[at(&host, v6)]).unwrap()
                });
                endpoints.push(Endpoint { host, node, servers });
            }
        }
        let callers = (0..nodes).map(|node| cluster.add_endpoint(node).unwrap()).collect();
        let directory = tempfile::tempdir().unwrap();
        let mut stage = Stage { agents: Vec::new(), endpoints, callers, cluster, directory };
        stage.load_proxy(|_| true);
        stage.write_services(|_| true);
        stage.write_key();
        for node in 0..nodes {
            let namespace = &stage.cluster.nodes[node].host.namespace;
            let agent = Agent::new(namespace, stage.directory.path(), node, &stage.config(node));
            stage.agents.push(agent);
        }
        stage
    }

    /// The same, with an agent that serves on each node.
    pub(crate) fn running(nodes: usize, endpoints_each: usize) -> Stage {
        let mut stage = Stage::new(nodes, endpoints_each);
        stage.agents.iter_mut().for_each(Agent::start);
        (0..nodes).for_each(|node| stage.wait_serving(node));
        // All nodes know of all, so that no test meets the first reports by chance.
        for agent in &stage.agents {
            assert!(eventually(SOON, || agent.status().nodes.len() == nodes - 1), "{:?}", agent.status());
        }
        stage
    }

    /// Waits until a node's agent is ready and has taken every key of the Service.
    pub(crate) fn wait_serving(&mut self, node: usize) {
        self.agents[node].wait_ready();
        let agent = &self.agents[node];
        let taken = || agent.status().services.iter().all(|s| s.keys_taken > 0 && s.keys_left == 0);
        assert!(eventually(SOON, taken), "{:?}", agent.status());
    }

    /// Loads the stand-in for the installed proxy on each node, with these of the endpoints (by index) and its
    /// counters at 0.
    pub(crate) fn load_proxy(&self, has: impl Fn(usize) -> bool) {
        let endpoints = self.endpoints.iter().enumerate().filter(|(index, _)| has(*index));
        let endpoints: Vec<_> = endpoints.flat_map(|(_, e)| [e.at(false), e.at(true)]).collect();
        let service = |name: &str, protocol, key: fn(bool) -> SocketAddr| proxy::Service {
            name: name.into(),
            protocol,
            keys: vec![key(false), key(true)],
            node_port: None,
            endpoints: endpoints.clone(),
        };
        let below = proxy::equal_random(&[service("http", "tcp", http), service("dns", "udp", dns)]);
        for node in &self.cluster.nodes {
            node.host.namespace.nft(&below).unwrap();
        }
    }

    /// TCP connections from a node that the table below has chosen for.
    pub(crate) fn fell_through(&self, node: usize) -> u64 {
        proxy::seen(&self.cluster.nodes[node].host.namespace, "http").unwrap()
    }

    /// Connections open at all servers.
    pub(crate) fn open(&self) -> u64 {
        self.endpoints.iter().map(Endpoint::open).sum()
    }

    pub(crate) fn services_path(&self) -> PathBuf {
        self.directory.path().join("services.yaml")
    }

    /// Writes the file of Services, with these of the endpoints (by index).
    pub(crate) fn write_services(&self, has: impl Fn(usize) -> bool) {
        let mut text = String::from(
            "services:\n  - name: web\n    addresses: [10.96.0.1, \"fd96::1\"]\n    ports:\n      \
             - {name: http, port: 80, endpoint_port: 8080}\n      \
             - {name: dns, port: 53, endpoint_port: 8080, protocol: udp}\n    endpoints:\n",
        );
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if has(index) {
                let (Host { v4, v6, .. }, node) = (&endpoint.host, endpoint.node);
                let _ = writeln!(text, "      - {{addresses: [{v4}, \"{v6}\"], node: node{node}}}");
            }
        }
        self.replace_services(&text);
    }

    /// Replaces the file of Services as an operator would: writes beside it, then renames over it.
    pub(crate) fn replace_services(&self, text: &str) {
        let beside = self.directory.path().join("services.new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, self.services_path()).unwrap();
    }

    fn key_path(&self) -> PathBuf {
        self.directory.path().join("mesh.key")
    }

    fn write_key(&self) {
        std::fs::write(self.key_path(), "0123456789abcdef".repeat(4) + "\n").unwrap();
    }

    /// The configuration of a node's agent.
    pub(crate) fn config(&self, node: usize) -> String {
        let address = |node: usize| format!("\"{}:9653\"", self.cluster.nodes[node].host.v4);
        let others = (0..self.cluster.nodes.len()).filter(|other| *other != node);
        let peers: Vec<String> = others.map(address).collect();
        format!(
            "node: node{node}\n\
             discovery: {{file: {{path: {services}}}}}\n\
             store: {{mesh: {{bind: {bind}, peers: [{peers}], key_file: {key}}}}}\n\
             dataplane: {{nftables: {{lease: {LEASE:?}, local_sources: [{POD_NETWORK_V4}, \"{POD_NETWORK_V6}\"]}}}}\n",
            services = self.services_path().display(),
            bind = address(node),
            peers = peers.join(", "),
            key = self.key_path().display(),
        )
    }

    /// Starts clients on every node, for both families.
    pub(crate) fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for (node, caller) in self.callers.iter().enumerate() {
            for v6 in [false, true] {
                let seed = 2 * node as u64 + u64::from(v6);
                let length = Duration::from_mins(2);
                let stop = Arc::clone(&stop);
                let arrivals = poisson(seed, RATE, length, http(v6), |random| {
                    // Many short ones, and some that are open when something happens.
                    let mean = if random.unit() < 0.2 { 1.0 } else { 0.05 };
                    random.exponential(Duration::from_secs_f64(mean)).min(Duration::from_secs(3))
                })
                .take_while(move |_| !stop.load(Ordering::SeqCst));
                let limits = Limits { length, ..Limits::default() };
                clients.push(Client::start(&caller.namespace, arrivals, limits).unwrap());
            }
        }
        let load = Load { clients, stop };
        load.pass(20);
        load
    }

    /// Opens connections from a node, one after the other and by turns in both families, and holds them.
    pub(crate) fn hold(&self, node: usize, count: usize) -> Held {
        let namespace = &self.callers[node].namespace;
        let connect = |index: usize| {
            let mut stream = namespace.tcp_connect(http(index % 2 == 1)).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut length = [0];
            stream.read_exact(&mut length).unwrap();
            let mut name = vec![0; length[0].into()];
            stream.read_exact(&mut name).unwrap();
            (String::from_utf8(name).unwrap(), stream)
        };
        Held { connections: (0..count).map(connect).collect() }
    }

    /// Opens and closes connections from a node, and says how many of them the table below chose for (more, if
    /// others connect meanwhile).
    pub(crate) fn probe(&self, node: usize, count: usize) -> u64 {
        let before = self.fell_through(node);
        self.hold(node, count).assert_alive();
        self.fell_through(node) - before
    }

    /// Waits until each running agent knows exactly as many connections as the servers do. To be called without
    /// load.
    pub(crate) fn assert_counts(&self, agents: &[usize]) {
        for node in agents {
            let mut wrong = Vec::new();
            let right = eventually(SOON, || {
                wrong = self.wrong_counts(*node);
                wrong.is_empty()
            });
            assert!(
                right,
                "counts on node {node} (endpoint, agent, server): {wrong:?}{}",
                self.evidence(&wrong)
            );
        }
    }

    /// What everybody has of the endpoints that are counted wrong.
    fn evidence(&self, wrong: &[(String, f64, u64)]) -> String {
        let mut text = String::new();
        for (id, ..) in wrong {
            let socket: SocketAddr = id.trim_start_matches("tcp/").parse().unwrap();
            for (agent, node) in self.agents.iter().zip(&self.cluster.nodes) {
                let node = &node.host.namespace;
                let endpoints = agent.explain("http").into_iter().flat_map(|e| e.endpoints);
                for said in endpoints.filter(|said| said.endpoint == *id) {
                    let _ = write!(
                        text,
                        "\n{} of {id}: {} open, {} sent, by {}",
                        node.name(),
                        said.open,
                        said.sent,
                        said.reported_by
                    );
                }
                let family = if socket.is_ipv4() { "ipv4" } else { "ipv6" };
                let address = socket.ip().to_string();
                let entries = node.text("conntrack", &["-L", "-f", family, "--reply-src", &address]).unwrap();
                let listing = node.text("nft", &["list", "table", "inet", "plimsoll"]).unwrap_or_default();
                let counters = listing.split("\n\n").flat_map(|set| {
                    let name = set.trim_start().lines().next().unwrap_or_default();
                    let element = format!("{address} . tcp");
                    let found = set.split([',', '{', '}']).filter(move |part| part.contains(&element));
                    found.map(move |found| format!("\n  {name}: {}", found.trim()))
                });
                text.extend(counters.filter(|line| line.contains("counter")));
                for entry in entries.lines().filter(|entry| entry.contains("mark=")) {
                    let _ = write!(text, "\n  {}", entry.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
        }
        text
    }

    /// Where an agent's count differs from the server's: the endpoint, the agent's count, the server's.
    pub(crate) fn wrong_counts(&self, node: usize) -> Vec<(String, f64, u64)> {
        let counts: BTreeMap<String, f64> = self.agents[node]
            .explain("http")
            .into_iter()
            .flat_map(|explanation| explanation.endpoints)
            .map(|endpoint| (endpoint.endpoint, endpoint.open))
            .collect();
        let mut wrong = Vec::new();
        for endpoint in &self.endpoints {
            for v6 in [false, true] {
                let (id, open) = (endpoint.id(v6), endpoint.servers[usize::from(v6)].open());
                let counted = *counts.get(&id).unwrap_or_else(|| panic!("no {id} in {counts:?}"));
                if counted != open as f64 {
                    wrong.push((id, counted, open));
                }
            }
        }
        wrong
    }
}

/// Clients on every node that open and close connections until they are told to finish.
pub(crate) struct Load {
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Waits until each client has established so many more connections.
    pub(crate) fn pass(&self, connections: u64) {
        let before: Vec<u64> = self.clients.iter().map(Client::opened).collect();
        let passed =
            || self.clients.iter().zip(&before).all(|(c, before)| c.opened() >= before + connections);
        assert!(eventually(SOON, passed), "no new connections: {before:?}, {} failed", self.failed());
    }

    pub(crate) fn failed(&self) -> u64 {
        self.clients.iter().map(Client::failed).sum()
    }

    /// Waits until every connection has ended, and asserts that none failed.
    pub(crate) fn finish(self) {
        let failed = self.end();
        assert!(failed.is_empty(), "{} connections failed: {failed:?}", failed.len());
    }

    /// Waits until every connection has ended, and says which of them failed.
    pub(crate) fn end(self) -> Vec<Outcome> {
        self.stop.store(true, Ordering::SeqCst);
        let outcomes = self.clients.into_iter().flat_map(Client::join);
        outcomes.filter(|outcome| outcome.end != End::Served).collect()
    }
}

/// Connections that stay open.
pub(crate) struct Held {
    /// Each with the name of the server that greeted.
    pub(crate) connections: Vec<(String, TcpStream)>,
}

impl Held {
    /// How many of them are with an endpoint.
    pub(crate) fn with(&self, endpoint: &Endpoint) -> usize {
        let is_its = |name: &str| endpoint.servers.iter().any(|server| server.name() == name);
        self.connections.iter().filter(|(name, _)| is_its(name)).count()
    }

    /// Sends a request over each and asserts that it is answered.
    pub(crate) fn assert_alive(&self) {
        for (name, stream) in &self.connections {
            let mut stream = stream;
            let mut answer = [0];
            let asked = stream.write_all(&0_u32.to_be_bytes()).and_then(|()| stream.read_exact(&mut answer));
            assert!(asked.is_ok(), "a connection with {name} is dead: {asked:?}");
        }
    }
}
