//! The cluster as this node sees it: the reports of all nodes, merged with what this node knows better.
//!
//! The host of an endpoint reports its total. This node knows its own part of it live, so the total is carried
//! forward by what this node itself changed since the report was measured (`law`: merge). Reports that grow old
//! lose their deviation from the fair split; they neither vanish nor freeze (`law`: staleness).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::{Load, Loads};
use crate::policy::{self, Row};
use crate::report::{EndpointReport, Report};
use crate::service::{Endpoint, EndpointId, NodeName};
use crate::time::Timestamp;

/// How long reports are believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Seconds for which a report is taken as it is (2 to 30).
    pub trust_seconds: f64,
    /// Seconds in which an older report loses all but 1/e of its deviation from the fair split (10 to 120).
    pub shrink_seconds: f64,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { trust_seconds: 5.0, shrink_seconds: 30.0 }
    }
}

impl Parameters {
    /// Says which value is out of its range, if any is.
    pub fn check(&self) -> Result<(), String> {
        policy::in_range("trust_seconds", self.trust_seconds, 2.0, 30.0)?;
        policy::in_range("shrink_seconds", self.shrink_seconds, 10.0, 120.0)
    }
}

/// How many past counts of its own a node keeps, to know what it had when a report was measured.
const HISTORY: usize = 64;

/// What the view knows of one endpoint.
#[derive(Clone, Debug, Default)]
struct Record {
    /// The node that hosts it.
    node: Option<NodeName>,
    /// Its host's newest figures, and when they were measured. That may be before the host's newest report: one
    /// that does not mention the endpoint says nothing of it.
    reported: Option<(Timestamp, Load)>,
    /// This node's own connections when those were measured.
    sent_then: Sent,
    /// This node's own connections now.
    sent: Sent,
}

/// This node's own connections to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sent {
    open: f64,
    young: f64,
    middle: f64,
}

/// What the view knows of one node.
#[derive(Clone, Debug)]
struct NodeRecord {
    measured: Timestamp,
    opens_per_second: f64,
    report: Arc<Report>,
}

/// Where the figures of an endpoint come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node hosts it and counts live.
    Here,
    /// Its host's report.
    Host(NodeName),
    /// No agent hosts it: the sum of what this many other nodes report they sent.
    Senders(usize),
    /// Its host did not count it yet: the fair split is assumed.
    Nobody,
}

/// One endpoint's figures, with where they come from and how old they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Totals over all nodes.
    pub load: Load,
    /// This node's own part of the open connections.
    pub sent: f64,
    /// Where they come from.
    pub origin: Origin,
    /// How old the oldest part is; zero where this node counts live.
    pub age: Duration,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct View {
    here: NodeName,
    parameters: Parameters,
    nodes: BTreeMap<NodeName, NodeRecord>,
    records: BTreeMap<EndpointId, Record>,
    history: VecDeque<(Timestamp, Vec<(EndpointId, Sent)>)>,
}

impl View {
    /// An empty view of the node `here`.
    pub fn new(here: NodeName, parameters: Parameters) -> View {
        View { here, parameters, nodes: BTreeMap::new(), records: BTreeMap::new(), history: VecDeque::new() }
    }

    /// Takes up an endpoint, or learns that another node hosts it now.
    pub fn know(&mut self, endpoint: &Endpoint) {
        let record = self.records.entry(endpoint.id).or_default();
        if record.node == endpoint.node && record.reported.is_some() {
            return;
        }
        record.node.clone_from(&endpoint.node);
        record.reported = None;
        let host = endpoint.node.as_ref().filter(|node| **node != self.here);
        if let Some(node) = host.and_then(|node| self.nodes.get(node))
            && let Some(entry) = find(&node.report.hosted, &endpoint.id)
        {
            record.reported = Some((node.measured, load_of(entry)));
            record.sent_then = sent_at(&self.history, node.measured, &endpoint.id);
        }
    }

    /// Drops an endpoint that no Service has any more.
    pub fn forget(&mut self, endpoint: &EndpointId) {
        self.records.remove(endpoint);
    }

    /// Whether an agent on another node counts this endpoint.
    pub fn is_hosted_elsewhere(&self, endpoint: &EndpointId) -> bool {
        let node = self.records.get(endpoint).and_then(|record| record.node.as_ref());
        node.is_some_and(|node| *node != self.here)
    }

