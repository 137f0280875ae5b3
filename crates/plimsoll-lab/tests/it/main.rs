//! The laboratory holds what it promises: who can reach whom, exact counts, and nothing left behind.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod enclosure;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use plimsoll_lab::client::{self, Client, End, Limits};
use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::server::{Behaviour, Close, Server};
use plimsoll_lab::{available, eventually, proxy, sctp};

const SOON: Duration = Duration::from_secs(10);

fn at(host: &Host, v6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(if v6 { IpAddr::V6(host.v6) } else { IpAddr::V4(host.v4) }, port)
}

fn both(host: &Host, port: u16) -> [SocketAddr; 2] {
    [at(host, false, port), at(host, true, port)]
}

#[test]
fn everybody_reaches_endpoints_directly_in_both_families() {
    if !available(&["ip"]) {
        return;
    }
    let mut cluster = Cluster::new(2).unwrap();
    let near = cluster.add_endpoint(0).unwrap();
    let far = cluster.add_endpoint(1).unwrap();
    let outside = cluster.add_outside(0).unwrap();
    let server = Server::start(&far.namespace, "far", &both(&far, 8080)).unwrap();
    let callers = [&near, &far, &outside, &cluster.nodes[0].host, &cluster.nodes[1].host];
    for caller in callers {
        for to in both(&far, 8080) {
            let outcomes =
                Client::start(&caller.namespace, served_once(to), Limits::default()).unwrap().join();
            assert_eq!(outcomes.len(), 1);
            assert_eq!(outcomes[0].end, End::Served, "{} to {to}", caller.namespace.name());
            assert_eq!(outcomes[0].endpoint.as_deref(), Some("far"));
        }
    }
    assert_eq!(server.accepted(), 2 * callers.len() as u64);
    assert!(eventually(SOON, || server.open() == 0));
}

fn served_once(to: SocketAddr) -> impl Iterator<Item = client::Arrival> + Send {
    std::iter::once(client::Arrival { at: Duration::ZERO, to, service: Some(Duration::from_millis(1)) })
}

