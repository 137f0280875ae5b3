//! Merging and staleness.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::load::{Count, Counts, Filter};
use crate::service::{Conditions, Protocol};

fn id(last: u8) -> EndpointId {
    EndpointId { address: [10, 1, 0, last].into(), port: 8080, protocol: Protocol::Tcp }
}

fn endpoint(last: u8, node: Option<&str>) -> Endpoint {
    Endpoint {
        id: id(last),
        node: node.map(NodeName::new),
        capacity: None,
        conditions: Conditions::default(),
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
    }
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_duration(Duration::from_secs_f64(seconds))
}

fn loads() -> Loads {
    Loads::new(Filter {
        horizon: Duration::from_secs(1),
        time_constant: Duration::from_millis(700),
        sample_expiry: Duration::from_secs(5),
    })
}

fn view() -> View {
    View::new(NodeName::new("here"), Parameters::default())
}

/// An entry with `open` connections, none of them young.
fn entry(last: u8, open: u32) -> EndpointReport {
    EndpointReport {
        endpoint: id(last),
        open,
        young: 0,
        middle: 0,
        opens_per_second: 0.0,
        failures_per_second: 0.0,
        cpu: None,
        pressure: None,
    }
}

fn report(node: &str, age: f64, hosted: Vec<EndpointReport>) -> Arc<Report> {
    Arc::new(Report {
        node: NodeName::new(node),
        age: Duration::from_secs_f64(age),
        opens_per_second: 1.0,
        hosted,
        sent: Vec::new(),
    })
}

/// What this node sent, as the dataplane counts it.
fn sent(view: &mut View, loads: &mut Loads, now: f64, counts: &[(u8, u32)]) {
    let sent = counts.iter().map(|(last, open)| Count { open: *open, ..Count::none(id(*last)) }).collect();
    loads.count(at(now), &Counts { sent, ..Counts::default() }, |_| {});
    view.count(at(now), loads, |_| {});
}

fn members(view: &View, lasts: &[u8]) -> Vec<Member> {
    let member = |last: &u8| {
        let endpoint = id(*last);
        Member { endpoint, number: view.number(&endpoint).unwrap(), capacity: None, eligible: None }
    };
    lasts.iter().map(member).collect()
}

fn open(view: &View, loads: &Loads, now: f64, lasts: &[u8]) -> Vec<f64> {
    let mut rows = Vec::new();
    view.rows(at(now), loads, &members(view, lasts), &mut rows);
    rows.iter().map(|row| row.load.open).collect()
}

#[test]
fn a_total_is_carried_forward_by_own_changes() {
    let (mut view, mut loads) = (view(), loads());
    view.know(&endpoint(1, Some("far")), &loads);
    sent(&mut view, &mut loads, 1.0, &[(1, 10)]);
    sent(&mut view, &mut loads, 2.0, &[(1, 20)]);
    // Measured at 1.5 s, when this node had 15: the others have 85.
    view.merge(at(2.0), report("far", 0.5, vec![entry(1, 100)]), |_| {});
    assert_eq!(open(&view, &loads, 2.0, &[1]), [105.0]);
    sent(&mut view, &mut loads, 3.0, &[(1, 50)]);
    assert_eq!(open(&view, &loads, 3.0, &[1]), [135.0]);
    sent(&mut view, &mut loads, 4.0, &[]);
    assert_eq!(open(&view, &loads, 4.0, &[1]), [85.0]);
}

#[test]
fn an_older_report_and_one_of_this_node_change_nothing() {
    let (mut view, loads) = (view(), loads());
    view.know(&endpoint(1, Some("far")), &loads);
    view.know(&endpoint(2, Some("here")), &loads);
    view.merge(at(2.0), report("far", 0.1, vec![entry(1, 100)]), |_| {});
    view.merge(at(2.1), report("far", 0.5, vec![entry(1, 7)]), |_| {});
    view.merge(at(2.1), report("here", 0.0, vec![entry(2, 7)]), |_| {});
    assert_eq!(open(&view, &loads, 2.1, &[1]), [100.0]);
    assert_eq!(view.nodes(at(2.1)).count(), 1);
}

/// An agent that began a second ago: what others measured before is as old as they say.
#[test]
fn an_old_report_is_old_for_an_agent_that_just_began() {
    let (mut view, loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, Some("far")), &loads);
    }
    view.merge(at(1.0), report("far", 30.0, vec![entry(1, 100), entry(2, 0)]), |_| {});
    assert_eq!(view.figures(at(1.0), &loads, &id(1)).age, Duration::from_secs(30));
    view.merge(at(1.0), report("far", 40.0, vec![entry(1, 7), entry(2, 0)]), |_| {});
    let open = open(&view, &loads, 1.0, &[1, 2]);
    let kept = libm::exp(-25.0 / 30.0);
    assert!((open[0] - (50.0 + 50.0 * kept)).abs() < 1e-6, "{open:?}");
}

