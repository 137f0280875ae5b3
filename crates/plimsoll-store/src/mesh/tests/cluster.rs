//! A cluster in one thread: machines, a network that loses, repeats and delays, and a clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::{EndpointId, NodeName, Protocol};
use plimsoll_core::time::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Heard;
use crate::mesh::key::Key;
use crate::mesh::machine::{Input, Machine, Me, Output};
use crate::mesh::part;
use crate::mesh::seal::{KeyRing, MAX_DATAGRAM};

pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// UDP and IPv4 headers.
pub(super) const HEADERS: u64 = 28;

pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub(super) fn key(byte: u8) -> Key {
    Key([byte; 32])
}

/// A node: its machine, if it runs, and what its agent heard.
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) address: SocketAddr,
    pub(super) machine: Option<Machine>,
    pub(super) live: BTreeSet<NodeName>,
    pub(super) reports: BTreeMap<NodeName, (Timestamp, Arc<Report>)>,
    pub(super) log: Vec<(Timestamp, Heard)>,
    pub(super) published: Option<Report>,
    pub(super) silent: bool,
    pub(super) keys: Vec<Key>,
    /// What waits in the socket of a process that stands still.
    frozen: Option<Vec<Delivered>>,
    next_publish: Timestamp,
    peers: Vec<SocketAddr>,
    generation: u64,
}

/// A datagram as it was delivered.
#[derive(Clone, Debug)]
pub(super) struct Delivered {
    pub(super) from: SocketAddr,
    pub(super) to: usize,
    pub(super) bytes: Vec<u8>,
}

type Generator = Box<dyn FnMut(usize, &mut StdRng) -> Report>;

pub(super) struct Cluster {
    pub(super) now: Timestamp,
    pub(super) nodes: Vec<Node>,
    /// Part of the datagrams that get lost.
    pub(super) loss: f64,
    /// Part that arrives twice.
    pub(super) repeat: f64,
    pub(super) delay: (Duration, Duration),
    /// Nodes on different sides do not hear each other.
    pub(super) sides: Vec<u8>,
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    /// Everything delivered, if wanted.
    pub(super) tape: Option<Vec<Delivered>>,
    pub(super) rng: StdRng,
    wire: BTreeMap<(Timestamp, u64), Delivered>,
    order: u64,
    generator: Generator,
}