    /// Takes in this node's own counts as of `now`; `changed` is called for each endpoint whose figures moved.
    pub fn count(&mut self, now: Timestamp, loads: &Loads, mut changed: impl FnMut(&EndpointId)) {
        let sent: Vec<(EndpointId, Sent)> =
            loads.sent().map(|(endpoint, load)| (endpoint, sent_of(load))).collect();
        if let Some((_, before)) = self.history.back() {
            for (endpoint, _) in before {
                let is_gone = sent.binary_search_by_key(endpoint, |(id, _)| *id).is_err();
                if let Some(record) = self.records.get_mut(endpoint).filter(|_| is_gone) {
                    record.sent = Sent::default();
                    changed(endpoint);
                }
            }
        }
        for (endpoint, sent) in &sent {
            if let Some(record) = self.records.get_mut(endpoint).filter(|record| record.sent != *sent) {
                record.sent = *sent;
                changed(endpoint);
            }
        }
        self.history.push_back((now, sent));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// Merges a report that arrived at `now`; `changed` is called for each endpoint whose figures moved. A report
    /// of this very node, or an older one than the last, changes nothing.
    pub fn merge(&mut self, now: Timestamp, report: Arc<Report>, mut changed: impl FnMut(&EndpointId)) {
        let measured = now.before(report.age);
        let before = self.nodes.get(&report.node);
        if report.node == self.here || before.is_some_and(|before| before.measured > measured) {
            return;
        }
        for entry in &report.hosted {
            let Some(record) = self.records.get_mut(&entry.endpoint) else { continue };
            if record.node.as_ref() != Some(&report.node) {
                continue;
            }
            let load = load_of(entry);
            if record.reported.is_none_or(|(_, before)| before != load) {
                changed(&entry.endpoint);
            }
            record.reported = Some((measured, load));
            record.sent_then = sent_at(&self.history, measured, &entry.endpoint);
        }
        for entry in &report.sent {
            let is_new =
                before.is_none_or(|before| find(&before.report.sent, &entry.endpoint) != Some(entry));
            if is_new && self.records.contains_key(&entry.endpoint) {
                changed(&entry.endpoint);
            }
        }
        let opens_per_second = f64::from(report.opens_per_second);
        self.nodes.insert(report.node.clone(), NodeRecord { measured, opens_per_second, report });
    }

    /// Forgets figures that are so old that nothing is left of them.
    pub fn expire(&mut self, now: Timestamp) {
        let limit =
            Duration::from_secs_f64(self.parameters.trust_seconds + 20.0 * self.parameters.shrink_seconds);
        self.nodes.retain(|_, node| now.since(node.measured) < limit);
        for record in self.records.values_mut() {
            record.reported = record.reported.filter(|(measured, _)| now.since(*measured) < limit);
        }
    }

    /// The nodes that reported, with the age of their last report and their own opened connections per second.
    pub fn nodes(&self, now: Timestamp) -> impl Iterator<Item = (&NodeName, Duration, f64)> {
        self.nodes.iter().map(move |(name, node)| (name, now.since(node.measured), node.opens_per_second))
    }

    /// What is known of one endpoint, before anything stale is shrunk.
    pub fn figures(&self, now: Timestamp, loads: &Loads, endpoint: &EndpointId) -> Figures {
        self.figures_of(now, loads, endpoint, self.records.get(endpoint))
    }

    fn figures_of(
        &self,
        now: Timestamp,
        loads: &Loads,
        endpoint: &EndpointId,
        record: Option<&Record>,
    ) -> Figures {
        let sent = record.map(|record| record.sent).unwrap_or_default();
        let Some((record, node)) = record.and_then(|record| record.node.as_ref().map(|node| (record, node)))
        else {
            return self.sum_of_senders(now, loads, endpoint, sent);
        };
        let measured = if *node == self.here {
            let counted = loads.hosted_load(endpoint).zip(loads.updated());
            counted.map(|(load, at)| (Origin::Here, at, *load))
        } else {
            let carried = |(at, load)| (Origin::Host(node.clone()), at, carry(load, record.sent_then, sent));
            record.reported.map(carried)
        };
        let Some((origin, at, load)) = measured else {
            let load = Load { open: sent.open, young: sent.young, ..Load::default() };
            return Figures { load, sent: sent.open, origin: Origin::Nobody, age: Duration::MAX };
        };
        Figures { load, sent: sent.open, origin, age: now.since(at) }
    }

    /// The group's rows, aligned with `members`: merged, stale figures shrunk towards the fair split.
    pub fn rows(&self, now: Timestamp, loads: &Loads, members: &[Member], rows: &mut Vec<Row>) {
        rows.clear();
        let mut fair = Vec::with_capacity(members.len());
        policy::nominal_capacities(members.iter().map(|member| member.capacity), &mut fair);
        let mut others: Vec<Others> = Vec::with_capacity(members.len());
        for member in members {
            let record = self.records.get(&member.endpoint);
            let figures = self.figures_of(now, loads, &member.endpoint, record);
            let sent = record.map(|record| record.sent).unwrap_or_default();
            let kappa = match figures.origin {
                // Each sender's part has an age of its own.
                Origin::Senders(_) => 1.0,
                _ => self.kappa(figures.age),
            };
            others.push(Others::new(&figures, sent, kappa));
        }
        self.shrink_senders(now, members, &fair, &mut others);
        shrink(&mut others, &fair);
        for (member, other) in members.iter().zip(&others) {
            let open = other.load.open.max(0.0) + other.own.open;
            rows.push(Row {
                endpoint: member.endpoint,
                capacity: member.capacity,
                trusted: false,
                open,
                young: (other.load.young.max(0.0) + other.own.young).min(open),
                middle: other.load.middle.max(0.0),
                opens_per_second: other.load.opens_per_second,
                failures_per_second: other.load.failures_per_second,
                cpu: other.load.cpu,
                pressure: other.load.pressure,
                age: other.age,
                seconds_eligible: member.eligible.map_or(f64::INFINITY, |since| now.seconds_since(since)),
            });
        }
    }

    /// How much of a figure's deviation from the fair split is left.
    fn kappa(&self, age: Duration) -> f64 {
        let seconds = age.as_secs_f64();
        if seconds <= self.parameters.trust_seconds {
            1.0
        } else if age == Duration::MAX {
            0.0
        } else {
            libm::exp(-(seconds - self.parameters.trust_seconds) / self.parameters.shrink_seconds)
        }
    }

    /// What each silent node sent to the endpoints that no agent hosts loses its own deviation from the fair split:
    /// one node that went must not blur what all the others see.
    fn shrink_senders(&self, now: Timestamp, members: &[Member], fair: &[f64], others: &mut [Others]) {
        let is_hosted =
            |member: &Member| self.records.get(&member.endpoint).is_some_and(|r| r.node.is_some());
        let summed: Vec<usize> = (0..members.len()).filter(|&i| !is_hosted(&members[i])).collect();
        let all: f64 = summed.iter().map(|&i| fair[i]).sum();
        for node in self.nodes.values() {
            let lost = 1.0 - self.kappa(now.since(node.measured));
            if lost <= 0.0 || summed.is_empty() {
                continue;
            }
            let part = |&i: &usize| find(&node.report.sent, &members[i].endpoint).map(load_of);
            let mut parts: Vec<Load> = summed.iter().map(|i| part(i).unwrap_or_default()).collect();
            for figure in FIGURES {
                let sum: f64 = parts.iter_mut().map(|part| *figure(part)).sum();
                for (&i, part) in summed.iter().zip(&mut parts) {
                    *figure(&mut others[i].load) += lost * (sum * fair[i] / all - *figure(part));
                }
            }
        }
    }

    fn sum_of_senders(&self, now: Timestamp, loads: &Loads, endpoint: &EndpointId, sent: Sent) -> Figures {
        let own = loads.sent_load(endpoint).copied().unwrap_or_default();
        let mut load = Load { open: sent.open, young: sent.young, middle: sent.middle, ..own };
        let mut age = Duration::ZERO;
        let mut senders = 0;
        for node in self.nodes.values() {
            let Some(entry) = find(&node.report.sent, endpoint) else { continue };
            let mut part = load_of(entry);
            for figure in FIGURES {
                *figure(&mut load) += *figure(&mut part);
            }
            age = age.max(now.since(node.measured));
            senders += 1;
        }
        Figures { load, sent: sent.open, origin: Origin::Senders(senders), age }
    }
}

/// An endpoint of a group, as the balancer knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Its nominal capacity.
    pub capacity: Option<f64>,
    /// Since when it may get connections; `None`: since before this agent started.
    pub eligible: Option<Timestamp>,
}

