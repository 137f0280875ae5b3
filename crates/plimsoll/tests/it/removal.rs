//! An endpoint goes while it has connections.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use plimsoll_lab::client::{self, Client, End, Limits};
use plimsoll_lab::{available, eventually};
use rustix::process::Signal;

use crate::stage::{Endpoint, Held, LEASE, PROGRAMS, SOON, Stage, dns, http};

/// Whether a node's kernel may still choose an endpoint.
fn is_chosen(stage: &Stage, node: usize, endpoint: &Endpoint) -> bool {
    let namespace = &stage.cluster.nodes[node].host.namespace;
    let listing = namespace.text("nft", &["list", "table", "inet", "plimsoll"]).unwrap();
    let choices = listing.split("\n\n").filter(|block| block.trim_start().starts_with("map w_"));
    let words: BTreeSet<&str> = choices.flat_map(str::split_whitespace).collect();
    assert!(!words.is_empty(), "{listing}");
    words.contains(endpoint.host.v4.to_string().as_str())
        || words.contains(endpoint.host.v6.to_string().as_str())
}

/// Waits until no agent lists the endpoint and no node's kernel has it.
fn wait_gone(stage: &Stage, endpoint: &Endpoint) {
    for (node, agent) in stage.agents.iter().enumerate() {
        let unknown = || {
            let listed = |v6: usize| agent.explain("http")[v6].endpoints.clone();
            let (ids, listed) = (endpoint.ids(), [listed(0), listed(1)].concat());
            !listed.iter().any(|listed| ids.contains(&listed.endpoint))
        };
        assert!(eventually(SOON, unknown), "node{node} still lists {}", endpoint.id(false));
        assert!(eventually(SOON, || !is_chosen(stage, node, endpoint)), "node{node}'s kernel still has it");
    }
}

#[test]
fn a_removed_endpoint_keeps_its_connections_and_gets_no_new_ones() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(2, 2);
    let gone = &stage.endpoints[1];
    let held = [stage.hold(0, 40), stage.hold(1, 40)];
    let with_gone = held.iter().map(|held| held.with(gone)).sum::<usize>();
    assert!(with_gone > 0);
    let load = stage.load();
    assert!(is_chosen(&stage, 0, gone), "this is how it is found in the table");

    let before = gone.accepted();
    let removed = Instant::now();
    stage.write_services(|index| index != 1);
    wait_gone(&stage, gone);
    eprintln!(
        "removed: gone from all agents and kernels within {:.2?}, {} connections meanwhile",
        removed.elapsed(),
        gone.accepted() - before
    );
    // Those already on their way when the table changed arrive before later ones are answered.
    load.pass(10);
    let accepted = gone.accepted();
    load.pass(100);
    assert_eq!(gone.accepted(), accepted, "no new connection reaches it");
    load.finish();
    held.iter().for_each(Held::assert_alive);
    assert!(eventually(SOON, || gone.open() == with_gone as u64));
    assert_eq!((stage.fell_through(0), stage.fell_through(1)), (0, 0), "the agents choose");

    // It comes back with its connections.
    stage.write_services(|_| true);
    let back = || stage.agents.iter().all(|agent| agent.explain("http")[1].endpoints.len() == 4);
    assert!(eventually(SOON, back));
    stage.assert_counts(&[0, 1]);
}

#[test]
fn a_frozen_agent_sends_to_a_removed_endpoint_for_a_lease_at_most() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(1, 3);
    let gone = &stage.endpoints[1];
    let held = stage.hold(0, 30);
    let with_gone = held.with(gone);
    assert!(with_gone > 0);
    let load = stage.load();
    stage.agents[0].signal(Signal::STOP);
    stage.write_services(|index| index != 1);
    stage.load_proxy(|index| index != 1);
    // A lease, and time for a busy machine.
    let limit = LEASE + Duration::from_secs(4);
    assert!(eventually(limit, || stage.fell_through(0) > 0), "the lease did not end");
    // Those already on their way when it ended arrive before later ones are answered.
    load.pass(10);
    let accepted = gone.accepted();
    load.pass(50);
    assert_eq!(gone.accepted(), accepted, "no new connection reaches it");

    stage.agents[0].signal(Signal::CONT);
    wait_gone(&stage, gone);
    assert!(eventually(SOON, || stage.probe(0, 5) == 0), "the agent does not take over again");
    load.pass(10);
    let accepted = gone.accepted();
    load.pass(50);
    assert_eq!(gone.accepted(), accepted, "no new connection reaches it");
    load.finish();
    held.assert_alive();
    assert!(eventually(SOON, || gone.open() == with_gone as u64));
}

