//! What happens in a cluster, in virtual time: joining, leaving, dying, restarting, losing, parting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::service::NodeName;

use super::cluster::{Cluster, INTERVAL, Node, busy, key, report_of, seconds, still};
use crate::Heard;
use crate::mesh::machine::{Input, MAX_MEMBERS};
use crate::mesh::membership::Identity;
use crate::mesh::seal::KeyRing;

fn rejected(cluster: &Cluster, index: usize) -> BTreeMap<&'static str, u64> {
    cluster.nodes[index]
        .machine
        .as_ref()
        .map(|machine| machine.health(cluster.now).rejected)
        .unwrap_or_default()
}

#[test]
fn nodes_find_each_other_and_agree() {
    let mut cluster = Cluster::running(10, 1, still(5));
    cluster.run(INTERVAL * 12);
    assert!(cluster.is_converged() && cluster.agrees());
    let (_, report) = &cluster.nodes[3].reports[&cluster.nodes[4].name];
    assert_eq!(report.hosted.len(), 5);
    assert!(report.age >= Duration::from_millis(20), "the sender's own age counts");
}

#[test]
fn fifty_nodes_converge_within_seconds() {
    let mut cluster = Cluster::new(50, 2, still(3));
    for index in 0..50 {
        cluster.start(index);
    }
    let took = cluster.run_until(seconds(15.0), "fifty nodes", Cluster::is_converged);
    eprintln!("50 nodes found each other through one in {took:?} of virtual time");
}

#[test]
fn every_report_of_a_quiet_network_is_heard_by_all() {
    let mut cluster = Cluster::running(4, 3, busy(300));
    cluster.run(INTERVAL * 3);
    for node in &mut cluster.nodes {
        node.log.clear();
    }
    let before = cluster.now;
    cluster.run(INTERVAL * 40);
    for node in &cluster.nodes {
        let heard = node.log.iter().filter(|(_, heard)| matches!(heard, Heard::Report(_))).count();
        assert!((3 * 35..=3 * 46).contains(&heard), "{heard} reports in {:?}", cluster.now.since(before));
        assert!(node.log.iter().all(|(_, heard)| matches!(heard, Heard::Report(_))), "nobody flapped");
    }
    // A moment without a report on its way.
    cluster.run_until(seconds(2.0), "the newest report everywhere", Cluster::agrees);
}

#[test]
fn a_goodbye_is_heard_at_once() {
    let mut cluster = Cluster::running(8, 4, still(2));
    cluster.input(7, Input::Leave);
    cluster.run(seconds(0.1));
    cluster.stop(7);
    let gone = cluster.nodes[7].name.clone();
    assert!(cluster.nodes[..7].iter().all(|node| !node.live.contains(&gone)));
}

#[test]
fn a_dead_node_is_noticed_within_seconds() {
    let mut cluster = Cluster::running(8, 5, still(2));
    cluster.stop(3);
    let gone = cluster.nodes[3].name.clone();
    let took = cluster.run_until(seconds(12.0), "death noticed", |cluster| {
        cluster.nodes.iter().filter(|node| node.machine.is_some()).all(|node| !node.live.contains(&gone))
    });
    eprintln!("a death was noticed by all in {took:?}");
    cluster.start(3);
    cluster.run_until(seconds(10.0), "it came back", Cluster::is_converged);
}

#[test]
fn a_frozen_node_is_taken_for_dead_and_comes_back() {
    for frozen in [seconds(2.0), seconds(30.0)] {
        let mut cluster = Cluster::running(8, 19, still(2));
        cluster.run(seconds(10.0));
        cluster.freeze(2);
        cluster.run(frozen);
        let name = cluster.nodes[2].name.clone();
        let long = frozen > seconds(10.0);
        assert_eq!(cluster.nodes[5].live.contains(&name), !long);
        cluster.nodes[2].log.clear();
        cluster.thaw(2);
        let took = cluster.run_until(seconds(10.0), "it is back", Cluster::is_converged);
        eprintln!("after {frozen:?} of standing still it took {took:?} to be back");
        let left = |(_, heard): &&(_, Heard)| matches!(heard, Heard::Left(_));
        assert_eq!(cluster.nodes[2].log.iter().find(left), None, "it does not take the others for dead");
    }
}

#[test]
fn a_quick_restart_is_a_new_process_at_once() {
    let mut cluster = Cluster::running(6, 6, still(2));
    let name = cluster.nodes[2].name.clone();
    cluster.stop(2);
    cluster.start(2);
    cluster.nodes[0].log.clear();
    cluster.run_until(seconds(4.0), "the new process is a member", Cluster::is_converged);
    let liveness: Vec<_> = cluster.nodes[0]
        .log
        .iter()
        .filter(|(_, heard)| !matches!(heard, Heard::Report(_)))
        .map(|(_, heard)| heard.clone())
        .collect();
    assert_eq!(liveness, [Heard::Left(name.clone()), Heard::Joined(name)]);
}

