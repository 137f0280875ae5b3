//! The balancer keeps the rules, and every rule can be broken: balancers that are broken on purpose are caught, each
//! by the rule it breaks.

use std::collections::BTreeMap;

use plimsoll_core::balancer::Notice;
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::NodeName;
use plimsoll_core::table::{ServiceTable, Weighted, full_weight};

use super::*;

/// What CI draws, too.
const SEEDS: Range<u64> = 1..51;

#[test]
fn the_balancer_keeps_all_rules() {
    let progress = Progress::default();
    let broken = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    run_all(SEEDS, threads, &progress, &balancer, &|trial| {
        broken.lock().unwrap().push((trial.seed, trial.breach.clone()));
    });
    assert_eq!(*broken.lock().unwrap(), [], "run `cargo xtask sim --seed` with the first number");
    assert_eq!((progress.passed(), progress.failed()), (SEEDS.end - SEEDS.start, 0));
    assert!(progress.steps() > 100_000, "{} steps", progress.steps());
    assert!(progress.compared() > 2_000, "{} shares", progress.compared());
}

#[test]
fn a_seed_is_the_same_again_and_another_is_not() {
    let trial = run(11, 100, &balancer);
    assert_eq!(trial, run(11, 100, &balancer));
    assert_eq!(trial.journal.len(), 100);
    let other = run(12, 0, &balancer);
    assert!(other.journal.is_empty() && other.steps != trial.steps && other.about != trial.about);
}

/// A balancer that is broken on purpose.
struct Mutant {
    inner: Balancer,
    node: NodeName,
    now: Timestamp,
    /// What it hears instead of what it is told, by how much it heard before.
    hear: fn(&mut u64, Event) -> Event,
    /// What becomes of what it wants.
    say: fn(&mut Mutant, &mut Vec<Command>),
    wake: fn(Timestamp, Timestamp) -> Timestamp,
    explain: fn(&Balancer, Timestamp, &mut Explanation),
    nodes: fn(&Mutant, Vec<NodeStatus>) -> Vec<NodeStatus>,
    events: u64,
    tables: BTreeMap<ServiceId, ServiceTable>,
    heard: BTreeMap<NodeName, NodeStatus>,
}

impl Mutant {
    /// One that is not broken yet.
    fn new(here: Here, parameters: Parameters) -> Mutant {
        Mutant {
            node: here.node.clone(),
            inner: Balancer::new(here, parameters),
            now: Timestamp::ZERO,
            hear: |_, event| event,
            say: |_, _| {},
            wake: |_, at| at,
            explain: |_, _, _| {},
            nodes: |_, nodes| nodes,
            events: 0,
            tables: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }
}

impl Subject for Mutant {
    fn on(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        self.now = now;
        let heard = (self.hear)(&mut self.events, event);
        let mut commands = self.inner.on(now, heard);
        for node in self.inner.nodes(now) {
            self.heard.insert(node.node.clone(), node);
        }
        (self.say)(self, &mut commands);
        commands
    }

    fn next_wake(&self) -> Timestamp {
        (self.wake)(self.now, self.inner.next_wake())
    }

    fn explain(&self, now: Timestamp, id: &ServiceId) -> Option<Explanation> {
        let mut explanation = self.inner.explain(now, id)?;
        (self.explain)(&self.inner, now, &mut explanation);
        Some(explanation)
    }