#[test]
fn a_removed_endpoint_lets_go_of_what_never_was_answered() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(2, 2);
    let gone = &stage.endpoints[3];
    let held = stage.hold(0, 20);
    assert!(held.with(gone) > 0);
    // Connections that are open pass, new ones get no answer.
    let deaf = "table inet deaf {
  chain input { type filter hook input priority 0; tcp flags & (syn | ack) == syn drop; }
}\n";
    gone.host.namespace.nft(deaf).unwrap();
    let clients: Vec<Client> = [false, true]
        .into_iter()
        .map(|v6| {
            let limits = Limits { connect: SOON, ..Limits::default() };
            Client::start(&stage.callers[0].namespace, client::held(40, http(v6)), limits).unwrap()
        })
        .collect();
    // All but those that wait for the deaf one.
    let is_waiting = |client: &Client| client.opened() + client.connecting() == 40 && client.connecting() > 0;
    let others = || clients.iter().map(|client| client.by_endpoint().values().sum::<u64>()).sum::<u64>();
    let hanging = || {
        stage.cluster.nodes[0].host.namespace.text("conntrack", &["-L", "-p", "tcp", "--state", "SYN_SENT"])
    };
    assert!(eventually(SOON, || clients.iter().all(is_waiting) && others() >= 40));
    let waiting: u64 = clients.iter().map(Client::connecting).sum();
    assert!(hanging().unwrap().contains(&format!("src={}", gone.host.v4)));

    stage.write_services(|index| index != 3);
    wait_gone(&stage, gone);
    let served = || clients.iter().all(|client| client.opened() == 40);
    assert!(eventually(SOON, served), "the kernel repeats a SYN, and now it is answered: {waiting} waited");
    eprintln!("removed: {waiting} unanswered connections were served by others");
    held.assert_alive();
    for client in clients {
        assert!(client.stop().iter().all(|outcome| outcome.end == End::Served));
    }
}

/// Who answers a datagram over this socket, if anybody does.
fn answer(socket: &UdpSocket) -> Option<String> {
    socket.send(b"?").ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn a_removed_endpoint_lets_go_of_its_datagrams() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(2, 2);
    let gone = &stage.endpoints[3];
    let mut flows = Vec::new();
    for v6 in [false, true] {
        for _ in 0..24 {
            let from = if v6 { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
            let socket = stage.callers[0].namespace.udp(from).unwrap();
            socket.connect(dns(v6)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let first = answer(&socket).expect("an answer");
            assert_eq!(answer(&socket).as_ref(), Some(&first), "a flow stays where it is");
            flows.push((socket, first));
        }
    }
    let is_gone = |name: &str| gone.servers.iter().any(|server| server.name() == name);
    let stuck = flows.iter().filter(|(_, first)| is_gone(first)).count();
    assert!(stuck > 1, "none of {} flows went there", flows.len());

    stage.write_services(|index| index != 3);
    wait_gone(&stage, gone);
    // What is released is released by the end of the plan that took the endpoint out, or shortly after it.
    for (socket, first) in &flows {
        if is_gone(first) {
            // A datagram that is under way when its entry goes is not answered; the next one is.
            socket.set_read_timeout(Some(LEASE / 10)).unwrap();
            let moved = || answer(socket).is_some_and(|now| !is_gone(&now));
            assert!(eventually(LEASE, moved), "a flow sticks to {first}");
        } else {
            assert_eq!(answer(socket).as_ref(), Some(first), "the others stay where they are");
        }
    }
    eprintln!("removed: {stuck} flows of datagrams moved");
}
