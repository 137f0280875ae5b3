//! Nodes with their agents: each runs the very balancer, fed by what its dataplane counts, its signals read and the
//! mesh brings, and its plans go into a simulated dataplane.

pub(crate) mod ledger;
mod mesh;
mod node;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use plimsoll_core::balancer::{Command, Event, Parameters};
use plimsoll_core::load::Sample;
use plimsoll_core::service::{
    Conditions, Endpoint, EndpointId, Family, Key, Mode, NodeName, Place, PolicyKind, Protocol, Service,
    ServiceChange, ServiceId, TrafficPolicy,
};
use plimsoll_core::time::{Span, Timestamp};
use plimsoll_core::{guard, policy, view};

use crate::cluster::{Cluster, Standing};
use crate::dice::Dice;
use crate::queue::Queue;
use crate::scenario::{Misreading, Scenario, Signals};
use crate::selection::Kind;
use crate::steering::{Connection, Steering};
use mesh::Mesh;
use node::Node;

/// How often every Service is decided anew, as the agents have it.
const TICK: Span = Span::from_millis(500);
/// How long leases last, as the agents have it.
const LEASE: Span = Span::from_secs(10);
/// Readings are moved by this part of the interval at random, so that nodes do not fall into step.
const JITTER: f64 = 0.05;

/// What an entry of the queue is about; its number is in the upper half, the rest in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// A node's balancer wants to be woken.
    Wake(usize),
    /// A node counts and reads signals.
    Count(usize),
    /// A report arrives.
    Datagram(usize),
}

impl Due {
    fn pack(self) -> u64 {
        let (kind, which) = match self {
            Due::Wake(node) => (0, node),
            Due::Count(node) => (1, node),
            Due::Datagram(datagram) => (2, datagram),
        };
        (kind << 32) | which as u64
    }

    fn unpack(entry: u64) -> Due {
        let which = (entry & 0xffff_ffff) as usize;
        match entry >> 32 {
            0 => Due::Wake(which),
            1 => Due::Count(which),
            _ => Due::Datagram(which),
        }
    }
}

/// All nodes with their agents.
pub struct Agents {
    nodes: Vec<Node>,
    queue: Queue,
    mesh: Mesh,
    service: ServiceId,
    interval: std::time::Duration,
    signals: Option<Signals>,
    dice: Dice,
    /// Weights written.
    changes: u64,
    steps: u64,
}

impl Agents {
    /// Agents with this policy on all nodes of the scenario, with what is open in the cluster already.
    pub fn new(
        scenario: &Scenario,
        kind: PolicyKind,
        selection: Kind,
        cluster: &Cluster,
        mut dice: Dice,
    ) -> Agents {
        let interval = scenario.mesh.interval.0;
        let parameters = Parameters {
            tick: TICK.0,
            report_interval: interval,
            lease: LEASE.0,
            policy: kind,
            policies: policy::Parameters::default(),
            guard: guard::Parameters::default(),
            view: view::Parameters::default(),
        };
        let with_load = scenario.signals.is_some();
        let nodes = (0..cluster.nodes)
            .map(|node| Node::new(node, &parameters, selection, with_load, &mut dice))
            .collect();
        let mut agents = Agents {
            nodes,
            queue: Queue::default(),
            mesh: Mesh::new(&scenario.mesh, cluster.nodes),
            service: ServiceId { name: "web".into(), port: "".into(), family: Family::V4 },
            interval,
            signals: scenario.signals.clone(),
            dice,
            changes: 0,
            steps: 0,
        };
        agents.members_changed(Timestamp::ZERO, cluster);
        for node in 0..cluster.nodes {
            let first = agents.interval.mul_f64(agents.dice.unit());
            agents.queue.add(Timestamp::from_duration(first), Due::Count(node).pack());
        }
        agents
    }

