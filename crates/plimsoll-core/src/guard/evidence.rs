//! Whether an endpoint's load follows the connections that are sent to it, as far as layer 4 shows.
//!
//! The measure is the *stay*: the mean part of a horizon that a new connection stays open in its first horizon,
//! `y / (o h)`. An endpoint that closes at once has a stay near 0, whatever its CPU shows. It is compared with the
//! stay of its peers, and before an endpoint is called failing also with its own past, so that a majority that
//! became slow does not make the rest look broken. Where CPU is measured, CPU per connection has a say too.

use crate::policy::{Row, figure};

/// How many connections that should have lasted are remembered: enough to tell chance from fault.
const MEMORY: f64 = 16.0;
/// The same for an endpoint's own past.
const PAST: f64 = 64.0;
/// How slowly, in seconds, an endpoint's own past rises: what overload adds to the stay is not what is usual.
const PAST_RISES: f64 = 300.0;
/// Connections over which is remembered how they come: so many that some bursts are among them.
const BURSTS: f64 = 512.0;
/// A filtered rate steps so much less than the number of connections from one decision to the next.
const STEP_OF_CHANCE: f64 = 3.0;
/// Steps this many times those of chance are bursts; less is a change of load, or of shares.
const SURELY_BURSTS: f64 = 2.0;
/// A lasting connection speaks for an endpoint as loudly as this many missing ones speak against it.
const ACQUITTAL: f64 = 6.0;
/// Attempts over which failures are counted.
const ATTEMPTS: f64 = 20.0;

/// The figures of one row that bear on it; what is missing is 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    pub(super) young: f64,
    pub(super) open: f64,
    pub(super) opens: f64,
    pub(super) failures: f64,
    pub(super) cpu: Option<f64>,
    /// Connections per second that our share was meant to send there.
    pub(super) meant: f64,
}

impl Signs {
    pub(super) fn of(row: &Row, meant: f64) -> Signs {
        let known = |value| figure(value).unwrap_or(0.0);
        let load = row.evidence();
        Signs {
            young: known(load.young),
            open: known(load.open),
            opens: known(load.opens_per_second),
            failures: known(load.failures_per_second),
            cpu: load.cpu.and_then(figure),
            meant,
        }
    }

    /// CPU per connection per second and per open connection.
    pub(super) fn cost(&self) -> Option<[f64; 2]> {
        self.cpu.map(|cpu| [cpu / (self.opens + 0.1), cpu / (self.open + 1.0)])
    }
}

/// A count of connections and of the stay they had, both forgetting.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    opened: f64,
    stayed: f64,
}

impl Tally {
    fn add(&mut self, opened: f64, stayed: f64, keep: f64) {
        self.opened = self.opened * keep + opened;
        self.stayed = self.stayed * keep + stayed;
    }
}

/// The stay that is usual for one endpoint while it is not overloaded.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    stay: f64,
    /// How many connections it was learned from, and how many of them its peers would have kept.
    opened: f64,
    expected: f64,
}

impl Past {
    /// The stay, once it is known.
    fn stay(&self) -> Option<f64> {
        (self.opened >= PAST || self.expected >= MEMORY).then_some(self.stay)
    }

    /// At first the mean over all connections. Then follows a lower stay with the connections, a higher one slowly:
    /// connections stay longer while requests wait, and those that are served at once when the wait is over are not
    /// missing.
    fn learn(&mut self, stay: f64, opened: f64, expected: f64, elapsed: f64) {
        self.opened += opened;
        self.expected += expected;
        let pace = if self.expected < MEMORY {
            opened / self.opened.max(1.0)
        } else if stay < self.stay {
            (expected / PAST).min(1.0)
        } else {
            (expected / PAST).min(elapsed / PAST_RISES)
        };
        self.stay += pace * (stay - self.stay);
    }
}

/// How much connections come in bursts: how uneven their number is from one decision to the next, to what chance
/// would make of as many. What comes at once is seen by a count, or missed by it, at once: it is as good as one.
#[derive(Clone, Copy, Debug, Default)]
struct Bursts {
    /// Opened per second at the last decision.
    last: f64,
    /// The squares of its steps, in connections, and the connections, both forgetting.
    steps: f64,
    opened: f64,
}

