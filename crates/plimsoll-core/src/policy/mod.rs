//! Who gets which share of the new connections: one trait, one file per policy.

use std::time::Duration;

use crate::service::EndpointId;
pub use crate::service::PolicyKind as Kind;

/// One endpoint as a policy sees it: reports merged, stale ones shrunk, own connections live.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Its nominal capacity `c0`; `None` where nobody knows.
    pub capacity: Option<f64>,
    /// Whether `capacity` is a promise (a CPU limit or request) rather than a relative size.
    pub trusted: bool,
    /// Open connections, cluster-wide: `n`.
    pub open: f64,
    /// Of those, younger than the horizon: `y`.
    pub young: f64,
    /// Of those, with an age of one to two horizons: `z`.
    pub middle: f64,
    /// Connections opened per second: `o`.
    pub opens_per_second: f64,
    /// Connections refused or never answered per second.
    pub failures_per_second: f64,
    /// CPU in use, in cores: `U`; `None` where nobody knows.
    pub cpu: Option<f64>,
    /// CPU pressure, 0 to 1: `P`; `None` where nobody knows.
    pub pressure: Option<f64>,
    /// For how long it has been eligible; infinity where that is unknown (it was there when the agent started).
    pub seconds_eligible: f64,
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
