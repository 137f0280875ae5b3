//! Agents that do not hear each other go on, say how old what they know is, and find each other again.

use plimsoll_lab::{available, eventually};

use crate::stage::{PROGRAMS, SOON, Stage};

/// Lets nothing of the mesh in or out of a node; all else passes.
const CUT: &str = "table inet cut {
  chain input { type filter hook input priority 0; udp dport 9653 drop; }
  chain output { type filter hook output priority 0; udp dport 9653 drop; }
}";

/// How old what `on` knows of the endpoint on node `of` is, and whose word it is.
fn known(stage: &Stage, on: usize, of: usize) -> (f64, String) {
    let [v4, _] = stage.agents[on].explain("http");
    let id = stage.endpoints[of].id(false);
    let endpoint = v4.endpoints.into_iter().find(|endpoint| endpoint.endpoint == id).unwrap();
    (endpoint.age_seconds.unwrap_or(f64::INFINITY), endpoint.reported_by)
}

#[test]
fn agents_go_on_through_a_partition_of_the_mesh() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(3, 1);
    let held = stage.hold(0, 30);
    let load = stage.load();
    let fresh = |on: usize, of: usize| known(&stage, on, of).0 < 2.0;
    assert!(eventually(SOON, || fresh(0, 1) && fresh(1, 0) && fresh(2, 0)));

    let node = &stage.cluster.nodes[0].host.namespace;
    node.nft(CUT).unwrap();
    for (on, of) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
        let grown = eventually(SOON, || known(&stage, on, of).0 > 4.0);
        assert!(grown, "node{on} of node{of}: {:?}", known(&stage, on, of));
    }
    // On either side nobody of the other is a member any more.
    let members = |on: usize| stage.agents[on].metric("plimsoll_mesh_members");
    assert!(eventually(SOON, || members(0) == 0.0 && members(1) == 1.0 && members(2) == 1.0));
    assert!(fresh(1, 2) && fresh(2, 1), "those on one side still hear each other");
    load.pass(30);
    for node in 0..3 {
        assert_eq!(stage.fell_through(node), 0, "node{node} goes on");
    }

    node.nft("delete table inet cut").unwrap();
    for (on, of) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
        let healed = eventually(SOON, || fresh(on, of) && known(&stage, on, of).1 == format!("node{of}"));
        assert!(healed, "node{on} of node{of}: {:?}", known(&stage, on, of));
    }
    load.finish();
    held.assert_alive();
    stage.assert_counts(&[0, 1, 2]);
}