impl Bursts {
    fn observe(&mut self, opens: f64, opened: f64, elapsed: f64) {
        let step = (opens - self.last) * elapsed;
        self.last = opens;
        let keep = libm::exp(-opened / BURSTS);
        self.steps = self.steps * keep + STEP_OF_CHANCE * step * step;
        self.opened = self.opened * keep + opened;
    }

    /// How many connections are as good as one; 1 unless they come in bursts for sure.
    fn size(&self) -> f64 {
        (self.steps / self.opened.max(1.0) / SURELY_BURSTS).max(1.0)
    }
}

/// The time since the last decision, the same for a whole group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lapse {
    /// In seconds.
    elapsed: f64,
    /// The horizon, in seconds.
    horizon: f64,
    /// What a filter with a time constant of half a horizon keeps of its value.
    kept: f64,
}

impl Lapse {
    pub(super) fn new(elapsed: f64, horizon: f64) -> Lapse {
        Lapse { elapsed, horizon, kept: libm::exp(-2.0 * elapsed / horizon) }
    }
}

/// What is known for and against one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Connections per second, late by the half horizon that young counts are late. Meant, and opened.
    meant: f64,
    opens: f64,
    /// Of the last fraction of a horizon: connections that should be young, and are.
    recent: Tally,
    tally: Tally,
    bursts: Bursts,
    past: Past,
    /// How many connections that should have stayed are missing, less what speaks for the endpoint.
    missing: f64,
    attempts: f64,
    failures: f64,
    /// Seconds since CPU per connection is next to nothing.
    idle: f64,
    /// CPU per connection, long-run, and for how many seconds it is known.
    cost: [f64; 2],
    cost_seconds: f64,
}

/// What an endpoint is held against.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peers {
    /// The stay of the group, 0 where it is not known.
    pub(super) stay: f64,
    /// CPU per connection per second and per open connection; `None` where it says nothing.
    pub(super) cost: Option<[f64; 2]>,
}

fn weigh_cost(cost: [f64; 2], reference: [f64; 2]) -> f64 {
    (cost[0] / reference[0].max(1e-9)).max(cost[1] / reference[1].max(1e-9))
}

impl Evidence {
    /// The endpoint's stay, once anything was opened.
    pub(super) fn stay(&self) -> Option<f64> {
        (self.tally.opened >= 1.0).then(|| self.tally.stayed / self.tally.opened)
    }

    /// The part of attempts to connect that failed.
    pub(super) fn failed_part(&self) -> f64 {
        if self.attempts > 0.0 { self.failures / self.attempts } else { 0.0 }
    }

    /// Takes note of some time. `judged` is false while the endpoint is known to fail: its own past is not to learn
    /// from that.
    pub(super) fn observe(&mut self, signs: Signs, peers: Peers, lapse: Lapse, judged: bool) {
        let Lapse { elapsed, horizon, kept } = lapse;
        self.opens += (1.0 - kept) * (signs.opens - self.opens);
        self.meant += (1.0 - kept) * (signs.opens.max(signs.meant) - self.meant);
        let stayed = signs.young / horizon * elapsed;
        let opened = self.opens * elapsed;
        self.bursts.observe(signs.opens, opened, elapsed);

        let keep = kept * kept;
        self.recent.opened = keep * self.recent.opened + (1.0 - keep) * self.meant * horizon;
        self.recent.stayed = keep * self.recent.stayed + (1.0 - keep) * signs.young;

        // Forgets with time or with connections, whichever is slower.
        let expected = opened * peers.stay;
        let keep = libm::exp(-(elapsed / horizon).min(expected / MEMORY).max(opened * 1e-5));
        self.tally.add(opened, stayed, keep);

        let reference = self.past.stay().map_or(peers.stay, |usual| usual.min(peers.stay));
        self.missing = (self.missing + opened * reference - ACQUITTAL * stayed).max(0.0);
        if judged
            && self.missing < 4.0
            && let Some(stay) = self.stay()
        {
            self.past.learn(stay, opened, expected, elapsed);
        }

        let attempts = signs.opens + signs.failures;
        let keep = libm::exp(-(elapsed / 2.0).min(attempts * elapsed / ATTEMPTS));
        self.attempts = self.attempts * keep + attempts * elapsed;
        self.failures = self.failures * keep + signs.failures * elapsed;
        self.observe_cost(signs, peers, elapsed, judged);
    }

