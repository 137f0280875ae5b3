//! Laws that every run keeps, whoever decides.

use plimsoll_core::time::Timestamp;
use plimsoll_sim::batch::{Named, Progress, Traced, run, run_all};
use plimsoll_sim::catalogue::Contender;
use plimsoll_sim::cluster::Standing;
use plimsoll_sim::engine::Engine;
use plimsoll_sim::results::{rows, table};
use plimsoll_sim::scenario::Scenario;
use proptest::prelude::*;

/// A minute in which everything happens.
const EVENTFUL: &str = r#"
about = "everything at once"
until = "60s"
measured_from = "5s"

[nodes]
count = 4

[[endpoints]]
count = 3
capacity = 1

[[endpoints]]
count = 2
capacity = 2
hidden = true

[[endpoints]]
count = 1
capacity = 2
outside = true

[clients]
load = 0.6
long_work = 0.4
long_life = "20s"

[work]

[signals]
noise = 0.1
pressure_bias = 0.05

[mesh]
loss = 0.1
most_delay = "300ms"

[bursts]
factor = 3
on = "1s"
off = "5s"

[swing]
period = "30s"
depth = 0.5

[[events]]
at = "10s"
every = "5s"
times = 3
add = { count = 1, capacity = 1.5, cold_speed = 0.5, cold_for = "3s" }

[[events]]
at = "12s"
every = "5s"
times = 2
remove = { endpoint = 0, grace = "2s" }

[[events]]
at = "20s"
slow = { endpoints = [3], speed = 0.4, for = "10s" }

[[events]]
at = "25s"
fail = { endpoints = [4], how = "close", for = "10s" }

[[events]]
at = "30s"
fail = { endpoints = [5], how = "refuse", for = "5s" }

[[events]]
at = "35s"
fail = { endpoints = [2], how = "error", for = "5s" }

[[events]]
at = "30s"
misread = { endpoints = [3], how = "missing", for = "15s" }

[[events]]
at = "40s"
redial = { node = 0, within = "2s", part = 0.5 }

[[events]]
at = "15s"
cut_off = { nodes = [1, 2], for = "20s" }

[[events]]
at = "45s"
surge = { factor = 2, for = "5s" }
"#;

fn eventful() -> Scenario {
    Scenario::parse("eventful", EVENTFUL).expect("it is a scenario")
}

fn engine(scenario: &Scenario, contender: Contender, seed: u64) -> Engine<'_> {
    Engine::new(scenario, seed, |cluster, dice| contender.build(scenario, cluster, dice))
}

#[test]
fn what_is_open_is_the_sum_of_what_the_nodes_hold() {
    let scenario = eventful();
    for contender in Contender::all() {
        let mut looks = 0;
        engine(&scenario, contender, 3).run(|_, engine| {
            let cluster = engine.cluster();
            for (index, endpoint) in cluster.endpoints.iter().enumerate() {
                let held: u32 = (0..cluster.nodes).map(|node| cluster.own(node)[index]).sum();
                assert_eq!(held, endpoint.open, "{contender:?}, endpoint {index}");
            }
            looks += 1;
        });
        assert_eq!(looks, 119);
    }
}

#[test]
fn agents_give_weight_to_those_that_serve_and_to_nobody_else() {
    let scenario = eventful();
    for name in ["waterline", "lvs-feedback", "equal", "static", "waterline:edf"] {
        let contender = Contender::named(name).unwrap();
        engine(&scenario, contender, 5).run(|_, engine| {
            let cluster = engine.cluster();
            for node in 0..cluster.nodes {
                let mut sum = 0.0;
                for (index, endpoint) in cluster.endpoints.iter().enumerate() {
                    let share = engine.steering().share(node, index);
                    assert_eq!(
                        share.is_some(),
                        endpoint.standing == Standing::Serving,
                        "{name}, endpoint {index}"
                    );
                    assert!(share.is_none_or(|share| share > 0.0 && share <= 1.0), "{name}: {share:?}");
                    sum += share.unwrap_or(0.0);
                }
                assert!((sum - 1.0).abs() < 1e-9, "{name}: {sum}");
            }
        });
    }
}

