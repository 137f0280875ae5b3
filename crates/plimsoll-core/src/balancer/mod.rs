//! What thinks: takes events with their time, answers with commands, and never looks at the world itself.

mod claims;
mod list;
mod notice;
mod balanced;
mod explaining;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::eligible;
use crate::guard;
use crate::load::{Counts, Filter, Loads, Sample};
use crate::plan::{self, Plan};
use crate::policy;
use crate::report::{self, Report};
use crate::service::{
    EndpointId, Here, NodeName, PolicyKind, Service, ServiceChange, ServiceId, TrafficPolicy,
};
use crate::table::Table;
use crate::time::Timestamp;
use crate::view::{self, View};

use balanced::Balanced;
use claims::Claims;
use list::{List, Setting};
pub use notice::Notice;

/// What the balancer is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Services or endpoints came, changed or went.
    Services(ServiceChange),
    /// The dataplane counted.
    Counts(Counts),
    /// A signal source measured.
    Sample(Sample),
    /// Another node reported.
    Report(Arc<Report>),
    /// A node's agent became a live member.
    Joined(NodeName),
    /// A node's agent left or fell silent.
    Left(NodeName),
    /// The last plan was applied, or refused for this reason.
    Applied(Result<(), String>),
    /// The time that [`Balancer::next_wake`] named has come.
    Wake,
}

/// What the balancer wants done.
#[derive(Clone, Debug)]
pub enum Command {
    /// Send this to all other nodes.
    Publish(Arc<Report>),
    /// Change the dataplane, and tell how it went by [`Event::Applied`]. There is never more than one under way.
    Apply(Plan),
    /// Log and count this.
    Tell(Notice),
}

/// How the balancer works. Durations are one value per cluster: hosts count young connections by them.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// How often every Service is decided anew: `T`.
    pub tick: Duration,
    /// How often nodes report: taken for the staleness `s`.
    pub report_interval: Duration,
    /// How long an entry in the dataplane lives without renewal; it is renewed every third of that.
    pub lease: Duration,
    /// The policy of Services that do not name one.
    pub policy: PolicyKind,
    /// The parameters of all policies.
    pub policies: policy::Parameters,
    /// What bounds every policy.
    pub guard: guard::Parameters,
    /// How long reports are believed.
    pub view: view::Parameters,
}

impl Parameters {
    /// The horizon `h = clamp(2 (s + T), 1 s, 20 s)`.
    pub fn horizon(&self) -> Duration {
        (2 * (self.report_interval + self.tick)).clamp(Duration::from_secs(1), Duration::from_secs(20))
    }
}

/// The time constant `tau` of rates and samples.
const RATE_TIME_CONSTANT: Duration = Duration::from_millis(700);
/// A sample older than this is as good as none.
const SAMPLE_EXPIRY: Duration = Duration::from_secs(10);
/// How long to wait after the dataplane refused a plan.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A decision follows what caused it within this part of a report interval.
const DECIDE_WITHIN: u32 = 10;

/// Which Services are decided.
#[derive(Clone, Copy)]
enum Which {
    /// Those of which something changed.
    Due,
    All,
}

/// What thinks.
pub struct Balancer {
    here: Here,
    parameters: Parameters,
    loads: Loads,
    view: View,
    services: BTreeMap<ServiceId, Balanced>,
    claims: Claims,
    /// Which Services have an endpoint.
    users: BTreeMap<EndpointId, BTreeSet<ServiceId>>,
    due: BTreeSet<ServiceId>,
    decide_at: Timestamp,
    tick_at: Timestamp,
    renew_at: Timestamp,
    apply_at: Timestamp,
    desired: Table,
    actual: Table,
    under_way: Option<Plan>,
    fresh: bool,
    /// Whether `desired` may differ from `actual`.
    differs: bool,
    release: BTreeSet<EndpointId>,
}

