//! What happens in a simulated cluster, as people write it: one TOML file per scenario.
//!
//! The comments of these types are the reference of the format; `docs/simulator.md` shows how to write one.

mod check;
mod library;

use std::sync::Arc;

use plimsoll_core::time::{Span, Timestamp};
use serde::Deserialize;

use crate::traffic::Traffic;

pub(crate) use check::LONGEST;
pub use library::{find, library};

/// A scenario that cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scenario {scenario}: {what}")]
pub struct Error {
    /// Which scenario.
    pub scenario: String,
    /// What is wrong with it, where, and what to do.
    pub what: String,
}

/// A cluster, who connects to it, and what happens to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about, in a sentence.
    pub about: String,
    /// When it ends.
    pub until: Span,
    /// From when on it is measured; what comes before is to reach a steady state.
    pub measured_from: Span,
    /// Times that are measured on their own, too.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// The nodes that send connections.
    #[serde(default)]
    pub nodes: Nodes,
    /// The endpoints there are at the beginning, in groups of equal ones.
    pub endpoints: Vec<Endpoints>,
    /// Who connects.
    pub clients: Clients,
    /// What connections cost the endpoints. Without it they cost nothing and just last: only counts matter then.
    pub work: Option<Work>,
    /// What agents can read of the endpoints' CPU. Without it they read nothing.
    pub signals: Option<Signals>,
    /// How reports travel between the nodes.
    #[serde(default)]
    pub mesh: Mesh,
    /// Bursts of new connections, on each node at times of its own.
    pub bursts: Option<Bursts>,
    /// A swing of all arrivals, as between day and night.
    pub swing: Option<Swing>,
    /// What happens, in any order.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Who connects instead, when real traffic is replayed; not in a file.
    #[serde(skip)]
    pub traffic: Option<Arc<Traffic>>,
}

/// Times that are measured on their own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// What to call it in the results.
    pub name: String,
    /// Its beginning.
    pub from: Span,
    /// Its end.
    pub until: Span,
    /// It comes again this long after its beginning.
    pub every: Option<Span>,
    /// How often it comes, with `every`.
    #[serde(default = "once")]
    pub times: u32,
}

/// The nodes that send connections. Each runs an agent, and endpoints are hosted on them in turn.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nodes {
    /// How many.
    pub count: usize,
    /// Node number `j`, from 1, gets a part of the arrivals in proportion to `j^-skew`.
    pub skew: f64,
    /// Each node's part of the arrivals instead, summing to 1.
    pub shares: Vec<f64>,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes { count: 8, skew: 0.8, shares: Vec::new() }
    }
}

/// Some equal endpoints.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// How many.
    pub count: usize,
    /// What each can take: cores where there is `work`, else a relative size.
    #[serde(default = "one")]
    pub capacity: f64,
    /// What the agents are told of its capacity, if that is something else.
    pub stated: Option<f64>,
    /// The agents are told nothing of its capacity.
    #[serde(default)]
    pub hidden: bool,
    /// No agent runs where it is hosted: nobody counts its connections but the senders.
    #[serde(default)]
    pub outside: bool,
}

/// Who connects: independent arrivals (Poisson), some of them short, some long.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// New connections per second, all nodes together. Either this or `load`.
    pub rate: Option<f64>,
    /// The part of them that is long, with `rate`.
    pub long_part: Option<f64>,
    /// The part of all capacity that their work takes; needs `work`.
    pub load: Option<f64>,
    /// The part of that work that comes from long connections, with `load`.
    #[serde(default)]
    pub long_work: f64,
    /// How long a short connection lasts on average (exponential). With `work` it lasts until its one request is
    /// answered.
    #[serde(default = "short_life")]
    pub short_life: Span,
    /// How long a long connection lasts on average (log-normal).
    #[serde(default = "long_life")]
    pub long_life: Span,
    /// The standard deviation of the logarithm of that.
    #[serde(default = "long_sigma")]
    pub long_sigma: f64,
}

