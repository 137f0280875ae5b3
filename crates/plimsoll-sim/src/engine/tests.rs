//! The engine against what queueing theory says, and its own promises.

use super::*;
use crate::catalogue::Contender;

fn scenario(text: &str) -> Scenario {
    let head = "about = \"a test\"\nuntil = \"2000s\"\nmeasured_from = \"100s\"\n[nodes]\ncount = 1\n";
    Scenario::parse("test", &(head.to_owned() + text)).unwrap()
}

fn run(scenario: &Scenario, policy: &str) -> Measured {
    let contender = Contender::named(policy).unwrap();
    Engine::new(scenario, 1, |cluster, dice| contender.build(scenario, cluster, dice)).run(|_, _| {})
}

#[test]
fn latency_is_that_of_theory() {
    // One server, processor sharing: half of the requests are faster than about 1.5 demands at load 0.5.
    let one = scenario("[[endpoints]]\ncount = 1\n[clients]\nload = 0.5\n[work]\ndemand = \"20ms\"\n");
    let measured = run(&one, "random");
    let mean =
        measured.outcome.latency.parts().map(|(from, to, part)| f64::midpoint(from, to) * part).sum::<f64>();
    assert!((mean / 0.04 - 1.0).abs() < 0.05, "{mean}");
    assert_eq!(measured.outcome.failed, 0);
    assert!((measured.outcome.attempts as f64 / (25.0 * 1900.0) - 1.0).abs() < 0.02);
}

#[test]
fn connections_are_as_many_as_little_says() {
    // L = lambda W: short and long ones, the long ones present from the beginning.
    let text = "[[endpoints]]\ncount = 4\n[clients]\nrate = 20\nlong_part = 0.2\nshort_life = \"1s\"\n\
                long_life = \"60s\"\nlong_sigma = 1\n";
    let counts = scenario(text);
    let (mut sum, mut samples, mut first) = (0.0, 0.0, None);
    let contender = Contender::named("random").unwrap();
    Engine::new(&counts, 1, |cluster, dice| contender.build(&counts, cluster, dice)).run(|_, engine| {
        let open: u32 = engine.cluster().endpoints.iter().map(|endpoint| endpoint.open).sum();
        first.get_or_insert(f64::from(open));
        sum += f64::from(open);
        samples += 1.0;
    });
    let expected = 20.0 * (0.8 + 0.2 * 60.0);
    assert!((sum / samples / expected - 1.0).abs() < 0.05, "{} for {expected}", sum / samples);
    assert!((first.unwrap() / expected - 1.0).abs() < 0.25, "{first:?}");
}

#[test]
fn memory_does_not_grow_with_time() {
    let text = "[[endpoints]]\ncount = 4\n[clients]\nrate = 50\nlong_part = 0.2\nlong_life = \"5s\"\nlong_sigma = 0.5\n\
                [[events]]\nat = \"100s\"\nevery = \"10s\"\ntimes = 150\nredial = { node = 0, within = \"2s\" }\n";
    let counts = scenario(text);
    let contender = Contender::named("waterline:edf").unwrap();
    let mut sizes = Vec::new();
    Engine::new(&counts, 1, |cluster, dice| contender.build(&counts, cluster, dice)).run(|_, engine| {
        sizes.push(engine.connections.places());
    });
    let (early, late) = (sizes[800], sizes[sizes.len() - 1]);
    assert!(late < 2 * early, "{early} then {late}");
}

#[test]
fn failures_are_counted_where_they_happen() {
    let text = "[[endpoints]]\ncount = 2\n[clients]\nrate = 50\nlong_part = 0\n\
                [[events]]\nat = \"100s\"\nfail = { endpoints = [1], how = \"HOW\", for = \"1900s\" }\n";
    for how in ["close", "refuse"] {
        let failing = scenario(&text.replace("HOW", how));
        let share = run(&failing, "round-robin").outcome.failed_share();
        assert!((share - 0.5).abs() < 0.001, "{how}: {share}");
    }
    let text =
        text.replace("rate = 50\nlong_part = 0", "load = 0.2\nlong_work = 0.5").replace("HOW", "error");
    let failing = scenario(&(text + "[work]\n"));
    let share = run(&failing, "round-robin").outcome.failed_share();
    assert!((share - 0.5).abs() < 0.1, "{share}");
}

#[test]
fn endpoints_that_are_added_fill() {
    let text = "[[endpoints]]\ncount = 2\n[clients]\nrate = 20\nlong_part = 0.5\nlong_life = \"20s\"\nlong_sigma = 0\n\
                [[events]]\nat = \"200s\"\nadd = { count = 1 }\n";
    let growing = scenario(text);
    let seconds = run(&growing, "jsq-connections").seconds_to_fair.unwrap();
    // Two thirds of the 200 that are open there already have to be opened, at 10 a second, less those that close.
    assert!((3.0..20.0).contains(&seconds), "{seconds}");
    assert_eq!(run(&scenario(&text.replace("200s", "1999s")), "random").seconds_to_fair, None);
}
