//! Weights change thousands of times while connections pour in.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::Protocol;
use plimsoll_dataplane::Dataplane;
use plimsoll_dataplane::nftables::NftablesDataplane;
use plimsoll_lab::client::{Arrival, Client, End, Limits};
use plimsoll_lab::random::Random;
use plimsoll_lab::{available, eventually, proxy};

use crate::stage::{Options, SOON, Stage, vip};

/// Connections in all, by four clients.
const CONNECTIONS: usize = 50_000;
/// Weight transactions at least.
const TRANSACTIONS: usize = 2_000;
/// Connections that each client opens per second, unless the machine cannot.
const RATE: u32 = 800;

/// What a thread did to the table until it was told to stop.
struct Turned {
    transactions: usize,
    dataplane: NftablesDataplane,
}

/// Draws new weights for both families, again and again, and now and then counts and renews, as an agent does.
fn turn(mut dataplane: NftablesDataplane, plan: &Plan, stop: &AtomicBool) -> Turned {
    let mut random = Random::new(1);
    let mut transactions = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut changes = plan.changes.clone();
        changes
            .retain(|change| matches!(change, Change::Replace(_, table) if table.protocol == Protocol::Tcp));
        for change in &mut changes {
            let Change::Replace(id, table) = change else { panic!("a first plan only replaces") };
            let sole = random.below(table.cluster.len());
            let mut position = 0;
            table.cluster.retain_mut(|weighted| {
                // Heavy, light, and now and then not there at all; one always is.
                weighted.weight = [0, 1, 7, 1000][random.below(4)].max(u32::from(position == sole));
                position += 1;
                weighted.weight > 0
            });
            *change = Change::Reweight(id.clone(), table.clone());
        }
        let renew = transactions % 100 == 0;
        dataplane.apply(&Plan { changes, renew, ..Plan::default() }).unwrap();
        transactions += 1;
        if transactions % 50 == 0 {
            dataplane.read().unwrap();
        }
        // Leaves the processor to the connections.
        std::thread::sleep(Duration::from_millis(1));
    }
    Turned { transactions, dataplane }
}

#[test]
fn no_connection_fails_while_weights_change() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let mut stage = Stage::new(1, 4, Options::default());
    let callers = [0; 2].map(|node| stage.cluster.add_endpoint(node).unwrap());
    stage.open(0);
    let plan = stage.plan(0);
    let dataplane = stage.dataplanes[0].take().unwrap();
    let node = stage.cluster.nodes[0].host.namespace.clone();
    let stop = AtomicBool::new(false);
    let each = CONNECTIONS / 4;
    let (turned, outcomes) = std::thread::scope(|scope| {
        let turning = scope.spawn(|| node.run(|| turn(dataplane, &plan, &stop)));
        let clients: Vec<Client> = callers
            .iter()
            .flat_map(|caller| [false, true].map(|v6| (caller, vip(v6))))
            .map(|(caller, to): (_, SocketAddr)| {
                let arrivals = (0..each as u32).map(move |index| Arrival {
                    at: Duration::from_secs(1) * index / RATE,
                    to,
                    service: Some(Duration::ZERO),
                });
                Client::start(&caller.namespace, arrivals, Limits::default()).unwrap()
            })
            .collect();
        let outcomes: Vec<_> = clients.into_iter().flat_map(Client::join).collect();
        stop.store(true, Ordering::SeqCst);
        (turning.join().unwrap(), outcomes)
    });
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.end != End::Served).collect();
    assert!(failed.is_empty(), "{} failed, the first: {:?}", failed.len(), failed[0]);
    assert_eq!(outcomes.len(), CONNECTIONS);
    assert!(turned.transactions >= TRANSACTIONS, "only {} transactions meanwhile", turned.transactions);
    eprintln!("{} connections through {} transactions", outcomes.len(), turned.transactions);
    let accepted: Vec<u64> = stage.endpoints.iter().map(|endpoint| endpoint.server.accepted()).collect();
    assert_eq!(accepted.iter().sum::<u64>(), CONNECTIONS as u64);
    assert!(accepted.iter().all(|accepted| *accepted > 0), "{accepted:?}");
    assert_eq!(proxy::seen(&node, "both").unwrap(), 0, "nothing fell through to the table below");
    // And through all of it the counts stayed exact.
    assert!(eventually(SOON, || stage.open_at_servers() == 0));
    stage.dataplanes[0] = Some(turned.dataplane);
    let mut opened = 0;
    for endpoint in 0..stage.endpoints.len() {
        for count in stage.hosted(endpoint) {
            assert_eq!(count.open, 0, "{}", count.endpoint);
            opened += count.opened;
        }
    }
    assert_eq!(opened, CONNECTIONS as u64);
}
