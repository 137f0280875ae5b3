//! The nftables dataplane as the agent sees it: the table, conntrack, and the tally of both.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use plimsoll_core::load::Counts;
use plimsoll_core::plan::Plan;
use plimsoll_core::service::EndpointId;
use plimsoll_core::time::Timestamp;

use super::tally::{self, Kernel, Tally};
use super::{Config, Counter, MarkBits, Nftables, Rotation, Setup, Slot};
use crate::conntrack::{Conntrack, Ended, Entry, Events, Filter, Marking, RECEIVE_BUFFER};
use crate::{Dataplane, Error, netlink};

/// What a dataplane needs to know besides its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What the table needs.
    pub setup: Setup,
    /// How long an age slot lasts at least; slots end when counts are read.
    pub slot_length: Duration,
    /// Bytes of the event socket's receive buffer.
    pub event_buffer: usize,
    /// Whether a thread empties the event socket between two readings.
    pub attended: bool,
}

impl Terms {
    /// The usual ones, with slots of this length.
    pub fn new(setup: Setup, slot_length: Duration) -> Terms {
        Terms { setup, slot_length, event_buffer: RECEIVE_BUFFER, attended: true }
    }
}

/// Balances by a table of its own in front of the installed proxy; counts by that table and by conntrack.
pub struct NftablesDataplane {
    live: Live,
    tally: Tally,
    start: Instant,
    /// Endpoints whose connections are to be released, and since when the first of them waits.
    release: BTreeSet<EndpointId>,
    release_since: Timestamp,
}

/// How long a release waits for more of them, which then need no dump of their own: what a discovery finds at once
/// may come as several plans.
const GATHER: Duration = Duration::from_millis(50);

impl NftablesDataplane {
    /// Makes the table, empty, in the network namespace of the calling thread.
    pub fn open(config: Config, terms: Terms) -> Result<NftablesDataplane, Error> {
        let cannot = |what| move |error| broken(what, error);
        let mut conntrack = Conntrack::open().map_err(cannot("ask conntrack"))?;
        let bits = config.mark_bits()?;
        // Before the table: what opens while nobody listens ends in silence.
        let events = if terms.attended {
            Events::open(terms.event_buffer, tally::matters(bits))
        } else {
            Events::open_unattended(terms.event_buffer, tally::matters(bits))
        };
        let what =
            "listen to conntrack (it takes CAP_NET_ADMIN, as root has it, and CONFIG_NF_CONNTRACK_EVENTS)";
        let events = events.map_err(cannot(what))?;
        prepare(bits, &mut conntrack)?;
        let nftables = Nftables::open(config, terms.setup)?;
        let start = Instant::now();
        let mut tally = Tally::new(terms.slot_length);
        tally.begin_again(Timestamp::ZERO);
        Ok(NftablesDataplane {
            live: Live { nftables, conntrack, events },
            tally,
            start,
            release: BTreeSet::new(),
            release_since: Timestamp::ZERO,
        })
    }

    /// The table.
    pub fn nftables(&self) -> &Nftables {
        &self.live.nftables
    }

    /// How often conntrack had more ends to tell than the event buffer holds. Each was made good by a dump.
    pub fn losses(&self) -> u64 {
        self.tally.losses()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_duration(self.start.elapsed())
    }

    fn if_lost(&self, error: Error) -> Error {
        if !self.live.nftables.is_lost() {
            return error;
        }
        Error::Lost { what: self.live.nftables.name(), source: std::io::Error::other(error.to_string()) }
    }

    fn release_at(&self) -> Option<Timestamp> {
        (!self.release.is_empty()).then(|| self.release_since + GATHER)
    }
}

impl Dataplane for NftablesDataplane {
    fn read(&mut self) -> Result<Counts, Error> {
        let now = self.now();
        let result = self.tally.read(&mut self.live, now);
        result.map_err(|error| self.if_lost(error))
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        let epoch = self.live.nftables.epoch();
        if plan.fresh && self.live.nftables.is_lost() {
            prepare(self.live.mark_bits(), &mut self.live.conntrack)?;
        }
        let result = self.live.nftables.apply(plan);
        let now = self.now();
        if self.live.nftables.epoch() != epoch {
            self.tally.begin_again(now);
        }
        result?;
        self.tally.apply(plan, now);
        if self.release.is_empty() {
            self.release_since = now;
        }
        // After the plan: no new entries can lead there any more. Who is known anew came back meanwhile, unless the
        // plan itself says otherwise.
        self.release.retain(|endpoint| !plan.know.contains(endpoint));
        self.release.extend(&plan.release);
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        // Nothing can be measured without the table.
        let measure = self.tally.due().filter(|_| !self.live.nftables.is_lost());
        let first = measure.into_iter().chain(self.release_at()).min()?;
        Some(self.start + first.since(Timestamp::ZERO))
    }

    fn step(&mut self) -> Result<(), Error> {
        let now = self.now();
        // At once, before what else waits: clients are sent there until it is done.
        if self.release_at().is_some_and(|at| at <= now) {
            let gone = std::mem::take(&mut self.release);
            self.live.conntrack.release(&gone).map_err(|error| broken("release connections", error))?;
            return Ok(());
        }
        let result = self.tally.step(&mut self.live, now);
        result.map_err(|error| self.if_lost(error))
    }

    fn withdraw(&mut self) -> Result<(), Error> {
        self.live.nftables.withdraw()
    }
}

fn prepare(bits: MarkBits, conntrack: &mut Conntrack) -> Result<(), Error> {
    tally::prepare(bits, conntrack).map_err(|error| broken("prepare the marks of connections", error))
}

struct Live {
    nftables: Nftables,
    conntrack: Conntrack,
    events: Events,
}

impl Kernel for Live {
    fn mark_bits(&self) -> MarkBits {
        self.nftables.mark_bits()
    }

    fn slot(&self) -> Slot {
        self.nftables.slot()
    }

    fn rotate(&mut self) -> Result<Rotation, Error> {
        self.nftables.rotate()
    }

    fn clean(&mut self, pair: u8) -> Result<(), Error> {
        self.nftables.clean(pair)
    }

    fn read_counter(&mut self, counter: Counter, into: &mut Vec<(EndpointId, u64)>) -> Result<(), Error> {
        self.nftables.read_counter(counter, into)
    }

    fn ended(&mut self) -> Result<Ended, Error> {
        self.events.take().map_err(|error| broken("listen to conntrack", error))
    }

    fn mark(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(&Entry) -> Option<Marking>,
    ) -> Result<(), Error> {
        self.conntrack.mark(filter, each).map_err(|error| broken("look through all connections", error))
    }
}

fn broken(what: &str, error: netlink::Error) -> Error {
    Error::Broken { what: what.to_owned(), source: error.into() }
}