impl Cluster {
    /// Nodes that are not started yet. All join by the first.
    pub(super) fn new(size: usize, seed: u64, generator: Generator) -> Cluster {
        let address = |index: usize| SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 9653));
        let node = |index: usize| Node {
            name: NodeName::new(&format!("node-{index}")),
            address: address(index),
            machine: None,
            live: BTreeSet::new(),
            reports: BTreeMap::new(),
            log: Vec::new(),
            published: None,
            silent: false,
            keys: vec![key(1)],
            frozen: None,
            next_publish: Timestamp::NEVER,
            peers: vec![address(0)],
            generation: 1_000_000,
        };
        Cluster {
            now: Timestamp::from_duration(seconds(1000.0)),
            nodes: (0..size).map(node).collect(),
            loss: 0.0,
            repeat: 0.0,
            delay: (Duration::from_micros(200), Duration::from_millis(1)),
            sides: vec![0; size],
            datagrams: 0,
            bytes: 0,
            tape: None,
            rng: StdRng::seed_from_u64(seed),
            wire: BTreeMap::new(),
            order: 0,
            generator,
        }
    }

    /// Nodes that run and have found each other.
    pub(super) fn running(size: usize, seed: u64, generator: Generator) -> Cluster {
        let mut cluster = Cluster::new(size, seed, generator);
        for index in 0..size {
            cluster.start(index);
        }
        cluster.run_until(seconds(30.0), "all found each other", Cluster::is_converged);
        cluster
    }

    /// Starts a node anew, a second of its own clock after the last time.
    pub(super) fn start(&mut self, index: usize) {
        let generation = self.nodes[index].generation + 1000;
        self.start_at(index, generation);
    }

    pub(super) fn start_at(&mut self, index: usize, generation: u64) {
        let phase = self.rng.random_range(0.0..1.0);
        let seed = self.rng.random();
        let node = &mut self.nodes[index];
        node.generation = generation;
        let me = Me { name: node.name.clone(), address: node.address, generation };
        let mut machine = Machine::new(self.now, me, KeyRing::new(&node.keys), seed);
        machine.on(self.now, Input::Peers(node.peers.clone()), &mut Vec::new());
        node.machine = Some(machine);
        node.live.clear();
        node.reports.clear();
        node.next_publish = self.now + INTERVAL.mul_f64(phase);
    }

    /// Kills a node.
    pub(super) fn stop(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.machine = None;
        node.next_publish = Timestamp::NEVER;
    }

    /// Stops a process as SIGSTOP does: datagrams wait in its socket.
    pub(super) fn freeze(&mut self, index: usize) {
        self.nodes[index].frozen = Some(Vec::new());
    }

    /// Lets it go on: first it reads what waited, as the socket's task does, then its timers run.
    pub(super) fn thaw(&mut self, index: usize) {
        for delivered in self.nodes[index].frozen.take().into_iter().flatten() {
            self.input(index, Input::Datagram { from: delivered.from, bytes: &delivered.bytes });
        }
        self.input(index, Input::Wake);
    }

    pub(super) fn set_peers(&mut self, index: usize, peers: &[usize]) {
        self.nodes[index].peers = peers.iter().map(|peer| self.nodes[*peer].address).collect();
    }

    pub(super) fn input(&mut self, index: usize, input: Input<'_>) {
        let mut out = Vec::new();
        let Some(machine) = &mut self.nodes[index].machine else { return };
        machine.on(self.now, input, &mut out);
        self.carry_out(index, out);
    }

    fn carry_out(&mut self, index: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { to, bytes } => self.transmit(index, to, &bytes),
                Output::Heard(heard) => {
                    let now = self.now;
                    let node = &mut self.nodes[index];
                    match &heard {
                        Heard::Joined(name) => drop(node.live.insert(name.clone())),
                        Heard::Left(name) => drop(node.live.remove(name)),
                        Heard::Report(report) => {
                            node.reports.insert(report.node.clone(), (now, Arc::clone(report)));
                        }
                    }
                    node.log.push((now, heard));
                }
            }
        }
    }

    fn transmit(&mut self, from: usize, to: SocketAddr, bytes: &[u8]) {
        assert!(bytes.len() <= MAX_DATAGRAM, "a datagram of {} bytes", bytes.len());
        self.datagrams += 1;
        self.bytes += bytes.len() as u64 + HEADERS;
        // Several nodes may have the same name, never the same address.
        let Some(to) = self.nodes.iter().position(|node| node.address == to) else { return };
        if self.sides[from] != self.sides[to] {
            return;
        }
        let from = self.nodes[from].address;
        loop {
            if !self.rng.random_bool(self.loss) {
                let (shortest, longest) = self.delay;
                let delay = self.rng.random_range(shortest.as_secs_f64()..=longest.as_secs_f64());
                self.order += 1;
                let delivered = Delivered { from, to, bytes: bytes.to_vec() };
                self.wire.insert((self.now + seconds(delay), self.order), delivered);
            }
            if !self.rng.random_bool(self.repeat) {
                return;
            }
        }
    }

    /// One event: the next datagram, timer or report.
    fn step(&mut self, end: Timestamp) -> bool {
        let flight = self.wire.first_key_value().map_or(Timestamp::NEVER, |((at, _), _)| *at);
        let wake = |node: &Node| {
            if node.frozen.is_some() {
                return Timestamp::NEVER;
            }
            let timer = node.machine.as_ref().map_or(Timestamp::NEVER, Machine::next_wake);
            timer.min(node.next_publish)
        };
        let (index, timer) =
            self.nodes.iter().map(wake).enumerate().min_by_key(|(_, at)| *at).expect("a cluster has nodes");
        let next = flight.min(timer);
        if next > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(next);
        if flight <= timer {
            let (_, delivered) = self.wire.pop_first().expect("it was there");
            let index = delivered.to;
            if let Some(waiting) = &mut self.nodes[index].frozen {
                // A socket's buffer is not endless.
                if waiting.len() < 200 {
                    waiting.push(delivered);
                }
                return true;
            }
            self.input(index, Input::Datagram { from: delivered.from, bytes: &delivered.bytes });
            if let Some(tape) = &mut self.tape {
                tape.push(delivered);
            }
        } else if self.nodes[index].next_publish <= self.now {
            self.publish(index);
        } else {
            self.input(index, Input::Wake);
        }
        true
    }

    fn publish(&mut self, index: usize) {
        let jitter = self.rng.random_range(0.9..1.1);
        self.nodes[index].next_publish = self.now + INTERVAL.mul_f64(jitter);
        if self.nodes[index].silent {
            return;
        }
        let mut report = (self.generator)(index, &mut self.rng);
        report.node = self.nodes[index].name.clone();
        self.nodes[index].published = Some(report.clone());
        self.input(index, Input::Publish(Arc::new(report)));
    }

    /// Lets virtual time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Lets time pass until something holds; tells how long it took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Cluster) -> bool,
    ) -> Duration {
        let begin = self.now;
        while !holds(self) {
            assert!(self.now.since(begin) < limit, "not within {limit:?}: {what}\n{}", self.picture());
            self.run(seconds(0.1));
        }
        self.now.since(begin)
    }

    /// Whether every running node has all other running nodes as members, and a report of each that is whole and
    /// not older than three intervals.
    pub(super) fn is_converged(&self) -> bool {
        let running = || self.nodes.iter().filter(|node| node.machine.is_some());
        running().all(|node| {
            let others = || running().filter(|other| other.name != node.name);
            node.live.len() == others().count()
                && others().all(|other| {
                    let Some((at, report)) = node.reports.get(&other.name) else { return false };
                    let whole = other.published.as_ref().is_some_and(|published| {
                        published.hosted.len() == report.hosted.len()
                            && published.sent.len() == report.sent.len()
                    });
                    node.live.contains(&other.name)
                        && whole
                        && self.now.since(*at) + report.age <= INTERVAL * 3 + seconds(0.2)
                })
        })
    }

    /// Whether every running node holds exactly what the others published last, but for rounding.
    pub(super) fn agrees(&self) -> bool {
        let running = || self.nodes.iter().filter(|node| node.machine.is_some());
        running().all(|node| {
            running().filter(|other| other.name != node.name).all(|other| {
                let (Some((_, heard)), Some(published)) = (node.reports.get(&other.name), &other.published)
                else {
                    return false;
                };
                let rounded = |loads: &[EndpointReport]| loads.iter().map(part::rounded).collect::<Vec<_>>();
                heard.hosted == rounded(&published.hosted) && heard.sent == rounded(&published.sent)
            })
        })
    }

    /// What keeps it from being converged.
    fn picture(&self) -> String {
        let mut lines = Vec::new();
        let running = || self.nodes.iter().filter(|node| node.machine.is_some());
        for node in running() {
            for other in running().filter(|other| other.name != node.name) {
                let live = node.live.contains(&other.name);
                let report = node.reports.get(&other.name);
                let age = report.map(|(at, report)| self.now.since(*at) + report.age);
                if !live || age.is_none_or(|age| age > INTERVAL * 3) {
                    let endpoints = report.map(|(_, report)| report.hosted.len());
                    lines.push(format!(
                        "{} of {}: live {live}, age {age:?}, {endpoints:?}",
                        node.name, other.name
                    ));
                }
            }
        }
        let health = |node: &Node| node.machine.as_ref().map(|machine| machine.health(self.now).rejected);
        lines.truncate(20);
        lines.extend(
            self.nodes.iter().take(10).map(|node| format!("{} rejected {:?}", node.name, health(node))),
        );
        lines.join("\n")
    }
}

