//! Ages: which slot a connection was opened in, and how many of each slot are still open.

use std::time::Duration;

use plimsoll_core::load::AGE_SLOTS;
use plimsoll_lab::client::Client;
use plimsoll_lab::random::Random;
use plimsoll_lab::server::Close;
use plimsoll_lab::{available, eventually};

use super::{PROGRAMS, assert_exact};
use crate::stage::{Options, SOON, Stage, hold, vip};

/// Every reading begins a new slot.
const EVERY_READ: Options = Options {
    slot_length: Duration::ZERO,
    first_slot: 0,
    event_buffer: plimsoll_dataplane::conntrack::RECEIVE_BUFFER,
    attended: true,
    unowned: false,
};

/// Opens a batch of connections per slot, ends some of them, and compares every slot.
fn ages_are_exact(options: Options, rounds: usize) {
    let mut stage = Stage::new(1, 1, options);
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    stage.read(0);
    let mut random = Random::new(5);
    // Newest first: how many were opened in the slot, and those of them that are open.
    let mut slots: Vec<(u32, Vec<Client>)> = Vec::new();
    let mut old = Vec::new();
    for round in 0..rounds {
        let count = 1 + random.below(4);
        let to = if round % 3 == 0 { stage.endpoints[0].at(false) } else { vip(false) };
        let clients = (0..count).map(|_| hold(&near, 1, to, Close::Finish)).collect();
        slots.insert(0, (count as u32, clients));
        // The slot before the oldest shown is read, but counted among the old.
        if slots.len() > AGE_SLOTS {
            old.extend(slots.pop().unwrap().1);
        }
        for (_, clients) in &mut slots {
            if !clients.is_empty() && random.unit() < 0.3 {
                clients.pop().unwrap().stop();
            }
        }
        if !old.is_empty() && random.unit() < 0.5 {
            old.pop().unwrap().stop();
        }
        let open = slots.iter().map(|(_, clients)| clients.len()).sum::<usize>() + old.len();
        assert!(eventually(SOON, || stage.open_at_servers() == open as u64));
        // This reading begins the next slot and shows it, empty, as the newest.
        let [count, _] = stage.hosted(0);
        let shown = |age: usize| slots.get(age - 1).map_or((0, 0), |(n, c)| (*n, c.len() as u32));
        for age in 1..AGE_SLOTS {
            let counted = (count.opened_by_age[age], count.open_by_age[age]);
            assert_eq!(counted, shown(age), "round {round}, slot {age}");
        }
        assert_eq!((count.opened_by_age[0], count.open_by_age[0]), (0, 0));
        assert_eq!(count.open, open as u32, "round {round}");
    }
}

#[test]
fn each_age_slot_is_exact() {
    if available(PROGRAMS) {
        ages_are_exact(EVERY_READ, 40);
    }
}

#[test]
fn slot_numbers_that_come_round_again_keep_ages_apart() {
    if available(PROGRAMS) {
        ages_are_exact(Options { first_slot: 180, ..EVERY_READ }, 40);
    }
}

#[test]
fn a_connection_that_outlives_its_slot_number_stays_old() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1, EVERY_READ);
    let near = stage.cluster.add_endpoint(0).unwrap();
    stage.open(0);
    let in_slots_of_their_own = |stage: &mut Stage, count| -> Vec<Client> {
        let each = (0..count).map(|_| {
            let client = hold(&near, 1, vip(false), Close::Finish);
            stage.read(0);
            client
        });
        each.collect()
    };
    let survivors = in_slots_of_their_own(&mut stage, 20);
    // On to slot number 0 again, and connections in the very numbers that the survivors had.
    for _ in 20..192 {
        stage.read(0);
    }
    let young = in_slots_of_their_own(&mut stage, 15);
    for client in survivors {
        client.stop();
    }
    assert!(eventually(SOON, || stage.open_at_servers() == 15));
    let [count, _] = stage.hosted(0);
    assert_eq!((count.open, &count.open_by_age[..2]), (15, &[0, 0][..]));
    assert_eq!(count.open_by_age[2..], [1; 14], "the survivors closed among the old");
    for client in young {
        client.stop();
    }
    assert!(eventually(SOON, || stage.open_at_servers() == 0));
    assert_exact(&mut stage, "after a turn of all numbers");
}
