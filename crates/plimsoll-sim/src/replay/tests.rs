//! What is replayed is what was recorded, in the time that all recordings have in common.

use super::*;
use crate::batch::{self, Progress};
use crate::catalogue::Contender;
use crate::recording::{Head, Tail, Why, check_bytes};

const HOUR: i64 = 1_700_000_000_000;

fn part(node: &str, began: i64, length: u64, connections: Vec<(u32, Option<i64>, i64, How)>) -> Part {
    let connections: Vec<Connection> = connections
        .into_iter()
        .map(|(endpoint, began, until, how)| Connection { service: 0, endpoint, began, until, how })
        .collect();
    let tail = Tail { length, connections: 0, losses: 0, left_out: 0, clock_moved: 0, why: Why::Time };
    let head = Head { node: node.into(), began: began as u64, salt: Some(1) };
    let endpoints = ["a", "b", "c"].map(str::to_owned).to_vec();
    let contents = Contents { head, services: vec!["web".into()], endpoints, tail };
    Part { name: format!("{node}.plr"), contents, connections }
}

fn merged(parts: &[Part]) -> Replay {
    merge("web", parts, &BTreeMap::new()).expect("they can be merged")
}

fn refused(parts: &[Part]) -> String {
    merge("web", parts, &BTreeMap::new()).expect_err("they cannot be merged")
}

/// `count` connections of `life` ms, one each `every` ms from `first` on, to each endpoint in turn.
fn steady(
    first: i64,
    count: i64,
    every: i64,
    life: i64,
    endpoints: u32,
) -> Vec<(u32, Option<i64>, i64, How)> {
    let one = |number: i64| {
        let began = first + number * every;
        ((number % i64::from(endpoints)) as u32, Some(began), began + life, How::Finished)
    };
    (0..count).map(one).collect()
}

#[test]
fn lives_are_cut_at_both_ends_of_the_common_time() {
    let a = part(
        "n1",
        HOUR,
        60_000,
        vec![
            (0, None, 60_000, How::Open),
            (0, Some(-5_000), 15_000, How::Reset),
            (0, Some(1_000), 2_000, How::Finished),
            (1, Some(12_000), 13_500, How::Finished),
            (1, Some(20_000), 60_000, How::Open),
            (1, Some(59_000), 60_000, How::Open),
            (1, Some(30_000), 30_000, How::Unanswered),
        ],
    );
    // The second one began ten seconds later and ends five seconds earlier.
    let b = part("n2", HOUR + 10_000, 45_000, vec![(1, Some(2_000), 3_000, How::Silent)]);
    let Replay { scenario, endpoints, notes } = merged(&[a, b]);
    assert_eq!((scenario.until, scenario.nodes.count), (Span::from_secs(45), 2));
    assert_eq!(endpoints, ["a", "b"]);
    let traffic = scenario.traffic.unwrap();
    let shown = |recorded: &Recorded| {
        let seconds =
            |at: Timestamp| if at == Timestamp::NEVER { -1.0 } else { at.seconds_since(Timestamp::ZERO) };
        (recorded.node, recorded.endpoint, seconds(recorded.at), seconds(recorded.ends))
    };
    let present: Vec<_> = traffic.present.iter().map(shown).collect();
    assert_eq!(present, [(0, 0, 0.0, 5.0), (0, 0, 0.0, -1.0)]);
    let arrivals: Vec<_> = traffic.arrivals.iter().map(shown).collect();
    assert_eq!(arrivals, [(1, 1, 2.0, 3.0), (0, 1, 2.0, 3.5), (0, 1, 10.0, -1.0)]);
    assert!(notes.iter().any(|note| note.contains("1 attempts")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("n1.plr: 15 of 60 s are not replayed")), "{notes:?}");
}

#[test]
fn an_endpoint_is_there_as_long_as_chance_says() {
    // Three endpoints in turn; then one is not chosen any more; then it comes back as another would come.
    let mut connections = steady(0, 300, 100, 50, 3);
    connections.extend(steady(30_000, 100, 100, 50, 2));
    let replay = merged(&[part("n1", HOUR, 40_000, connections.clone())]);
    assert_eq!(replay.endpoints, ["a", "b", "c"]);
    let [event] = &replay.scenario.events[..] else { panic!("{:?}", replay.scenario.events) };
    assert_eq!((event.at.0.as_millis(), event.remove.as_ref().unwrap().endpoint), (29_900, 2));
    assert!(replay.notes[0].contains("1 of 3 endpoints came or went"), "{:?}", replay.notes);
    // The other way round it comes late, and is counted after those that were there.
    for connection in &mut connections {
        connection.1 = connection.1.map(|began| 40_000 - began);
        connection.2 = 40_000 - connection.2 + 50;
        connection.0 = (connection.0 + 1) % 3;
    }
    let replay = merged(&[part("n1", HOUR, 41_000, connections)]);
    assert_eq!(replay.endpoints, ["b", "c", "a"]);
    let [event] = &replay.scenario.events[..] else { panic!("{:?}", replay.scenario.events) };
    assert_eq!((event.at.0.as_millis(), event.add.as_ref().unwrap().count), (10_100, 1));
}