/// The figures that add up over endpoints and over senders, and are never missing.
const FIGURES: [fn(&mut Load) -> &mut f64; 5] = [
    |load| &mut load.open,
    |load| &mut load.young,
    |load| &mut load.middle,
    |load| &mut load.opens_per_second,
    |load| &mut load.failures_per_second,
];

/// What the others hold at one endpoint, and what this node holds.
struct Others {
    load: Load,
    own: Sent,
    kappa: f64,
    /// Seconds; infinity where there are no figures.
    age: f64,
}

impl Others {
    fn new(figures: &Figures, sent: Sent, kappa: f64) -> Others {
        // Where this node hosts the endpoint its count is live and whole: nothing of it is anybody else's.
        let own = if figures.origin == Origin::Here { Sent::default() } else { sent };
        let mut load = figures.load;
        load.open -= own.open;
        load.young -= own.young;
        let age = if figures.age == Duration::MAX { f64::INFINITY } else { figures.age.as_secs_f64() };
        Others { load, own, kappa, age }
    }
}

/// `x_e <- kappa x_e + (1 - kappa) X c_e / sum c` for the figures of others, where `X` is the sum of `x` before.
fn shrink(others: &mut [Others], fair: &[f64]) {
    if others.iter().all(|other| other.kappa >= 1.0) {
        return;
    }
    // An endpoint nobody ever reported has no figures: it gets the level of those that have.
    let known: f64 =
        others.iter().zip(fair).filter(|(other, _)| other.kappa > 0.0).map(|(_, fair)| fair).sum();
    if known <= 0.0 {
        return;
    }
    for figure in FIGURES {
        let sum: f64 = others
            .iter_mut()
            .filter(|other| other.kappa > 0.0)
            .map(|other| figure(&mut other.load).max(0.0))
            .sum();
        for (other, fair) in others.iter_mut().zip(fair) {
            let split = sum * fair / known;
            let value = figure(&mut other.load);
            *value = other.kappa * value.max(0.0) + (1.0 - other.kappa) * split;
        }
    }
    shrink_optional(others, fair, |load| &mut load.cpu, true);
    shrink_optional(others, fair, |load| &mut load.pressure, false);
}

