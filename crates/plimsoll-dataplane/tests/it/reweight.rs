//! Weights change thousands of times while connections pour in.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::Protocol;
use plimsoll_dataplane::Dataplane;
use plimsoll_dataplane::nftables::NftablesDataplane;
use plimsoll_lab::client::{Arrival, Client, End, Limits};
use plimsoll_lab::random::Random;
use plimsoll_lab::{available, eventually, proxy};

use crate::stage::{Options, SOON, Stage, vip};

/// Connections of a round, by four clients.
const CONNECTIONS: usize = 50_000;
/// Weight transactions at least.
const TRANSACTIONS: usize = 2_000;
/// Rounds at most: a machine that is busy may need a second one for so many transactions.
const ROUNDS: usize = 4;
/// Connections that each client opens per second, unless the machine cannot.
const RATE: u32 = 800;

/// Draws new weights for both families, again and again, and now and then counts and renews, as an agent does.
fn turn(
    mut dataplane: NftablesDataplane,
    plan: &Plan,
    done: &AtomicUsize,
    stop: &AtomicBool,
) -> NftablesDataplane {
    let mut random = Random::new(1);
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
        let renew = done.load(Ordering::SeqCst).is_multiple_of(100);
        dataplane.apply(&Plan { changes, renew, ..Plan::default() }).unwrap();
        let transactions = done.fetch_add(1, Ordering::SeqCst) + 1;
        if transactions.is_multiple_of(50) {
            dataplane.read().unwrap();
        }
        // Leaves the processor to the connections.
        std::thread::sleep(Duration::from_millis(1));
    }
    dataplane
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
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let each = CONNECTIONS / 4;
    let round = || {
        let clients = callers.iter().flat_map(|caller| [false, true].map(|v6| (caller, vip(v6)))).map(
            |(caller, to): (_, SocketAddr)| {
                let arrivals = (0..each as u32).map(move |index| Arrival {
                    at: Duration::from_secs(1) * index / RATE,
                    to,
                    service: Some(Duration::ZERO),
                });
                Client::start(&caller.namespace, arrivals, Limits::default()).unwrap()
            },
        );
        // All of them start before the first is waited for.
        clients.collect::<Vec<Client>>().into_iter().flat_map(Client::join)
    };
    let (dataplane, outcomes) = std::thread::scope(|scope| {
        let turning = scope.spawn(|| node.run(|| turn(dataplane, &plan, &done, &stop)));
        let mut outcomes = Vec::new();
        for _ in 0..ROUNDS {
            outcomes.extend(round());
            if done.load(Ordering::SeqCst) >= TRANSACTIONS {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        (turning.join().unwrap(), outcomes)
    });
    let transactions = done.load(Ordering::SeqCst);
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.end != End::Served).collect();
    assert!(failed.is_empty(), "{} failed, the first: {:?}", failed.len(), failed[0]);
    assert!(outcomes.len() >= CONNECTIONS);
    assert!(transactions >= TRANSACTIONS, "only {transactions} transactions meanwhile");
    eprintln!("{} connections through {transactions} transactions", outcomes.len());
    let accepted: Vec<u64> = stage.endpoints.iter().map(|endpoint| endpoint.server.accepted()).collect();
    assert_eq!(accepted.iter().sum::<u64>(), outcomes.len() as u64);
    assert!(accepted.iter().all(|accepted| *accepted > 0), "{accepted:?}");
    assert_eq!(proxy::seen(&node, "both").unwrap(), 0, "nothing fell through to the table below");
    // And through all of it the counts stayed exact.
    assert!(eventually(SOON, || stage.open_at_servers() == 0));
    stage.dataplanes[0] = Some(dataplane);
    let mut opened = 0;
    for endpoint in 0..stage.endpoints.len() {
        for count in stage.hosted(endpoint) {
            assert_eq!(count.open, 0, "{}", count.endpoint);
            opened += count.opened;
        }
    }
    assert_eq!(opened, outcomes.len() as u64);
}