#[test]
fn servers_tell_whom_they_see() {
    if !available(&["ip"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let host = cluster.add_endpoint(0).unwrap();
    let caller = cluster.add_endpoint(0).unwrap();
    let _server = Server::start_telling(&host.namespace, "e", &both(&host, 8080)).unwrap();
    let _sctp = sctp::Server::start(&host.namespace, "e", 8080..8081).unwrap();
    for to in both(&host, 8080) {
        let expected = format!("e {}", caller.address_like(to.ip()));
        let outcomes = Client::start(&caller.namespace, served_once(to), Limits::default()).unwrap().join();
        assert_eq!(outcomes[0].endpoint.as_deref(), Some(expected.as_str()));

        let socket = caller.namespace.udp(at(&caller, to.is_ipv6(), 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.send_to(b"?", to).unwrap();
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);

        let answers = sctp::dial(&caller.namespace, to, 5000, 3, SOON).unwrap();
        assert_eq!(answers, vec![sctp::Answer::Cookie(expected); 3]);
    }
    // Nobody listens on the node.
    let nobody = at(&cluster.nodes[0].host, false, 8080);
    let answers = sctp::dial(&caller.namespace, nobody, 5000, 1, Duration::from_millis(300)).unwrap();
    assert!(!matches!(answers[0], sctp::Answer::Cookie(_)), "{answers:?}");
}

#[test]
fn the_stand_in_proxy_spreads_evenly_and_counts() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let mut cluster = Cluster::new(2).unwrap();
    let hosts: Vec<_> = (0..4).map(|i| cluster.add_endpoint(i % 2).unwrap()).collect();
    let caller = cluster.add_endpoint(0).unwrap();
    let outside = cluster.add_outside(0).unwrap();
    let servers: Vec<_> = hosts
        .iter()
        .enumerate()
        .map(|(i, host)| Server::start(&host.namespace, &format!("e{i}"), &both(host, 8080)).unwrap())
        .collect();
    let vips: [SocketAddr; 2] = ["10.96.0.1:80".parse().unwrap(), "[fd96::1]:80".parse().unwrap()];
    let table = proxy::equal_random(&[proxy::Service {
        name: "web".into(),
        protocol: "tcp",
        keys: vips.to_vec(),
        node_port: Some(30080),
        endpoints: hosts.iter().flat_map(|host| both(host, 8080)).collect(),
    }]);
    let node = &cluster.nodes[0].host;
    node.namespace.nft(&table).unwrap();
    node.namespace.nft(&table).unwrap(); // Replaces itself.
    let mut expected = 0;
    // So many that a fair draw leaves nobody out in a lifetime of runs; of 20 it did in one of a hundred.
    let node_ports = [at(node, false, 30080), at(node, true, 30080)];
    let cases: Vec<(&Host, SocketAddr, usize)> = vips
        .iter()
        .flat_map(|vip| {
            [(&caller, *vip, 300), (node, *vip, 100), (&outside, *vip, 100), (&hosts[0], *vip, 100)]
        })
        .chain(node_ports.iter().map(|to| (&outside, *to, 100)))
        .collect();
    for (from, to, count) in cases {
        let client = Client::start(&from.namespace, client::held(count, to), Limits::default()).unwrap();
        assert!(eventually(SOON, || client.by_endpoint().values().sum::<u64>() == count as u64), "to {to}");
        let seen: BTreeMap<_, _> = client.by_endpoint();
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert!(seen.values().all(|n| *n as usize >= count / 20), "far from even: {seen:?}");
        assert_eq!(client.open(), count as u64);
        assert_eq!(servers.iter().map(Server::open).sum::<u64>(), count as u64);
        assert!(client.stop().iter().all(|outcome| outcome.end == End::Served));
        assert!(eventually(SOON, || servers.iter().all(|server| server.open() == 0)));
        expected += count as u64;
    }
    assert_eq!(servers.iter().map(Server::accepted).sum::<u64>(), expected);
    assert_eq!(proxy::seen(&node.namespace, "web").unwrap(), expected);
}

#[test]
fn servers_misbehave_on_request_and_clients_say_how_it_ended() {
    if !available(&["ip"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let host = cluster.add_endpoint(0).unwrap();
    let caller = cluster.add_endpoint(0).unwrap();
    let to = at(&host, false, 8080);
    let server = Server::start(&host.namespace, "e", &[to]).unwrap();
    let ends = |behaviour| {
        server.behave(behaviour);
        // The order is followed before the next connection or shortly after: ask until it shows.
        let limits = Limits { length: Duration::from_millis(300), ..Limits::default() };
        let mut last = None;
        let wanted = match behaviour {
            Behaviour::Serve | Behaviour::Silent => End::Served,
            Behaviour::CloseAtOnce => End::Cut,
            Behaviour::ResetAtOnce => End::Reset,
            Behaviour::Refuse => End::Refused,
        };
        let found = eventually(SOON, || {
            last = Client::start(&caller.namespace, served_once(to), limits).unwrap().join().pop();
            last.as_ref().is_some_and(|outcome| outcome.end == wanted)
        });
        assert!(found, "{behaviour:?} ended as {last:?}");
        last.unwrap()
    };
    for behaviour in [Behaviour::CloseAtOnce, Behaviour::ResetAtOnce, Behaviour::Refuse, Behaviour::Serve] {
        ends(behaviour);
    }
    assert_eq!(ends(Behaviour::Silent).endpoint, None);
    server.behave(Behaviour::Serve);

    let client = Client::start(&caller.namespace, client::held(10, to), Limits::default()).unwrap();
    assert!(eventually(SOON, || client.by_endpoint().values().sum::<u64>() == 10));
    server.end(4, Close::Reset);
    server.end(3, Close::Finish);
    assert!(eventually(SOON, || client.open() == 3 && server.open() == 3));
    let outcomes = client.stop();
    let count = |end| outcomes.iter().filter(|outcome| outcome.end == end).count();
    assert_eq!((count(End::Reset), count(End::Cut), count(End::Served)), (4, 3, 3));
    assert!(eventually(SOON, || server.open() == 0));
}

#[test]
fn a_slow_server_serves_later() {
    if !available(&["ip"]) {
        return;
    }
    let namespace = Namespace::new("one").unwrap();
    let to: SocketAddr = "127.0.0.1:7000".parse().unwrap();
    let server = Server::start(&namespace, "slow", &[to]).unwrap();
    let minute = client::Arrival { at: Duration::ZERO, to, service: Some(Duration::from_mins(1)) };
    let client = Client::start(&namespace, std::iter::once(minute), Limits::default()).unwrap();
    assert!(eventually(SOON, || server.open() == 1));
    // A thousandth of a minute: 60 ms for what is already in service.
    server.slow(1e-3);
    let outcome = client.join().pop().unwrap();
    assert_eq!(outcome.end, End::Served);
    assert!(outcome.ended < Duration::from_secs(50));
    assert_eq!(outcome.endpoint.as_deref(), Some("slow"));
}

#[test]
fn arrivals_depend_on_the_seed_alone_and_all_are_accounted_for() {
    if !available(&["ip"]) {
        return;
    }
    let namespace = Namespace::new("one").unwrap();
    let to: SocketAddr = "127.0.0.1:7000".parse().unwrap();
    let server = Server::start(&namespace, "e", &[to]).unwrap();
    let arrivals = |seed| {
        client::poisson(seed, 4_000.0, Duration::from_secs(1), to, |random| {
            random.exponential(Duration::from_millis(5))
        })
    };
    let times = |seed| arrivals(seed).map(|a| (a.at, a.service)).collect::<Vec<_>>();
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
    let expected = times(1).len();
    assert!((3_500..4_500).contains(&expected), "a rate of 4,000 gave {expected}");
    let outcomes = Client::start(&namespace, arrivals(1), Limits::default()).unwrap().join();
    assert_eq!(outcomes.len(), expected);
    assert!(outcomes.iter().all(|outcome| outcome.end == End::Served));
    assert_eq!(server.accepted(), expected as u64);
    assert!(eventually(SOON, || server.open() == 0));
}

#[test]
fn datagrams_are_answered_with_the_name() {
    if !available(&["ip"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let host = cluster.add_endpoint(0).unwrap();
    let server = Server::start(&host.namespace, "udp", &both(&host, 53)).unwrap();
    let node = &cluster.nodes[0].host;
    for to in both(&host, 53) {
        let unspecified = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = node.namespace.udp(unspecified.parse().unwrap()).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.send_to(b"?", to).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"udp"[..], to));
    }
    assert_eq!(server.datagrams(), 2);
}

#[test]
fn a_node_can_be_cut_off_and_joined_again() {
    if !available(&["ip"]) {
        return;
    }
    let mut cluster = Cluster::new(2).unwrap();
    let far = cluster.add_endpoint(1).unwrap();
    let to = at(&far, false, 8080);
    let _server = Server::start(&far.namespace, "far", &[to]).unwrap();
    let reached = |cluster: &Cluster| {
        let limits = Limits { connect: Duration::from_millis(300), ..Limits::default() };
        let outcomes =
            Client::start(&cluster.nodes[0].host.namespace, served_once(to), limits).unwrap().join();
        outcomes[0].end == End::Served
    };
    assert!(reached(&cluster));
    cluster.connect(1, false).unwrap();
    assert!(!reached(&cluster));
    cluster.connect(1, true).unwrap();
    assert!(eventually(SOON, || reached(&cluster)));
}

#[test]
fn nothing_is_left_behind() {
    if !available(&["ip"]) {
        return;
    }
    let descriptors = |name: &str| {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy() == name)
            .count()
    };
    let namespace = Namespace::new("gone").unwrap();
    let identity = std::fs::read_link(namespace.path()).unwrap().to_string_lossy().into_owned();
    let listener = namespace.tcp_listen("127.0.0.1:9".parse().unwrap()).unwrap();
    let mut stream = namespace.tcp_connect("127.0.0.1:9".parse().unwrap()).unwrap();
    stream.write_all(b"x").unwrap();
    let mut byte = [0; 1];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(descriptors(&identity), 1);
    drop(namespace);
    assert_eq!(descriptors(&identity), 0);
}

#[test]
fn errors_say_what_failed_and_where() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = Namespace::new("wrong").unwrap();
    let error = namespace.ip("link set nowhere up").unwrap_err().to_string();
    assert!(error.contains("wrong") && error.contains("nowhere"), "{error}");
    let error = namespace.nft("nonsense").unwrap_err().to_string();
    assert!(error.contains("syntax error"), "{error}");
    let error = namespace.sysctl(&[("net/ipv4/nothing", "1")]).unwrap_err().to_string();
    assert!(error.contains("net/ipv4/nothing"), "{error}");
}
