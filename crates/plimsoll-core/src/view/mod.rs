//! The cluster as this node sees it: the reports of all nodes, merged with what this node knows better.
//!
//! The host of an endpoint reports its total. This node knows its own part of it live, so the total is carried
//! forward by what this node itself changed since the report was measured (`law`: merge). Reports that grow old
//! lose their deviation from the fair split; they neither vanish nor freeze (`law`: staleness).

mod senders;
mod stale;

use std::cell::LazyCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::{Load, Loads};
use crate::policy::{self, Heard, Row};
use crate::report::{EndpointReport, Report};
use crate::roster::Roster;
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
    /// The age from which on a report is not taken as it is any more.
    fn trust(&self) -> Duration {
        Duration::from_secs_f64(self.trust_seconds)
    }

    /// The age at which nothing is left of a report.
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.trust_seconds + 20.0 * self.shrink_seconds)
    }

    /// Says which value is out of its range, if any is.
    pub fn check(&self) -> Result<(), String> {
        policy::in_range("trust_seconds", self.trust_seconds, 2.0, 30.0)?;
        policy::in_range("shrink_seconds", self.shrink_seconds, 10.0, 120.0)
    }
}

/// Who counts all connections of an endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
enum Host {
    /// No agent: every node reports what it sent there.
    #[default]
    Nobody,
    /// This node.
    Here,
    /// Another node.
    Elsewhere(NodeName),
}

/// What the view knows of one endpoint.
#[derive(Clone, Debug)]
struct Record {
    endpoint: EndpointId,
    host: Host,
    /// Its host's newest figures, and when they were measured. That may be before the host's newest report: one
    /// that does not mention the endpoint says nothing of it.
    reported: Option<(Timestamp, Load)>,
    /// This node's own connections when those were measured.
    sent_then: Sent,
    /// This node's own connections now.
    sent: Sent,
    /// This node's own connections around each change of the last seconds, oldest first: at the count before the
    /// change and at the one that showed it.
    changes: VecDeque<(Timestamp, Sent)>,
}

/// This node's own connections to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sent {
    open: f64,
    young: f64,
    middle: f64,
}

/// An endpoint's load over all nodes.
struct Total {
    load: Load,
    /// When the oldest part of it was measured.
    measured: Option<Timestamp>,
    /// Where it is a sum over the senders: without the part of those that fell silent.
    heard: Option<Load>,
}

/// What the view knows of one node.
#[derive(Clone, Debug)]
struct NodeRecord {
    measured: Timestamp,
    /// Since when its reports come without a gap longer than they are trusted; `None` if the last was older when it came.
    heard: Option<Timestamp>,
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
    roster: Roster,
    /// By the endpoint's number; `None` where the number is free.
    records: Vec<Option<Record>>,
    /// The numbers of the endpoints this node had connections to at the last count.
    sending: Vec<usize>,
    /// When this node counted last.
    counted: Option<Timestamp>,
}

impl View {
    /// An empty view of the node `here`.
    pub fn new(here: NodeName, parameters: Parameters) -> View {
        View {
            here,
            parameters,
            nodes: BTreeMap::new(),
            roster: Roster::default(),
            records: Vec::new(),
            sending: Vec::new(),
            counted: None,
        }
    }

    /// Takes up an endpoint, or learns that another node hosts it now; its number, by which it is known until it
    /// is forgotten.
    pub fn know(&mut self, endpoint: &Endpoint, loads: &Loads) -> usize {
        let number = self.roster.enter(endpoint.id);
        if self.records.len() <= number {
            self.records.resize(number + 1, None);
        }
        let host = match &endpoint.node {
            None => Host::Nobody,
            Some(node) if *node == self.here => Host::Here,
            Some(node) => Host::Elsewhere(node.clone()),
        };
        let sending = &mut self.sending;
        let record = self.records[number].get_or_insert_with(|| {
            // It may have gone for a moment only. If nothing is left there, the next count does not tell of it.
            let sent = loads.sent_load(&endpoint.id).map(sent_of);
            if sent.is_some() && !sending.contains(&number) {
                sending.push(number);
            }
            Record {
                endpoint: endpoint.id,
                host: Host::Nobody,
                reported: None,
                sent_then: Sent::default(),
                sent: sent.unwrap_or_default(),
                changes: VecDeque::new(),
            }
        });
        if record.host == host && record.reported.is_some() {
            return number;
        }
        record.reported = None;
        if let Host::Elsewhere(node) = &host
            && let Some(node) = self.nodes.get(node)
            && let Some(entry) = find(&node.report.hosted, &endpoint.id)
        {
            record.report(node.measured, load_of(entry));
        }
        record.host = host;
        number
    }