    fn nodes(&self, now: Timestamp) -> Vec<NodeStatus> {
        (self.nodes)(self, self.inner.nodes(now))
    }
}

/// A balancer that is broken in this way breaks this rule, and no other before it.
fn caught(rule: Rule, broken: impl Fn(&mut Mutant) + Sync) {
    let make = |here: Here, parameters: Parameters| -> Box<dyn Subject> {
        let mut mutant = Mutant::new(here, parameters);
        broken(&mut mutant);
        Box::new(mutant)
    };
    let breach = (1..200).find_map(|seed| run(seed, 0, &make).breach).expect("a rule is broken");
    assert_eq!(breach.rule, rule, "{breach:?}");
}

fn plans(commands: &mut [Command]) -> impl Iterator<Item = &mut Plan> {
    commands.iter_mut().filter_map(|command| match command {
        Command::Apply(plan) => Some(plan),
        _ => None,
    })
}

fn tables(commands: &mut [Command]) -> impl Iterator<Item = (&ServiceId, &mut ServiceTable)> {
    plans(commands).flat_map(|plan| &mut plan.changes).filter_map(|change| match change {
        Change::Replace(id, table) | Change::Reweight(id, table) => Some((&*id, table)),
        Change::Remove(_) => None,
    })
}

#[test]
fn a_withdrawal_that_is_left_out() {
    caught(Rule::Withdrawn, |mutant| {
        mutant.say = |_, commands| {
            plans(commands)
                .for_each(|plan| plan.changes.retain(|change| !matches!(change, Change::Remove(_))));
        };
    });
}

#[test]
fn counting_that_does_not_end() {
    caught(Rule::Withdrawn, |mutant| {
        mutant.say = |_, commands| plans(commands).for_each(|plan| plan.forget.clear());
    });
}

#[test]
fn counting_that_does_not_begin() {
    caught(Rule::Fitting, |mutant| {
        mutant.say = |_, commands| plans(commands).for_each(|plan| plan.host.clear());
    });
}

#[test]
fn an_endpoint_that_keeps_its_weight_when_it_goes() {
    caught(Rule::NoStranger, |mutant| {
        mutant.say = |mutant, commands| {
            for (id, table) in tables(commands) {
                let before = mutant.tables.insert(id.clone(), table.clone());
                let before = before.map(|before| before.cluster).unwrap_or_default();
                let is_gone = |one: &Weighted| table.cluster.iter().all(|now| now.endpoint != one.endpoint);
                let gone: Vec<Weighted> = before.into_iter().filter(is_gone).collect();
                table.cluster.extend(gone);
                table.cluster.sort_by_key(|one| one.endpoint);
            }
        };
    });
}

#[test]
fn a_weight_of_zero() {
    caught(Rule::NobodyStarves, |mutant| {
        mutant.say = |_, commands| {
            tables(commands)
                .filter_map(|(_, table)| table.cluster.first_mut())
                .for_each(|one| one.weight = 0);
        };
    });
}

#[test]
fn an_endpoint_without_a_weight() {
    caught(Rule::NobodyStarves, |mutant| {
        mutant.say = |_, commands| {
            tables(commands).for_each(|(_, table)| table.cluster.truncate(table.cluster.len() / 2));
        };
    });
}

#[test]
fn a_weight_above_all() {
    caught(Rule::Bounds, |mutant| {
        mutant.say = |_, commands| {
            for (_, table) in tables(commands) {
                let full = full_weight(table.cluster.len());
                table.cluster.iter_mut().for_each(|one| one.weight = full + 1);
            }
        };
    });
}

#[test]
fn a_share_that_leaves_nothing_to_the_others() {
    caught(Rule::Bounds, |mutant| {
        mutant.say = |_, commands| {
            for (_, table) in tables(commands).filter(|(_, table)| table.cluster.len() > 3) {
                let full = full_weight(table.cluster.len());
                table.cluster.iter_mut().for_each(|one| one.weight = 1);
                table.cluster[0].weight = full;
            }
        };
    });
}

#[test]
fn a_target_that_is_no_number() {
    caught(Rule::Bounds, |mutant| {
        mutant.explain = |_, _, explanation| {
            explanation.endpoints.iter_mut().for_each(|endpoint| endpoint.target = f64::NAN);
        };
    });
}

#[test]
fn a_node_that_weighs_otherwise_for_its_name() {
    caught(Rule::Twins, |mutant| {
        mutant.say = |mutant, commands| {
            if mutant.node.as_str() == "twin" {
                let firsts = tables(commands).filter_map(|(_, table)| table.cluster.first_mut());
                firsts.for_each(|one| one.weight = one.weight.div_ceil(2));
            }
        };
    });
}

#[test]
fn leases_that_are_not_renewed() {
    caught(Rule::Renewed, |mutant| {
        mutant.say = |_, commands| plans(commands).for_each(|plan| plan.renew = false);
    });
}

#[test]
fn leases_that_are_renewed_without_counts() {
    caught(Rule::FailsOpen, |mutant| {
        mutant.say = |_, commands| plans(commands).for_each(|plan| plan.renew = true);
    });
}

#[test]
fn a_balancer_that_wants_to_be_woken_at_once() {
    caught(Rule::Wakes, |mutant| mutant.wake = |now, _| now);
}

#[test]
fn a_balancer_that_sleeps_through() {
    caught(Rule::Wakes, |mutant| mutant.wake = |_, at| at + std::time::Duration::from_mins(1));
}

#[test]
fn two_plans_at_a_time() {
    caught(Rule::OnePlan, |mutant| {
        mutant.say = |_, commands| {
            let again: Vec<Plan> = plans(commands).map(|plan| plan.clone()).collect();
            commands.extend(again.into_iter().map(Command::Apply));
        };
    });
}

#[test]
fn a_refusal_that_is_not_heard() {
    caught(Rule::OnePlan, |mutant| {
        mutant.hear = |_, event| match event {
            Event::Applied(_) => Event::Applied(Ok(())),
            event => event,
        };
    });
}

#[test]
fn a_plan_that_does_not_fit() {
    caught(Rule::Fitting, |mutant| {
        mutant.say = |_, commands| {
            for change in plans(commands).flat_map(|plan| &mut plan.changes) {
                if let Change::Replace(id, table) = change {
                    *change = Change::Reweight(id.clone(), table.clone());
                }
            }
        };
    });
}

#[test]
fn a_report_that_nobody_asked_for() {
    caught(Rule::FewCommands, |mutant| {
        mutant.say = |_, commands| {
            let again: Vec<Command> =
                commands.iter().filter(|command| matches!(command, Command::Publish(_))).cloned().collect();
            commands.extend(again);
        };
    });
}

#[test]
fn notices_without_end() {
    caught(Rule::FewCommands, |mutant| {
        mutant.say = |mutant, commands| {
            let notice = || Command::Tell(Notice::NodeLeft(mutant.node.clone()));
            commands.extend((0..10_000).map(|_| notice()));
        };
    });
}

#[test]
fn a_key_that_is_not_served() {
    caught(Rule::Keys, |mutant| {
        mutant.say =
            |_, commands| tables(commands).for_each(|(_, table)| table.keys.truncate(table.keys.len() / 2));
    });
}

#[test]
fn a_balancer_that_gives_up() {
    caught(Rule::NoPanic, |mutant| {
        mutant.say = |mutant, _| assert!(mutant.now.as_nanos() % 1000 != 7, "this panic is wanted");
    });
}

#[test]
fn a_memory_that_grows() {
    caught(Rule::Forgets, |mutant| mutant.nodes = |mutant, _| mutant.heard.values().cloned().collect());
}

#[test]
fn a_node_that_does_not_listen_any_more() {
    caught(Rule::Counts, |mutant| {
        mutant.hear = |events, event| {
            *events += 1;
            if *events > 50 && matches!(event, Event::Report(_)) { Event::Wake } else { event }
        };
    });
}

#[test]
fn a_node_with_a_favourite() {
    caught(Rule::Alike, |mutant| {
        mutant.explain = |balancer, now, explanation| {
            let is_first = balancer.nodes(now).iter().all(|node| node.node.as_str() != "n00");
            if let Some(share) = explanation.endpoints[..].first_mut().and_then(|one| one.share.as_mut())
                && is_first
            {
                *share /= 2.0;
            }
        };
    });
}

#[test]
fn shares_that_stay_when_all_others_are_gone() {
    caught(Rule::Fair, |mutant| {
        mutant.explain = |balancer, now, explanation| {
            let shares = explanation.endpoints.iter_mut().filter_map(|endpoint| endpoint.share.as_mut());
            if balancer.nodes(now).is_empty() {
                shares.for_each(|share| *share /= 2.0);
            }
        };
    });
}
