//! SCTP by raw packets: the kernel tracks and translates it even where it has no SCTP sockets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::Dataplane;
use plimsoll_dataplane::nftables::{Config, NftablesDataplane, Setup, Terms};
use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::sctp::{Packet, Raw};

use crate::stage::{SOON, find, vip};

const PORT: u16 = 9000;
/// Associations that are opened.
const ASSOCIATIONS: u16 = 32;

fn associations_follow_the_weights(v6: bool) {
    if !plimsoll_lab::available(&["ip", "conntrack"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let hosts: Vec<Host> = (0..2).map(|_| cluster.add_endpoint(0).unwrap()).collect();
    let caller = cluster.add_endpoint(0).unwrap();
    let address = |host: &Host| if v6 { IpAddr::V6(host.v6) } else { IpAddr::V4(host.v4) };
    let id = |host: &Host| EndpointId { address: address(host), port: PORT, protocol: Protocol::Sctp };
    let node = cluster.nodes[0].host.namespace.clone();
    let mut dataplane = node
        .run(|| {
            let terms = Terms::new(Setup::default(), Duration::from_hours(1));
            NftablesDataplane::open(Config::default(), terms)
        })
        .unwrap();
    let key = Key { place: Place::Internal(vip(v6).ip()), port: 80, protocol: Protocol::Sctp };
    let table = ServiceTable {
        protocol: Protocol::Sctp,
        keys: vec![KeyEntry { key, choose: Choose::Cluster, masquerade: Masquerade::FromOutside }],
        affinity: None,
        cluster: hosts
            .iter()
            .zip([1, 3])
            .map(|(host, weight)| Weighted { endpoint: id(host), weight })
            .collect(),
        local: Vec::new(),
    };
    let family = if v6 { Family::V6 } else { Family::V4 };
    let service = ServiceId { name: "sigtran".into(), port: "".into(), family };
    let endpoints: std::collections::BTreeSet<EndpointId> = hosts.iter().map(id).collect();
    let plan = Plan {
        fresh: true,
        changes: vec![Change::Replace(service, table)],
        host: endpoints.clone(),
        know: endpoints,
        ..Plan::default()
    };
    dataplane.apply(&plan).unwrap();

    let servers: Vec<Raw> = hosts.iter().map(|host| Raw::open(&host.namespace, v6).unwrap()).collect();
    let client = Raw::open(&caller.namespace, v6).unwrap();
    for from in 0..ASSOCIATIONS {
        client.send(&Packet::init(5000 + from, 80, 1000 + u32::from(from)), vip(v6).ip()).unwrap();
    }
    let mut served: BTreeMap<usize, usize> = BTreeMap::new();
    let mut answered = 0;
    let deadline = Instant::now() + SOON;
    while answered < usize::from(ASSOCIATIONS) && Instant::now() < deadline {
        // What is translated with a wrong checksum is not received.
        for (i, server) in servers.iter().enumerate() {
            for (from, init) in server.receive().0 {
                assert_eq!(init.to, PORT);
                server.send(&init.acknowledgement(&[]), from).unwrap();
                *served.entry(i).or_default() += 1;
            }
        }
        client.wait(Duration::from_millis(10));
        for (from, ack) in client.receive().0.into_iter().filter(|(_, packet)| packet.acknowledges) {
            assert_eq!((from, ack.from), (vip(v6).ip(), 80));
            answered += 1;
        }
    }
    assert_eq!(answered, usize::from(ASSOCIATIONS));
    assert_eq!(served.into_values().collect::<Vec<_>>(), [8, 24], "weights 1 : 3");

    let counts = dataplane.read().unwrap();
    let opened = |counts: &[plimsoll_core::load::Count]| {
        hosts.iter().map(|host| find(counts, id(host)).opened).collect::<Vec<_>>()
    };
    assert_eq!((opened(&counts.hosted), opened(&counts.sent)), (vec![8, 24], vec![8, 24]));
    // Only conntrack tells the end.
    let family = if v6 { "ipv6" } else { "ipv4" };
    node.text("conntrack", &["-D", "-f", family, "-p", "sctp"]).unwrap();
    let all_closed = || {
        let counts = dataplane.read().unwrap();
        hosts.iter().all(|host| find(&counts.hosted, id(host)).open == 0)
    };
    assert!(plimsoll_lab::eventually(SOON, all_closed), "the ends were not counted");
}

#[test]
fn sctp_associations_follow_the_weights_over_ipv4() {
    associations_follow_the_weights(false);
}

#[test]
fn sctp_associations_follow_the_weights_over_ipv6() {
    associations_follow_the_weights(true);
}