    /// Drops an endpoint that no Service has any more.
    pub fn forget(&mut self, endpoint: &EndpointId) {
        if let Some(number) = self.roster.leave(endpoint) {
            self.records[number] = None;
        }
    }

    /// The number of an endpoint that is known.
    pub fn number(&self, endpoint: &EndpointId) -> Option<usize> {
        self.roster.number(endpoint)
    }

    /// All endpoints that are known, and whether this node hosts them.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointId, bool)> {
        self.records.iter().flatten().map(|record| (record.endpoint, record.host == Host::Here))
    }

    /// Whether this node hosts an endpoint; `None` if it is not known.
    pub fn is_here(&self, endpoint: &EndpointId) -> Option<bool> {
        self.record(endpoint).map(|record| record.host == Host::Here)
    }

    /// Whether an agent on another node counts this endpoint.
    pub fn is_hosted_elsewhere(&self, endpoint: &EndpointId) -> bool {
        self.record(endpoint).is_some_and(|record| matches!(record.host, Host::Elsewhere(_)))
    }

    /// Takes in this node's own counts as of `now`; `changed` is called with the number of each endpoint whose
    /// figures moved.
    pub fn count(&mut self, now: Timestamp, loads: &Loads, mut changed: impl FnMut(usize)) {
        let before = self.counted.replace(now);
        let keep = self.parameters.trust();
        for number in std::mem::take(&mut self.sending) {
            if let Some(record) = &mut self.records[number]
                && loads.sent_load(&record.endpoint).is_none()
            {
                record.send(before, now, Sent::default(), keep);
                changed(number);
            }
        }
        for (endpoint, load) in loads.sent() {
            let Some(number) = self.roster.number(&endpoint) else { continue };
            let Some(record) = &mut self.records[number] else { continue };
            self.sending.push(number);
            if record.send(before, now, sent_of(load), keep) {
                changed(number);
            }
        }
    }

    /// Merges a report that arrived at `now`; `changed` is called with the number of each endpoint whose figures
    /// moved. A report of this very node, or an older one than the last, changes nothing.
    pub fn merge(&mut self, now: Timestamp, report: Arc<Report>, mut changed: impl FnMut(usize)) {
        let measured = now.before(report.age);
        let before = self.nodes.get(&report.node);
        if report.node == self.here || before.is_some_and(|before| before.measured > measured) {
            return;
        }
        for entry in &report.hosted {
            let Some(number) = self.roster.number(&entry.endpoint) else { continue };
            let Some(record) = &mut self.records[number] else { continue };
            if !matches!(&record.host, Host::Elsewhere(node) if *node == report.node) {
                continue;
            }
            let load = load_of(entry);
            if record.reported.is_none_or(|(_, before)| before != load) {
                changed(number);
            }
            record.report(measured, load);
        }
        for entry in &report.sent {
            let is_new =
                before.is_none_or(|before| find(&before.report.sent, &entry.endpoint) != Some(entry));
            if is_new && let Some(number) = self.roster.number(&entry.endpoint) {
                changed(number);
            }
        }
        for entry in before.iter().flat_map(|before| &before.report.sent) {
            if find(&report.sent, &entry.endpoint).is_none()
                && let Some(number) = self.roster.number(&entry.endpoint)
            {
                changed(number);
            }
        }
        let opens_per_second = f64::from(report.opens_per_second);
        let trust = self.parameters.trust();
        let gapless = before.filter(|before| now.since(before.measured) < trust);
        let heard =
            (now.since(measured) < trust).then(|| gapless.and_then(|before| before.heard).unwrap_or(now));
        self.nodes.insert(report.node.clone(), NodeRecord { measured, heard, opens_per_second, report });
    }

    /// Forgets nodes that were silent for so long that nothing of their figures is left.
    pub fn expire(&mut self, now: Timestamp) {
        let limit = self.parameters.limit();
        self.nodes.retain(|_, node| now.since(node.measured) < limit);
    }

    /// The nodes that reported, with the age of their last report and their own opened connections per second.
    pub fn nodes(&self, now: Timestamp) -> impl Iterator<Item = (&NodeName, Duration, f64)> {
        self.nodes.iter().map(move |(name, node)| (name, now.since(node.measured), node.opens_per_second))
    }

    /// What is known of one endpoint, before anything stale is shrunk.
    pub fn figures(&self, now: Timestamp, loads: &Loads, endpoint: &EndpointId) -> Figures {
        let Some(record) = self.record(endpoint) else {
            let (load, age) = (Load::default(), Duration::MAX);
            return Figures { load, sent: 0.0, origin: Origin::Nobody, age };
        };
        let Total { load, measured, .. } = self.total(now, loads, record);
        let origin = match &record.host {
            Host::Nobody => {
                let reports = |node: &&NodeRecord| find(&node.report.sent, endpoint).is_some();
                Origin::Senders(self.nodes.values().filter(reports).count())
            }
            _ if measured.is_none() => Origin::Nobody,
            Host::Here => Origin::Here,
            Host::Elsewhere(node) => Origin::Host(node.clone()),
        };
        let age = measured.map_or(Duration::MAX, |at| now.since(at));
        Figures { load, sent: record.sent.open, origin, age }
    }

    fn record(&self, endpoint: &EndpointId) -> Option<&Record> {
        self.records[self.roster.number(endpoint)?].as_ref()
    }

    /// An endpoint's load over all nodes; where nobody measured it is what this node has there itself.
    fn total(&self, now: Timestamp, loads: &Loads, record: &Record) -> Total {
        let measured = match &record.host {
            Host::Nobody => return self.sum_of_senders(now, loads, record),
            Host::Here => loads.hosted_load(&record.endpoint).copied().zip(loads.updated()),
            Host::Elsewhere(_) => {
                let believed = |(at, _): &(Timestamp, Load)| now.since(*at) < self.parameters.limit();
                let reported = record.reported.filter(believed);
                reported.map(|(at, load)| (carry(load, record.sent_then, record.sent), at))
            }
        };
        let own = || Load { open: record.sent.open, young: record.sent.young, ..Load::default() };
        let (load, measured) = measured.map_or_else(|| (own(), None), |(load, at)| (load, Some(at)));
        Total { load, measured, heard: None }
    }

    /// The group's rows, aligned with `members`: merged, stale figures shrunk towards the fair split.
    pub fn rows(&self, now: Timestamp, loads: &Loads, members: &[Member], rows: &mut Vec<Row>) {
        rows.clear();
        let mut is_stale = false;
        let seconds =
            LazyCell::new(|| self.same_senders_since(now).map_or(f64::INFINITY, |at| now.seconds_since(at)));
        rows.extend(members.iter().map(|member| {
            let record = self.records[member.number].as_ref().expect("who is in a list is known");
            let Total { load, measured, heard } = self.total(now, loads, record);
            let age = measured.map_or(f64::INFINITY, |at| now.seconds_since(at));
            is_stale |= age > self.parameters.trust_seconds;
            Row {
                endpoint: member.endpoint,
                capacity: member.capacity,
                trusted: false,
                load: Load { young: load.young.min(load.open), ..load },
                age,
                heard: heard.map(|load| Heard { load, seconds: *seconds }),
                seconds_eligible: member.eligible.map_or(f64::INFINITY, |since| now.seconds_since(since)),
            }
        }));
        if is_stale {
            self.shrink(now, members, rows);
        }
    }
}