#[test]
fn a_report_about_an_endpoint_that_another_node_hosts_is_not_believed() {
    let (mut view, loads) = (view(), loads());
    view.know(&endpoint(1, Some("far")), &loads);
    view.know(&endpoint(2, Some("far")), &loads);
    view.merge(at(1.0), report("far", 0.0, vec![entry(1, 10), entry(2, 30)]), |_| {});
    view.merge(at(1.0), report("liar", 0.0, vec![entry(1, 999)]), |_| {});
    assert_eq!(open(&view, &loads, 1.0, &[1, 2]), [10.0, 30.0]);
}

#[test]
fn a_report_that_came_before_the_endpoint_counts_for_it() {
    let (mut view, loads) = (view(), loads());
    view.merge(at(1.0), report("far", 0.0, vec![entry(1, 10)]), |_| {});
    view.know(&endpoint(1, Some("far")), &loads);
    assert_eq!(open(&view, &loads, 1.0, &[1]), [10.0]);
}

#[test]
fn an_endpoint_nobody_reported_is_at_the_level_of_the_others() {
    let (mut view, loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, Some("far")), &loads);
    }
    view.know(&endpoint(3, Some("silent")), &loads);
    view.merge(at(1.0), report("far", 0.0, vec![entry(1, 10), entry(2, 30)]), |_| {});
    assert_eq!(open(&view, &loads, 1.0, &[1, 2, 3]), [10.0, 30.0, 20.0]);
}

#[test]
fn endpoints_without_an_agent_are_summed_over_the_senders() {
    let (mut view, mut loads) = (view(), loads());
    view.know(&endpoint(1, None), &loads);
    sent(&mut view, &mut loads, 1.0, &[(1, 5)]);
    for (node, count) in [("a", 10), ("b", 20)] {
        let report = Report { sent: vec![entry(1, count)], ..(*report(node, 0.0, vec![])).clone() };
        view.merge(at(1.0), Arc::new(report), |_| {});
    }
    assert_eq!(open(&view, &loads, 1.0, &[1]), [35.0]);
    assert_eq!(view.figures(at(1.0), &loads, &id(1)).origin, Origin::Senders(2));
}

fn with_sent(node: &str, sent: Vec<EndpointReport>) -> Arc<Report> {
    Arc::new(Report { sent, ..(*report(node, 0.0, vec![])).clone() })
}

#[test]
fn a_sender_that_went_does_not_blur_what_the_others_see() {
    let (mut view, loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, None), &loads);
    }
    view.merge(at(0.0), with_sent("gone", vec![entry(1, 10), entry(2, 0)]), |_| {});
    view.merge(at(300.0), with_sent("alive", vec![entry(1, 90), entry(2, 10)]), |_| {});
    let open = open(&view, &loads, 300.0, &[1, 2]);
    // Of the one that went only the sum is left, split fairly.
    assert!((open[0] - 95.0).abs() < 0.01 && (open[1] - 15.0).abs() < 0.01, "{open:?}");
}

/// What the senders that are heard say of endpoint 1: open connections, and for how many seconds they are the same.
fn heard(view: &View, loads: &Loads, now: f64) -> (f64, f64) {
    let mut rows = Vec::new();
    view.rows(at(now), loads, &members(view, &[1]), &mut rows);
    let heard = rows[0].heard.unwrap();
    (heard.load.open, heard.seconds)
}

#[test]
fn a_sender_that_fell_silent_is_no_evidence() {
    let (mut view, mut loads) = (view(), loads());
    view.know(&endpoint(1, None), &loads);
    sent(&mut view, &mut loads, 1.0, &[(1, 5)]);
    assert_eq!(heard(&view, &loads, 1.0), (5.0, f64::INFINITY));
    for node in ["gone", "alive"] {
        view.merge(at(2.0), with_sent(node, vec![entry(1, 10)]), |_| {});
    }
    assert_eq!(heard(&view, &loads, 2.0), (25.0, 0.0));
    view.merge(at(6.0), with_sent("alive", vec![entry(1, 20)]), |_| {});
    assert_eq!(heard(&view, &loads, 6.5), (35.0, 4.5));
    // Trusted for five seconds.
    assert_eq!(heard(&view, &loads, 8.0), (25.0, 1.0));
    assert_eq!(open(&view, &loads, 8.0, &[1]), [35.0], "its connections may well be open");
    // What is as old when it comes is none either, and not for the first time.
    let late = Report { age: Duration::from_secs(6), ..(*with_sent("gone", vec![entry(1, 7)])).clone() };
    view.merge(at(9.0), Arc::new(late), |_| {});
    assert_eq!(heard(&view, &loads, 9.0), (25.0, 7.0));
    view.merge(at(10.0), with_sent("gone", vec![entry(1, 8)]), |_| {});
    assert_eq!(heard(&view, &loads, 10.5), (33.0, 0.5));
}

