//! Connection tracking: what the kernel knows of single connections, asked for rarely and told when they end.
//!
//! [`Conntrack`] dumps, marks and deletes entries; [`Events`] hears of those that end. The protocol is ctnetlink
//! (`linux/netfilter/nfnetlink_conntrack.h`), spoken through [`crate::netlink`].

mod entry;
mod events;
#[cfg(test)]
mod tests;

pub use entry::{Direction, Entry, Flow, TcpState, check_bytes};
pub use events::{Ended, Events, RECEIVE_BUFFER};

use std::collections::BTreeSet;

use plimsoll_core::service::{EndpointId, Family, Protocol};

use crate::netlink::{self, ACK, Builder, DUMP, Error, Refusal, Socket, nfgenmsg};
use entry::kind;

const SUBSYSTEM: u16 = 1 << 8;
pub(crate) const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
pub(crate) const DELETE: u16 = SUBSYSTEM | 2;

/// So many changes go into one datagram: their answers, should all fail, fit the smallest receive buffer.
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
    /// Only this endpoint's.
    pub endpoint: Option<EndpointId>,
}

/// A dump for each of so many endpoints is cheaper than one of everything: an empty dump takes 10 ms where the kernel
/// has 262,144 buckets, a connection shown 2 us, one passed over 0.3 us.
const FEW: usize = 2;

impl Filter {
    /// What to dump to see all connections of these endpoints, and of others where there are many.
    pub(crate) fn of(endpoints: &BTreeSet<EndpointId>) -> Vec<Filter> {
        if endpoints.len() > FEW {
            return vec![Filter::default()];
        }
        endpoints.iter().map(|id| Filter { endpoint: Some(*id), ..Filter::default() }).collect()
    }

    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        self.family.is_none_or(|family| Family::of(entry.original.source.ip()) == family)
            && self.mark.is_none_or(|(value, mask)| entry.mark & mask == value)
            && (!self.translated || entry.is_translated())
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
        if self.translated {
            m.be32(kind::STATUS, entry::DST_NAT);
            m.be32(kind::STATUS_MASK, entry::DST_NAT);
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

/// A socket for questions about connections, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    request: Builder,
    refusals: Vec<Refusal>,
}

impl Conntrack {
    /// Opens it.
    pub fn open() -> Result<Conntrack, Error> {
        let socket = Socket::open(netlink::Protocol::Netfilter)?;
        Ok(Conntrack { socket, request: Builder::new(), refusals: Vec::new() })
    }

    /// Shows each entry that matches. About 2 us for each entry shown and 0.3 us for each passed over.
    pub fn dump(&mut self, filter: &Filter, mut each: impl FnMut(&Entry)) -> Result<(), Error> {
        self.request.clear();
        self.request.message(GET, DUMP, &nfgenmsg(filter.family(), 0), |m| filter.write(m));
        let mut recent = [None; RECENT];
        let mut next = 0;
        self.socket.dump(self.request.bytes(), |message| {
            let Some(entry) = Entry::parse(&message).filter(|entry| filter.matches(entry)) else { return };
            if entry.id.is_some() && recent.contains(&entry.id) {
                return;
            }
            recent[next] = entry.id;
            next = (next + 1) % RECENT;
            each(&entry);
        })
    }

    /// Sets bits in the marks of connections; those that are gone are passed over.
    pub fn mark(&mut self, markings: &[Marking]) -> Result<(), Error> {
        // Without NLM_F_CREATE, and without the attributes of NAT, which the kernel refuses to change.
        self.change(
            NEW,
            markings,
            |marking| marking.flow,
            |m, marking| {
                m.be32(kind::MARK, marking.bits & marking.mask);
                m.be32(kind::MARK_MASK, marking.mask);
            },
        )
    }

    /// Deletes the entries of these connections; those that are gone are passed over.
    pub fn delete(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.change(DELETE, flows, |flow| *flow, |_, _| {})
    }

    /// Deletes what would send more packets to endpoints that do not serve any more: UDP, and what they never
    /// answered; only where a DNAT rule chose the endpoint. Returns how many entries.
    ///
    /// Established connections stay: the endpoint may be about to finish them.
    pub fn release(&mut self, gone: &BTreeSet<EndpointId>) -> Result<usize, Error> {
        let mut flows = Vec::new();
        for filter in Filter::of(gone) {
            self.dump(&Filter { translated: true, ..filter }, |entry| {
                let Some(endpoint) = entry.endpoint() else { return };
                if (endpoint.protocol == Protocol::Udp || !entry.is_answered()) && gone.contains(&endpoint) {
                    flows.push(entry.flow());
                }
            })?;
        }
        self.delete(&flows)?;
        Ok(flows.len())
    }

    fn change<T>(
        &mut self,
        message: u16,
        items: &[T],
        flow: impl Fn(&T) -> Flow,
        body: impl Fn(&mut Builder, &T),
    ) -> Result<(), Error> {
        for chunk in items.chunks(CHANGES) {
            self.request.clear();
            for (index, item) in chunk.iter().enumerate() {
                let flags = if index + 1 == chunk.len() { ACK } else { 0 };
                let flow = flow(item);
                self.request.message(message, flags, &nfgenmsg(flow.family(), 0), |m| {
                    flow.write(m);
                    body(m, item);
                });
            }
            self.socket.transact(self.request.bytes(), &mut self.refusals)?;
            // An entry that ended meanwhile, or that ends right now, is no failure.
            let gone = [libc::ENOENT, libc::EBUSY, libc::EAGAIN];
            if let Some(refusal) = self.refusals.iter().find(|refusal| !gone.contains(&refusal.errno)) {
                return Err(Error::Refused(refusal.clone()));
            }
        }
        Ok(())
    }
}
