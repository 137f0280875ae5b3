//! What agents know of a cluster at work, held against the truth.

use super::*;
use crate::scenario::Scenario;

const TEXT: &str = r#"
about = "a test"
until = "60s"
measured_from = "1s"

[nodes]
count = 3

[[endpoints]]
count = 4
capacity = 2

[[endpoints]]
count = 1
outside = true

[clients]
load = 0.5

[work]

[signals]
noise = 0.0
"#;

/// A cluster and its agents, at work for `seconds` with `rate` connections per second that stay open.
fn at_work(seconds: u64, rate: u64) -> (Cluster, Agents) {
    let scenario = Scenario::parse("test", TEXT).unwrap();
    let mut cluster = Cluster::of(&scenario, &mut Dice::new(1, 0));
    let mut agents = Agents::new(&scenario, PolicyKind::Waterline, Kind::Counter, &cluster, Dice::new(1, 1));
    for step in 0..seconds * rate {
        let now = Timestamp::from_nanos(step * 1_000_000_000 / rate);
        while agents.next_wake() <= now {
            let at = agents.next_wake();
            agents.wake(at, &cluster);
        }
        let node = step as usize % 3;
        let endpoint = agents.choose(now, node, &cluster).unwrap();
        cluster.open(node, endpoint);
        agents.opened(now, node, endpoint);
        if step % 10 == 0 {
            cluster.endpoints[endpoint].processor.begin(now, 1.0, 0, 0, false);
        }
    }
    (cluster, agents)
}

#[test]
fn every_node_knows_what_is_open() {
    let (cluster, agents) = at_work(30, 20);
    let now = Timestamp::from_nanos(30_000_000_000);
    for node in &agents.nodes {
        let explanation = node.balancer.explain(now, &agents.service).unwrap();
        for endpoint in &explanation.endpoints {
            let index = index(&endpoint.endpoint);
            let truth = f64::from(cluster.endpoints[index].open);
            // Counts are half a second old at most, and 20 come in a second.
            assert!((endpoint.open - truth).abs() <= 10.0, "{index}: {} for {truth}", endpoint.open);
            assert_eq!(endpoint.cpu.is_some(), cluster.endpoints[index].host.is_some());
        }
    }
}

#[test]
fn connections_follow_the_shares() {
    let (_, mut agents) = at_work(20, 20);
    let share = |agents: &Agents, endpoint| agents.share(0, endpoint).unwrap();
    let shares: Vec<f64> = (0..5).map(|endpoint| share(&agents, endpoint)).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let mut counts = [0.0; 5];
    for _ in 0..1024 {
        let own = [0; 5];
        counts[agents.nodes[0].selection.choose(Timestamp::ZERO, &own, &mut agents.dice).unwrap()] += 1.0;
    }
    for (count, share) in counts.iter().zip(&shares) {
        assert!((count / 1024.0 - share).abs() < 2.0 / 1024.0, "{counts:?} for {shares:?}");
    }
}

#[test]
fn who_goes_gets_nothing_from_any_node_at_once() {
    let (mut cluster, mut agents) = at_work(10, 20);
    let now = Timestamp::from_nanos(10_000_000_000);
    cluster.set_standing(1, Standing::Draining);
    agents.members_changed(now, &cluster);
    for node in 0..3 {
        assert_eq!(agents.share(node, 1), None);
        assert!((0..2000).all(|_| agents.choose(now, node, &cluster) != Some(1)));
    }
    assert!(agents.weight_changes() > 0);
}

#[test]
fn what_is_due_survives_the_queue() {
    for due in [Due::Wake(0), Due::Count(999), Due::Datagram(0xffff_ffff)] {
        assert_eq!(Due::unpack(due.pack()), due);
    }
}