impl Balancer {
    /// A balancer of the node `here` that knows nothing yet.
    pub fn new(here: Here, parameters: Parameters) -> Balancer {
        let filter = Filter {
            horizon: parameters.horizon(),
            time_constant: RATE_TIME_CONSTANT,
            sample_expiry: SAMPLE_EXPIRY,
        };
        Balancer {
            loads: Loads::new(filter),
            view: View::new(here.node.clone(), parameters.view),
            here,
            parameters,
            services: BTreeMap::new(),
            claims: Claims::default(),
            users: BTreeMap::new(),
            due: BTreeSet::new(),
            decide_at: Timestamp::NEVER,
            tick_at: Timestamp::ZERO,
            renew_at: Timestamp::NEVER,
            apply_at: Timestamp::ZERO,
            desired: Table::default(),
            actual: Table::default(),
            under_way: None,
            fresh: true,
            differs: true,
            release: BTreeSet::new(),
        }
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn on(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Services(change) => self.on_services(now, change, &mut commands),
            Event::Counts(counts) => self.on_counts(now, &counts, &mut commands),
            Event::Sample(sample) => {
                self.loads.sample(&sample);
                self.mark(now, sample.endpoint);
            }
            Event::Report(report) => {
                let mut changed = Vec::new();
                self.view.merge(now, report, |endpoint| changed.push(*endpoint));
                for endpoint in changed {
                    self.mark(now, endpoint);
                }
            }
            Event::Joined(node) => commands.push(Command::Tell(Notice::NodeJoined(node))),
            Event::Left(node) => commands.push(Command::Tell(Notice::NodeLeft(node))),
            Event::Applied(outcome) => self.on_applied(now, outcome, &mut commands),
            Event::Wake => {}
        }
        if now >= self.tick_at {
            self.tick_at = now + self.parameters.tick;
            self.loads.expire(now);
            self.view.expire(now);
            self.decide(now, Which::All, &mut commands);
        } else if now >= self.decide_at {
            self.decide(now, Which::Due, &mut commands);
        }
        self.apply(now, &mut commands);
        commands
    }

    /// When to call [`on`](Balancer::on) with [`Event::Wake`] at the latest.
    pub fn next_wake(&self) -> Timestamp {
        let apply = if self.under_way.is_some() { Timestamp::NEVER } else { self.renew_at };
        let retry = if self.fresh && self.under_way.is_none() { self.apply_at } else { Timestamp::NEVER };
        self.decide_at.min(self.tick_at).min(apply).min(retry)
    }

    fn on_services(&mut self, now: Timestamp, change: ServiceChange, commands: &mut Vec<Command>) {
        match change {
            ServiceChange::All(services) => {
                let present: BTreeSet<&ServiceId> = services.iter().map(|service| &service.id).collect();
                let gone: Vec<ServiceId> =
                    self.services.keys().filter(|id| !present.contains(id)).cloned().collect();
                for service in &services {
                    self.set(now, service);
                }
                for id in gone {
                    self.remove(&id);
                }
            }
            ServiceChange::Set(service) => self.set(now, &service),
            ServiceChange::Remove(id) => self.remove(&id),
        }
        // What clients can reach must follow at once, not at the next tick.
        self.decide(now, Which::Due, commands);
    }