/// What connections cost the endpoints. An endpoint divides its cores evenly among the requests it works on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Work {
    /// CPU time of a request on average (exponential).
    pub demand: Span,
    /// It is log-normal instead, with this standard deviation of its logarithm.
    pub demand_sigma: Option<f64>,
    /// Requests per second on a long connection, on average over connections (log-normal).
    pub requests_per_second: f64,
    /// The standard deviation of the logarithm of that.
    pub requests_sigma: f64,
    /// How many cores a single request can use.
    pub parallel: f64,
}

impl Default for Work {
    fn default() -> Work {
        Work {
            demand: Span::from_millis(20),
            demand_sigma: None,
            requests_per_second: 2.0,
            requests_sigma: 0.7,
            parallel: 1.0,
        }
    }
}

/// What agents read of the endpoints' CPU, at each report interval.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signals {
    /// The standard deviation of a reading relative to the true value.
    pub noise: f64,
    /// Each endpoint's pressure reads too high by a constant of its own between 0 and this.
    pub pressure_bias: f64,
}

impl Default for Signals {
    fn default() -> Signals {
        Signals { noise: 0.05, pressure_bias: 0.0 }
    }
}

/// How reports travel between the nodes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mesh {
    /// How often a node counts and reports; by default as the agents do it.
    pub interval: Span,
    /// The shortest time that a report is under way.
    pub least_delay: Span,
    /// The longest.
    pub most_delay: Span,
    /// The part of the reports that is lost.
    pub loss: f64,
}

impl Default for Mesh {
    fn default() -> Mesh {
        Mesh {
            interval: Span::from_millis(500),
            least_delay: Span::from_millis(1),
            most_delay: Span::from_millis(5),
            loss: 0.0,
        }
    }
}

/// Bursts of new connections, on each node at times of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    /// How many times as many arrive at a node during a burst.
    pub factor: f64,
    /// How long a burst lasts on average (exponential).
    pub on: Span,
    /// How long it is until the next on average (exponential).
    pub off: Span,
}

/// A swing of all arrivals: `1 + depth sin(2 pi t / period)` times as many.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swing {
    /// From one peak to the next.
    pub period: Span,
    /// 0 to 1.
    pub depth: f64,
}

/// Something that happens at a time. Exactly one of the kinds is to be given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub at: Span,
    /// It happens again after this time, to the next endpoints in each case.
    pub every: Option<Span>,
    /// How often it happens, with `every`.
    #[serde(default = "once")]
    pub times: u32,
    /// Endpoints are added.
    pub add: Option<Add>,
    /// An endpoint is removed.
    pub remove: Option<Remove>,
    /// Endpoints become slower, as by a noisy neighbour.
    pub slow: Option<Slow>,
    /// Endpoints fail, and answer fast.
    pub fail: Option<Fail>,
    /// What agents read of endpoints is wrong.
    pub misread: Option<Misread>,
    /// Long connections of a node are dropped and dial again.
    pub redial: Option<Redial>,
    /// The reports between some nodes and the others are lost. Connections are not.
    pub cut_off: Option<CutOff>,
    /// More, or fewer, connections arrive at all nodes.
    pub surge: Option<Surge>,
}

/// Endpoints are added.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// How many; all counted on from the last endpoint there is.
    pub count: usize,
    /// What each can take.
    #[serde(default = "one")]
    pub capacity: f64,
    /// Its speed at first, as a part of its full speed.
    #[serde(default = "one")]
    pub cold_speed: f64,
    /// For how long.
    #[serde(default)]
    pub cold_for: Span,
}

/// An endpoint is removed: it gets no new connections at once.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Which, counted from 0; in the next repetition the next one.
    pub endpoint: usize,
    /// How long its connections may stay; then they dial again, each within a second.
    #[serde(default)]
    pub grace: Span,
}

/// Endpoints become slower.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Which, counted from 0; in the next repetition those after them.
    pub endpoints: Vec<usize>,
    /// Their speed, as a part of their full speed.
    pub speed: f64,
    /// For how long.
    #[serde(rename = "for")]
    pub lasting: Span,
}

/// Endpoints fail.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// Which, counted from 0; in the next repetition those after them.
    pub endpoints: Vec<usize>,
    /// In which way.
    pub how: Failure,
    /// For how long.
    #[serde(rename = "for")]
    pub lasting: Span,
}