#[test]
fn a_host_that_fell_silent_is_all_there_is() {
    let (mut view, loads) = (view(), loads());
    view.know(&endpoint(1, Some("far")), &loads);
    view.merge(at(0.0), report("far", 0.0, vec![entry(1, 10)]), |_| {});
    let mut rows = Vec::new();
    view.rows(at(60.0), &loads, &members(&view, &[1]), &mut rows);
    assert_eq!((rows[0].heard, rows[0].evidence().open), (None, 10.0));
}

#[test]
fn what_the_host_does_not_report_any_more_grows_old() {
    let (mut view, loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, Some("far")), &loads);
    }
    view.merge(at(0.0), report("far", 0.0, vec![entry(1, 100), entry(2, 0)]), |_| {});
    view.merge(at(300.0), report("far", 0.0, vec![entry(2, 0)]), |_| {});
    assert_eq!(view.figures(at(300.0), &loads, &id(1)).age, Duration::from_mins(5));
    view.expire(at(700.0));
    assert_eq!(view.figures(at(700.0), &loads, &id(1)).origin, Origin::Nobody);
}

#[test]
fn an_endpoint_here_that_is_not_counted_yet_is_not_taken_for_idle() {
    let (mut view, mut loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, Some("here")), &loads);
    }
    let hosted = vec![Count { open: 30, ..Count::none(id(1)) }];
    loads.count(at(1.0), &Counts { hosted, ..Counts::default() }, |_| {});
    view.count(at(1.0), &loads, |_| {});
    assert_eq!(open(&view, &loads, 1.0, &[1, 2]), [30.0, 30.0]);
}

/// Found by a hostile run: one reading that was no number made those of all others none, once anything was stale.
#[test]
fn what_is_no_figure_does_not_spoil_those_of_others() {
    let (mut view, loads) = (view(), loads());
    for (last, node) in [(1, "far"), (2, "far"), (3, "liar")] {
        view.know(&endpoint(last, Some(node)), &loads);
    }
    let reading = |last, cpu, opens| {
        let cpu = Some(cpu);
        EndpointReport { cpu, pressure: cpu, opens_per_second: opens, ..entry(last, 10) }
    };
    view.merge(at(0.0), report("far", 0.0, vec![reading(1, 1.0, 5.0), reading(2, 0.5, 3.0)]), |_| {});
    for nonsense in [f32::NAN, f32::INFINITY, -1.0] {
        view.merge(at(0.0), report("liar", 0.0, vec![reading(3, nonsense, nonsense)]), |_| {});
        let mut rows = Vec::new();
        view.rows(at(20.0), &loads, &members(&view, &[1, 2, 3]), &mut rows);
        for row in &rows[..2] {
            let Load { cpu, pressure, opens_per_second, .. } = row.load;
            assert!(cpu.is_some_and(|cpu| (0.5..=1.0).contains(&cpu)), "{nonsense}: {row:?}");
            assert!(pressure.is_some_and(|pressure| (0.5..=1.0).contains(&pressure)), "{nonsense}: {row:?}");
            assert!((2.0..=5.0).contains(&opens_per_second), "{nonsense}: {row:?}");
        }
    }
}

#[test]
fn golden_case_h_a_stale_record() {
    let (mut view, loads) = (view(), loads());
    let others = [(1, 50), (2, 20), (3, 20), (4, 10)];
    for (last, _) in others {
        view.know(&endpoint(last, Some("far")), &loads);
    }
    let entries = others.iter().map(|(last, open)| entry(*last, *open)).collect();
    view.merge(at(100.0), report("far", 0.0, entries), |_| {});
    let open = open(&view, &loads, 135.0, &[1, 2, 3, 4]);
    assert!((open[0] - 34.196_986).abs() < 1e-5, "{open:?}");
    assert!((open.iter().sum::<f64>() - 100.0).abs() < 1e-9);
}

#[test]
fn own_connections_are_never_shrunk() {
    let (mut view, mut loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, Some("far")), &loads);
    }
    view.merge(at(0.0), report("far", 0.0, vec![entry(1, 0), entry(2, 0)]), |_| {});
    sent(&mut view, &mut loads, 1.0, &[(1, 40)]);
    assert_eq!(open(&view, &loads, 1000.0, &[1, 2]), [40.0, 0.0]);
}

