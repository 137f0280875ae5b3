//! What is noted of the lives that the kernel tells: each connection once, whoever tells of it.
//!
//! Of what is opened while it is recorded nothing has to be remembered: the kernel tells the whole life at its end.
//! Only connections that were open before are remembered until they end, for the kernel may be silent about them.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::Arc;

use plimsoll_core::service::{EndpointId, Protocol};
use plimsoll_dataplane::conntrack::{Entry, How as Ended, Life};
use plimsoll_sim::recording::{Connection, How, Writer};

use super::names::{Addresses, Services};

/// So many connections that were open before are remembered; about 70 bytes each.
const MOST_BEFORE: usize = 1 << 20;
/// What the end of a recording takes.
const RESERVED: u64 = 256;
const NANOS_PER_MILLI: i64 = 1_000_000;
/// Nobody closes UDP: who was silent for so many milliseconds at the end is taken to have ended. Looks may tell the
/// last packet a second too early.
const SILENCE: i64 = 2_000;

/// A connection that was open before.
#[derive(Clone, Copy, Debug)]
struct Before {
    service: u32,
    endpoint: u32,
    began: Option<i64>,
    /// When it was seen last, in milliseconds after the beginning.
    seen: i64,
    /// When the last packet of a UDP connection passed, as far as looks told.
    silent: Option<i64>,
    /// Nobody has answered yet.
    unanswered: bool,
}

/// Notes connections.
pub(super) struct Notebook {
    pub(super) writer: Writer,
    services: Services,
    addresses: Addresses,
    /// When the recording began, in nanoseconds since 1970.
    began: i64,
    most_bytes: u64,
    by_key: HashMap<(Protocol, SocketAddr), u32>,
    by_name: HashMap<Arc<str>, u32>,
    by_endpoint: HashMap<EndpointId, u32>,
    before: HashMap<u64, Before>,
    /// What was there at the end.
    shown: HashSet<u64>,
    /// Of that, what was closed by then, with the latest of the times that looks told for its end.
    closed: HashMap<u64, (Before, i64, How)>,
    hasher: RandomState,
    /// Whether the recording has ended, so that what begins is not in it any more.
    pub(super) is_over: bool,
    /// How often somebody made the kernel take no note of times; what began meanwhile has no beginning.
    pub(super) disturbed: u64,
    /// Connections that there was no room for, or that nobody knows the beginning of although they began meanwhile.
    pub(super) left_out: u64,
}

impl Notebook {
    /// An empty one, for a recording that began at this time, in nanoseconds since 1970.
    pub(super) fn new(
        writer: Writer,
        services: Services,
        addresses: Addresses,
        began: u64,
        most_bytes: u64,
    ) -> Notebook {
        Notebook {
            writer,
            services,
            addresses,
            began: began as i64,
            most_bytes,
            by_key: HashMap::new(),
            by_name: HashMap::new(),
            by_endpoint: HashMap::new(),
            before: HashMap::new(),
            shown: HashSet::new(),
            closed: HashMap::new(),
            hasher: RandomState::new(),
            is_over: false,
            disturbed: 0,
            left_out: 0,
        }
    }

    /// Whether there is no room for more than what is open at the end.
    pub(super) fn is_full(&self) -> bool {
        self.writer.size() > self.most_bytes / 8 * 7
    }

    /// How many Services and endpoints there are.
    pub(super) fn names(&self) -> (usize, usize) {
        (self.by_name.len(), self.by_endpoint.len())
    }

    /// Whether connections are remembered, so that they must be looked for.
    pub(super) fn has_before(&self) -> bool {
        !self.before.is_empty()
    }

    /// A connection that is there when the recording begins.
    pub(super) fn meet(&mut self, life: &Life) {
        if is_over(life) {
            return;
        }
        let Some((service, endpoint)) = self.numbers(&life.entry) else { return };
        let began = life.began.map(|began| self.millis(began));
        if self.before.len() < MOST_BEFORE {
            let silent = self.silent(life);
            let unanswered = is_unanswered(life);
            let before = Before { service, endpoint, began, seen: 0, silent, unanswered };
            self.before.insert(self.key(&life.entry), before);
        } else {
            self.left_out += 1;
        }
    }

