//! Counts are exactly what clients and servers know themselves.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_core::load::Count;
use plimsoll_core::service::Protocol;
use plimsoll_dataplane::nftables::{Config, NftablesDataplane, Setup, Terms};
use plimsoll_dataplane::{Dataplane, dry_run};
use plimsoll_lab::cluster::Host;
use plimsoll_lab::server::{Behaviour, Close, Server};
use plimsoll_lab::{available, eventually};

use crate::stage::{Options, PORT, SOON, Stage, find, hold, vip, vip_below};

const PROGRAMS: &[&str] = &["ip", "nft", "conntrack"];

/// All hosts' counts against the servers' own, summed over both families.
fn assert_exact(stage: &mut Stage, what: &str) {
    let counts: Vec<_> = (0..stage.dataplanes.len()).map(|node| stage.read(node)).collect();
    for endpoint in &stage.endpoints {
        let hosted = &counts[endpoint.node].hosted;
        let both = [false, true].map(|v6| find(hosted, endpoint.id(Protocol::Tcp, v6)));
        let open: u64 = both.iter().map(|count| u64::from(count.open)).sum();
        let opened: u64 = both.iter().map(|count| count.opened).sum();
        let name = endpoint.server.name();
        assert_eq!(opened, endpoint.server.accepted(), "{what}: opened at {name}");
        assert_eq!(open, endpoint.server.open(), "{what}: open at {name}");
    }
}

#[test]
fn whoever_connects_by_whatever_way_is_counted_once() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(2, 2, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    let far = stage.cluster.add_endpoint(1).unwrap();
    let outside = stage.cluster.add_outside(0).unwrap();
    stage.open(0);
    stage.open(1);
    let node = stage.cluster.nodes[0].host.clone();
    let itself = stage.endpoints[0].host.clone();
    let mut sent_by_0 = BTreeMap::new();
    for v6 in [false, true] {
        let direct = stage.endpoints[0].at(v6);
        let ways: [(&str, &Host, _); 9] = [
            ("pod, Service", &near, vip(v6)),
            ("pod on another node, Service", &far, vip(v6)),
            ("endpoint itself, Service", &itself, vip(v6)),
            ("node, Service", &node, vip(v6)),
            ("outside, Service", &outside, vip(v6)),
            ("pod, table below", &near, vip_below(v6)),
            ("pod, directly", &near, direct),
            ("pod on another node, directly", &far, direct),
            ("node, directly", &node, direct),
        ];
        for (what, from, to) in ways {
            let what = format!("{what}, {to}");
            let client = hold(from, 8, to, Close::Finish);
            let through_0 = to != direct && from.namespace.name() != far.namespace.name();
            for (name, count) in client.by_endpoint() {
                *sent_by_0.entry(name).or_insert(0) += if through_0 { count } else { 0 };
            }
            assert_exact(&mut stage, &what);
            let outcomes = client.stop();
            assert_eq!(outcomes.len(), 8);
            assert!(eventually(SOON, || stage.open_at_servers() == 0));
            assert_exact(&mut stage, &what);
        }
    }
    let counts = stage.read(0);
    for endpoint in &stage.endpoints {
        let both = [false, true].map(|v6| find(&counts.sent, endpoint.id(Protocol::Tcp, v6)));
        let opened: u64 = both.iter().map(|count| count.opened).sum();
        let expected = sent_by_0.get(endpoint.server.name()).copied().unwrap_or(0);
        assert_eq!(opened, expected, "sent to {}", endpoint.server.name());
        assert!(both.iter().all(|count| count.open == 0));
    }
}