/// The same for figures that may be missing: missing ones stay missing. CPU tends to the split by capacity,
/// pressure to the mean.
fn shrink_optional(
    others: &mut [Others],
    fair: &[f64],
    figure: fn(&mut Load) -> &mut Option<f64>,
    by_capacity: bool,
) {
    let (mut sum, mut capacity, mut known) = (0.0, 0.0, 0.0);
    for (other, fair) in others.iter_mut().zip(fair) {
        if let Some(value) = *figure(&mut other.load) {
            sum += value;
            capacity += fair;
            known += 1.0;
        }
    }
    for (other, fair) in others.iter_mut().zip(fair) {
        let kappa = other.kappa;
        if let Some(value) = figure(&mut other.load) {
            let split = if by_capacity { sum * fair / capacity } else { sum / known };
            *value = kappa * *value + (1.0 - kappa) * split;
        }
    }
}

/// The host's total carried forward by what this node changed since: `oth = n(report) - own(then)`, `n = oth +
/// own(now)`.
fn carry(reported: Load, then: Sent, now: Sent) -> Load {
    Load {
        open: (reported.open - then.open).max(0.0) + now.open,
        young: (reported.young - then.young).max(0.0) + now.young,
        ..reported
    }
}

/// The entry of an endpoint in a report's list, which is sorted.
fn find<'a>(entries: &'a [EndpointReport], endpoint: &EndpointId) -> Option<&'a EndpointReport> {
    entries.binary_search_by_key(endpoint, |entry| entry.endpoint).ok().map(|i| &entries[i])
}

fn load_of(entry: &EndpointReport) -> Load {
    Load {
        open: f64::from(entry.open),
        young: f64::from(entry.young.min(entry.open)),
        middle: f64::from(entry.middle),
        opens_per_second: f64::from(entry.opens_per_second),
        failures_per_second: f64::from(entry.failures_per_second),
        cpu: entry.cpu.map(f64::from),
        pressure: entry.pressure.map(f64::from),
    }
}

fn sent_of(load: &Load) -> Sent {
    Sent { open: load.open, young: load.young, middle: load.middle }
}

/// This node's own connections to `endpoint` at `then`, between the two counts around it.
fn sent_at(
    history: &VecDeque<(Timestamp, Vec<(EndpointId, Sent)>)>,
    then: Timestamp,
    endpoint: &EndpointId,
) -> Sent {
    let find = |(_, sent): &(Timestamp, Vec<(EndpointId, Sent)>)| {
        sent.binary_search_by_key(endpoint, |(id, _)| *id).map_or(Sent::default(), |i| sent[i].1)
    };
    let after = history.partition_point(|(at, _)| *at <= then);
    match (after.checked_sub(1).and_then(|i| history.get(i)), history.get(after)) {
        (Some(before), Some(next)) => {
            let (a, b) = (find(before), find(next));
            let part = then.seconds_since(before.0) / next.0.seconds_since(before.0).max(1e-9);
            let between = |a: f64, b: f64| a + part * (b - a);
            Sent {
                open: between(a.open, b.open),
                young: between(a.young, b.young),
                middle: between(a.middle, b.middle),
            }
        }
        (Some(before), None) => find(before),
        (None, Some(next)) => find(next),
        (None, None) => Sent::default(),
    }
}

#[cfg(test)]
mod tests;