    /// From now on other nodes are heard than before. That their connections come or go at once says nothing of the
    /// endpoint: what is late or recent goes on from what these nodes say, with the stay that it had.
    pub(super) fn hear_others(&mut self, signs: Signs, horizon: f64) {
        self.opens = signs.opens;
        self.meant = signs.opens.max(signs.meant);
        self.bursts.last = signs.opens;
        if self.recent.opened > 1e-6 {
            let part = self.meant * horizon / self.recent.opened;
            self.recent = Tally { opened: part * self.recent.opened, stayed: part * self.recent.stayed };
        }
    }

    fn observe_cost(&mut self, signs: Signs, peers: Peers, elapsed: f64, judged: bool) {
        let (Some(cost), Some(reference)) = (signs.cost(), peers.cost) else {
            self.idle = 0.0;
            return;
        };
        let known = self.cost_seconds >= 10.0;
        let of_past = if known { weigh_cost(cost, self.cost) } else { 1.0 };
        if weigh_cost(cost, reference).max(of_past) >= 0.125 {
            self.idle = 0.0;
        } else if signs.opens * elapsed > 0.0 {
            self.idle += elapsed;
        }
        if judged && self.idle == 0.0 && signs.opens > 0.0 {
            let gain = if known {
                1.0 - libm::exp(-elapsed / 60.0)
            } else {
                elapsed / (self.cost_seconds + elapsed).max(1e-9)
            };
            for (own, now) in self.cost.iter_mut().zip(cost) {
                *own += gain * (now - *own);
            }
            self.cost_seconds += elapsed;
        }
    }

    /// How far the evidence allows more than the capacity share: 0 not at all, 1 without reserve.
    pub(super) fn trust(&self, signs: Signs, peers: Peers) -> f64 {
        let of_stay = {
            let expected = self.tally.opened * peers.stay;
            let slow = (self.tally.stayed / expected.max(1.0)).min(1.0);
            // Few recent connections say little: lean on the longer memory, as if it were one of them.
            (self.recent.stayed + slow) / (self.recent.opened * peers.stay + 1.0)
        };
        let ratio = match (signs.cost(), peers.cost) {
            (Some(cost), Some(reference)) => weigh_cost(cost, reference),
            _ => of_stay,
        };
        // A third of what the peers show is no evidence, two thirds are enough.
        let follows = ((ratio - 0.33) / 0.33).clamp(0.0, 1.0);
        follows * (1.0 - 2.0 * self.failed_part()).max(0.0)
    }

    /// How surely it fails: above 1 it does.
    pub(super) fn guilt(&self, failures: f64, missing: f64) -> f64 {
        let refused = if self.failed_part() >= 0.5 { self.failures / failures } else { 0.0 };
        let idle = if self.cost_seconds >= 10.0 { self.idle / 3.0 } else { 0.0 };
        refused.max(self.missing / self.bursts.size() / missing).max(idle)
    }

    /// Whether what came since [`Evidence::start_over`] looks like the peers.
    pub(super) fn recovered(&self, peers: Peers) -> bool {
        let expected = self.tally.opened * peers.stay;
        self.tally.opened >= 5.0
            && self.tally.stayed >= (expected / 2.0).max(1.0)
            && self.failed_part() < 0.1
            && self.idle == 0.0
    }

    /// Forgets what was held against it, and what spoke for it; not its own past.
    pub(super) fn start_over(&mut self) {
        let Evidence { meant, opens, bursts, past, cost, cost_seconds, .. } = *self;
        *self = Evidence { meant, opens, bursts, past, cost, cost_seconds, ..Evidence::default() };
    }
}