#[test]
fn however_a_connection_ends_it_is_closed_once() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    for v6 in [false, true] {
        for to in [vip(v6), stage.endpoints[0].at(v6)] {
            for close in [Close::Finish, Close::Reset] {
                // Some ended by the server, some by the client, some stay open for a while.
                let client = hold(&near, 12, to, close);
                stage.endpoints[0].server.end(4, Close::Finish);
                stage.endpoints[0].server.end(3, Close::Reset);
                assert!(eventually(SOON, || client.open() == 5 && stage.open_at_servers() == 5));
                assert_exact(&mut stage, "some ended by the server");
                client.stop();
                assert!(eventually(SOON, || stage.open_at_servers() == 0));
                assert_exact(&mut stage, "all ended");
            }
        }
    }
    for behaviour in [Behaviour::CloseAtOnce, Behaviour::ResetAtOnce] {
        stage.endpoints[0].server.behave(behaviour);
        let arrivals = plimsoll_lab::client::held(6, vip(false));
        let limits = plimsoll_lab::client::Limits::default();
        let outcomes = plimsoll_lab::client::Client::start(&near.namespace, arrivals, limits).unwrap().join();
        assert_eq!(outcomes.len(), 6);
        assert_exact(&mut stage, "closed at once");
    }
}

#[test]
fn refused_half_open_and_unanswered_are_not_connections() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    let server = &stage.endpoints[0];
    server.server.behave(Behaviour::Refuse);
    let refused = |to| {
        let limits = plimsoll_lab::client::Limits::default();
        let arrivals = plimsoll_lab::client::held(7, to);
        let outcomes = plimsoll_lab::client::Client::start(&near.namespace, arrivals, limits).unwrap().join();
        outcomes.iter().filter(|o| o.end == plimsoll_lab::client::End::Refused).count() as u64
    };
    let gone = || {
        near.namespace.tcp_connect(server.at(true)).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    };
    assert!(eventually(SOON, gone), "the server still listens");
    let sum =
        |counts: [Count; 2]| (counts[0].refused + counts[1].refused, counts[0].opened + counts[1].opened);
    let before = sum(stage.hosted(0));
    assert_eq!(refused(vip(false)) + refused(vip(true)), 14);
    assert_eq!(sum(stage.hosted(0)), (before.0 + 14, before.1));

    // Half open: the client's ACKs are lost.
    let sysctls = [
        ("net/netfilter/nf_conntrack_tcp_timeout_syn_recv", "1"),
        ("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", "1"),
    ];
    stage.cluster.nodes[0].host.namespace.sysctl(&sysctls).unwrap();
    stage.endpoints[0].server.behave(Behaviour::Serve);
    let reached = || near.namespace.tcp_connect(stage.endpoints[0].at(false)).is_ok();
    assert!(eventually(SOON, reached), "the server listens again");
    let opened = stage.hosted(0)[0].opened;
    let lose = |what: &str| {
        let table = format!(
            "table inet lose {{ chain out {{ type filter hook output priority 0; {what} drop; }}; }}"
        );
        near.namespace.nft(&table).unwrap();
    };
    lose("meta l4proto tcp tcp flags & (syn | ack) == ack");
    let limits = plimsoll_lab::client::Limits { length: Duration::from_millis(500), ..Default::default() };
    let arrivals = plimsoll_lab::client::held(5, vip(false));
    let client = plimsoll_lab::client::Client::start(&near.namespace, arrivals, limits).unwrap();
    assert!(eventually(SOON, || client.opened() == 5));
    let [v4, _] = stage.hosted(0);
    assert_eq!((v4.opened, v4.open), (opened, 0), "half open");
    client.stop();
    near.namespace.nft("delete table inet lose").unwrap();

    // Never answered: the endpoint's answers are lost.
    stage.endpoints[0]
        .host
        .namespace
        .nft("table inet lose { chain in { type filter hook input priority 0; meta l4proto tcp drop; }; }")
        .unwrap();
    assert_eq!(stage.hosted(0)[0].unanswered, 0, "to be refused is an answer");
    let limits = plimsoll_lab::client::Limits { connect: Duration::from_millis(200), ..Default::default() };
    let arrivals = plimsoll_lab::client::held(6, vip(false));
    plimsoll_lab::client::Client::start(&near.namespace, arrivals, limits).unwrap().join();
    assert!(eventually(SOON, || {
        stage.entries(0, &["-p", "tcp", "--state", "SYN_SENT"]);
        stage.hosted(0)[0].unanswered == 6
    }));
    let sent = find(&stage.read(0).sent, stage.endpoints[0].id(Protocol::Tcp, false));
    assert_eq!(sent.unanswered, 6);
}