#[test]
fn the_first_peer_restarts_without_peers_of_its_own() {
    let mut cluster = Cluster::running(5, 7, still(2));
    cluster.set_peers(0, &[]);
    cluster.stop(0);
    cluster.run(seconds(20.0));
    cluster.start(0);
    cluster.run_until(seconds(15.0), "the others found it", Cluster::is_converged);
}

#[test]
fn a_restart_with_the_clock_set_back_is_let_in_once_the_old_process_is_dead() {
    let mut cluster = Cluster::running(5, 8, still(2));
    cluster.stop(1);
    cluster.start_at(1, 5);
    cluster.run_until(seconds(30.0), "it went beyond its predecessor", Cluster::is_converged);
    cluster.run(seconds(30.0));
    assert!(cluster.is_converged());
}

#[test]
fn of_two_live_nodes_with_one_name_the_newer_is_the_member() {
    let mut cluster = Cluster::running(5, 9, still(2));
    let name = cluster.nodes[1].name.clone();
    let (old, new) = (1, 4);
    cluster.stop(new);
    cluster.run(seconds(15.0));
    cluster.nodes[new].name = name.clone();
    cluster.start_at(new, 9_000_000);
    cluster.run(seconds(20.0));
    for round in 0..20 {
        cluster.run(seconds(2.0));
        for index in [0, 2, 3] {
            let node = &cluster.nodes[index];
            assert!(node.live.contains(&name), "round {round}");
            let health = node.machine.as_ref().unwrap().health(cluster.now);
            let member = health.members.iter().find(|member| member.node == name).unwrap();
            assert_eq!(member.address, cluster.nodes[new].address, "round {round}");
        }
        let superseded =
            |index: usize| cluster.nodes[index].machine.as_ref().unwrap().health(cluster.now).superseded_by;
        assert_eq!(superseded(old), Some(cluster.nodes[new].address), "round {round}");
        assert_eq!(superseded(new), None);
    }
    cluster.stop(old);
    cluster.run(seconds(20.0));
    assert!(cluster.is_converged());
}

#[test]
fn loss_repetition_and_reordering() {
    let mut cluster = Cluster::new(8, 10, busy(150));
    cluster.loss = 0.3;
    cluster.repeat = 0.3;
    cluster.delay = (Duration::from_micros(200), Duration::from_millis(80));
    for index in 0..8 {
        cluster.start(index);
    }
    let took = cluster.run_until(seconds(60.0), "converged although 30 % get lost", Cluster::is_converged);
    eprintln!("8 nodes converged in {took:?} at 30 % loss");
    // Each node goes on hearing of each: at any time nearly all reports are fresh.
    let (mut fresh, mut all) = (0, 0);
    for _ in 0..100 {
        cluster.run(seconds(0.5));
        for node in &cluster.nodes {
            for other in cluster.nodes.iter().filter(|other| other.name != node.name) {
                all += 1;
                let age =
                    node.reports.get(&other.name).map(|(at, report)| cluster.now.since(*at) + report.age);
                fresh += usize::from(age.is_some_and(|age| age < seconds(3.0)));
            }
        }
    }
    eprintln!("{fresh} of {all} reports were fresh");
    assert!(fresh * 100 >= all * 95, "{fresh} of {all} reports were fresh");
    cluster.loss = 0.0;
    cluster.repeat = 0.0;
    cluster.run_until(seconds(30.0), "all is well when the losses end", |cluster| {
        cluster.is_converged() && cluster.agrees()
    });
}

#[test]
fn a_partition_heals() {
    let mut cluster = Cluster::running(10, 11, still(2));
    cluster.sides = (0..10).map(|index| u8::from(index >= 5)).collect();
    cluster.run_until(seconds(30.0), "each side knows itself alone", |cluster| {
        cluster.nodes.iter().all(|node| node.live.len() == 4)
    });
    cluster.run(seconds(120.0));
    cluster.sides = vec![0; 10];
    let took = cluster.run_until(seconds(60.0), "the sides found each other", Cluster::is_converged);
    eprintln!("a partition of two minutes healed in {took:?}");
    cluster.run(seconds(60.0));
    assert!(cluster.is_converged(), "and stay together");
}

#[test]
fn two_nodes_part_and_meet() {
    let mut cluster = Cluster::running(2, 12, still(2));
    cluster.sides = vec![0, 1];
    cluster.run(seconds(60.0));
    assert!(cluster.nodes.iter().all(|node| node.live.is_empty()));
    cluster.sides = vec![0, 0];
    cluster.run_until(seconds(20.0), "two nodes meet again", Cluster::is_converged);
}

