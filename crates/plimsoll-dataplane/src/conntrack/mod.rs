//! Connection tracking: what the kernel knows of single connections, asked for rarely and told when they end.
//!
//! [`Conntrack`] dumps, marks and deletes entries; [`Events`] hears of those that end, [`Lives`] of their whole
//! lives. The protocol is ctnetlink
//! (`linux/netfilter/nfnetlink_conntrack.h`), spoken through [`crate::netlink`].

mod entry;
mod events;
mod lives;
#[cfg(test)]
mod tests;

pub use entry::{Direction, Entry, Flow, TcpState, check_bytes};
pub use events::{Ended, Events, RECEIVE_BUFFER};
pub use lives::{End, Heard, How, Life, Lives};

use std::collections::BTreeSet;

use plimsoll_core::service::{EndpointId, Family, Protocol};

use crate::netlink::{self, ACK, Builder, DUMP, Error, Message, Refusal, Socket, nfgenmsg};
use entry::kind;

const SUBSYSTEM: u16 = 1 << 8;
pub(crate) const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
pub(crate) const DELETE: u16 = SUBSYSTEM | 2;

/// So many changes go into one datagram: their answers, should all fail, fit the smallest receive buffer. More are
/// never held, however many entries a dump shows.
const CHANGES: usize = 128;
/// A dump can show an entry twice when it goes on in the middle of a bucket whose last entry went; the repetition
/// is at most a bucket away.
const RECENT: usize = 32;

/// Which entries a dump shows. The kernel picks them; what an older kernel does not understand is left to the
/// reader, who gets only what matches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Only this family.
    pub family: Option<Family>,
    /// Only where the bits of the second number, in the entry's mark, are those of the first.
    pub mark: Option<(u32, u32)>,
    /// Only what was sent elsewhere by a DNAT rule.
    pub translated: bool,
    /// Only what was never answered.
    pub unanswered: bool,
    /// Only this endpoint's.
    pub endpoint: Option<EndpointId>,
}

impl Filter {
    /// What to dump to see all connections of these endpoints, and of others where there are several: it is one dump
    /// in any case. An empty one takes 10 ms where the kernel has 262,144 buckets, a connection shown 2 us, one
    /// passed over 0.3 us.
    pub(crate) fn of(endpoints: &BTreeSet<EndpointId>) -> Filter {
        let mut endpoints = endpoints.iter();
        let only = endpoints.next().filter(|_| endpoints.next().is_none());
        Filter { endpoint: only.copied(), ..Filter::default() }
    }

    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        self.family.is_none_or(|family| Family::of(entry.original.source.ip()) == family)
            && self.mark.is_none_or(|(value, mask)| entry.mark & mask == value)
            && (!self.translated || entry.is_translated())
            && (!self.unanswered || !entry.is_answered())
            && self.endpoint.is_none_or(|endpoint| entry.endpoint() == Some(endpoint))
    }

    fn write(&self, m: &mut Builder) {
        const REPLY_FLAGS: u16 = 2;
        const BY_ADDRESS: u32 = 1;
        const BY_PORT: u32 = 1 << 3 | 1 << 4;
        if let Some((value, mask)) = self.mark {
            m.be32(kind::MARK, value);
            m.be32(kind::MARK_MASK, mask);
        }
        let translated = if self.translated { entry::DST_NAT } else { 0 };
        let unanswered = if self.unanswered { entry::SEEN_REPLY } else { 0 };
        if translated | unanswered != 0 {
            m.be32(kind::STATUS, translated);
            m.be32(kind::STATUS_MASK, translated | unanswered);
        }
        if let Some(endpoint) = self.endpoint {
            entry::write_source(m, kind::TUPLE_REPLY, endpoint);
            // Kernels up to now show all addresses but the wanted one when they filter by one of IPv6.
            let flags = if endpoint.address.is_ipv4() { BY_ADDRESS | BY_PORT } else { BY_PORT };
            m.nest(kind::FILTER, |m| m.bytes_of(REPLY_FLAGS, &flags.to_ne_bytes()));
        }
    }

    fn family(&self) -> u8 {
        match self.family.or(self.endpoint.map(|endpoint| Family::of(endpoint.address))) {
            None => libc::AF_UNSPEC as u8,
            Some(Family::V4) => libc::AF_INET as u8,
            Some(Family::V6) => libc::AF_INET6 as u8,
        }
    }
}

/// New bits for the mark of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marking {
    /// Which connection.
    pub flow: Flow,
    /// Which bits change.
    pub mask: u32,
    /// To what.
    pub bits: u32,
}

/// Sockets for questions about connections, in the network namespace of the thread that opened them.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    request: Builder,
    /// On a socket of their own, so that they can be sent in the midst of a dump.
    changes: Changes,
}

impl Conntrack {
    /// Opens them.
    pub fn open() -> Result<Conntrack, Error> {
        let socket = Socket::open(netlink::Protocol::Netfilter)?;
        Ok(Conntrack { socket, request: Builder::new(), changes: Changes::open()? })
    }