    /// A connection whose entry the kernel let go.
    pub(super) fn hear(&mut self, now: u64, life: &Life) {
        let key = self.key(&life.entry);
        // What was there at the end is told already, unless this tells it better.
        if self.shown.contains(&key) && self.closed.remove(&key).is_none() {
            return;
        }
        let before = self.before.remove(&key);
        if self.has_beginning(before, life) {
            self.note(now, before, life);
        }
    }

    /// Whether it can be known when it began. What nobody knows the beginning of, and was not open when the recording
    /// began, had ended by then, unless the kernel took no note for a while.
    fn has_beginning(&mut self, before: Option<Before>, life: &Life) -> bool {
        let has_beginning = life.began.is_some() || before.is_some();
        let is_younger = life.end.is_none_or(|end| self.millis(end.at) >= 0);
        self.left_out += u64::from(!has_beginning && is_younger && self.disturbed > 0);
        has_beginning
    }

    /// A connection seen between beginning and end, at so many milliseconds: is it one of those that were open
    /// before, and did it end?
    pub(super) fn see(&mut self, now: u64, life: &Life) {
        let (key, silent) = (self.key(&life.entry), self.silent(life));
        let Some(before) = self.before.get_mut(&key) else { return };
        before.seen = now as i64;
        // Never a time after the last packet, so the latest is the best.
        before.silent = before.silent.max(silent);
        before.unanswered = is_unanswered(life);
        let before = *before;
        if is_over(life) {
            self.before.remove(&key);
            self.note(now, Some(before), life);
        }
    }

    /// A look that began at `since` is over: what it did not show is gone.
    pub(super) fn forget(&mut self, now: u64, since: u64) {
        let mut gone = Vec::new();
        self.before.retain(|_, before| {
            let is_gone = before.seen < since as i64;
            if is_gone {
                gone.push(*before);
            }
            !is_gone
        });
        for before in gone {
            let Before { service, endpoint, began, seen, silent, unanswered } = before;
            let how = if unanswered { How::Unanswered } else { How::Gone };
            let gone = (i64::midpoint(seen, now as i64), how);
            let (until, how) = silent.map_or(gone, |silent| (silent, How::Silent));
            // Silent since before the recording.
            if until >= 0 {
                self.add(now, &Connection { service, endpoint, began, until, how });
            }
        }
    }

    /// A connection that is there when the recording ends.
    pub(super) fn take_leave(&mut self, now: u64, life: &Life) {
        let key = self.key(&life.entry);
        // A look may show an entry twice.
        if !self.shown.insert(key) {
            return;
        }
        let before = self.before.remove(&key);
        if !self.has_beginning(before, life) {
            return;
        }
        let Some(noted) = self.noted(now, before, life) else { return };
        if noted.how == How::Open {
            self.add(now, &noted);
        } else {
            let Connection { service, endpoint, began, until, how } = noted;
            let closed = Before { service, endpoint, began, seen: 0, silent: None, unanswered: false };
            self.closed.insert(key, (closed, until, how));
        }
    }

    /// A connection that is still there after the end. The kernel tells what is left of timeouts in whole seconds,
    /// rounded down, so each look tells a time that is not after the end of the connection: the latest is the best.
    pub(super) fn refine(&mut self, life: &Life) {
        let Some(end) = life.end else { return };
        let (key, at) = (self.key(&life.entry), self.millis(end.at));
        if let Some((_, until, _)) = self.closed.get_mut(&key) {
            *until = at.max(*until);
        }
    }

    /// There is nothing more to come: notes what was closed at the end, and what is gone since the last look.
    pub(super) fn finish(&mut self, now: u64) {
        for (_, (before, mut until, mut how)) in std::mem::take(&mut self.closed) {
            let Before { service, endpoint, began, .. } = before;
            if how == How::Silent && until + SILENCE > now as i64 {
                (until, how) = (now as i64, How::Open);
            }
            self.add(now, &Connection { service, endpoint, began, until, how });
        }
        self.forget(now, u64::MAX >> 1);
    }

    fn note(&mut self, now: u64, before: Option<Before>, life: &Life) {
        if let Some(noted) = self.noted(now, before, life) {
            self.add(now, &noted);
        }
    }