#[test]
fn what_cannot_be_merged_is_told_with_a_remedy() {
    let whole = |node: &str, began| part(node, began, 60_000, steady(0, 30, 1_000, 500, 3));
    let same = refused(&[whole("n1", HOUR), whole("n1", HOUR)]);
    assert!(same.contains("both of node \"n1\"") && same.contains("--node"), "{same}");
    let mut other = whole("n2", HOUR);
    other.contents.head.salt = None;
    let salts = refused(&[whole("n1", HOUR), other]);
    assert!(salts.contains("--salt-file") && salts.contains("--addresses"), "{salts}");
    let apart = refused(&[whole("n1", HOUR), whole("n2", HOUR + 3_600_000)]);
    assert!(apart.contains("n1.plr ends -3540.0 s after n2.plr begins"), "{apart}");
    let short = refused(&[part("n1", HOUR, 4_000, vec![])]);
    assert!(short.contains("4.0 s long") && short.contains("5 s at least"), "{short}");
    let empty = refused(&[part("n1", HOUR, 60_000, vec![(0, None, 60_000, How::Open)])]);
    assert!(empty.contains("no connection of web began"), "{empty}");
    let capacities = BTreeMap::from([("z".to_owned(), 2.0)]);
    let unknown = merge("web", &[whole("n1", HOUR)], &capacities).unwrap_err();
    assert!(unknown.contains("\"z\"") && unknown.contains("--list"), "{unknown}");
    assert!(refused(&[]).contains("no recording"));
}

#[test]
fn as_recorded_is_what_was_recorded_and_an_oracle_does_better() {
    // All to one endpoint for the first half, then to the other: as uneven as can be.
    let mut connections = Vec::new();
    for (number, mut connection) in steady(0, 600, 100, 20_000, 1).into_iter().enumerate() {
        connection.0 = u32::from(number >= 300);
        connections.push(connection);
    }
    // Both are there all the time.
    connections.push((1, Some(0), 10, How::Finished));
    connections.push((0, Some(59_900), 59_910, How::Finished));
    let replay = merged(&[part("n1", HOUR, 60_000, connections)]);
    assert!(replay.scenario.events.is_empty(), "{:?}", replay.scenario.events);
    let run = |contender| batch::run(&replay.scenario, contender, 1, None, &Progress::default()).measured;
    let real = run(Contender::AS_RECORDED);
    assert_eq!((real.outcome.failed, real.outcome.attempts), (0, 451));
    // Alone until 30 s, then half an half again at 40 s, then the other alone from 50 s on.
    let level = real.max_over_mean.unwrap();
    assert!((1.7..1.95).contains(&level), "{level}");
    for name in ["jsq-work", "round-robin", "random", "wlc", "waterline:counter", "waterline:edf"] {
        let measured = run(Contender::named(name).unwrap());
        assert_eq!(measured.outcome.attempts, real.outcome.attempts, "{name} meets the same clients");
        assert!(measured.max_over_mean.unwrap() < 1.3, "{name}: {:?}", measured.max_over_mean);
    }
    assert!(Contender::named("as-recorded").is_err(), "nobody can ask for it without a recording");
    assert!(!Contender::all().contains(&Contender::AS_RECORDED));
}

#[test]
fn endpoints_that_come_and_go_serve_while_they_are_there() {
    let mut connections = steady(0, 200, 100, 500, 2);
    connections.extend(steady(20_000, 300, 100, 500, 3));
    connections.extend(steady(50_000, 100, 100, 500, 2));
    let replay = merged(&[part("n1", HOUR, 60_000, connections)]);
    assert_eq!(replay.scenario.events.len(), 2, "{:?}", replay.scenario.events);
    for contender in [Contender::AS_RECORDED, Contender::named("waterline").unwrap()] {
        let measured = batch::run(&replay.scenario, contender, 1, None, &Progress::default()).measured;
        assert_eq!(measured.outcome.failed, 0, "{contender}");
        assert!(measured.max_over_mean.unwrap() < 1.5, "{contender}: {:?}", measured.max_over_mean);
    }
}

#[test]
fn numbers_at_the_ends_of_what_a_recording_can_say_are_no_trouble() {
    for clock_moved in [i64::MIN, i64::MAX] {
        let mut one = part("n1", HOUR, 60_000, steady(1_000, 50, 1_000, 500, 3));
        one.contents.tail.clock_moved = clock_moved;
        one.contents.tail.losses = u64::MAX;
        let notes = merged(std::slice::from_ref(&one)).notes.join("\n");
        assert!(notes.contains(&format!("the clock was set by {clock_moved} ms")), "{notes}");
        assert_eq!(check_recording(&one.contents, &one.connections), 1);
    }
    let began = (u64::MAX / 4) as i64;
    let late = part("n1", began, 60_000, vec![(0, Some(-3_155_760_000_000), 0, How::Finished)]);
    assert_eq!(check_recording(&late.contents, &late.connections), 0);
}

#[test]
fn the_corpus_of_recordings_is_merged_or_refused() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/recording");
    let mut replayed = 0;
    for file in std::fs::read_dir(corpus).expect("it is part of the project") {
        let bytes = std::fs::read(file.expect("it can be listed").path()).expect("it can be read");
        check_bytes(&bytes, |contents, connections| {
            replayed += check_recording(&contents, &connections);
        });
    }
    assert!(replayed > 0, "none could be replayed");
}

proptest::proptest! {
    #[test]
    fn arbitrary_recordings_are_merged_or_refused(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600),
    ) {
        check_bytes(&bytes, |contents, connections| {
            check_recording(&contents, &connections);
        });
    }
}
