//! However an agent ends or stalls, no connection fails, and the table below serves in its place.

use std::time::{Duration, Instant};

use plimsoll_lab::{available, eventually};
use rustix::process::Signal;

use crate::stage::{LEASE, PROGRAMS, SOON, Stage};

#[test]
fn a_killed_agent_fails_open_at_once_and_takes_over_again() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::running(2, 2);
    let held = stage.hold(0, 40);
    let load = stage.load();
    assert_eq!((stage.fell_through(0), stage.fell_through(1)), (0, 0), "the agents choose");

    stage.agents[0].end(Signal::KILL);
    assert!(!stage.agents[0].has_table(), "the table goes with its owner");
    assert!(stage.probe(0, 20) >= 20, "the table below chooses for the very next connections");
    held.assert_alive();
    load.pass(20);
    assert_eq!(stage.fell_through(1), 0, "the other agent goes on");

    stage.agents[0].start();
    stage.wait_serving(0);
    assert_eq!(stage.probe(0, 20), 0, "a ready agent chooses again");
    load.pass(20);
    load.finish();
    held.assert_alive();
    assert!(stage.endpoints.iter().all(|endpoint| held.with(endpoint) > 0));
    assert!(eventually(SOON, || stage.open() == 40));
    stage.assert_counts(&[0, 1]);
    drop(held);
    assert!(eventually(SOON, || stage.endpoints.iter().all(|endpoint| endpoint.open() == 0)));
    stage.assert_counts(&[0, 1]);
}

#[test]
fn a_frozen_agent_fails_open_within_a_lease_and_takes_over_again() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(2, 2);
    let held = stage.hold(0, 40);
    let load = stage.load();
    assert_eq!(stage.fell_through(0), 0, "the agent chooses");

    stage.agents[0].signal(Signal::STOP);
    let frozen = Instant::now();
    // A lease is renewed every third of it; the rest is for a busy machine.
    let limit = LEASE + Duration::from_secs(4);
    assert!(eventually(limit, || stage.fell_through(0) > 0), "the lease did not end");
    eprintln!("frozen: the table below served after {:.2?}", frozen.elapsed());
    assert!(stage.agents[0].has_table(), "only its leases are gone");
    assert!(stage.probe(0, 20) >= 20, "the table below chooses");
    held.assert_alive();
    load.pass(20);
    assert_eq!(stage.fell_through(1), 0, "the other agent goes on");

    stage.agents[0].signal(Signal::CONT);
    assert!(eventually(SOON, || stage.probe(0, 5) == 0), "it does not take over again");
    load.pass(20);
    load.finish();
    held.assert_alive();
    assert!(eventually(SOON, || stage.open() == 40));
    stage.assert_counts(&[0, 1]);
}

#[test]
fn a_clean_stop_leaves_nothing_behind_and_says_goodbye() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::running(3, 1);
    let held = stage.hold(0, 20);
    let load = stage.load();
    for signal in [Signal::TERM, Signal::INT] {
        let status = stage.agents[0].end(signal);
        let ended = Instant::now();
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(!stage.agents[0].has_table());
        assert!(stage.probe(0, 10) >= 10, "the table below chooses for the very next connections");
        for agent in &stage.agents[1..] {
            let gone = || agent.metric("plimsoll_mesh_members") == 1.0;
            assert!(eventually(SOON, gone), "{}", agent.metric("plimsoll_mesh_members"));
        }
        eprintln!("{signal:?}: the others had noted it after {:.2?}", ended.elapsed());
        stage.agents[0].start();
        stage.wait_serving(0);
        assert_eq!(stage.probe(0, 10), 0);
        for agent in &stage.agents[1..] {
            let back = || {
                let nodes = agent.status().nodes;
                agent.metric("plimsoll_mesh_members") == 2.0 && nodes.iter().all(|n| n.age_seconds < 2.0)
            };
            assert!(eventually(SOON, back), "{:?}", agent.status().nodes);
        }
    }
    assert_eq!((stage.fell_through(1), stage.fell_through(2)), (0, 0), "the other agents go on");
    load.finish();
    held.assert_alive();
}