#[test]
fn a_key_rotates_without_a_report_lost() {
    let mut cluster = Cluster::running(6, 13, busy(20));
    cluster.run(seconds(5.0));
    let (old, new) = (key(1), key(2));
    for step in [vec![old.clone(), new.clone()], vec![new.clone(), old], vec![new]] {
        // One node after the other, seconds apart, as a Secret reaches the nodes.
        for index in 0..6 {
            cluster.nodes[index].keys.clone_from(&step);
            cluster.input(index, Input::Keys(KeyRing::new(&step)));
            let before: Vec<_> = cluster.nodes.iter().map(|node| node.log.len()).collect();
            cluster.run(seconds(2.0));
            assert!(cluster.is_converged(), "after {step:?} on node {index}");
            for (node, before) in cluster.nodes.iter().zip(before) {
                let log = &node.log[before..];
                assert!(log.iter().all(|(_, heard)| matches!(heard, Heard::Report(_))), "nobody flapped");
                // Five others, four reports each in two seconds, give or take the jitter.
                assert!(log.len() >= 5 * 3, "{} reports", log.len());
            }
        }
    }
    for index in 0..6 {
        let rejected = rejected(&cluster, index);
        assert_eq!(rejected.get("unknown_key"), None, "{rejected:?}");
        assert_eq!(rejected.get("forged"), None, "{rejected:?}");
    }
}

#[test]
fn another_mesh_stays_outside() {
    let mut cluster = Cluster::new(4, 14, still(2));
    cluster.nodes[3].keys = vec![key(9)];
    for index in 0..4 {
        cluster.start(index);
    }
    cluster.run(seconds(20.0));
    assert!(cluster.nodes[3].live.is_empty());
    assert!(cluster.nodes[..3].iter().all(|node| node.live.len() == 2));
    assert!(rejected(&cluster, 0)["unknown_key"] > 10);
}

#[test]
fn a_lone_node_finds_the_others_when_they_come() {
    let mut cluster = Cluster::new(3, 15, still(2));
    cluster.start(1);
    cluster.start(2);
    cluster.run(seconds(100.0));
    assert!(cluster.nodes[1].live.is_empty(), "they know only node 0, which is not there");
    cluster.start(0);
    cluster.run_until(seconds(5.0), "all three", Cluster::is_converged);
}

#[test]
fn endpoints_vanish_with_the_next_report() {
    let mut cluster = Cluster::running(3, 16, still(50));
    let (one, two) = (cluster.nodes[1].name.clone(), cluster.nodes[2].name.clone());
    cluster.nodes[1].silent = true;
    let mut report = (*cluster.nodes[0].reports[&one].1).clone();
    report.hosted.retain(|load| load.endpoint.port == 8080 && load.open == 7);
    report.hosted.truncate(10);
    cluster.input(1, Input::Publish(Arc::new(report)));
    cluster.run(seconds(0.1));
    assert_eq!(cluster.nodes[0].reports[&one].1.hosted.len(), 10);
    assert_eq!(cluster.nodes[0].reports[&two].1.hosted.len(), 50);
    cluster.input(1, Input::Publish(Arc::new(report_of(Vec::new()))));
    cluster.run(seconds(0.1));
    assert_eq!(cluster.nodes[0].reports[&one].1.hosted.len(), 0);
}

#[test]
fn a_report_larger_than_allowed_is_cut_and_counted() {
    let mut cluster = Cluster::running(2, 17, still(1));
    cluster.nodes[0].silent = true;
    let mut load = cluster.nodes[1].reports[&cluster.nodes[0].name].1.hosted[0].clone();
    let many = (0..70_000u32).map(|index| {
        load.endpoint.address = std::net::Ipv4Addr::from(0x0a00_0001 + index).into();
        load.clone()
    });
    let report = report_of(many.collect());
    cluster.delay = (seconds(0.001), seconds(0.001));
    cluster.input(0, Input::Publish(Arc::new(report_of(Vec::new()))));
    cluster.input(0, Input::Publish(Arc::new(report)));
    cluster.run(seconds(0.2));
    let (_, heard) = &cluster.nodes[1].reports[&cluster.nodes[0].name];
    assert_eq!(heard.hosted.len(), 65_536);
    assert_eq!(
        cluster.nodes[0].machine.as_ref().unwrap().health(cluster.now).endpoints_left_out,
        70_000 - 65_536
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = || {
        let mut cluster = Cluster::running(5, 18, busy(20));
        cluster.loss = 0.1;
        cluster.run(seconds(20.0));
        let states: Vec<_> =
            cluster.nodes.iter().map(|node| node.machine.as_ref().unwrap().state()).collect();
        (states, cluster.bytes)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_mesh_with_as_many_dead_as_it_can_know_stays_together() {
    let mut cluster = Cluster::running(3, 19, still(2));
    let now = cluster.now;
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        let machine = node.machine.as_mut().unwrap();
        // Each knows some that the others do not.
        let name = |dead: usize| NodeName::new(&format!("dead-{}", dead + 10 * index));
        let dead = |dead| Identity { name: name(dead), ..machine.identity().clone() };
        let dead = (0..MAX_MEMBERS - 10).map(dead).collect();
        machine.bury(now, dead, &mut Vec::new());
    }
    cluster.run(seconds(30.0));
    assert!(cluster.is_converged());
    let deaths = |node: &Node| node.log.iter().filter(|(_, heard)| matches!(heard, Heard::Left(_))).count();
    assert!(cluster.nodes.iter().all(|node| deaths(node) == 0), "somebody was taken for dead");
}
