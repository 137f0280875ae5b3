//! Real connections through the table, on the loopback of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::nftables::{Config, Counter, Nftables, Setup};
use rustix::net::{AddressFamily, SocketType};

use crate::namespace::{in_namespace, run};
use crate::nftables::{eventually, id, key};

/// A node with endpoints at addresses of its own loopback, a Service address and many client addresses.
struct Node {
    family: Family,
    servers: Vec<(EndpointId, TcpListener)>,
}

impl Node {
    fn new(family: Family, endpoints: usize) -> Node {
        let ip = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            run("ip", &arguments).unwrap();
        };
        ip("link set lo up");
        if family == Family::V4 {
            ip("addr add 10.9.0.1/32 dev lo");
            ip("route add local 10.8.0.0/16 dev lo");
            ip("route add 10.96.0.0/16 dev lo src 10.9.0.1");
        } else {
            std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
            ip("addr add fd09::1/128 dev lo nodad");
            ip("route add local fd08::/64 dev lo");
            ip("route add fd96::/64 dev lo src fd09::1");
        }
        let mut node = Node { family, servers: Vec::new() };
        for number in 1..=endpoints {
            let address: IpAddr = node.address("10.8.1.", "fd08::1:", number);
            let server = TcpListener::bind((address, 8080)).unwrap();
            server.set_nonblocking(true).unwrap();
            node.servers.push((EndpointId { address, port: 8080, protocol: Protocol::Tcp }, server));
        }
        node
    }

    fn address(&self, v4: &str, v6: &str, number: usize) -> IpAddr {
        let prefix = if self.family == Family::V4 { v4 } else { v6 };
        format!("{prefix}{number}").parse().unwrap()
    }

    fn service(&self) -> SocketAddr {
        SocketAddr::new(self.address("10.96.0.", "fd96::", 1), 80)
    }

    fn id(&self) -> ServiceId {
        id("web", self.family)
    }

    fn table(&self, weights: &[u32], affinity: Option<Duration>) -> ServiceTable {
        let cluster = self.servers.iter().zip(weights).filter(|(_, weight)| **weight > 0);
        let place = Place::Internal(self.service().ip());
        ServiceTable {
            protocol: Protocol::Tcp,
            keys: vec![key(Protocol::Tcp, place, 80, Choose::Cluster, Masquerade::FromOutside)],
            affinity,
            cluster: cluster
                .map(|((endpoint, _), &weight)| Weighted { endpoint: *endpoint, weight })
                .collect(),
            local: Vec::new(),
        }
    }

    fn plan(&self, weights: &[u32], affinity: Option<Duration>) -> Plan {
        let endpoints: BTreeSet<EndpointId> = self.servers.iter().map(|(endpoint, _)| *endpoint).collect();
        Plan {
            fresh: true,
            changes: vec![Change::Replace(self.id(), self.table(weights, affinity))],
            host: endpoints.clone(),
            know: endpoints,
            ..Plan::default()
        }
    }

    /// Connects to the Service from a client's address; returns the connection's two ends and the endpoint that
    /// took it.
    fn connect(&self, client: usize) -> ([TcpStream; 2], usize) {
        self.connect_from(client, 0)
    }

    /// The same from a port of the client's choice; 0: any.
    fn connect_from(&self, client: usize, port: u16) -> ([TcpStream; 2], usize) {
        let family = if self.family == Family::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
        let client = SocketAddr::new(self.address("10.8.2.", "fd08::2:", client), port);
        rustix::net::bind(&socket, &client).unwrap();
        rustix::net::connect(&socket, &self.service()).unwrap();
        let stream = TcpStream::from(socket);
        let mut taken = None;
        eventually("the connection arrived", || {
            let mut servers = self.servers.iter().enumerate();
            taken = servers.find_map(|(at, (_, server))| Some((server.accept().ok()?.0, at)));
            taken.is_some()
        });
        let (accepted, taker) = taken.unwrap();
        ([stream, accepted], taker)
    }
}

