//! What agents say is open is what servers have open, on every node and in both families.

use std::collections::BTreeMap;

use plimsoll_lab::client::{Arrival, Client, End, Limits};
use plimsoll_lab::{available, eventually};

use crate::stage::{Held, PROGRAMS, SOON, Stage, http};

#[test]
fn every_node_knows_exactly_what_is_open_after_a_burst() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(3, 2);
    let held: Vec<_> = (0..3).map(|node| stage.hold(node, 10 * (node + 1))).collect();
    let mut clients = Vec::new();
    for caller in &stage.callers {
        for v6 in [false, true] {
            // 400 at once, of which every tenth stays.
            let arrivals = (0..400_u32).map(move |index| {
                let at = std::time::Duration::from_micros(500) * index;
                let service = (index % 10 != 0).then_some(at / 10);
                Arrival { at, to: http(v6), service }
            });
            let limits = Limits { open: 1_000, ..Limits::default() };
            clients.push(Client::start(&caller.namespace, arrivals, limits).unwrap());
        }
    }
    let settled = || clients.iter().all(|client| client.opened() == 400 && client.open() == 40);
    assert!(eventually(SOON, settled), "{:?}", clients.iter().map(Client::open).collect::<Vec<_>>());
    assert!(eventually(SOON, || stage.open() == 60 + 6 * 40), "{}", stage.open());
    stage.assert_counts(&[0, 1, 2]);
    held.iter().for_each(Held::assert_alive);

    for client in clients {
        assert!(client.stop().iter().all(|outcome| outcome.end == End::Served));
    }
    assert!(eventually(SOON, || stage.open() == 60), "{}", stage.open());
    stage.assert_counts(&[0, 1, 2]);
    drop(held);
    assert!(eventually(SOON, || stage.open() == 0), "{}", stage.open());
    stage.assert_counts(&[0, 1, 2]);
}

#[test]
fn an_agent_that_starts_late_counts_right_from_its_first_report() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(2, 2);
    stage.agents[1].start();
    stage.wait_serving(1);
    // From node 0 through the table below, from node 1 through its agent.
    let held = [stage.hold(0, 30), stage.hold(1, 30)];
    let ended = stage.hold(0, 30);
    drop(ended);
    assert!(eventually(SOON, || stage.open() == 60));

    // Until the other agent knows all that it can know alone.
    let known = || {
        let sent = stage.agents[1].explain("http").into_iter().flat_map(|e| e.endpoints).map(|e| e.sent);
        let wrong = stage.wrong_counts(1);
        let is_alone = |id: &String| stage.endpoints.iter().any(|e| e.node == 1 && e.ids().contains(id));
        sent.sum::<f64>() == 30.0 && !wrong.iter().any(|(id, ..)| is_alone(id))
    };
    assert!(eventually(SOON, known), "{:?}", stage.wrong_counts(1));

    stage.agents[0].start();
    // What the other agent reckons with must step from what it assumed to what is true, with nothing in between.
    let mut reckoned: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let right = eventually(SOON, || {
        for endpoint in stage.agents[1].explain("http").into_iter().flat_map(|e| e.endpoints) {
            let values = reckoned.entry(endpoint.endpoint).or_default();
            if values.last() != Some(&endpoint.open) {
                values.push(endpoint.open);
            }
        }
        stage.wrong_counts(1).is_empty()
    });
    assert!(right, "{reckoned:?}");
    for (id, values) in &reckoned {
        assert!(values.len() <= 2, "{id} took the long way: {values:?}");
    }
    stage.agents[0].wait_ready();
    let wrong = stage.wrong_counts(0);
    let own = |id: &String| stage.endpoints.iter().any(|e| e.node == 0 && e.ids().contains(id));
    assert!(!wrong.iter().any(|(id, ..)| own(id)), "at its first count: {wrong:?}");
    stage.assert_counts(&[0, 1]);
    held.iter().for_each(Held::assert_alive);
}