    /// Tells a node's balancer something and does what it wants.
    fn tell(&mut self, now: Timestamp, index: usize, event: Event, cluster: Option<&Cluster>) {
        let node = &mut self.nodes[index];
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.steps += 1;
            for command in node.balancer.on(now, event) {
                match command {
                    Command::Publish(report) => {
                        node.rate = f64::from(report.opens_per_second);
                        self.mesh.send(now, index, &report, &mut self.dice, |at, datagram| {
                            self.queue.add(at, Due::Datagram(datagram).pack());
                        });
                    }
                    Command::Apply(plan) => {
                        self.changes += node.apply(now, &plan, cluster, &mut self.dice);
                        events.push(Event::Applied(Ok(())));
                    }
                    Command::Tell(_) => {}
                }
            }
        }
        self.wake_in_time(index);
    }

    fn wake_in_time(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let wake = node.balancer.next_wake();
        if wake < node.wakes_at {
            node.wakes_at = wake;
            self.queue.add(wake, Due::Wake(index).pack());
        }
    }

    fn count(&mut self, now: Timestamp, index: usize, cluster: &Cluster) {
        let moved = self.dice.between(1.0 - JITTER, 1.0 + JITTER);
        self.queue.add(now + self.interval.mul_f64(moved), Due::Count(index).pack());
        if let Some(signals) = self.signals.clone() {
            for endpoint in self.nodes[index].hosted.clone() {
                let sample = self.read(now, index, endpoint, cluster, &signals);
                self.tell(now, index, Event::Sample(sample), None);
            }
        }
        let counts = self.nodes[index].ledger.read(now, id);
        self.tell(now, index, Event::Counts(counts), None);
        let service = &self.service;
        self.nodes[index].look(now, service);
    }

    /// What is read of an endpoint's CPU since the last time.
    fn read(
        &mut self,
        now: Timestamp,
        node: usize,
        endpoint: usize,
        cluster: &Cluster,
        signals: &Signals,
    ) -> Sample {
        let endpoint_id = id(endpoint);
        let true_one = &cluster.endpoints[endpoint];
        let used = self.nodes[node].meter(now, endpoint, true_one.processor.reading(now));
        let mut noisy = |value: f64| (value * (1.0 + signals.noise * self.dice.normal())).max(0.0);
        let (cpu, pressure) = (noisy(used.busy), noisy(used.waiting) + true_one.pressure_bias);
        let (cpu, pressure) = match true_one.misreading {
            None => (Some(cpu), Some(pressure.min(1.0))),
            Some(Misreading::Missing) => (None, None),
            Some(Misreading::Idle) => (Some(0.0), Some(0.0)),
            Some(Misreading::Full) => (Some(true_one.capacity), Some(1.0)),
        };
        Sample { endpoint: endpoint_id, at: now, cpu, pressure }
    }

    /// The Service as the discovery tells of it.
    fn describe(&self, cluster: &Cluster) -> Service {
        let known =
            cluster.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.standing != Standing::Gone);
        let endpoints = known.map(|(index, endpoint)| {
            let draining = endpoint.standing == Standing::Draining;
            Endpoint {
                id: id(index),
                node: endpoint.host.map(node_name),
                capacity: endpoint.stated,
                conditions: Conditions { ready: !draining, serving: true, terminating: draining },
                for_zones: Vec::new(),
                for_nodes: Vec::new(),
            }
        });
        Service {
            id: self.service.clone(),
            protocol: Protocol::Tcp,
            keys: vec![Key {
                place: Place::Internal(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))),
                port: 80,
                protocol: Protocol::Tcp,
            }],
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            mode: Mode::Enabled,
            policy: None,
            slow_start: std::time::Duration::ZERO,
            floor: None,
            endpoints: endpoints.collect(),
        }
    }
}

