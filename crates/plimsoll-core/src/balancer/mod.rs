//! What thinks: takes events with their time, answers with commands, and never looks at the world itself.

mod claims;
mod list;
mod notice;
mod balanced;
mod services;
mod explaining;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::eligible;
use crate::guard;
use crate::load::{Counts, Filter, Loads, Sample};
use crate::plan::{Change, Plan};
use crate::policy;
use crate::report::{self, Report};
use crate::service::{
    Endpoint, EndpointId, Here, NodeName, PolicyKind, Service, ServiceChange, ServiceId, TrafficPolicy,
};
use crate::time::Timestamp;
use crate::view::{self, View};

use balanced::Balanced;
use claims::Claims;
use list::{List, Setting};
pub use notice::Notice;
use services::Services;

/// What the balancer is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Services or endpoints came, changed or went.
    Services(ServiceChange),
    /// This node is in another zone than was known, or in none.
    Zone(Option<Arc<str>>),
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
    /// How often the balancer looks at the time: `T`. A Service of which nothing is heard is decided with every
    /// fourth of these ticks, all others soon after each piece of news.
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
/// A Service without news is decided with one in so many ticks; which one, goes by its number.
const TICKS_WITHOUT_NEWS: usize = 4;

/// What thinks.
pub struct Balancer {
    here: Here,
    parameters: Parameters,
    loads: Loads,
    view: View,
    services: Services,
    claims: Claims,
    /// The numbers of the Services that have an endpoint, by the view's number of it.
    users: Vec<Vec<usize>>,
    /// The numbers of the Services of which something changed.
    due: BTreeSet<usize>,
    decide_at: Timestamp,
    tick_at: Timestamp,
    /// How many ticks there were.
    ticks: usize,
    renew_at: Timestamp,
    apply_at: Timestamp,
    /// The numbers of the Services of which the dataplane may have to hold something else.
    changed: BTreeSet<usize>,
    /// What else the next plan brings.
    next: Plan,
    /// Services that the dataplane holds and that went.
    gone: BTreeSet<ServiceId>,
    /// What the plan under way releases, while there is one.
    under_way: Option<BTreeSet<EndpointId>>,
    /// Whether the next plan must begin from nothing.
    fresh: bool,
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
            services: Services::default(),
            claims: Claims::default(),
            users: Vec::new(),
            due: BTreeSet::new(),
            decide_at: Timestamp::NEVER,
            tick_at: Timestamp::ZERO,
            ticks: 0,
            renew_at: Timestamp::NEVER,
            apply_at: Timestamp::ZERO,
            changed: BTreeSet::new(),
            next: Plan::default(),
            gone: BTreeSet::new(),
            under_way: None,
            fresh: true,
        }
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn on(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Services(change) => self.on_services(now, change, &mut commands),
            Event::Zone(zone) => self.on_zone(now, zone, &mut commands),
            Event::Counts(counts) => self.on_counts(now, &counts, &mut commands),
            Event::Sample(sample) => {
                self.loads.sample(&sample);
                self.mark(now, self.view.number(&sample.endpoint));
            }
            Event::Report(report) => {
                let mut changed = Vec::new();
                self.view.merge(now, report, |number| changed.push(number));
                self.mark(now, changed);
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
            self.ticks += 1;
            // What is known grows old, filters settle, and slow starts go on.
            let turn = |number: &usize| (number + self.ticks).is_multiple_of(TICKS_WITHOUT_NEWS);
            self.due.extend(self.services.numbers().filter(turn));
            self.decide(now, &mut commands);
        } else if now >= self.decide_at {
            self.decide(now, &mut commands);
        }
        self.apply(now, &mut commands);
        commands
    }

    /// When to call [`on`](Balancer::on) with [`Event::Wake`] at the latest.
    pub fn next_wake(&self) -> Timestamp {
        // A fresh plan renews as well; until then there is nothing to renew.
        let waits = self.under_way.is_some() || self.fresh;
        let apply = if waits { Timestamp::NEVER } else { self.renew_at };
        let retry = if self.fresh && self.under_way.is_none() { self.apply_at } else { Timestamp::NEVER };
        self.decide_at.min(self.tick_at).min(apply).min(retry)
    }

    fn on_services(&mut self, now: Timestamp, change: ServiceChange, commands: &mut Vec<Command>) {
        let waiting = (std::mem::take(&mut self.due), self.decide_at);
        match change {
            ServiceChange::All(services) => {
                let present: BTreeSet<&ServiceId> = services.iter().map(|service| &service.id).collect();
                let gone: Vec<ServiceId> =
                    self.services.ids().filter(|id| !present.contains(id)).cloned().collect();
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
        // What clients can reach must follow at once, not at the next tick. The others still wait for more news.
        self.decide(now, commands);
        (self.due, self.decide_at) = waiting;
        self.due.retain(|&number| self.services.at(number).is_some());
    }

    /// Which endpoints are hinted at for this node may be others now.
    fn on_zone(&mut self, now: Timestamp, zone: Option<Arc<str>>, commands: &mut Vec<Command>) {
        if self.here.zone == zone {
            return;
        }
        self.here.zone = zone;
        for number in self.services.numbers().collect::<Vec<_>>() {
            let balanced = self.services.at_mut(number).expect("it is one of the numbers there are");
            let service = balanced.service.clone();
            balanced.cluster.set_members(now, &service, &eligible::cluster(&service, &self.here), &self.view);
            balanced.keys_due = true;
            self.due.insert(number);
            self.changed.insert(number);
        }
        self.decide(now, commands);
    }

    fn set(&mut self, now: Timestamp, service: &Arc<Service>) {
        let before = self.services.get(&service.id).map(|balanced| balanced.service.clone());
        if before.as_ref() == Some(service) {
            return;
        }
        let kind = service.policy.unwrap_or(self.parameters.policy);
        let list = |parameters: &Parameters| List::new(kind, &parameters.policies, &parameters.guard);
        let number = match self.services.number(&service.id) {
            Some(number) => number,
            None => self.services.insert(Balanced::new(service.clone(), list(&self.parameters))),
        };
        for endpoint in &service.endpoints {
            self.take_up(endpoint, number);
        }
        let balanced = self.services.at_mut(number).expect("it was there or was inserted");
        balanced.service = service.clone();
        if before.as_ref().is_some_and(|before| before.policy.unwrap_or(self.parameters.policy) != kind) {
            for list in [&mut balanced.cluster].into_iter().chain(&mut balanced.local) {
                list.set_policy(kind, &self.parameters.policies);
            }
        }
        balanced.cluster.set_members(now, service, &eligible::cluster(service, &self.here), &self.view);
        if [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local) {
            let local = balanced.local.get_or_insert_with(|| list(&self.parameters));
            local.set_members(now, service, &eligible::local(service, &self.here), &self.view);
        } else {
            balanced.local = None;
        }
        if let Some(before) = &before {
            self.retire(number, before, Some(service));
        }
        self.keys_due(&service.id);
        for id in self.claims.change(&service.id, before.as_deref(), Some(service)) {
            self.keys_due(&id);
        }
        self.changed.insert(number);
    }

    /// Takes note that a Service has an endpoint.
    fn take_up(&mut self, endpoint: &Endpoint, service: usize) {
        if eligible::serves(endpoint) {
            // It came back before anybody was told to let go of it.
            self.next.release.remove(&endpoint.id);
        }
        let is_here = endpoint.node.as_ref() == Some(&self.here.node);
        let was_here = self.view.is_here(&endpoint.id);
        if was_here.is_none() {
            self.next.know(endpoint.id);
        }
        match (was_here.unwrap_or(false), is_here) {
            (false, true) => self.next.host(endpoint.id),
            (true, false) => self.next.unhost(endpoint.id),
            _ => {}
        }
        let number = self.view.know(endpoint, &self.loads);
        if self.users.len() <= number {
            self.users.resize(number + 1, Vec::new());
        }
        let users = &mut self.users[number];
        if !users.contains(&service) {
            users.push(service);
        }
    }

    fn remove(&mut self, id: &ServiceId) {
        let Some((number, balanced)) = self.services.remove(id) else { return };
        // The number may soon be another's.
        self.due.remove(&number);
        self.changed.remove(&number);
        for id in self.claims.change(id, Some(&balanced.service), None) {
            self.keys_due(&id);
        }
        self.retire(number, &balanced.service, None);
        if balanced.table.is_some() {
            self.gone.insert(id.clone());
        }
    }

    /// Decides a Service soon, and which of its keys it has.
    fn keys_due(&mut self, id: &ServiceId) {
        let Some(number) = self.services.number(id) else { return };
        let balanced = self.services.at_mut(number).expect("who has a number is there");
        balanced.keys_due = true;
        self.due.insert(number);
    }

    /// Lets go of endpoints that `before` had and `after` has not, and releases those that serve nowhere any more.
    fn retire(&mut self, service: usize, before: &Service, after: Option<&Service>) {
        for endpoint in &before.endpoints {
            let kept = after.and_then(|after| after.endpoint(&endpoint.id));
            let number = self.view.number(&endpoint.id).expect("a Service's endpoints are known");
            if kept.is_none() {
                self.users[number].retain(|user| *user != service);
            }
            if !kept.is_some_and(eligible::serves) && !self.serves_anywhere(number, &endpoint.id) {
                self.next.release.insert(endpoint.id);
            }
            if self.users[number].is_empty() {
                if self.view.is_here(&endpoint.id) == Some(true) {
                    self.next.unhost(endpoint.id);
                }
                self.next.forget(endpoint.id);
                self.view.forget(&endpoint.id);
            }
        }
    }

    fn serves_anywhere(&self, number: usize, endpoint: &EndpointId) -> bool {
        let mut users = self.users[number].iter().filter_map(|user| self.services.at(*user));
        users.any(|user| user.service.endpoint(endpoint).is_some_and(eligible::serves))
    }

    fn on_counts(&mut self, now: Timestamp, counts: &Counts, commands: &mut Vec<Command>) {
        if self.loads.updated().is_none() {
            // The first counts: until now this node's own endpoints were guessed at.
            self.due.extend(self.services.numbers());
            self.decide_at = now;
        }
        let mut changed = Vec::new();
        self.loads.count(now, counts, |endpoint| changed.extend(self.view.number(endpoint)));
        self.view.count(now, &self.loads, |number| changed.push(number));
        self.mark(now, changed);
        let report =
            report::build(&self.here.node, &self.loads, |endpoint| self.view.is_hosted_elsewhere(endpoint));
        commands.push(Command::Publish(Arc::new(report)));
    }

    /// Something about these endpoints changed: their Services are to be decided soon.
    fn mark(&mut self, now: Timestamp, endpoints: impl IntoIterator<Item = usize>) {
        let due_before = self.due.len();
        for endpoint in endpoints {
            self.due.extend(&self.users[endpoint]);
        }
        if self.due.len() > due_before {
            self.decide_at = self.decide_at.min(now + self.parameters.report_interval / DECIDE_WITHIN);
        }
    }

    fn on_applied(&mut self, now: Timestamp, outcome: Result<(), String>, commands: &mut Vec<Command>) {
        let Some(released) = self.under_way.take() else { return };
        if let Err(why) = outcome {
            self.fresh = true;
            self.apply_at = now + RETRY_AFTER;
            // Some may have come back since.
            let gone = |endpoint: &EndpointId| {
                self.view.number(endpoint).is_none_or(|number| !self.serves_anywhere(number, endpoint))
            };
            let released: Vec<EndpointId> = released.into_iter().filter(gone).collect();
            self.next.release.extend(released);
            commands.push(Command::Tell(Notice::Refused(why)));
        }
    }

    /// Decides the Services that are due.
    fn decide(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        self.decide_at = Timestamp::NEVER;
        let setting = Setting {
            now,
            view: &self.view,
            loads: &self.loads,
            claims: &self.claims,
            delay: (self.parameters.tick + self.parameters.report_interval).as_secs_f64(),
            horizon: self.parameters.horizon().as_secs_f64(),
        };
        for number in std::mem::take(&mut self.due) {
            let balanced = self.services.at_mut(number).expect("who goes is not due any more");
            if balanced.decide(&setting, commands) {
                self.changed.insert(number);
            }
        }
    }

    /// Sends what the dataplane lacks, unless a plan is under way.
    fn apply(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        if self.under_way.is_some() || (self.fresh && now < self.apply_at) {
            return;
        }
        let mut plan = std::mem::take(&mut self.next);
        if self.fresh {
            self.gone.clear();
            for balanced in self.services.iter_mut() {
                balanced.table = None;
            }
            self.changed = self.services.numbers().collect();
            let all = || self.view.endpoints();
            plan = Plan {
                fresh: true,
                host: all().filter(|(_, is_here)| *is_here).map(|(endpoint, _)| endpoint).collect(),
                know: all().map(|(endpoint, _)| endpoint).collect(),
                release: plan.release,
                ..Plan::default()
            };
        }
        plan.changes = self.changes();
        let renew_every = self.parameters.lease / 3;
        if now >= self.renew_at {
            self.renew_at = now + renew_every;
            plan.renew = self.counts_are_fresh(now);
        }
        if plan.is_empty() {
            return;
        }
        if plan.fresh {
            self.renew_at = now + renew_every;
        }
        self.fresh = false;
        self.under_way = Some(plan.release.clone());
        commands.push(Command::Apply(plan));
    }

    /// What leads from what the dataplane holds to what was decided; what goes makes room for what comes.
    fn changes(&mut self) -> Vec<Change> {
        let gone = std::mem::take(&mut self.gone);
        // One that came back replaces what is there.
        let stays_gone = gone.into_iter().filter(|id| self.services.number(id).is_none());
        let mut changes: Vec<Change> = stays_gone.map(Change::Remove).collect();
        for number in std::mem::take(&mut self.changed) {
            let balanced = self.services.at_mut(number).expect("who goes does not change any more");
            changes.extend(balanced.change());
        }
        changes
    }

    /// Leases are renewed only while this node counts: a weight that follows nothing is worth nothing.
    fn counts_are_fresh(&self, now: Timestamp) -> bool {
        self.loads.updated().is_some_and(|updated| now.since(updated) < self.parameters.lease)
    }
}

#[cfg(test)]
mod tests;