    /// Shows each entry that matches. About 2 us for each entry shown and 0.3 us for each passed over.
    pub fn dump(&mut self, filter: &Filter, mut each: impl FnMut(&Entry)) -> Result<(), Error> {
        self.dump_and_change(filter, |entry, _| {
            each(entry);
            Ok(())
        })
    }

    /// Shows each entry that matches, and sets the bits of its mark that `each` asks for: a few entries later, and
    /// not any more if the connection is gone by then.
    pub fn mark(
        &mut self,
        filter: &Filter,
        mut each: impl FnMut(&Entry) -> Option<Marking>,
    ) -> Result<(), Error> {
        self.dump_and_change(filter, |entry, changes| match each(entry) {
            Some(marking) => changes.mark(&marking),
            None => Ok(()),
        })
    }

    /// Deletes what would send more packets to endpoints that do not serve any more: UDP, and what they never
    /// answered; only where a DNAT rule chose the endpoint. Returns how many entries it found.
    ///
    /// Established connections stay: the endpoint may be about to finish them.
    pub fn release(&mut self, gone: &BTreeSet<EndpointId>) -> Result<usize, Error> {
        let unanswered = gone.iter().all(|endpoint| endpoint.protocol != Protocol::Udp);
        let mut found = 0;
        let filter = Filter { translated: true, unanswered, ..Filter::of(gone) };
        self.dump_and_change(&filter, |entry, changes| {
            let Some(endpoint) = entry.endpoint() else { return Ok(()) };
            if (endpoint.protocol == Protocol::Udp || !entry.is_answered()) && gone.contains(&endpoint) {
                found += 1;
                return changes.delete(entry.flow());
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn dump_and_change(
        &mut self,
        filter: &Filter,
        mut each: impl FnMut(&Entry, &mut Changes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Conntrack { socket, request, changes } = self;
        // Of a dump that failed.
        changes.forget();
        let mut outcome = Ok(());
        dump(socket, request, filter, |entry, _| {
            // A dump is read to its end in any case, for the next one begins on the same socket.
            if outcome.is_ok() {
                outcome = each(entry, changes);
            }
        })?;
        outcome?;
        changes.send()
    }
}

/// Shows each entry that matches, with the message that tells of it.
fn dump(
    socket: &mut Socket,
    request: &mut Builder,
    filter: &Filter,
    mut each: impl FnMut(&Entry, &Message<'_>),
) -> Result<(), Error> {
    request.clear();
    request.message(GET, DUMP, &nfgenmsg(filter.family(), 0), |m| filter.write(m));
    let mut recent = [None; RECENT];
    let mut next = 0;
    socket.dump(request.bytes(), |message| {
        let Some(entry) = Entry::parse(&message).filter(|entry| filter.matches(entry)) else { return };
        if entry.id.is_some() && recent.contains(&entry.id) {
            return;
        }
        recent[next] = entry.id;
        next = (next + 1) % RECENT;
        each(&entry, &message);
    })
}

/// Changes of connections on their way to the kernel.
#[derive(Debug)]
struct Changes {
    socket: Socket,
    waiting: Builder,
    /// How many wait, and where the last of them begins.
    count: usize,
    last: usize,
    refusals: Vec<Refusal>,
}

impl Changes {
    fn open() -> Result<Changes, Error> {
        let socket = Socket::open(netlink::Protocol::Netfilter)?;
        Ok(Changes { socket, waiting: Builder::new(), count: 0, last: 0, refusals: Vec::new() })
    }

    /// Sets bits in the mark of a connection; one that is gone is passed over.
    fn mark(&mut self, marking: &Marking) -> Result<(), Error> {
        // Without NLM_F_CREATE, and without the attributes of NAT, which the kernel refuses to change.
        self.add(NEW, marking.flow, |m| {
            m.be32(kind::MARK, marking.bits & marking.mask);
            m.be32(kind::MARK_MASK, marking.mask);
        })
    }

    /// Deletes the entry of a connection; one that is gone is passed over.
    fn delete(&mut self, flow: Flow) -> Result<(), Error> {
        self.add(DELETE, flow, |_| {})
    }

    fn add(&mut self, message: u16, flow: Flow, body: impl FnOnce(&mut Builder)) -> Result<(), Error> {
        self.last = self.waiting.len();
        self.waiting.message(message, 0, &nfgenmsg(flow.family(), 0), |m| {
            flow.write(m);
            body(m);
        });
        self.count += 1;
        if self.count == CHANGES { self.send() } else { Ok(()) }
    }

    /// Sends what waits.
    fn send(&mut self) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        self.waiting.add_flags(self.last, ACK);
        let sent = self.socket.transact(self.waiting.bytes(), &mut self.refusals);
        self.forget();
        sent?;
        // An entry that ended meanwhile, or that ends right now, is no failure.
        let gone = [libc::ENOENT, libc::EBUSY, libc::EAGAIN];
        match self.refusals.iter().find(|refusal| !gone.contains(&refusal.errno)) {
            Some(refusal) => Err(Error::Refused(refusal.clone())),
            None => Ok(()),
        }
    }

    fn forget(&mut self) {
        self.waiting.clear();
        self.count = 0;
    }
}