/// How an endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// It answers each request at once with an error, on old connections too, and costs next to no CPU.
    Error,
    /// It closes each new connection at once and keeps its old ones.
    Close,
    /// It refuses each new connection and keeps its old ones.
    Refuse,
}

/// What agents read of endpoints is wrong.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Misread {
    /// Which, counted from 0; in the next repetition those after them.
    pub endpoints: Vec<usize>,
    /// What is read instead.
    pub how: Misreading,
    /// For how long.
    #[serde(rename = "for")]
    pub lasting: Span,
}

/// What is read instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Misreading {
    /// Nothing.
    Missing,
    /// That it is idle.
    Idle,
    /// That it is fully loaded.
    Full,
}

/// Long connections are dropped and dial again with what is left of their life.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redial {
    /// Those that came through this node, counted from 0.
    pub node: usize,
    /// Each dials at a random moment within this time.
    pub within: Span,
    /// The part of them that is dropped.
    #[serde(default = "one")]
    pub part: f64,
}

/// The reports between some nodes and the others are lost.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutOff {
    /// Which nodes, counted from 0.
    pub nodes: Vec<usize>,
    /// For how long.
    #[serde(rename = "for")]
    pub lasting: Span,
}

/// More, or fewer, connections arrive.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surge {
    /// How many times as many.
    pub factor: f64,
    /// For how long.
    #[serde(rename = "for")]
    pub lasting: Span,
}

const fn once() -> u32 {
    1
}

const fn one() -> f64 {
    1.0
}

const fn short_life() -> Span {
    Span::from_millis(50)
}

const fn long_life() -> Span {
    Span::from_secs(120)
}

const fn long_sigma() -> f64 {
    1.2
}

impl Scenario {
    /// Reads a scenario and checks it. `name` is what errors call it.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, Error> {
        let wrong = |what: String| Error { scenario: name.to_owned(), what };
        let scenario: Scenario = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        scenario.check().map_err(wrong)?;
        Ok(scenario)
    }

    /// The capacity of all endpoints at the beginning.
    pub fn capacity(&self) -> f64 {
        self.endpoints.iter().map(|group| group.count as f64 * group.capacity).sum()
    }

    /// How many endpoints there are at the beginning.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.iter().fold(0, |sum, group| sum.saturating_add(group.count))
    }

    /// New connections per second, and the part of them that is long.
    pub fn arrivals(&self) -> (f64, f64) {
        let clients = &self.clients;
        let (Some(load), Some(work)) = (clients.load, &self.work) else {
            return (clients.rate.unwrap_or(0.0), clients.long_part.unwrap_or(0.0));
        };
        let demand = work.demand.0.as_secs_f64();
        let cores = load * self.capacity();
        let short = cores * (1.0 - clients.long_work) / demand;
        let of_one = work.requests_per_second * demand * clients.long_life.0.as_secs_f64();
        let long = cores * clients.long_work / of_one;
        (short + long, long / (short + long))
    }

    /// Each node's part of the arrivals.
    pub fn node_shares(&self) -> Vec<f64> {
        if !self.nodes.shares.is_empty() {
            return self.nodes.shares.clone();
        }
        let raw: Vec<f64> = (1..=self.nodes.count).map(|j| libm::pow(j as f64, -self.nodes.skew)).collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|share| share / sum).collect()
    }

    /// When it ends.
    pub fn end(&self) -> Timestamp {
        Timestamp::from_duration(self.until.0)
    }
}

impl Event {
    /// When it happens, with the number of the repetition.
    pub fn occurrences(&self) -> impl Iterator<Item = (Timestamp, usize)> {
        repeated(self.at, self.every, self.times)
    }
}

impl Window {
    /// From when to when, each time.
    pub fn spans(&self) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let length = self.until.0.saturating_sub(self.from.0);
        repeated(self.from, self.every, self.times).map(move |(from, _)| (from, from + length))
    }
}

fn repeated(first: Span, every: Option<Span>, times: u32) -> impl Iterator<Item = (Timestamp, usize)> {
    let every = every.unwrap_or_default().0;
    (0..times).map(move |turn| (Timestamp::from_duration(first.0 + every * turn), turn as usize))
}

#[cfg(test)]
mod tests;