    fn set(&mut self, now: Timestamp, service: &Arc<Service>) {
        self.differs = true;
        let id = service.id.clone();
        let before = self.services.get(&id).map(|balanced| balanced.service.clone());
        if before.as_ref() == Some(service) {
            return;
        }
        for endpoint in &service.endpoints {
            if eligible::serves(endpoint) {
                // It came back before anybody was told to let go of it.
                self.release.remove(&endpoint.id);
            }
            self.users.entry(endpoint.id).or_default().insert(id.clone());
            self.view.know(endpoint);
            insert(&mut self.desired.known, endpoint.id);
            if endpoint.node.as_ref() == Some(&self.here.node) {
                insert(&mut self.desired.hosted, endpoint.id);
            } else {
                remove(&mut self.desired.hosted, &endpoint.id);
            }
        }
        self.due.extend(self.claims.change(&id, before.as_deref(), Some(service)));
        let kind = service.policy.unwrap_or(self.parameters.policy);
        if before.as_ref().is_some_and(|before| before.policy.unwrap_or(self.parameters.policy) != kind) {
            self.services.remove(&id);
        }
        let list = || List::new(kind, &self.parameters.policies, &self.parameters.guard);
        let balanced = self.services.entry(id.clone()).or_insert_with(|| Balanced {
            service: service.clone(),
            cluster: list(),
            local: list(),
            needs_local: false,
            keys: Vec::new(),
            left: Vec::new(),
            held: BTreeMap::new(),
        });
        balanced.service = service.clone();
        balanced.needs_local =
            [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local);
        balanced.cluster.set_members(now, service, &eligible::cluster(service, &self.here));
        if balanced.needs_local {
            balanced.local.set_members(now, service, &eligible::local(service, &self.here));
        } else {
            balanced.local = list();
        }
        if let Some(before) = before {
            self.retire(&id, &before, Some(service));
        }
        self.due.insert(id);
    }

    fn remove(&mut self, id: &ServiceId) {
        if let Some(balanced) = self.services.remove(id) {
            self.due.extend(self.claims.change(id, Some(&balanced.service), None));
            self.retire(id, &balanced.service, None);
        }
        self.desired.services.remove(id);
        self.due.remove(id);
        self.differs = true;
    }

    /// Lets go of endpoints that `before` had and `after` has not, and releases those that serve nowhere any more.
    fn retire(&mut self, id: &ServiceId, before: &Service, after: Option<&Service>) {
        for endpoint in &before.endpoints {
            let kept = after.and_then(|after| {
                after
                    .endpoints
                    .binary_search_by_key(&endpoint.id, |kept| kept.id)
                    .ok()
                    .map(|i| &after.endpoints[i])
            });
            if kept.is_none() {
                let users = self.users.entry(endpoint.id).or_default();
                users.remove(id);
                if users.is_empty() {
                    self.users.remove(&endpoint.id);
                    self.view.forget(&endpoint.id);
                    remove(&mut self.desired.known, &endpoint.id);
                    remove(&mut self.desired.hosted, &endpoint.id);
                }
            }
            if !kept.is_some_and(eligible::serves) && !self.serves_elsewhere(&endpoint.id) {
                self.release.insert(endpoint.id);
            }
        }
    }

    fn serves_elsewhere(&self, endpoint: &EndpointId) -> bool {
        self.users.get(endpoint).into_iter().flatten().any(|id| {
            self.services.get(id).is_some_and(|balanced| {
                let endpoints = &balanced.service.endpoints;
                let found = endpoints.binary_search_by_key(endpoint, |entry| entry.id);
                found.is_ok_and(|i| eligible::serves(&endpoints[i]))
            })
        })
    }

    fn on_counts(&mut self, now: Timestamp, counts: &Counts, commands: &mut Vec<Command>) {
        let before: Vec<(EndpointId, f64)> =
            self.loads.hosted().map(|(endpoint, load)| (endpoint, load.open)).collect();
        if self.loads.updated().is_none() {
            // The first counts: until now this node's own endpoints were guessed at.
            self.tick_at = now;
        }
        self.loads.count(now, counts);
        let mut changed = Vec::new();
        self.view.count(now, &self.loads, |endpoint| changed.push(*endpoint));
        for (endpoint, open) in before {
            if self.loads.hosted_load(&endpoint).is_none_or(|load| load.open != open) {
                changed.push(endpoint);
            }
        }
        for endpoint in changed {
            self.mark(now, endpoint);
        }
        let report =
            report::build(&self.here.node, &self.loads, |endpoint| self.view.is_hosted_elsewhere(endpoint));
        commands.push(Command::Publish(Arc::new(report)));
    }

