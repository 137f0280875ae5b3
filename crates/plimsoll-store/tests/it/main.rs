//! The mesh over real sockets, on loopback.
#![allow(clippy::unwrap_used)]

mod corpus;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::{EndpointId, NodeName, Protocol};
use plimsoll_store::mesh::{self, Mesh};
use plimsoll_store::{Config, Error, Found, Heard, Store, build};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(100);

fn loopback() -> mesh::Config {
    mesh::Config { bind: "127.0.0.1:0".parse().unwrap(), ..mesh::Config::default() }
}

fn report(node: &str, open: u32, endpoints: u8) -> Arc<Report> {
    let load = |last| EndpointReport {
        endpoint: EndpointId { address: [10, 1, 1, last].into(), port: 80, protocol: Protocol::Tcp },
        open,
        young: 1,
        middle: 0,
        opens_per_second: 2.0,
        failures_per_second: 0.0,
        cpu: None,
        pressure: None,
    };
    Arc::new(Report {
        node: NodeName::new(node),
        age: Duration::from_millis(1),
        opens_per_second: 3.0,
        hosted: (1..=endpoints).map(load).collect(),
        sent: Vec::new(),
    })
}

/// A store with what its agent would know.
struct Node {
    name: &'static str,
    store: Mesh,
    live: BTreeSet<String>,
    open: BTreeMap<String, u32>,
    heard: usize,
}

impl Node {
    async fn open(name: &'static str, config: mesh::Config) -> Node {
        Node::open_with(name, config, Found::nothing()).await
    }

    async fn open_with(name: &'static str, config: mesh::Config, found: Found) -> Node {
        let store = Mesh::open(config, NodeName::new(name), found).await.unwrap();
        Node { name, store, live: BTreeSet::new(), open: BTreeMap::new(), heard: 0 }
    }

    fn note(&mut self, heard: Heard) {
        match heard {
            Heard::Joined(node) => drop(self.live.insert(node.to_string())),
            Heard::Left(node) => drop(self.live.remove(node.as_str())),
            Heard::Report(report) => {
                assert!(report.age >= Duration::from_millis(1) && report.age < DEADLINE);
                assert!(report.hosted.iter().all(|load| load.open == report.hosted[0].open));
                self.heard += 1;
                self.open.insert(report.node.to_string(), report.hosted[0].open);
            }
        }
    }
}

/// Lets all nodes publish and listen until something holds.
async fn run_until(nodes: &mut [Node], open: u32, what: &str, holds: impl Fn(&[Node]) -> bool) {
    let begin = Instant::now();
    while !holds(nodes) {
        let state: Vec<_> = nodes.iter().map(|node| (node.name, &node.live, &node.open)).collect();
        assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}: {state:?}");
        for node in &mut *nodes {
            node.store.publish(report(node.name, open, 150)).await.unwrap();
        }
        let round = Instant::now() + INTERVAL;
        for node in &mut *nodes {
            while let Ok(heard) = tokio::time::timeout_at(round.into(), node.store.next()).await {
                node.note(heard.unwrap());
            }
        }
    }
}

fn all_have(open: u32, others: usize) -> impl Fn(&[Node]) -> bool {
    move |nodes| {
        nodes.iter().all(|node| {
            node.live.len() == others && node.live.iter().all(|other| node.open.get(other) == Some(&open))
        })
    }
}

