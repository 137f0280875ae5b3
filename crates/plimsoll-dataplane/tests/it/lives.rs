//! When real connections began and ended, as the kernel tells it when it lets go of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plimsoll_core::service::{EndpointId, Protocol};
use plimsoll_dataplane::conntrack::{Heard, How, Life, Lives};
use plimsoll_lab::cluster::Host;
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::server::Close;
use plimsoll_lab::{available, eventually};

use crate::stage::{Options, SOON, Stage, hold, vip_below};

/// Timer ticks between a packet and what its entry's timeout is reckoned from, and back: two of 10 ms where the timer is
/// slowest, and as many that came late.
const TICKS: u64 = 40_000_000;

/// Entries of connections that are over do not stay for minutes.
const SHORT: &[(&str, &str)] = &[
    ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
    ("net/netfilter/nf_conntrack_tcp_timeout_last_ack", "1"),
    ("net/netfilter/nf_conntrack_tcp_timeout_close", "2"),
    ("net/netfilter/nf_conntrack_udp_timeout", "2"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "2"),
];

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// A node with one endpoint, and with a pod that calls.
fn small_stage() -> (Stage, Host, Namespace) {
    let mut stage = Stage::new(1, 1, Options::default());
    let caller = stage.cluster.add_endpoint(0).unwrap();
    let node = stage.cluster.nodes[0].host.namespace.clone();
    (stage, caller, node)
}

/// A connection as its two ends know it.
#[derive(Debug)]
struct Known {
    endpoint: SocketAddr,
    /// Just before it was begun, and when it was there.
    began: (u64, u64),
    /// Just before it was closed, and when both ends had closed.
    ended: (u64, u64),
    how: How,
}

#[test]
fn lives_are_told_with_endpoint_beginning_and_end() {
    if !available(&["ip", "nft", "conntrack"]) {
        return;
    }
    let mut stage = Stage::new(2, 2, Options::default());
    let caller = stage.cluster.add_endpoint(0).unwrap();
    let node = stage.cluster.nodes[0].host.namespace.clone();
    node.sysctl(SHORT).unwrap();
    let mut lives = node.run(Lives::open).unwrap();

    let mut known = Vec::new();
    for turn in 0..12 {
        let v6 = turn % 2 == 1;
        let (close, how) =
            if turn % 3 == 0 { (Close::Reset, How::Reset) } else { (Close::Finish, How::Finished) };
        let before = now();
        let client = hold(&caller, 1, vip_below(v6), close);
        let began = (before, now());
        let holds = |endpoint: &&crate::stage::Endpoint| endpoint.server.open() == 1;
        let holder = || stage.endpoints.iter().find(holds).map(|endpoint| endpoint.at(v6));
        assert!(eventually(SOON, || holder().is_some()));
        let endpoint = holder().unwrap();
        let before = now();
        client.stop();
        assert!(eventually(SOON, || stage.open_at_servers() == 0));
        known.push(Known { endpoint, began, ended: (before, now()), how });
    }
    // Looking is what lets the kernel forget at once.
    let mut heard: Vec<Life> = Vec::new();
    let all = eventually(SOON, || {
        lives.look(|_| {}).unwrap();
        assert!(!lives.hear(Duration::ZERO, |life| heard.push(*life)).unwrap().lost);
        heard.len() >= known.len()
    });
    assert!(all, "{heard:?}");
    assert_eq!(heard.len(), known.len());
    heard.sort_by_key(|life| life.began);
    for (life, known) in heard.iter().zip(&known) {
        let (began, end) = (life.began.unwrap(), life.end.unwrap());
        let EndpointId { address, port, .. } = life.entry.endpoint().unwrap();
        assert_eq!((SocketAddr::new(address, port), end.how), (known.endpoint, known.how));
        assert!((known.began.0..=known.began.1).contains(&began), "{life:?} {known:?}");
        assert!((known.ended.0 - TICKS..=known.ended.1 + TICKS).contains(&end.at), "{life:?} {known:?}");
    }
}