#[test]
fn changes_are_told_once() {
    let (mut view, mut loads) = (view(), loads());
    view.know(&endpoint(1, Some("far")), &loads);
    let mut told = Vec::new();
    let same = report("far", 0.0, vec![entry(1, 10)]);
    view.merge(at(1.0), same.clone(), |endpoint| told.push(endpoint));
    view.merge(at(2.0), same, |endpoint| told.push(endpoint));
    assert_eq!(told, [view.number(&id(1)).unwrap()]);
    told.clear();
    for (now, count) in [(3.0, 5), (4.0, 5)] {
        let counts = Counts { sent: vec![Count { open: count, ..Count::none(id(1)) }], ..Counts::default() };
        loads.count(at(now), &counts, |_| {});
        view.count(at(now), &loads, |endpoint| told.push(endpoint));
    }
    assert_eq!(told, [view.number(&id(1)).unwrap()]);
}

#[test]
fn what_a_sender_does_not_mention_any_more_has_changed() {
    let (mut view, loads) = (view(), loads());
    view.know(&endpoint(1, None), &loads);
    view.merge(at(1.0), with_sent("a", vec![entry(1, 10)]), |_| {});
    let mut told = Vec::new();
    view.merge(at(2.0), with_sent("a", vec![]), |number| told.push(number));
    assert_eq!(told, [view.number(&id(1)).unwrap()]);
    assert_eq!(open(&view, &loads, 2.0, &[1]), [0.0]);
}

proptest! {
    /// `law` 7.8: as reports age, figures tend to the fair split and their sum is kept.
    #[test]
    fn stale_figures_tend_to_the_fair_split(
        opens in prop::collection::vec(0u32..1000, 1..12),
        age in 0.0..600.0f64,
    ) {
        let (mut view, loads) = (view(), loads());
        let lasts: Vec<u8> = (0..opens.len() as u8).collect();
        for last in &lasts {
            view.know(&endpoint(*last, Some("far")), &loads);
        }
        let entries = lasts.iter().zip(&opens).map(|(last, open)| entry(*last, *open)).collect();
        view.merge(at(0.0), report("far", 0.0, entries), |_| {});
        let shrunk = open(&view, &loads, age, &lasts);
        let sum: f64 = opens.iter().map(|open| f64::from(*open)).sum();
        let fair = sum / opens.len() as f64;
        prop_assert!((shrunk.iter().sum::<f64>() - sum).abs() < 1e-6);
        for (shrunk, open) in shrunk.iter().zip(&opens) {
            prop_assert!((shrunk - fair).abs() <= (f64::from(*open) - fair).abs() + 1e-9);
            if age <= 5.0 {
                prop_assert_eq!(*shrunk, f64::from(*open));
            } else if age > 500.0 {
                prop_assert!((shrunk - fair).abs() < 1e-4);
            }
        }
    }

    /// Merging is idempotent, and the order in which different nodes' reports come does not matter.
    #[test]
    fn merging_is_idempotent_and_commutes(a in 0u32..100, b in 0u32..100) {
        let loads = loads();
        let reports = [report("a", 0.0, vec![entry(1, a)]), report("b", 0.0, vec![entry(2, b)])];
        let merged = |order: &[usize]| {
            let mut view = view();
            view.know(&endpoint(1, Some("a")), &loads);
            view.know(&endpoint(2, Some("b")), &loads);
            for &i in order {
                view.merge(at(1.0), reports[i].clone(), |_| {});
            }
            open(&view, &loads, 1.0, &[1, 2])
        };
        prop_assert_eq!(merged(&[0, 1]), merged(&[1, 0]));
        prop_assert_eq!(merged(&[0, 1]), merged(&[0, 1, 0, 1, 1]));
    }
}

#[test]
fn own_connections_that_ended_while_endpoints_changed_places_are_not_kept() {
    let (mut view, mut loads) = (view(), loads());
    for last in [1, 2] {
        view.know(&endpoint(last, None), &loads);
    }
    sent(&mut view, &mut loads, 1.0, &[(1, 5)]);
    // Both go and come back before the next count, each with the number that the other had.
    view.forget(&id(2));
    view.forget(&id(1));
    view.know(&endpoint(2, None), &loads);
    assert_ne!(view.number(&id(1)), view.number(&id(2)));
    view.know(&endpoint(1, None), &loads);
    assert_eq!(open(&view, &loads, 1.0, &[1, 2]), [5.0, 0.0], "until the next count");
    // The dataplane counts anew, and by now there is nothing to count.
    sent(&mut view, &mut loads, 2.0, &[]);
    assert_eq!(open(&view, &loads, 2.0, &[1, 2]), [0.0, 0.0]);
}