#[test]
fn an_end_that_confirms_the_handshake_opens_and_closes() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    // The client's ACKs are lost, but not its FIN.
    let lose = "table inet lose { chain out { type filter hook output priority 0; \
                tcp flags & (fin | syn | ack) == ack drop; }; }";
    near.namespace.nft(lose).unwrap();
    for (family, v6) in [false, true].into_iter().enumerate() {
        drop(near.namespace.tcp_connect(vip(v6)).unwrap());
        let done = || matches!(stage.hosted(0)[family], Count { opened: 1, open: 0, .. });
        assert!(eventually(SOON, done), "opened and closed");
    }
}

#[test]
fn connections_that_are_not_counted_keep_no_mark() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    let other = stage.cluster.add_endpoint(0).unwrap();
    let at = SocketAddr::new(other.v4.into(), PORT);
    let _server = Server::start(&other.namespace, "other", &[at]).unwrap();
    stage.open(0);
    let counted = hold(&near, 2, stage.endpoints[0].at(false), Close::Finish);
    let client = hold(&near, 3, at, Close::Finish);
    let unmarked =
        |to: SocketAddr| stage.entries(0, &["-p", "tcp", "--orig-dst", &to.ip().to_string(), "--mark", "0"]);
    assert_eq!((unmarked(at), unmarked(stage.endpoints[0].at(false))), (3, 0));
    client.stop();
    counted.stop();
}

#[test]
fn what_ends_without_a_packet_is_closed_by_its_event() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    let held: Vec<_> = [vip(false), vip(true), stage.endpoints[0].at(false)]
        .map(|to| hold(&near, 5, to, Close::Reset))
        .into();
    assert_exact(&mut stage, "open");
    let node = stage.cluster.nodes[0].host.namespace.clone();
    node.text("conntrack", &["-D", "--orig-dst", "10.96.0.1"]).unwrap();
    let open = |stage: &mut Stage| stage.hosted(0).map(|count| count.open);
    assert_eq!(open(&mut stage), [5, 5], "those through the Service by IPv4 are forgotten");
    node.text("conntrack", &["-F"]).unwrap();
    assert_eq!(open(&mut stage), [0, 0]);
    for client in held {
        client.stop();
    }
    // Without its entry, what went through the Service does not find its server again.
    assert!(eventually(SOON, || stage.open_at_servers() == 10));
    assert_eq!(open(&mut stage), [0, 0], "their ends are not counted a second time");
    let _again = hold(&near, 3, vip(false), Close::Finish);
    assert_eq!(open(&mut stage), [3, 0]);
}

#[test]
fn where_ends_are_not_told_nothing_is_counted() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::new(1, 1, Options::default());
    let node = &stage.cluster.nodes[0].host.namespace;
    node.sysctl(&[("net/netfilter/nf_conntrack_events", "0")]).unwrap();
    let terms = Terms::new(Setup::default(), Duration::from_secs(1));
    let error = node.run(|| NftablesDataplane::open(Config::default(), terms).err()).unwrap().to_string();
    assert!(error.contains("nf_conntrack_events is 0"), "{error}");
}