    /// What is to be noted of a life; `None` if nothing is.
    fn noted(&mut self, now: u64, before: Option<Before>, life: &Life) -> Option<Connection> {
        let known = before.map(|before| (before.service, before.endpoint));
        let (service, endpoint) = match known {
            Some(numbers) => numbers,
            None => self.numbers(&life.entry)?,
        };
        let began = life.began.map(|began| self.millis(began));
        let (until, how) = match life.end {
            None => (now as i64, How::Open),
            Some(end) => {
                let how = match end.how {
                    Ended::Finished => How::Finished,
                    Ended::Reset => How::Reset,
                    Ended::Silent => How::Silent,
                    Ended::Deleted => How::Gone,
                    Ended::Unanswered => How::Unanswered,
                };
                (self.millis(end.at), how)
            }
        };
        // Ended before the recording began, and only forgotten by the kernel since. Of what was met then only UDP can
        // have; of TCP that is told a second too early.
        let is_older = until < 0 && before.is_none_or(|before| before.silent.is_some());
        let is_younger = self.is_over && began.is_some_and(|began| began > now as i64);
        (!is_older && !is_younger).then_some(Connection { service, endpoint, began, until, how })
    }

    fn add(&mut self, now: u64, connection: &Connection) {
        if self.writer.size() + RESERVED > self.most_bytes {
            self.left_out += 1;
        } else {
            // A clock that was set back may tell of an end before the beginning.
            let began = connection.began.map(|began| began.min(connection.until.clamp(0, now as i64)));
            self.writer.add(now, &Connection { began, ..*connection });
        }
    }

    /// The numbers of a connection's Service and endpoint; `None` if it is not to be recorded, or cannot be.
    fn numbers(&mut self, entry: &Entry) -> Option<(u32, u32)> {
        let id = entry.endpoint()?;
        let key = (id.protocol, entry.original.destination);
        let service = if let Some(number) = self.by_key.get(&key) {
            Some(*number)
        } else {
            let name = self.services.name(key.0, key.1, &self.addresses)?;
            self.enter_service(key, &name)
        };
        let endpoint = match self.by_endpoint.get(&id) {
            Some(number) => Some(*number),
            None => self.enter_endpoint(id),
        };
        let numbers = service.zip(endpoint);
        self.left_out += u64::from(numbers.is_none());
        numbers
    }

    /// A Service that is reached by another key than before; `None` for want of room.
    fn enter_service(&mut self, key: (Protocol, SocketAddr), name: &Arc<str>) -> Option<u32> {
        let known = self.by_name.get(name).copied();
        let number = known.or_else(|| self.has_room().then(|| self.writer.add_service(name)).flatten())?;
        self.by_name.insert(Arc::clone(name), number);
        self.by_key.insert(key, number);
        Some(number)
    }

    /// An endpoint that was not met before; `None` for want of room.
    fn enter_endpoint(&mut self, id: EndpointId) -> Option<u32> {
        let number =
            self.has_room().then(|| self.writer.add_endpoint(&self.addresses.endpoint(id))).flatten()?;
        self.by_endpoint.insert(id, number);
        Some(number)
    }

    fn has_room(&self) -> bool {
        self.writer.size() + RESERVED * 3 < self.most_bytes
    }

    /// When the last packet of a UDP connection that is there passed.
    fn silent(&self, life: &Life) -> Option<i64> {
        let end = life.end.filter(|end| end.how == Ended::Silent)?;
        Some(self.millis(end.at))
    }

    fn key(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one((entry.flow(), entry.id))
    }

    /// Milliseconds after the beginning.
    fn millis(&self, nanos: u64) -> i64 {
        (nanos as i64 - self.began).div_euclid(NANOS_PER_MILLI)
    }
}

/// Whether a connection that is there has been closed.
fn is_over(life: &Life) -> bool {
    life.end.is_some_and(|end| matches!(end.how, Ended::Finished | Ended::Reset))
}

fn is_unanswered(life: &Life) -> bool {
    life.end.is_some_and(|end| end.how == Ended::Unanswered)
}

#[cfg(test)]
pub(super) mod tests;
