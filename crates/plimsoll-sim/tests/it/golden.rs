//! Tables under version control: a change of behaviour is a difference that one can read.
//!
//! `UPDATE_EXPECT=1 cargo test -p plimsoll-sim` writes them anew. They are the same on every machine.

use std::path::Path;

use expect_test::expect_file;
use plimsoll_sim::batch::{Named, Progress, Traced, run_all};
use plimsoll_sim::catalogue::Contender;
use plimsoll_sim::results::{rows, table};
use plimsoll_sim::scenario::find;

/// Some of each kind: counts, CPU, changes, faults. All of them take minutes.
const SCENARIOS: [&str; 11] = [
    "c-few",
    "c-hetero",
    "c-mix",
    "c-outside",
    "c-refuse",
    "c-rollout",
    "c-scaleup",
    "p-hetero",
    "p-noisy",
    "p-refuse",
    "p-scaleup",
];
/// Baselines that cost nothing to run, and the law by the way each dataplane chooses.
const POLICIES: [&str; 15] = [
    "waterline:counter",
    "waterline:wrr",
    "waterline:edf",
    "static",
    "random",
    "round-robin",
    "static-weights",
    "wlc",
    "unimog",
    "orca",
    "scd",
    "peak-ewma",
    "prequal",
    "power-of-two",
    "jsq-work",
];

#[test]
fn results_are_those_of_the_tables() {
    let named = |name: &&str| Named { name: (*name).to_owned(), scenario: find(name).unwrap().unwrap() };
    let scenarios: Vec<Named> = SCENARIOS.iter().map(named).collect();
    let contenders: Vec<Contender> = POLICIES.iter().map(|name| Contender::named(name).unwrap()).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runs = run_all(&scenarios, &contenders, 1, threads, Traced::None, &Progress::default());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (named, runs) in scenarios.iter().zip(&runs) {
        let one = std::slice::from_ref(named);
        let rows = rows(one, &contenders, std::slice::from_ref(runs));
        let text = format!("{}: {}\n\n{}", named.name, named.scenario.about, table(&rows));
        expect_file![directory.join(&named.name).with_extension("txt")].assert_eq(&text);
    }
}