    /// Something about an endpoint changed: its Services are to be decided soon.
    fn mark(&mut self, now: Timestamp, endpoint: EndpointId) {
        if let Some(users) = self.users.get(&endpoint) {
            self.due.extend(users.iter().cloned());
            self.decide_at = self.decide_at.min(now + self.parameters.report_interval / DECIDE_WITHIN);
        }
    }

    fn on_applied(&mut self, now: Timestamp, outcome: Result<(), String>, commands: &mut Vec<Command>) {
        let Some(plan) = self.under_way.take() else { return };
        match outcome {
            Ok(()) => {
                plan::apply(&mut self.actual, &plan);
                share_if_equal(&mut self.actual.hosted, &self.desired.hosted);
                share_if_equal(&mut self.actual.known, &self.desired.known);
            }
            Err(why) => {
                self.fresh = true;
                self.differs = true;
                self.apply_at = now + RETRY_AFTER;
                self.release.extend(plan.release);
                commands.push(Command::Tell(Notice::Refused(why)));
            }
        }
    }

    /// Decides Services: those that are due, or all.
    fn decide(&mut self, now: Timestamp, which: Which, commands: &mut Vec<Command>) {
        self.decide_at = Timestamp::NEVER;
        let due = std::mem::take(&mut self.due);
        let setting = Setting {
            now,
            view: &self.view,
            loads: &self.loads,
            claims: &self.claims,
            delay: (self.parameters.tick + self.parameters.report_interval).as_secs_f64(),
            horizon: self.parameters.horizon().as_secs_f64(),
        };
        let mut decide = |id: &ServiceId, balanced: &mut Balanced| {
            if balanced.decide(&setting, commands) || !self.desired.services.contains_key(id) {
                self.desired.services.insert(id.clone(), balanced.table());
                self.differs = true;
            }
        };
        match which {
            Which::All => self.services.iter_mut().for_each(|(id, balanced)| decide(id, balanced)),
            Which::Due => {
                for id in &due {
                    if let Some(balanced) = self.services.get_mut(id) {
                        decide(id, balanced);
                    }
                }
            }
        }
    }

    /// Sends what the dataplane lacks, unless a plan is under way.
    fn apply(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        if self.under_way.is_some() || (self.fresh && now < self.apply_at) {
            return;
        }
        let mut plan = if self.fresh {
            Plan { fresh: true, ..plan::diff(&Table::default(), &self.desired) }
        } else if self.differs {
            plan::diff(&self.actual, &self.desired)
        } else {
            Plan::default()
        };
        self.differs = false;
        let renew_every = self.parameters.lease / 3;
        if now >= self.renew_at {
            self.renew_at = now + renew_every;
            plan.renew = self.counts_are_fresh(now);
        }
        plan.release = std::mem::take(&mut self.release);
        if plan.is_empty() {
            return;
        }
        if plan.fresh {
            self.renew_at = now + renew_every;
        }
        self.fresh = false;
        self.under_way = Some(plan.clone());
        commands.push(Command::Apply(plan));
    }

    /// Leases are renewed only while this node counts: a weight that follows nothing is worth nothing.
    fn counts_are_fresh(&self, now: Timestamp) -> bool {
        self.loads.updated().is_some_and(|updated| now.since(updated) < self.parameters.lease)
    }
}

fn insert(set: &mut Arc<BTreeSet<EndpointId>>, endpoint: EndpointId) {
    if !set.contains(&endpoint) {
        Arc::make_mut(set).insert(endpoint);
    }
}

fn remove(set: &mut Arc<BTreeSet<EndpointId>>, endpoint: &EndpointId) {
    if set.contains(endpoint) {
        Arc::make_mut(set).remove(endpoint);
    }
}

/// Makes equal sets one, so that comparing them next time costs nothing.
fn share_if_equal(a: &mut Arc<BTreeSet<EndpointId>>, b: &Arc<BTreeSet<EndpointId>>) {
    if !Arc::ptr_eq(a, b) && a == b {
        *a = b.clone();
    }
}

#[cfg(test)]
mod tests;