fn write_keys(path: &Path, keys: &[u8]) {
    let text: String = keys.iter().map(|byte| format!("{byte:02x}").repeat(32) + "\n").collect();
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_reports_rotate_their_key_and_part() {
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("mesh.key");
    write_keys(&key_file, &[1]);
    let mut config = mesh::Config { key_file: Some(key_file.clone()), ..loopback() };
    let mut nodes = vec![Node::open("a", config.clone()).await];
    config.peers = vec![nodes[0].store.address().to_string()];
    for name in ["b", "c"] {
        nodes.push(Node::open(name, config.clone()).await);
    }
    run_until(&mut nodes, 5, "all three share", all_have(5, 2)).await;
    run_until(&mut nodes, 6, "new figures arrive", all_have(6, 2)).await;

    for (round, keys) in [vec![1, 2], vec![2, 1], vec![2]].iter().enumerate() {
        write_keys(&key_file, keys);
        let keys = keys.len();
        run_until(&mut nodes, 10 + round as u32, "the new keys are in use", |nodes| {
            nodes.iter().all(|node| node.store.health().keys == keys)
        })
        .await;
        run_until(&mut nodes, 20 + round as u32, "and reports go on", all_have(20 + round as u32, 2)).await;
    }

    std::fs::write(&key_file, "half a key").unwrap();
    run_until(&mut nodes, 30, "a broken key file is noticed", |nodes| {
        nodes
            .iter()
            .all(|node| node.store.health().troubles.iter().any(|trouble| trouble.contains("mesh.key:1")))
    })
    .await;
    run_until(&mut nodes, 31, "and changes nothing", all_have(31, 2)).await;

    let health = nodes[0].store.health();
    assert_eq!(health.members.len(), 2);
    assert!(health.members.iter().all(|member| member.endpoints == 150 && member.heard.unwrap() < DEADLINE));
    assert!(health.datagrams_in > 10 && health.bytes_out > 1000 && health.reports > 10);
    assert_eq!(health.rejected.get("forged"), None, "{:?}", health.rejected);

    let mut gone = nodes.pop().unwrap();
    gone.store.leave().await.unwrap();
    assert!(matches!(gone.store.publish(report("c", 1, 1)).await, Err(Error::Left)));
    assert!(nodes[0].heard > 10);
    run_until(&mut nodes, 40, "the others heard the goodbye", |nodes| {
        nodes.iter().all(|node| node.live.len() == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_found_meet_at_their_common_port() {
    let places: [IpAddr; 3] = ["127.0.0.11", "127.0.0.12", "127.0.0.13"].map(|place| place.parse().unwrap());
    let port = std::net::UdpSocket::bind((places[0], 0)).unwrap().local_addr().unwrap().port();
    let (tell, nodes) = watch::channel(Arc::from([]));
    let config = |bind: IpAddr| mesh::Config { bind: (bind, port).into(), ..loopback() };
    let found = || Found { own: Vec::new(), nodes: nodes.clone() };
    let mut all = Vec::new();
    for (name, place) in ["a", "b"].into_iter().zip(places) {
        all.push(Node::open_with(name, config(place), found()).await);
    }
    run_until(&mut all, 1, "nobody is met before anybody is found", |nodes| {
        nodes.iter().all(|node| node.live.is_empty())
    })
    .await;
    // With this node among them, and with an address of the other family that nobody has.
    tell.send_replace([places[0], places[1], "::1".parse().unwrap()].into());
    run_until(&mut all, 2, "two are found", all_have(2, 1)).await;
    all.push(Node::open_with("c", config(places[2]), found()).await);
    tell.send_replace(places.into());
    run_until(&mut all, 3, "all are found", all_have(3, 2)).await;
}

#[tokio::test]
async fn what_others_call_this_node_is_advertised() {
    let own: [IpAddr; 2] = ["2001:db8::7", "192.0.2.7"].map(|own| own.parse().unwrap());
    let open = async |config: mesh::Config, own: &[IpAddr]| {
        let found = Found { own: own.to_vec(), ..Found::nothing() };
        let mesh =
            Mesh::open(mesh::Config { insecure: true, ..config }, NodeName::new("a"), found).await.unwrap();
        mesh.address().ip().to_string()
    };
    let everywhere = |bind: &str| mesh::Config { bind: bind.parse().unwrap(), ..mesh::Config::default() };
    assert_eq!(open(everywhere("0.0.0.0:0"), &own).await, "192.0.2.7", "the first that its socket can have");
    let set = mesh::Config { advertise: Some("192.0.2.9:0".parse().unwrap()), ..everywhere("0.0.0.0:0") };
    assert_eq!(open(set, &own).await, "192.0.2.9", "what is set comes first");
    assert_eq!(open(loopback(), &own).await, "127.0.0.1", "and where it listens");
}

#[tokio::test]
async fn a_mesh_without_a_key_stays_on_loopback() {
    let open = async |config: mesh::Config| {
        build(Config::Mesh(config), NodeName::new("a"), Found::nothing()).await.map(|_| ())
    };
    assert!(open(loopback()).await.is_ok());
    let exposed = mesh::Config { bind: "0.0.0.0:0".parse().unwrap(), ..loopback() };
    let error = open(exposed.clone()).await.unwrap_err();
    assert!(matches!(error, Error::NoKey { .. }));
    for word in ["0.0.0.0:0", "key_file", "insecure: true", "openssl rand"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let advertised = mesh::Config { advertise: Some("192.0.2.1:9653".parse().unwrap()), ..loopback() };
    assert!(matches!(open(advertised).await, Err(Error::NoKey { .. })));
    let insecure = mesh::Config { insecure: true, ..exposed };
    assert!(open(mesh::Config { advertise: Some("127.0.0.1:0".parse().unwrap()), ..insecure }).await.is_ok());
}

#[tokio::test]
async fn bad_settings_are_clear_errors() {
    let error = async |config: mesh::Config| {
        build(Config::Mesh(config), NodeName::new("a"), Found::nothing())
            .await
            .err()
            .expect("an error")
            .to_string()
    };
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let text = error(mesh::Config { bind, ..loopback() }).await;
    assert!(text.contains(&bind.to_string()) && text.contains("no other agent runs here"), "{text}");

    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("mesh.key");
    let text = error(mesh::Config { key_file: Some(key_file.clone()), ..loopback() }).await;
    assert!(text.contains("mesh.key") && text.contains("check that it exists"), "{text}");
    std::fs::write(&key_file, "# ours\nc2hvcnQ=\n").unwrap();
    let text = error(mesh::Config { key_file: Some(key_file), ..loopback() }).await;
    assert!(text.contains("mesh.key:2: a key of 5 bytes instead of 32"), "{text}");

    let text = error(mesh::Config { peers: vec!["http://somewhere/".to_owned()], ..loopback() }).await;
    assert!(text.contains("`http://somewhere/`"), "{text}");
    let name = NodeName::new(&"x".repeat(254));
    assert!(build(Config::Mesh(loopback()), name, Found::nothing()).await.is_err());
}

#[tokio::test]
async fn a_store_for_one_node_hears_nothing() {
    let mut store = build(Config::Local, NodeName::new("a"), Found::nothing()).await.unwrap();
    store.publish(report("a", 1, 1)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(10), store.next()).await.is_err());
    store.leave().await.unwrap();
}
