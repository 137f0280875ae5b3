//! Who gets which share of the new connections: one trait, one file per policy.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::service::{EndpointId, PolicyKind};

pub mod waterline;
pub mod lvs_feedback;
mod equal;
mod memory;
mod pour;
mod static_shares;

pub(crate) use memory::Memory;
pub(crate) use pour::{Line, pour};

#[cfg(test)]
pub(crate) mod tests;

/// One endpoint as a policy sees it: reports merged, stale ones shrunk, own connections live.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Its nominal capacity `c0`; `None` where nobody knows.
    pub capacity: Option<f64>,
    /// Whether `capacity` is a promise (a CPU limit or request) rather than a relative size.
    pub trusted: bool,
    /// Its figures, cluster-wide: `n`, `y`, `z`, `o`, `U` and `P`.
    pub load: Load,
    /// How many seconds ago the oldest part of these figures was measured; infinity where nobody ever did.
    pub age: f64,
    /// What the nodes say that are heard; only where no agent hosts it, so that `load` is a sum over the senders.
    pub heard: Option<Heard>,
    /// For how long it has been eligible; infinity where that is unknown (it was there when the agent started).
    pub seconds_eligible: f64,
}

/// What the nodes that are heard say they sent to an endpoint that no agent hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// The sum of their figures, this node's own among them.
    pub load: Load,
    /// For how many seconds the same nodes have been heard; infinity if ever since.
    pub seconds: f64,
}

impl Row {
    /// The figures that are evidence for or against the endpoint.
    pub fn evidence(&self) -> &Load {
        self.heard.as_ref().map_or(&self.load, |heard| &heard.load)
    }
}

/// The endpoints of one Service that clients may be sent to, at the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The endpoints, sorted by `endpoint`, each once.
    pub rows: &'a [Row],
    /// Seconds since the last decision of this group (`dt`); 0 at the first.
    pub elapsed: f64,
    /// Tick and staleness together, in seconds: `T + s`.
    pub delay: f64,
    /// The horizon `h` in seconds.
    pub horizon: f64,
    /// How long a new endpoint is eased in; zero: not at all.
    pub slow_start: Duration,
    /// The least that an endpoint gets, as a part of its target; `None`: what the parameters say.
    pub floor: Option<f64>,
}

/// One endpoint's part of the new connections, with what led to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The part itself, `p`; the parts of a group sum to 1.
    pub share: f64,
    /// The part of the load it should carry, `tau_e`; these sum to 1 too.
    pub target: f64,
    /// The capacity that was reckoned with, in the unit of [`Row::capacity`].
    pub capacity: f64,
    /// Which limit the share ran into, if any.
    pub limit: Option<Limit>,
}

/// A limit that a share ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The least share relative to the target.
    Floor,
    /// The largest share relative to the target.
    Ceiling,
    /// It is new and still being eased in.
    SlowStart,
    /// Its connections do not last like those of its peers: no more than its capacity share.
    NoEvidence,
    /// Its connections fail: the least share until it recovers.
    Failing,
    /// It failed not long ago and is being eased in again.
    Recovering,
    /// All endpoints are overloaded: shares stay as they were.
    Frozen,
}

/// Decides the shares of one Service's new connections. Has the Service's memory: one value per Service.
pub trait Policy: Send {
    /// One share per row, in the order of the rows, into `shares` (which it clears first). No rows, no shares.
    fn decide(&mut self, group: &Group<'_>, shares: &mut Vec<Share>);
}

/// What can be set about policies. Those that are not listed have nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Of the policy `waterline`.
    pub waterline: waterline::Parameters,
    /// Of the policy `lvs-feedback`.
    pub lvs_feedback: lvs_feedback::Parameters,
}

impl Parameters {
    /// Says which value is out of its range, if any is.
    pub fn check(&self) -> Result<(), String> {
        self.waterline.check().map_err(|wrong| format!("waterline: {wrong}"))?;
        self.lvs_feedback.check().map_err(|wrong| format!("lvs_feedback: {wrong}"))
    }
}

/// The policy of this kind, without memory: for one Service, at its first decision.
pub fn build(kind: PolicyKind, parameters: &Parameters) -> Box<dyn Policy> {
    match kind {
        PolicyKind::Waterline => Box::new(waterline::Waterline::new(&parameters.waterline)),
        PolicyKind::LvsFeedback => Box::new(lvs_feedback::LvsFeedback::new(&parameters.lvs_feedback)),
        PolicyKind::Equal => Box::new(equal::Equal),
        PolicyKind::Static => Box::new(static_shares::StaticShares::default()),
    }
}

/// The largest share, relative to the target, of an endpoint that is `age` of the way (0 to 1) through its slow
/// start: from a tenth of its target, past the target, to `boost` times the target.
pub(crate) fn ease_in(age: f64, boost: f64) -> f64 {
    let age = age.clamp(0.0, 1.0);
    0.1 + 0.9 * age + (boost - 1.0) * age * age
}

/// `Err` unless the value lies in the range (ends included); for the `check` of parameters.
pub(crate) fn in_range(name: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    if value >= least && value <= most {
        Ok(())
    } else {
        Err(format!("{name} is {value}, must be from {least} to {most}"))
    }
}

/// Beyond this a figure is a mistake.
const ABSURD: f64 = 1e12;

/// The figure, unless it is missing in one of the ways in which figures are: NaN, negative, infinite, absurd.
pub(crate) fn figure(value: f64) -> Option<f64> {
    (0.0..=ABSURD).contains(&value).then_some(value)
}

/// The capacity, unless it is missing; none at all is missing too.
pub(crate) fn capacity(value: Option<f64>) -> Option<f64> {
    value.filter(|c| (1e-6..=1e9).contains(c))
}

/// The middle of the values (the mean of the two in the middle); `None` of none. Sorts them.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(f64::midpoint(upper, values[(values.len() - 1) / 2]))
}

/// The nominal capacity of each endpoint into `nominal`; where it is missing the median of the known, or 1.
pub(crate) fn nominal_capacities(stated: impl Iterator<Item = Option<f64>> + Clone, nominal: &mut Vec<f64>) {
    nominal.clear();
    nominal.extend(stated.clone().filter_map(capacity));
    let missing = median(nominal).unwrap_or(1.0);
    nominal.clear();
    nominal.extend(stated.map(|stated| capacity(stated).unwrap_or(missing)));
}