#[test]
fn a_look_tells_open_connections_from_those_that_are_over() {
    if !available(&["ip", "nft", "conntrack"]) {
        return;
    }
    let (stage, caller, node) = small_stage();
    let old = hold(&caller, 2, vip_below(false), Close::Finish);
    let switch =
        || node.run(|| std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_timestamp")).unwrap();
    assert_eq!(switch().trim(), "0");
    let mut lives = node.run(Lives::open).unwrap();
    assert_eq!(switch().trim(), "1");
    let open = hold(&caller, 3, vip_below(true), Close::Finish);
    hold(&caller, 4, vip_below(false), Close::Finish).stop();
    hold(&caller, 5, vip_below(true), Close::Reset).stop();
    // Where nobody listens.
    let nobody = SocketAddr::new(stage.endpoints[0].at(false).ip(), 9);
    translate(&node, "tcp dport 9", nobody);
    assert!(caller.namespace.tcp_connect("10.96.0.9:9".parse().unwrap()).is_err());
    assert!(eventually(SOON, || stage.open_at_servers() == 5));

    let mut looked: HashMap<(Option<How>, bool), usize> = HashMap::new();
    lives
        .look(|life| *looked.entry((life.end.map(|end| end.how), life.began.is_some())).or_default() += 1)
        .unwrap();
    let expected = [
        ((None, false), 2),
        ((None, true), 3),
        ((Some(How::Finished), true), 4),
        ((Some(How::Reset), true), 5),
    ];
    assert_eq!(looked, HashMap::from(expected));

    // What is deleted ends at once; what was refused has ended already.
    node.text("conntrack", &["-D", "-f", "ipv6", "-p", "tcp", "--state", "ESTABLISHED"]).unwrap();
    let mut heard: HashMap<How, usize> = HashMap::new();
    let all = eventually(SOON, || {
        lives.hear(Duration::ZERO, |life| *heard.entry(life.end.unwrap().how).or_default() += 1).unwrap();
        heard.get(&How::Deleted) == Some(&3)
    });
    assert!(all && heard.contains_key(&How::Unanswered), "{heard:?}");
    drop((old, open));
    drop(lives);
    assert_eq!(switch().trim(), "0", "it is as it was before");
}

#[test]
fn more_events_than_are_heard_at_once_are_told_to_wait() {
    if !available(&["ip", "nft", "conntrack"]) {
        return;
    }
    let (stage, caller, node) = small_stage();
    let endpoint = stage.endpoints[0].at(false);
    translate(&node, "udp dport 7000-12999", endpoint);
    let mut lives = node.run(Lives::open).unwrap();
    assert_eq!(lives.hear(Duration::ZERO, |_| {}).unwrap(), Heard::default());
    let socket = caller.namespace.udp("0.0.0.0:0".parse().unwrap()).unwrap();
    for port in 7000..13_000 {
        socket.send_to(b"x", ("10.96.0.9", port)).unwrap();
    }
    node.text("conntrack", &["-D", "-p", "udp"]).unwrap();
    let mut ended = 0;
    let first = lives.hear(SOON, |_| ended += 1).unwrap();
    assert!(first.anything && ended < 6_000, "{first:?} {ended}");
    if first.lost {
        // Without rights over the whole machine the buffer is too small for so many, and that is told instead.
        return;
    }
    assert!(first.more, "{ended}");
    while lives.hear(Duration::ZERO, |_| ended += 1).unwrap().more {}
    assert_eq!(ended, 6_000);
}

/// Sends what matches, to 10.96.0.9, elsewhere.
fn translate(node: &Namespace, matching: &str, to: SocketAddr) {
    node.nft(&format!(
        "table ip more {{\n chain pre {{\n type nat hook prerouting priority -101;\n ip daddr 10.96.0.9 {matching} \
         dnat to {to}\n }}\n}}"
    ))
    .unwrap();
}

#[test]
fn datagrams_end_with_the_last_of_them() {
    if !available(&["ip", "nft", "conntrack"]) {
        return;
    }
    let (stage, caller, node) = small_stage();
    let endpoint = stage.endpoints[0].at(false);
    node.sysctl(SHORT).unwrap();
    translate(&node, "udp dport 53", endpoint);
    let mut lives = node.run(Lives::open).unwrap();
    let socket = caller.namespace.udp("0.0.0.0:0".parse().unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 100];
    let before = now();
    for _ in 0..3 {
        socket.send_to(b"x", "10.96.0.9:53").unwrap();
        socket.recv(&mut buffer).unwrap();
    }
    let after = now();
    // It is there still; what is left of its time is told in whole seconds.
    let mut looked = Vec::new();
    lives.look(|life| looked.push(*life)).unwrap();
    let last = looked[0].end.unwrap();
    assert_eq!((looked.len(), last.how), (1, How::Silent));
    assert!((before - 1_000_000_000 - TICKS..=after + TICKS).contains(&last.at), "{last:?} {before} {after}");
    let mut heard = Vec::new();
    let ended = eventually(SOON, || {
        lives.look(|_| {}).unwrap();
        lives.hear(Duration::ZERO, |life| heard.push(*life)).unwrap();
        !heard.is_empty()
    });
    assert!(ended);
    let (began, end) = (heard[0].began.unwrap(), heard[0].end.unwrap());
    assert_eq!((heard[0].entry.protocol, end.how), (Protocol::Udp.number(), How::Silent));
    assert!(before <= began && (began..=after + TICKS).contains(&end.at), "{heard:?}");
}