fn both_families(test: fn(Family)) {
    for family in [Family::V4, Family::V6] {
        in_namespace(move || test(family));
    }
}

#[test]
fn connections_follow_the_weights_one_by_one() {
    both_families(|family| {
        let node = Node::new(family, 3);
        let mut nftables =
            Nftables::open(Config::default(), Setup { node_offset: 77, ..Setup::default() }).unwrap();
        nftables.apply(&node.plan(&[4, 3, 1], None)).unwrap();
        let mut taken = [0; 3];
        let mut longest = 0;
        let (mut run, mut last) = (0, usize::MAX);
        for _ in 0..64 {
            let (_, taker) = node.connect(1);
            taken[taker] += 1;
            run = if taker == last { run + 1 } else { 1 };
            last = taker;
            longest = longest.max(run);
        }
        assert_eq!(taken, [32, 24, 8]);
        assert!(longest <= 2, "{longest} in a row went to one endpoint");
        let plan = Plan {
            changes: vec![Change::Reweight(node.id(), node.table(&[0, 1, 0], None))],
            ..Plan::default()
        };
        nftables.apply(&plan).unwrap();
        assert!((0..10).all(|_| node.connect(1).1 == 1));
    });
}

#[test]
fn opens_and_closes_are_counted_per_slot() {
    both_families(|family| {
        let node = Node::new(family, 2);
        let mut nftables = Nftables::open(Config::default(), Setup::default()).unwrap();
        nftables.apply(&node.plan(&[1, 1], None)).unwrap();
        let read = |nftables: &mut Nftables, counter| {
            let mut counts = Vec::new();
            nftables.read_counter(counter, &mut counts).unwrap();
            counts.into_iter().collect::<BTreeMap<EndpointId, u64>>()
        };
        let each =
            |count| node.servers.iter().map(|(endpoint, _)| (*endpoint, count)).collect::<BTreeMap<_, _>>();
        let older: Vec<_> = (0..20).map(|_| node.connect(1).0).collect();
        for counter in [Counter::HostedOpened(0), Counter::SentOpened(0)] {
            eventually("20 opens counted", || read(&mut nftables, counter) == each(10));
        }
        nftables.rotate().unwrap();
        let younger: Vec<_> = (0..6).map(|_| node.connect(1).0).collect();
        drop(older);
        for counter in [Counter::HostedClosed(0), Counter::SentClosed(0)] {
            eventually("20 closes counted", || read(&mut nftables, counter) == each(10));
        }
        for counter in [Counter::HostedOpened(1), Counter::SentOpened(1)] {
            eventually("6 opens counted", || read(&mut nftables, counter) == each(3));
        }
        assert!(read(&mut nftables, Counter::HostedClosed(1)).is_empty());
        let mut retired = None;
        for _ in 0..16 {
            retired = nftables.rotate().unwrap().retired;
        }
        assert_eq!(retired.unwrap().pair, 1);
        drop(younger);
        for counter in [Counter::HostedClosedOld, Counter::SentClosedOld] {
            eventually("6 old closes counted", || read(&mut nftables, counter) == each(3));
        }
        nftables.clean(1).unwrap();
        assert!(read(&mut nftables, Counter::HostedOpened(1)).is_empty());
        // Nobody listens there any more: refused, not opened.
        let service = node.service();
        let gone: Vec<EndpointId> = node.servers.iter().map(|(endpoint, _)| *endpoint).collect();
        drop(node);
        for _ in 0..4 {
            assert!(TcpStream::connect(service).is_err());
        }
        let refused: BTreeMap<_, _> = gone.iter().map(|endpoint| (*endpoint, 2)).collect();
        for counter in [Counter::Refused, Counter::SentRefused] {
            eventually("4 refusals counted", || read(&mut nftables, counter) == refused);
        }
        // Who leaves is forgotten, also by the counters that are never cleaned.
        let leave: BTreeSet<EndpointId> = gone.iter().copied().collect();
        nftables.apply(&Plan { unhost: leave.clone(), forget: leave, ..Plan::default() }).unwrap();
        assert!(read(&mut nftables, Counter::HostedClosedOld).is_empty());
        assert!(read(&mut nftables, Counter::SentRefused).is_empty());
    });
}