#[test]
fn every_policy_meets_the_same_clients() {
    let scenario = Scenario::parse(
        "plain",
        "about = \"plain\"\nuntil = \"60s\"\nmeasured_from = \"0s\"\n[[endpoints]]\ncount = 4\ncapacity = 2\n\
         [clients]\nload = 0.5\nlong_work = 0.5\n[work]\n",
    )
    .unwrap();
    let attempts: Vec<u64> = Contender::all()
        .into_iter()
        .map(|contender| run(&scenario, contender, 9, None, &Progress::default()).measured.outcome.attempts)
        .collect();
    assert!(attempts[0] > 1000 && attempts.iter().all(|other| *other == attempts[0]), "{attempts:?}");
}

#[test]
fn the_same_seed_gives_the_same_table_on_any_number_of_threads() {
    let scenarios = [Named { name: "eventful".into(), scenario: eventful() }];
    let contenders = Contender::all();
    let tables: Vec<String> = [1, 3]
        .into_iter()
        .map(|threads| {
            let runs = run_all(&scenarios, &contenders, 2, threads, Traced::None, &Progress::default());
            table(&rows(&scenarios, &contenders, &runs))
        })
        .collect();
    assert_eq!(tables[0], tables[1]);
    let once =
        |seed| run(&scenarios[0].scenario, contenders[1], seed, None, &Progress::default()).measured.steps;
    assert_eq!(once(1), once(1));
    assert_ne!(once(1), once(2));
}

#[test]
fn a_stopped_batch_ends() {
    let scenarios = [Named { name: "eventful".into(), scenario: eventful() }];
    let progress = Progress::default();
    progress.stop();
    let contenders = Contender::all();
    let runs = run_all(&scenarios, &contenders, 5, 2, Traced::None, &progress);
    assert!(runs[0].iter().all(Vec::is_empty) && rows(&scenarios, &contenders, &runs).is_empty());
}

#[test]
fn partitions_cut_reports_and_not_connections() {
    let scenario = Scenario::parse(
        "cut",
        "about = \"cut\"\nuntil = \"60s\"\nmeasured_from = \"10s\"\n[nodes]\ncount = 2\n[[endpoints]]\ncount = 2\n\
         [clients]\nrate = 20\nlong_part = 0.5\nlong_life = \"20s\"\n\
         [[events]]\nat = \"0s\"\ncut_off = { nodes = [0], for = \"60s\" }\n",
    )
    .unwrap();
    let contender = Contender::named("waterline").unwrap();
    engine(&scenario, contender, 1).run(|now, engine| {
        if now > Timestamp::from_nanos(30_000_000_000) {
            assert!((0..2).all(|node| engine.cluster().own(node).iter().all(|open| *open > 0)));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever fits the format can be simulated, to its end and with everything served by somebody.
    #[test]
    fn any_scenario_runs(
        nodes in 1..6_usize,
        endpoints in 1..6_usize,
        rate in 0.1..80.0_f64,
        long in 0.0..1.0_f64,
        loss in 0.0..1.0_f64,
        remove in 0..6_usize,
        seed in 0..1000_u64,
        who in 0..26_usize,
    ) {
        let remove = remove.min(endpoints - 1);
        let text = format!(
            "about = \"any\"\nuntil = \"20s\"\nmeasured_from = \"1s\"\n[nodes]\ncount = {nodes}\n[[endpoints]]\n\
             count = {endpoints}\n[clients]\nrate = {rate}\nlong_part = {long}\nlong_life = \"5s\"\n[mesh]\nloss = {loss}\n\
             [[events]]\nat = \"5s\"\nremove = {{ endpoint = {remove}, grace = \"1s\" }}\n\
             [[events]]\nat = \"9s\"\nadd = {{ count = 2 }}\n"
        );
        let scenario = Scenario::parse("any", &text).unwrap();
        let contender = Contender::all()[who];
        let measured = run(&scenario, contender, seed, None, &Progress::default()).measured;
        if endpoints > 1 {
            prop_assert_eq!(measured.outcome.failed, 0);
        }
    }
}