#[test]
fn datagrams_are_connections_until_conntrack_forgets_them() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 2, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    let sockets: Vec<_> = (0..10)
        .map(|_| {
            let socket = near.namespace.udp("0.0.0.0:0".parse().unwrap()).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket.send_to(b"?", vip(false)).unwrap();
            socket.recv_from(&mut [0; 64]).unwrap();
            socket
        })
        .collect();
    let ids = [0, 1].map(|index: usize| stage.endpoints[index].id(Protocol::Udp, false));
    let counts = stage.read(0);
    for (index, id) in ids.into_iter().enumerate() {
        let (hosted, sent) = (find(&counts.hosted, id), find(&counts.sent, id));
        assert_eq!(hosted.opened, stage.endpoints[index].server.datagrams());
        assert_eq!((hosted.open, sent.open, sent.opened), (5, 5, 5));
    }
    // An endpoint that serves no more: its flows are released, and the next packet finds the other.
    stage.release(0, ids[0]);
    let counts = stage.read(0);
    assert_eq!(ids.map(|id| find(&counts.hosted, id).open), [0, 5]);
    stage.cluster.nodes[0].host.namespace.text("conntrack", &["-D", "-p", "udp"]).unwrap();
    let counts = stage.read(0);
    assert_eq!(ids.map(|id| find(&counts.hosted, id).open), [0, 0]);
    assert_eq!(ids.map(|id| find(&counts.hosted, id).unanswered), [0, 0]);
    drop(sockets);
}

#[test]
fn an_endpoint_that_does_not_answer_is_released_but_not_one_that_serves() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    let held = hold(&near, 4, vip(false), Close::Finish);
    let silent = &stage.endpoints[0].host.namespace;
    let drop_syns =
        "table inet lose { chain in { type filter hook input priority 0; tcp flags syn drop; }; }";
    silent.nft(drop_syns).unwrap();
    let limits = plimsoll_lab::client::Limits { connect: Duration::from_millis(100), ..Default::default() };
    let arrivals = plimsoll_lab::client::held(3, vip(false));
    plimsoll_lab::client::Client::start(&near.namespace, arrivals, limits).unwrap().join();
    assert_eq!(stage.entries(0, &["-p", "tcp", "--state", "SYN_SENT"]), 3);
    stage.release(0, stage.endpoints[0].id(Protocol::Tcp, false));
    assert_eq!(stage.entries(0, &["-p", "tcp", "--state", "SYN_SENT"]), 0);
    assert_eq!(stage.entries(0, &["-p", "tcp", "--state", "ESTABLISHED"]), 4);
    assert_eq!(held.open(), 4);
    assert_eq!(stage.hosted(0)[0].open, 4);
}

mod ages;
mod resync;

#[test]
fn a_dry_run_counts_the_same_and_changes_nothing() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 2, Options::default());
    let near = stage.cluster.add_endpoint(0).unwrap();
    let node = stage.cluster.nodes[0].host.namespace.clone();
    let early = hold(&near, 4, vip_below(false), Close::Finish);
    let ruleset = node.text("nft", &["-s", "list", "ruleset"]).unwrap();
    let config = dry_run::Config::default();
    let mut dry = node.run(|| dry_run::DryRun::open(&config, Duration::from_hours(1))).unwrap();
    dry.apply(&stage.plan(0)).unwrap();
    let sums = |dry: &mut dry_run::DryRun| {
        let counts = dry.read().unwrap();
        let of = |side: &[Count]| {
            (side.iter().map(|c| u64::from(c.open)).sum::<u64>(), side.iter().map(|c| c.opened).sum::<u64>())
        };
        (of(&counts.hosted), of(&counts.sent))
    };
    assert_eq!(sums(&mut dry), ((4, 0), (4, 0)));
    let late = hold(&near, 6, vip_below(true), Close::Finish);
    let direct = hold(&near, 3, stage.endpoints[0].at(false), Close::Reset);
    assert_eq!(sums(&mut dry), ((13, 9), (10, 6)));
    early.stop();
    direct.stop();
    assert!(eventually(SOON, || stage.open_at_servers() == 6));
    assert_eq!(sums(&mut dry), ((6, 9), (6, 6)));
    late.stop();
    dry.withdraw().unwrap();
    assert_eq!(node.text("nft", &["-s", "list", "ruleset"]).unwrap(), ruleset);
    let marked = node.text("conntrack", &["-L", "-m", "0"]).unwrap().lines().count();
    assert_eq!(marked, stage.entries(0, &[]), "no mark was set");
}