#[test]
fn a_connection_over_one_that_the_endpoint_reset_is_counted() {
    both_families(|family| {
        let node = Node::new(family, 1);
        let mut nftables = Nftables::open(Config::default(), Setup::default()).unwrap();
        nftables.apply(&node.plan(&[1], None)).unwrap();
        // The kernel goes on with the entry, mark and all, when the same client comes back from the same port.
        for _ in 0..4 {
            let ([mut client, accepted], _) = node.connect_from(1, 40_000);
            rustix::net::sockopt::set_socket_linger(&accepted, Some(Duration::ZERO)).unwrap();
            drop(accepted);
            assert!(client.read(&mut [0]).is_err(), "not reset");
        }
        for counter in [
            Counter::HostedOpened(0),
            Counter::HostedClosed(0),
            Counter::SentOpened(0),
            Counter::SentClosed(0),
        ] {
            let mut counts = Vec::new();
            nftables.read_counter(counter, &mut counts).unwrap();
            assert_eq!(counts, [(node.servers[0].0, 4)], "{counter:?}");
        }
    });
}

#[test]
fn clients_stay_with_their_endpoint_while_it_is_there() {
    both_families(|family| {
        let node = Node::new(family, 3);
        let affinity = Some(Duration::from_secs(100));
        let mut nftables = Nftables::open(Config::default(), Setup::default()).unwrap();
        nftables.apply(&node.plan(&[2, 1, 1], affinity)).unwrap();
        let choices = |times: usize| -> Vec<BTreeSet<usize>> {
            (1..=40).map(|client| (0..times).map(|_| node.connect(client).1).collect()).collect()
        };
        let before = choices(3);
        assert!(before.iter().all(|takers| takers.len() == 1), "{before:?}");
        assert_eq!(before.iter().filter(|takers| takers.contains(&0)).count(), 20);
        // Other weights move nobody.
        let reweight = |weights: &[u32]| Plan {
            changes: vec![Change::Reweight(node.id(), node.table(weights, affinity))],
            ..Plan::default()
        };
        nftables.apply(&reweight(&[1, 9, 9])).unwrap();
        assert_eq!(choices(1), before);
        // An endpoint that goes moves its own clients, and they stay where they come.
        nftables.apply(&reweight(&[0, 1, 1])).unwrap();
        let after = choices(3);
        assert!(after.iter().all(|takers| takers.len() == 1), "{after:?}");
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(before, _)| before.contains(&0)));
        assert_eq!(moved.count(), 20);
    });
}

#[test]
fn no_connection_fails_while_weights_leases_and_slots_change() {
    both_families(|family| {
        let node = Node::new(family, 3);
        // Nothing below serves the Service: a connection that fell through would fail.
        let mut nftables = Nftables::open(Config::default(), Setup::default()).unwrap();
        nftables.apply(&node.plan(&[1, 1, 1], None)).unwrap();
        let transactions = std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                for client in 0..2_000 {
                    node.connect(client % 200 + 1);
                }
            });
            let mut transactions = 0;
            while !clients.is_finished() {
                let weights = [transactions % 7, 1 + transactions % 3, 0];
                let table = node.table(&weights, None);
                let changes = vec![if transactions % 10 == 0 {
                    Change::Replace(node.id(), table)
                } else {
                    Change::Reweight(node.id(), table)
                }];
                let renew = transactions % 2 == 0;
                nftables.apply(&Plan { changes, renew, ..Plan::default() }).unwrap();
                if transactions % 20 == 0 {
                    nftables.rotate().unwrap();
                }
                transactions += 1;
            }
            transactions
        });
        assert!(transactions > 100, "only {transactions} transactions");
    });
}