impl Steering for Agents {
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        self.nodes[node].selection.choose(now, cluster.own(node), &mut self.dice)
    }

    fn opened(&mut self, now: Timestamp, node: usize, endpoint: usize) -> u64 {
        let host = self.mesh.host(endpoint);
        let sender = &mut self.nodes[node];
        sender.selection.opened(now, endpoint);
        let sent_in = sender.ledger.current;
        sender.ledger.sent.open(endpoint, sent_in);
        let hosted_in = host.map_or(0, |host| {
            let ledger = &mut self.nodes[host].ledger;
            ledger.hosted.open(endpoint, ledger.current);
            ledger.current
        });
        (u64::from(hosted_in) << 32) | u64::from(sent_in)
    }

    fn closed(&mut self, now: Timestamp, connection: &Connection) {
        let (hosted_in, sent_in) = ((connection.mark >> 32) as u32, connection.mark as u32);
        let sender = &mut self.nodes[connection.node];
        sender.selection.closed(now, connection.endpoint, connection.opened);
        let current = sender.ledger.current;
        sender.ledger.sent.close(connection.endpoint, sent_in, current);
        if let Some(host) = self.mesh.host(connection.endpoint) {
            let ledger = &mut self.nodes[host].ledger;
            ledger.hosted.close(connection.endpoint, hosted_in, ledger.current);
        }
    }

    fn refused(&mut self, now: Timestamp, node: usize, endpoint: usize) {
        let sender = &mut self.nodes[node];
        // What was refused ended at once.
        sender.selection.opened(now, endpoint);
        sender.selection.closed(now, endpoint, now);
        sender.ledger.sent.refuse(endpoint);
        if let Some(host) = self.mesh.host(endpoint) {
            self.nodes[host].ledger.hosted.refuse(endpoint);
        }
    }

    fn members_changed(&mut self, now: Timestamp, cluster: &Cluster) {
        self.mesh.set_hosts(cluster.endpoints.iter().map(|endpoint| endpoint.host).collect());
        let service = Arc::new(self.describe(cluster));
        for node in 0..self.nodes.len() {
            let change = ServiceChange::All(vec![service.clone()]);
            self.tell(now, node, Event::Services(change), Some(cluster));
        }
    }

    fn cut_off(&mut self, nodes: &[usize], is_cut: bool) {
        self.mesh.cut_off(nodes, is_cut);
    }

    fn next_wake(&self) -> Timestamp {
        self.queue.next_at()
    }

    fn wake(&mut self, now: Timestamp, cluster: &Cluster) {
        let Some((_, entry)) = self.queue.take() else { return };
        match Due::unpack(entry) {
            Due::Count(node) => self.count(now, node, cluster),
            Due::Datagram(datagram) => {
                if let Some((node, report)) = self.mesh.deliver(datagram) {
                    self.tell(now, node, Event::Report(report), None);
                }
            }
            Due::Wake(index) => {
                let node = &mut self.nodes[index];
                // Otherwise it was meant to be woken earlier, and was.
                if node.wakes_at == now {
                    node.wakes_at = Timestamp::NEVER;
                    if node.balancer.next_wake() <= now {
                        self.tell(now, index, Event::Wake, None);
                    } else {
                        self.wake_in_time(index);
                    }
                }
            }
        }
    }

    fn share(&self, node: usize, endpoint: usize) -> Option<f64> {
        self.nodes[node].share(endpoint)
    }

    fn weight_changes(&self) -> u64 {
        self.changes
    }

    fn steps(&self) -> u64 {
        self.steps
    }
}

/// The address of the first endpoint; the others follow it, so that their order is that of their indices.
const FIRST_ADDRESS: u32 = 0x0a01_0000;

/// Who an endpoint is to the agents.
pub(crate) fn id(endpoint: usize) -> EndpointId {
    let address = IpAddr::V4(Ipv4Addr::from_bits(FIRST_ADDRESS + endpoint as u32));
    EndpointId { address, port: 8080, protocol: Protocol::Tcp }
}

/// Which endpoint that is.
pub(crate) fn index(id: &EndpointId) -> usize {
    match id.address {
        IpAddr::V4(address) => (address.to_bits() - FIRST_ADDRESS) as usize,
        IpAddr::V6(address) => address.to_bits() as u32 as usize,
    }
}

/// What the agents call a node; in the order of numbers up to a thousand.
fn node_name(node: usize) -> NodeName {
    NodeName::new(&format!("node{node:03}"))
}

#[cfg(test)]
mod tests;
