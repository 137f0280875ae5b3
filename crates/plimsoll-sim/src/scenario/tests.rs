//! Scenarios that come with the program, and what is said of those that are wrong.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::*;

#[test]
fn every_scenario_that_comes_along_can_be_simulated() {
    let mut text = String::new();
    for (name, source) in library() {
        let scenario = Scenario::parse(name, source).unwrap();
        let (rate, long) = scenario.arrivals();
        writeln!(
            text,
            "{name}: {} nodes, {} endpoints of {} in all, {rate:.1}/s, {:.2} % long, until {}",
            scenario.nodes.count,
            scenario.endpoint_count(),
            scenario.capacity(),
            long * 100.0,
            scenario.until
        )
        .unwrap();
    }
    expect![[r"
        c-mix: 8 nodes, 16 endpoints of 16 in all, 400.0/s, 5.00 % long, until 8m
        c-few: 8 nodes, 16 endpoints of 16 in all, 10.0/s, 20.00 % long, until 20m
        c-sparse: 20 nodes, 16 endpoints of 16 in all, 0.5/s, 100.00 % long, until 1h40m
        c-many: 64 nodes, 16 endpoints of 16 in all, 40.0/s, 10.00 % long, until 15m
        c-hetero: 8 nodes, 16 endpoints of 34 in all, 400.0/s, 5.00 % long, until 8m
        c-burst: 8 nodes, 16 endpoints of 16 in all, 200.0/s, 5.00 % long, until 8m
        c-scaleup: 8 nodes, 12 endpoints of 12 in all, 400.0/s, 5.00 % long, until 10m
        c-rollout: 8 nodes, 12 endpoints of 12 in all, 400.0/s, 5.00 % long, until 10m
        c-storm: 8 nodes, 16 endpoints of 16 in all, 400.0/s, 5.00 % long, until 7m
        c-part: 8 nodes, 16 endpoints of 16 in all, 400.0/s, 5.00 % long, until 8m
        c-refuse: 8 nodes, 12 endpoints of 12 in all, 400.0/s, 5.00 % long, until 7m
        c-refuse-half: 8 nodes, 12 endpoints of 12 in all, 400.0/s, 5.00 % long, until 7m
        c-outside: 8 nodes, 12 endpoints of 12 in all, 400.0/s, 5.00 % long, until 7m
        p-homog: 8 nodes, 16 endpoints of 32 in all, 1120.0/s, 0.00 % long, until 3m
        p-many: 64 nodes, 16 endpoints of 34 in all, 1190.0/s, 0.00 % long, until 3m
        p-manymix: 64 nodes, 16 endpoints of 34 in all, 600.0/s, 0.83 % long, until 7m
        p-hetero: 8 nodes, 16 endpoints of 34 in all, 1190.0/s, 0.00 % long, until 3m
        p-unknown: 8 nodes, 16 endpoints of 34 in all, 1190.0/s, 0.00 % long, until 3m
        p-hot: 8 nodes, 16 endpoints of 34 in all, 1530.0/s, 0.00 % long, until 3m
        p-mix: 8 nodes, 16 endpoints of 34 in all, 600.0/s, 0.83 % long, until 7m
        p-mixhomog: 8 nodes, 12 endpoints of 24 in all, 423.5/s, 0.83 % long, until 6m40s
        p-mixhot: 8 nodes, 16 endpoints of 34 in all, 728.5/s, 0.83 % long, until 7m
        p-few: 20 nodes, 12 endpoints of 24 in all, 30.8/s, 2.57 % long, until 20m
        p-long: 8 nodes, 16 endpoints of 34 in all, 9.9/s, 100.00 % long, until 10m
        p-noisy: 8 nodes, 16 endpoints of 34 in all, 1020.0/s, 0.00 % long, until 4m
        p-noisymix: 8 nodes, 16 endpoints of 34 in all, 656.8/s, 0.36 % long, until 5m
        p-scaleup: 8 nodes, 12 endpoints of 24 in all, 514.2/s, 0.83 % long, until 6m
        p-rollout: 8 nodes, 12 endpoints of 24 in all, 423.5/s, 0.83 % long, until 6m40s
        p-burst: 8 nodes, 16 endpoints of 34 in all, 680.0/s, 0.00 % long, until 3m
        p-part: 8 nodes, 16 endpoints of 34 in all, 600.0/s, 0.83 % long, until 6m
        p-meas: 8 nodes, 16 endpoints of 34 in all, 600.0/s, 0.83 % long, until 7m
        p-heavy: 8 nodes, 16 endpoints of 34 in all, 716.5/s, 0.36 % long, until 7m
        p-par: 8 nodes, 16 endpoints of 34 in all, 716.5/s, 0.36 % long, until 7m
        p-refuse: 8 nodes, 16 endpoints of 34 in all, 716.5/s, 0.36 % long, until 5m
    "]]
    .assert_eq(&text);
}

#[test]
fn every_file_of_scenarios_is_in_the_library() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(find(name).is_some(), "{name} is missing in library.rs");
    }
}