pub(super) fn endpoint(address: [u8; 4], port: u16) -> EndpointId {
    EndpointId { address: IpAddr::from(address), port, protocol: Protocol::Tcp }
}

/// The pods of a node are in a /24 of its own, and beyond 250 in another.
fn pod(node: usize, at: usize) -> EndpointId {
    endpoint([10, 1 + (at / 250) as u8, node as u8, 1 + (at % 250) as u8], 8080)
}

/// A report with these loads.
pub(super) fn report_of(hosted: Vec<EndpointReport>) -> Report {
    Report {
        node: NodeName::new("to be named"),
        age: Duration::from_millis(20),
        opens_per_second: 1.5,
        hosted,
        sent: Vec::new(),
    }
}

/// A few endpoints of the node, all with new figures each time.
pub(super) fn busy(endpoints: usize) -> Generator {
    Box::new(move |index, rng| {
        let load = |at: usize| {
            let open = rng.random_range(0..5000);
            let young = rng.random_range(0..=open / 4);
            EndpointReport {
                endpoint: pod(index, at),
                open,
                young,
                middle: young / 2,
                opens_per_second: rng.random_range(0.0..300.0),
                failures_per_second: 0.0,
                cpu: None,
                pressure: None,
            }
        };
        report_of((0..endpoints).map(load).collect())
    })
}

/// Endpoints whose figures never change.
pub(super) fn still(endpoints: usize) -> Generator {
    Box::new(move |index, _| {
        let load = |at: usize| EndpointReport {
            endpoint: pod(index, at),
            open: 7,
            young: 2,
            middle: 1,
            opens_per_second: 0.5,
            failures_per_second: 0.25,
            cpu: Some(0.75),
            pressure: Some(0.125),
        };
        report_of((0..endpoints).map(load).collect())
    })
}
