//! The balancer as its callers meet it: events in, commands out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::load::Count;
use crate::plan::Change;
use crate::report::EndpointReport;
use crate::service::{Conditions, Endpoint, Family, Key, Mode, Place, Protocol};
use crate::table::{Choose, Left};

const INTERVAL: Duration = Duration::from_millis(200);

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_duration(Duration::from_secs_f64(seconds))
}

fn balancer() -> Balancer {
    let here = Here { node: NodeName::new("n1"), zone: None };
    let parameters = Parameters {
        tick: Duration::from_millis(500),
        report_interval: INTERVAL,
        lease: Duration::from_secs(3),
        policy: PolicyKind::Waterline,
        policies: policy::Parameters::default(),
        guard: guard::Parameters::default(),
        view: view::Parameters::default(),
    };
    Balancer::new(here, parameters)
}

fn id(last: u8) -> EndpointId {
    EndpointId { address: [10, 1, 0, last].into(), port: 8080, protocol: Protocol::Tcp }
}

/// A Service with one internal key and endpoints `(last byte, node)`.
fn service(name: &str, endpoints: &[(u8, &str)]) -> Service {
    let place = Place::Internal(IpAddr::from([10, 96, 0, name.len() as u8]));
    Service {
        id: ServiceId { name: name.into(), port: "".into(), family: Family::V4 },
        protocol: Protocol::Tcp,
        keys: vec![Key { place, port: 80, protocol: Protocol::Tcp }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        mode: Mode::Enabled,
        policy: None,
        slow_start: Duration::ZERO,
        floor: None,
        endpoints: endpoints
            .iter()
            .map(|(last, node)| Endpoint {
                id: id(*last),
                node: Some(NodeName::new(node)),
                capacity: None,
                conditions: Conditions::default(),
                for_zones: Vec::new(),
                for_nodes: Vec::new(),
            })
            .collect(),
    }
}

fn all(services: &[Service]) -> Event {
    Event::Services(ServiceChange::All(services.iter().cloned().map(Arc::new).collect()))
}

fn counts(hosted: &[(u8, u32)]) -> Event {
    let count = |(last, open): &(u8, u32)| Count { open: *open, ..Count::none(id(*last)) };
    Event::Counts(Counts { hosted: hosted.iter().map(count).collect(), ..Counts::default() })
}

/// As if endpoint 1 had been sent `opened` connections within the last second, all of them still open.
fn lasting(opened: u32) -> Event {
    let mut count = Count { open: opened, opened: u64::from(opened), ..Count::none(id(1)) };
    count.opened_by_age[0] = opened;
    count.open_by_age[0] = opened;
    let mut slots = [f32::INFINITY; crate::load::AGE_SLOTS];
    slots[0] = 1.0;
    Event::Counts(Counts { slots, hosted: vec![count], ..Counts::default() })
}

fn report(node: &str, hosted: &[(u8, u32)]) -> Event {
    let entry = |(last, open): &(u8, u32)| EndpointReport {
        endpoint: id(*last),
        open: *open,
        young: 0,
        middle: 0,
        opens_per_second: 1.0,
        failures_per_second: 0.0,
        cpu: None,
        pressure: None,
    };
    Event::Report(Arc::new(Report {
        node: NodeName::new(node),
        age: Duration::ZERO,
        opens_per_second: 1.0,
        hosted: hosted.iter().map(entry).collect(),
        sent: Vec::new(),
    }))
}

fn plans(commands: Vec<Command>) -> Vec<Plan> {
    let plan = |command| if let Command::Apply(plan) = command { Some(plan) } else { None };
    commands.into_iter().filter_map(plan).collect()
}

/// The one plan in `commands`.
fn plan(commands: Vec<Command>) -> Plan {
    let mut plans = plans(commands);
    assert_eq!(plans.len(), 1, "{plans:?}");
    plans.remove(0)
}

fn weights(plan: &Plan) -> Vec<(EndpointId, u32)> {
    let Some(Change::Replace(_, table) | Change::Reweight(_, table)) = plan.changes.first() else {
        panic!("no weights in {plan:?}");
    };
    table.cluster.iter().map(|entry| (entry.endpoint, entry.weight)).collect()
}

/// Two endpoints, one here and one on n2, applied.
fn running() -> Balancer {
    let mut balancer = balancer();
    let first = plan(balancer.on(at(0.0), all(&[service("web", &[(1, "n1"), (2, "n2")])])));
    assert!(first.fresh);
    balancer.on(at(0.0), Event::Applied(Ok(())));
    balancer.on(at(0.0), counts(&[(1, 0)]));
    balancer
}

#[test]
fn the_first_plan_is_fresh_and_whole() {
    let mut balancer = balancer();
    let plan = plan(balancer.on(at(0.0), all(&[service("web", &[(1, "n1"), (2, "n2")])])));
    assert!(plan.fresh);
    assert_eq!(plan.host, [id(1)].into());
    assert_eq!(plan.know, [id(1), id(2)].into());
    let weights = weights(&plan);
    assert_eq!(weights.len(), 2);
    assert_eq!(weights[0].1, weights[1].1, "nothing is known: equal");
}

#[test]
fn a_node_that_learns_its_zone_heeds_the_hints() {
    let mut balancer = balancer();
    let mut hinted = service("web", &[(1, "n1"), (2, "n2")]);
    for (endpoint, zone) in hinted.endpoints.iter_mut().zip(["a", "b"]) {
        endpoint.for_zones = vec![zone.into()];
    }
    let of = |plan: &Plan| weights(plan).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    let first = plan(balancer.on(at(0.0), all(&[hinted])));
    assert_eq!(of(&first), [id(1), id(2)], "without a zone: all");
    balancer.on(at(0.0), Event::Applied(Ok(())));
    let second = plan(balancer.on(at(0.1), Event::Zone(Some("b".into()))));
    assert_eq!(of(&second), [id(2)]);
    balancer.on(at(0.1), Event::Applied(Ok(())));
    assert!(plans(balancer.on(at(0.2), Event::Zone(Some("b".into())))).is_empty(), "it knew");
    let third = plan(balancer.on(at(0.3), Event::Zone(None)));
    assert_eq!(of(&third), [id(1), id(2)]);
}

#[test]
fn counts_are_published_at_once() {
    let mut balancer = running();
    let commands = balancer.on(at(0.2), counts(&[(1, 7)]));
    let Some(Command::Publish(report)) = commands.first() else { panic!("{commands:?}") };
    assert_eq!(report.hosted.len(), 1);
    assert_eq!((report.hosted[0].endpoint, report.hosted[0].open), (id(1), 7));
}

#[test]
fn a_decision_follows_a_report_within_a_tenth_of_the_interval() {
    let mut balancer = running();
    for i in 1..=10 {
        // Connections to endpoint 1 last, so that it may get more than its part once it has room.
        balancer.on(at(0.2 * f64::from(i)), lasting(2 * i));
        balancer.on(at(0.2 * f64::from(i)), Event::Applied(Ok(())));
    }
    balancer.on(at(2.6), Event::Wake);
    balancer.on(at(2.6), Event::Applied(Ok(())));
    let commands = balancer.on(at(2.7), report("n2", &[(2, 400)]));
    assert!(plans(commands).is_empty(), "not per event");
    assert!(balancer.next_wake() <= at(2.72));
    let plan = plan(balancer.on(at(2.72), Event::Wake));
    assert!(matches!(plan.changes[..], [Change::Reweight(..)]));
    let weights = weights(&plan);
    assert!(weights[0].1 > weights[1].1, "the endpoint with fewer connections gets more: {weights:?}");
}

#[test]
fn a_service_without_news_is_decided_with_every_fourth_tick() {
    let mut balancer = running();
    balancer.on(at(0.1), report("n2", &[(2, 4)]));
    let id = ServiceId { name: "web".into(), port: "".into(), family: Family::V4 };
    let (mut decided, mut open) = (Vec::new(), 0.0);
    for tick in 20..=40 {
        let now = at(0.5 * f64::from(tick));
        assert!(plans(balancer.on(now, Event::Wake)).iter().all(|plan| plan.changes.is_empty()), "it rests");
        balancer.on(now, Event::Applied(Ok(())));
        // Nothing is heard from n2 any more: its figures shrink, and those of the last decision are told.
        let told = balancer.explain(now, &id).unwrap().endpoints[1].open;
        if told != open {
            open = told;
            decided.push(tick);
        }
    }
    assert!(
        decided.len() >= 4 && decided.windows(2).skip(1).all(|pair| pair[1] - pair[0] == 4),
        "{decided:?}"
    );
}

#[test]
fn an_endpoint_that_goes_is_out_at_once_and_released() {
    let mut balancer = running();
    let commands = balancer.on(at(0.1), all(&[service("web", &[(1, "n1")])]));
    let plan = plan(commands);
    assert_eq!(weights(&plan).len(), 1);
    assert_eq!(plan.release, [id(2)].into());
    assert_eq!(plan.forget, [id(2)].into());
}

#[test]
fn an_endpoint_that_serves_elsewhere_is_not_released() {
    let mut balancer = balancer();
    balancer.on(at(0.0), all(&[service("web", &[(1, "n1"), (2, "n2")]), service("other", &[(2, "n2")])]));
    balancer.on(at(0.0), Event::Applied(Ok(())));
    let fewer = all(&[service("web", &[(1, "n1")]), service("other", &[(2, "n2")])]);
    let plan = plan(balancer.on(at(0.1), fewer));
    assert!(plan.release.is_empty() && plan.forget.is_empty());
}

#[test]
fn one_plan_is_under_way_at_most() {
    let mut balancer = balancer();
    balancer.on(at(0.0), all(&[service("web", &[(1, "n1"), (2, "n2")])]));
    let commands = balancer.on(at(0.1), all(&[service("web", &[(1, "n1")])]));
    assert!(plans(commands).is_empty());
    let next = plan(balancer.on(at(0.2), Event::Applied(Ok(()))));
    assert!(!next.fresh);
    assert_eq!(next.release, [id(2)].into());
}

#[test]
fn a_refused_plan_is_followed_by_a_fresh_one_after_a_second() {
    let mut balancer = balancer();
    balancer.on(at(0.0), all(&[service("web", &[(1, "n1")])]));
    let commands = balancer.on(at(0.1), Event::Applied(Err("no buffer".into())));
    assert!(commands.iter().any(|command| matches!(command, Command::Tell(Notice::Refused(_)))));
    assert!(plans(commands).is_empty());
    let later = at(1.1) + Duration::from_nanos(1);
    assert!(balancer.next_wake() <= later);
    assert!(plan(balancer.on(later, Event::Wake)).fresh);
}

#[test]
fn what_came_back_before_a_plan_was_refused_is_not_released() {
    let mut balancer = running();
    let gone = plan(balancer.on(at(0.1), all(&[service("web", &[(1, "n1")])])));
    assert_eq!(gone.release, [id(2)].into());
    balancer.on(at(0.2), all(&[service("web", &[(1, "n1"), (2, "n2")])]));
    balancer.on(at(0.3), Event::Applied(Err("no buffer".into())));
    let fresh = plan(balancer.on(at(1.4), Event::Wake));
    assert!(fresh.fresh && fresh.release.is_empty(), "{fresh:?}");
}

#[test]
fn there_is_nothing_to_wake_for_while_a_fresh_plan_waits() {
    let mut balancer = running();
    balancer.on(at(0.9), all(&[service("web", &[(1, "n1")])]));
    balancer.on(at(0.95), Event::Applied(Err("no buffer".into())));
    // The leases' third ends at 1 s, the retry is at 1.95 s.
    balancer.on(at(1.3), Event::Wake);
    assert!(balancer.next_wake() > at(1.3), "{:?}", balancer.next_wake());
}

#[test]
fn connections_that_only_fail_are_decided_by_soon() {
    let mut balancer = running();
    balancer.on(at(0.6), Event::Wake);
    let refused = Count { refused: 3, ..Count::none(id(1)) };
    balancer.on(at(0.7), Event::Counts(Counts { hosted: vec![refused], ..Counts::default() }));
    assert!(balancer.next_wake() <= at(0.72), "{:?}", balancer.next_wake());
}

#[test]
fn leases_are_renewed_every_third_while_this_node_counts() {
    let mut balancer = running();
    let mut renewals = Vec::new();
    let mut now = 0.1;
    while now < 10.0 {
        // Counting stops after five seconds.
        let event = if now < 5.0 { counts(&[(1, 0)]) } else { Event::Wake };
        for plan in plans(balancer.on(at(now), event)) {
            if plan.renew {
                renewals.push(now);
            }
            balancer.on(at(now), Event::Applied(Ok(())));
        }
        now += 0.1;
    }
    assert!(renewals.windows(2).all(|pair| pair[1] - pair[0] < 1.2), "{renewals:?}");
    assert!(renewals.len() >= 6 && *renewals.last().unwrap() < 8.1, "{renewals:?}");
}

#[test]
fn an_observed_service_is_counted_but_not_taken() {
    let mut balancer = balancer();
    let observed = Service { mode: Mode::Observe, ..service("web", &[(1, "n1")]) };
    let plan = plan(balancer.on(at(0.0), all(std::slice::from_ref(&observed))));
    assert_eq!(plan.host, [id(1)].into());
    let Change::Replace(_, table) = &plan.changes[0] else { panic!("{plan:?}") };
    assert!(table.keys.is_empty());
    assert_eq!(balancer.explain(at(0.0), &observed.id).unwrap().left[0].1, Left::Observed);
}

#[test]
fn a_local_key_without_a_local_endpoint_is_left_with_a_reason() {
    let mut balancer = balancer();
    let local = Service { internal_policy: TrafficPolicy::Local, ..service("web", &[(2, "n2")]) };
    balancer.on(at(0.0), all(std::slice::from_ref(&local)));
    balancer.on(at(0.0), Event::Applied(Ok(())));
    assert_eq!(balancer.explain(at(0.0), &local.id).unwrap().left[0].1, Left::NoLocalEndpoint);
    let both = Service { internal_policy: TrafficPolicy::Local, ..service("web", &[(1, "n1"), (2, "n2")]) };
    let plan = plan(balancer.on(at(0.1), all(&[both])));
    let Change::Replace(_, table) = &plan.changes[0] else { panic!("{plan:?}") };
    assert_eq!(table.keys[0].choose, Choose::Local);
    assert_eq!((table.local.len(), table.cluster.len()), (1, 2));
}

#[test]
fn the_same_events_give_the_same_commands() {
    let run = || {
        let mut balancer = balancer();
        let mut log = String::new();
        for i in 0..50u32 {
            let now = at(f64::from(i) * 0.1);
            let event = match i % 5 {
                0 => all(&[service("web", &[(1, "n1"), (2, "n2"), (3 + (i / 10) as u8, "n2")])]),
                1 => counts(&[(1, i)]),
                2 => report("n2", &[(2, 2 * i), (3, i / 2)]),
                3 => Event::Applied(Ok(())),
                _ => Event::Wake,
            };
            writeln!(log, "{:?}", balancer.on(now, event)).unwrap();
        }
        log
    };
    assert_eq!(run(), run());
}

#[test]
fn explanations_say_whose_figures_they_are() {
    let mut balancer = running();
    balancer.on(at(0.3), counts(&[(1, 7)]));
    balancer.on(at(0.4), report("n2", &[(2, 40)]));
    balancer.on(at(1.0), Event::Wake);
    let id = service("web", &[]).id;
    let explanation = balancer.explain(at(1.0), &id).unwrap();
    let [here, far] = &explanation.endpoints[..] else { panic!("{explanation:?}") };
    assert_eq!((&here.origin, here.open), (&view::Origin::Here, 7.0));
    assert_eq!((&far.origin, far.open), (&view::Origin::Host(NodeName::new("n2")), 40.0));
    assert_eq!(far.age, Some(Duration::from_millis(600)));
}

#[test]
fn a_key_that_two_services_claim_is_served_for_the_first_by_name() {
    let mut balancer = balancer();
    let first = service("web", &[(1, "n1")]);
    let key = first.keys[0];
    let external = Key { place: Place::External("10.96.0.3".parse().unwrap()), ..key };
    let second = Service { keys: vec![external], ..service("zoo", &[(2, "n2")]) };
    let fresh = plan(balancer.on(at(0.0), all(&[first.clone(), second.clone()])));
    balancer.on(at(0.0), Event::Applied(Ok(())));
    let served = |plan: &Plan, id: &ServiceId| {
        plan.changes.iter().find_map(|change| match change {
            Change::Replace(of, table) | Change::Reweight(of, table) if of == id => Some(table.keys.len()),
            _ => None,
        })
    };
    assert_eq!((served(&fresh, &first.id), served(&fresh, &second.id)), (Some(1), Some(0)));
    assert_eq!(balancer.explain(at(0.0), &second.id).unwrap().left, [(external, Left::Claimed)]);
    let after = plan(balancer.on(at(0.1), Event::Services(ServiceChange::Remove(first.id))));
    assert_eq!(served(&after, &second.id), Some(1), "it is free now");
}

#[test]
fn a_service_that_needs_no_local_list_any_more_has_none() {
    let mut balancer = balancer();
    let local = Service { internal_policy: TrafficPolicy::Local, ..service("web", &[(1, "n1"), (2, "n2")]) };
    balancer.on(at(0.0), all(&[local]));
    balancer.on(at(0.0), Event::Applied(Ok(())));
    let plan = plan(balancer.on(at(0.1), all(&[service("web", &[(2, "n2")])])));
    let Change::Replace(_, table) = &plan.changes[0] else { panic!("{plan:?}") };
    assert!(table.local.is_empty(), "{table:?}");
}

#[test]
fn an_endpoint_that_came_back_meanwhile_is_not_released() {
    let mut balancer = balancer();
    balancer.on(at(0.0), all(&[service("web", &[(1, "n1"), (2, "n2")])]));
    balancer.on(at(0.1), all(&[service("web", &[(1, "n1")])]));
    balancer.on(at(0.2), all(&[service("web", &[(1, "n1"), (2, "n2")])]));
    let released = plans(balancer.on(at(0.3), Event::Applied(Ok(()))));
    assert!(released.iter().all(|plan| plan.release.is_empty()), "{released:?}");
}

#[test]
fn a_list_that_is_too_long_does_not_get_into_a_plan() {
    let mut balancer = balancer();
    let mut large = service("web", &[]);
    large.endpoints = (0..=crate::order::MAX_ENDPOINTS as u32)
        .map(|i| Endpoint {
            id: EndpointId { address: std::net::Ipv4Addr::from(0x0a01_0000 + i).into(), ..id(0) },
            node: None,
            ..service("web", &[(1, "n1")]).endpoints[0].clone()
        })
        .collect();
    let plan = plan(balancer.on(at(0.0), all(&[large.clone(), service("other", &[(1, "n1")])])));
    for change in &plan.changes {
        let Change::Replace(_, table) = change else { panic!("{change:?}") };
        assert!(crate::order::steps(table.cluster.len()).is_some(), "{} endpoints", table.cluster.len());
    }
    assert_eq!(balancer.explain(at(0.0), &large.id).unwrap().left[0].1, Left::TooManyEndpoints);
}

#[test]
fn the_first_counts_are_decided_by_at_once() {
    let mut balancer = balancer();
    let web = service("web", &[(1, "n1"), (2, "n1")]);
    balancer.on(at(0.0), all(std::slice::from_ref(&web)));
    balancer.on(at(0.01), Event::Applied(Ok(())));
    balancer.on(at(0.1), counts(&[(1, 7), (2, 3)]));
    let open: Vec<f64> =
        balancer.explain(at(0.1), &web.id).unwrap().endpoints.iter().map(|endpoint| endpoint.open).collect();
    assert_eq!(open, [7.0, 3.0]);
}

/// What a dataplane holds that does as it is told, or refuses.
#[derive(Debug, Default, PartialEq)]
struct Obedient {
    services: BTreeMap<ServiceId, crate::table::ServiceTable>,
    hosted: BTreeSet<EndpointId>,
    known: BTreeSet<EndpointId>,
}

impl Obedient {
    fn apply(&mut self, plan: Plan) {
        if plan.fresh {
            *self = Obedient::default();
        }
        for change in plan.changes {
            match change {
                Change::Replace(id, table) => drop(self.services.insert(id, table)),
                Change::Reweight(id, table) => {
                    let present = self.services.insert(id, table.clone()).expect("only what is there");
                    assert_eq!(present.keys, table.keys);
                }
                Change::Remove(id) => drop(self.services.remove(&id).expect("only what is there")),
            }
        }
        let change = |set: &mut BTreeSet<EndpointId>, come: BTreeSet<_>, go: BTreeSet<_>| {
            assert!(come.is_disjoint(set) && go.is_subset(set), "{come:?} {go:?}");
            set.retain(|endpoint| !go.contains(endpoint));
            set.extend(come);
        };
        change(&mut self.hosted, plan.host, plan.unhost);
        change(&mut self.known, plan.know, plan.forget);
    }
}

proptest! {
    /// Whatever comes and goes while plans are under way or refused, the dataplane holds in the end what a balancer
    /// that learned it all at once would put there.
    #[test]
    fn plans_lead_to_what_there_is(
        steps in prop::collection::vec(
            (0usize..3, prop::collection::btree_map(1u8..6, prop::bool::ANY, 0..4), 0u8..8),
            1..30,
        ),
    ) {
        const NAMES: [&str; 3] = ["a", "bb", "ccc"];
        let (mut balancer, mut dataplane, mut under_way) = (balancer(), Obedient::default(), None);
        let mut present: BTreeMap<&str, Service> = BTreeMap::new();
        let mut now = 0.0;
        let mut tell = |balancer: &mut Balancer, under_way: &mut Option<Plan>, event| {
            now += 0.3;
            let new = plans(balancer.on(at(now), event));
            assert!(new.len() <= 1 && (new.is_empty() || under_way.is_none()));
            if let Some(plan) = new.into_iter().next() {
                *under_way = Some(plan);
            }
        };
        for (which, endpoints, dice) in steps {
            let name = NAMES[which];
            let event = if endpoints.is_empty() {
                present.remove(name);
                ServiceChange::Remove(service(name, &[]).id)
            } else {
                // Some endpoints are of several Services, the others move from node to node.
                let placed = endpoints.iter().map(|(last, here)| match last {
                    1..4 => (*last, if last % 2 == 0 { "n1" } else { "n2" }),
                    _ => (10 * (which as u8 + 1) + last, if *here { "n1" } else { "n2" }),
                });
                let service = service(name, &placed.collect::<Vec<_>>());
                present.insert(name, service.clone());
                ServiceChange::Set(Arc::new(service))
            };
            tell(&mut balancer, &mut under_way, Event::Services(event));
            if dice < 5 && let Some(plan) = under_way.take() {
                let refused = dice == 0;
                if !refused {
                    dataplane.apply(plan);
                }
                let outcome = if refused { Err("no".to_owned()) } else { Ok(()) };
                tell(&mut balancer, &mut under_way, Event::Applied(outcome));
            }
        }
        for _ in 0..10 {
            match under_way.take() {
                Some(plan) => {
                    dataplane.apply(plan);
                    tell(&mut balancer, &mut under_way, Event::Applied(Ok(())));
                }
                None => tell(&mut balancer, &mut under_way, Event::Wake),
            }
        }
        let all = || present.values().flat_map(|service| &service.endpoints);
        let known: BTreeSet<EndpointId> = all().map(|endpoint| endpoint.id).collect();
        prop_assert_eq!(&dataplane.known, &known);
        prop_assert!(dataplane.services.keys().eq(present.values().map(|service| &service.id)));
        for (id, table) in &dataplane.services {
            let service = present.values().find(|service| service.id == *id).unwrap();
            let weighted = table.cluster.iter().map(|weighted| weighted.endpoint);
            prop_assert!(weighted.eq(service.endpoints.iter().map(|endpoint| endpoint.id)));
        }
        let is_here = |endpoint: &&Endpoint| endpoint.node == Some(NodeName::new("n1"));
        prop_assert_eq!(dataplane.hosted, all().filter(is_here).map(|endpoint| endpoint.id).collect());
    }
}