const SMALL: &str = r#"
about = "a test"
until = "100s"
measured_from = "10s"

[[endpoints]]
count = 2

[clients]
rate = 10
long_part = 0.1
"#;

/// What is said of the small scenario with one line replaced and some more.
fn check(line: &str, instead: &str, more: &str, expected: &Expect) {
    assert!(SMALL.contains(line));
    let text = SMALL.replacen(line, instead, 1) + more;
    let told = Scenario::parse("mine", &text).map_or_else(|error| error.to_string(), |_| "fine\n".into());
    expected.assert_eq(&(told.trim_end().to_owned() + "\n"));
}

#[test]
fn a_small_one_is_fine() {
    check(
        "",
        "",
        "",
        &expect![[r"
        fine
    "]],
    );
    check(
        "",
        "",
        "[mesh]\nloss = 0.5\n[swing]\nperiod = \"1h\"\ndepth = 0.5\n",
        &expect![[r"
        fine
    "]],
    );
}

#[test]
fn wrong_keys_and_units_are_told_with_their_line() {
    check(
        "count = 2",
        "cuont = 2",
        "",
        &expect![[r"
        scenario mine: TOML parse error at line 7, column 1
          |
        7 | cuont = 2
          | ^^^^^
        unknown field `cuont`, expected one of `count`, `capacity`, `stated`, `hidden`, `outside`
    "]],
    );
    check(
        "until = \"100s\"",
        "until = \"100 seconds\"",
        "",
        &expect![[r#"
        scenario mine: TOML parse error at line 3, column 9
          |
        3 | until = "100 seconds"
          |         ^^^^^^^^^^^^^
        `100 seconds` is not a length of time; write whole numbers with units, as in `10s` or `1h30m`
    "#]],
    );
    check(
        "rate = 10",
        "rate = \"ten\"",
        "",
        &expect![[r#"
        scenario mine: TOML parse error at line 10, column 8
           |
        10 | rate = "ten"
           |        ^^^^^
        invalid type: string "ten", expected f64
    "#]],
    );
    check(
        "rate = 10",
        "rate = ",
        "",
        &expect![[r"
        scenario mine: TOML parse error at line 10, column 8
           |
        10 | rate = 
           |        ^
        string values must be quoted, expected literal string
    "]],
    );
}

#[test]
fn wrong_figures_are_told_with_their_name() {
    check(
        "long_part = 0.1",
        "long_part = 1.1",
        "",
        &expect![[r"
        scenario mine: clients.long_part = 1.1 must be from 0 to 1
    "]],
    );
    check(
        "long_part = 0.1",
        "",
        "",
        &expect![[r"
        scenario mine: clients.long_part is missing: which part of the connections is long, 0 to 1?
    "]],
    );
    check(
        "rate = 10",
        "load = 0.5",
        "",
        &expect![[r"
        scenario mine: clients.long_part goes with clients.rate; with load use long_work
    "]],
    );
    check(
        "measured_from = \"10s\"",
        "measured_from = \"100s\"",
        "",
        &expect![[r#"
        scenario mine: measured_from = "1m40s" must be before the end, until = "1m40s"
    "#]],
    );
    check(
        "",
        "",
        "[nodes]\ncount = 2\nshares = [0.5, 0.6]\n",
        &expect![[r"
        scenario mine: nodes.shares sum to 1.1; they must sum to 1
    "]],
    );
    check(
        "",
        "",
        "[nodes]\ncount = 3\nshares = [0.5, 0.5]\n",
        &expect![[r"
        scenario mine: nodes.shares has 2 entries for 3 nodes; give one for each, or leave it out
    "]],
    );
    check(
        "",
        "",
        "[mesh]\ninterval = \"5s\"\n",
        &expect![[r#"
        scenario mine: mesh.interval = "5s" must be from 100ms to 2s
    "#]],
    );
    check(
        "",
        "",
        "[signals]\n",
        &expect![[r"
        scenario mine: signals need a table [work]: without work there is no CPU to read
    "]],
    );
}

#[test]
fn wrong_events_are_told_with_their_number() {
    check(
        "",
        "",
        "[[events]]\nat = \"200s\"\nadd = { count = 1 }\n",
        &expect![[r"
        scenario mine: events[0] reaches 200.0 s, after the end at 1m40s; move it or raise `until`
    "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nevery = \"30s\"\ntimes = 4\nadd = { count = 1 }\n",
        &expect![[r"
        scenario mine: events[0] reaches 110.0 s, after the end at 1m40s; move it or raise `until`
    "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\n",
        &expect![[r"
        scenario mine: events[0] must have exactly one of add, remove, slow, fail, misread, redial, cut_off and surge
    "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\ntimes = 2\nadd = { count = 1 }\n",
        &expect![[r"
        scenario mine: events[0].times = 2 needs `every`, the time in between
    "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nremove = { endpoint = 2 }\n",
        &expect![[r"
            scenario mine: events[0].remove.endpoint names endpoint 2, counted from 0, at 20.0 s; there are 2 by then
        "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nredial = { node = 8, within = \"1s\" }\n",
        &expect![[r"
        scenario mine: events[0].redial.node names node 8, counted from 0; there are 8
    "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nmisread = { endpoints = [0], how = \"idle\", for = \"5s\" }\n",
        &expect![[r"
            scenario mine: events[0].misread needs a table [signals]: nothing is read without
        "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nfail = { endpoints = [0], how = \"slowly\", for = \"5s\" }\n",
        &expect![[r#"
            scenario mine: TOML parse error at line 14, column 33
               |
            14 | fail = { endpoints = [0], how = "slowly", for = "5s" }
               |                                 ^^^^^^^^
            unknown variant `slowly`, expected one of `error`, `close`, `refuse`
        "#]],
    );
}

#[test]
fn what_is_too_much_to_simulate_is_told() {
    check(
        "long_part = 0.1",
        "long_part = 0.1\nlong_life = \"1000000h\"",
        "",
        &expect![[r"
            scenario mine: clients have 3600000000 long connections open from the beginning, more than can be simulated (10000000); lower clients.long_life, the part that is long, or how many connect
        "]],
    );
    check(
        "rate = 10\nlong_part = 0.1",
        "load = 1",
        "[work]\ndemand = \"1ms\"\n[[endpoints]]\ncount = 1000\ncapacity = 1000\n",
        &expect![[r"
            scenario mine: clients.load makes 1000002000 connections per second, more than can be simulated (1000000); lower it, or let a request cost more
        "]],
    );
    // Sums that a program's numbers cannot hold.
    let many = "[[endpoints]]\ncount = 9223372036854775807\n";
    check(
        "",
        "",
        &many.repeat(3),
        &expect![[r"
            scenario mine: 18446744073709551615 endpoints in all, more than can be balanced (16384)
        "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nevery = \"1s\"\ntimes = 4\nadd = { count = 4611686018427387904 }\n",
        &expect![[r"
            scenario mine: 18446744073709551615 endpoints in all, more than can be balanced (16384)
        "]],
    );
    check(
        "",
        "",
        "[[events]]\nat = \"20s\"\nadd = { count = 0 }\n",
        &expect![[r"
            scenario mine: events[0].add.count = 0 must be from 1 to 16384
        "]],
    );
}

#[test]
fn events_that_cannot_happen_then_are_told() {
    let add = "[[events]]\nat = \"50s\"\nadd = { count = 1 }\n";
    let slow = |at: &str| {
        format!("{add}[[events]]\nat = \"{at}\"\nslow = {{ endpoints = [2], speed = 0.5, for = \"5s\" }}\n")
    };
    check(
        "",
        "",
        &slow("60s"),
        &expect![[r"
        fine
    "]],
    );
    check(
        "",
        "",
        &slow("40s"),
        &expect![[r"
        scenario mine: events[1].slow.endpoints names endpoint 2, counted from 0, at 40.0 s; there are 2 by then
    "]],
    );
    let remove = "[[events]]\nat = \"20s\"\nremove = { endpoint = 1 }\n";
    check(
        "",
        "",
        &remove.repeat(2),
        &expect![[r"
        scenario mine: events[1].remove: endpoint 1 is removed already
    "]],
    );
    let fail = "[[events]]\nat = \"20s\"\nfail = { endpoints = [0], how = \"error\", for = \"5s\" }\n";
    check(
        "",
        "",
        fail,
        &expect![[r#"
        scenario mine: events[0].fail: how = "error" needs a table [work]: without requests nothing is answered
    "#]],
    );
}

#[test]
fn events_that_would_end_each_other_are_told() {
    let fail = |at: &str, endpoint: usize| {
        format!(
            "[[events]]\nat = \"{at}\"\nfail = {{ endpoints = [{endpoint}], how = \"close\", for = \"10s\" }}\n"
        )
    };
    let cut_off = |at: &str, node: usize| {
        format!("[[events]]\nat = \"{at}\"\ncut_off = {{ nodes = [{node}], for = \"10s\" }}\n")
    };
    check(
        "",
        "",
        &(fail("20s", 0) + &fail("25s", 1) + &fail("30s", 0)),
        &expect![[r"
            fine
        "]],
    );
    check(
        "",
        "",
        &(fail("25s", 0) + &fail("20s", 0)),
        &expect![[r"
            scenario mine: events[0].fail of endpoint 0 at 25.0 s overlaps with that of events[1]; make one of them, or let one begin when the other is over
        "]],
    );
    check(
        "",
        "",
        &(cut_off("20s", 0) + &cut_off("25s", 1)),
        &expect![[r"
            scenario mine: events[1].cut_off at 25.0 s overlaps with that of events[0]; make one of them, or let one begin when the other is over
        "]],
    );
    check(
        "",
        "",
        &cut_off("100s", 0),
        &expect![[r"
            scenario mine: events[0] is at the very end, 1m40s, and would not happen any more; move it or raise `until`
        "]],
    );
}

#[test]
fn the_example_of_the_documentation_works() {
    let page = include_str!("../../../../docs/simulator.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let scenario = Scenario::parse("example", example).unwrap();
    assert_eq!((scenario.endpoint_count(), scenario.events.len()), (8, 2));
}

#[test]
fn repetitions_and_windows_come_at_their_times() {
    let text = SMALL.replacen(
        "\n\n",
        "\nwindows = [{ name = \"w\", from = \"1s\", until = \"3s\", every = \"10s\", times = 2 }]\n\n",
        1,
    );
    let scenario = Scenario::parse("mine", &text).unwrap();
    let seconds = |at: Timestamp| at.seconds_since(Timestamp::ZERO);
    let spans: Vec<_> =
        scenario.windows[0].spans().map(|(from, until)| (seconds(from), seconds(until))).collect();
    assert_eq!(spans, [(1.0, 3.0), (11.0, 13.0)]);
}