impl Record {
    /// Takes in what its host reports, as of `measured`.
    fn report(&mut self, measured: Timestamp, load: Load) {
        self.reported = Some((measured, load));
        self.sent_then = self.sent_at(measured);
    }

    /// Takes in this node's own connections as counted `now`, after a count at `before`; whether they are others
    /// than at that one. What is older than `keep` is forgotten: reports that are older are not believed.
    fn send(&mut self, before: Option<Timestamp>, now: Timestamp, sent: Sent, keep: Duration) -> bool {
        if sent == self.sent {
            return false;
        }
        if let Some(before) = before
            && self.changes.back().is_none_or(|(at, _)| *at < before)
        {
            self.changes.push_back((before, self.sent));
        }
        self.changes.push_back((now, sent));
        self.sent = sent;
        while self.changes.get(1).is_some_and(|(at, _)| now.since(*at) > keep) {
            self.changes.pop_front();
        }
        true
    }

    /// This node's own connections at `then`, between the two counts around it.
    fn sent_at(&self, then: Timestamp) -> Sent {
        let after = self.changes.partition_point(|(at, _)| *at <= then);
        let before = after.checked_sub(1).map(|before| self.changes[before]);
        match (before, self.changes.get(after)) {
            (Some((from, a)), Some((to, b))) => {
                let part = then.seconds_since(from) / to.seconds_since(from).max(1e-9);
                let between = |a: f64, b: f64| a + part * (b - a);
                Sent {
                    open: between(a.open, b.open),
                    young: between(a.young, b.young),
                    middle: between(a.middle, b.middle),
                }
            }
            (Some((_, sent)), None) | (None, Some(&(_, sent))) => sent,
            (None, None) => self.sent,
        }
    }
}

/// An endpoint of a group, as the balancer knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// The view's number of it.
    pub number: usize,
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

#[cfg(test)]
mod tests;
