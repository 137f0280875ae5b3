//! The nftables dataplane: a table of our own in front of the installed proxy.
//!
//! The table belongs to our socket (`flags owner`): the kernel removes it when the socket closes, whatever ends the
//! process, and lets nobody else change it. Every Service is a lease on top: its keys are elements that time out
//! unless they are renewed. What is not in the table, or no longer, falls through to the proxy below.
//!
//! A Service has a chain per list of endpoints. It turns a counter into a step (map `order_W`, which spreads
//! consecutive counts evenly over all steps), carries the step in the packet's priority, and looks it up in an
//! interval map in which each endpoint has as many steps as its weight is worth:
//!
//! ```text
//! meta priority set numgen inc mod 1024 map @order_1024
//! meta l4proto tcp dnat ip to meta priority map @w_7_c
//! ```
//!
//! A new weight changes the elements of that map, never a rule.

mod mark;
mod config;
mod notes;
mod expression;
mod element;
mod batch;
mod addresses;
mod frame;
mod choice;
mod counting;
mod change;
mod tally;
mod dataplane;

pub use config::Config;
pub use counting::{Counter, PAIRS, Rotation, Slot};
pub use dataplane::{NftablesDataplane, Terms};
pub use mark::{MarkBits, NUMBERS, OLD};

use std::io;

use plimsoll_core::plan::Plan;
use plimsoll_core::service::{EndpointId, Family};

use self::addresses::Addresses;
use self::batch::{Batch, GET_ELEMENT};
use self::change::Held;
use self::counting::Turn;
use crate::Error;
use crate::netlink::{self, Protocol, Socket};

/// `NFT_TABLE_F_OWNER`
const OWNER: u32 = 2;
/// What the send buffer should hold: a first plan of some 50,000 endpoints in one transaction.
const SEND: usize = 32 << 20;
/// What the receive buffer should hold.
const RECEIVE: usize = 4 << 20;
/// How often a reading that was overtaken by a change is repeated before that is reported.
const READINGS: usize = 50;

/// What a table needs to know besides its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// A number of the node's own: nodes with different numbers go through the endpoints in different orders.
    pub node_offset: u16,
    /// The number of the first age slot, below [`NUMBERS`].
    pub first_slot: u8,
    /// Leave the table without an owner, as on kernels that know none: it stays when the process ends, and leases
    /// alone protect.
    pub unowned: bool,
}

/// What the writers of the table's parts look up.
struct Scope<'a> {
    config: &'a Config,
    /// See [`Setup::node_offset`].
    offset: u32,
}

impl<'a> Scope<'a> {
    fn new(config: &'a Config, setup: Setup) -> Scope<'a> {
        Scope { config, offset: u32::from(setup.node_offset) }
    }

    /// The set of clients inside the cluster.
    fn local_sources(family: Family) -> &'static str {
        frame::of_family(family, "local_sources4", "local_sources6")
    }

    fn has_local_sources(&self, family: Family) -> bool {
        self.config.local_sources.iter().any(|net| Family::of(net.addr()) == family)
    }
}

/// The table and the socket it belongs to.
#[derive(Debug)]
pub struct Nftables {
    config: Config,
    setup: Setup,
    bits: MarkBits,
    socket: Socket,
    /// The longest transaction the socket can send, in bytes.
    limit: usize,
    owned: bool,
    batch: Batch,
    addresses: Addresses,
    /// The kernel may lack the node's addresses as they are now.
    addresses_changed: bool,
    held: Held,
    /// The highest number a Service has.
    number: u32,
    turn: Turn,
    /// A transaction stopped half way, or the table is gone: it must be made anew.
    lost: bool,
    epoch: u64,
}

impl Nftables {
    /// Makes the table, without any Service, in the network namespace of the calling thread. Replaces a table of
    /// this name that no living process owns.
    pub fn open(config: Config, setup: Setup) -> Result<Nftables, Error> {
        let bits = config.mark_bits()?;
        let socket =
            Socket::open(Protocol::Netfilter).map_err(|error| cannot("open a netfilter socket", error))?;
        let buffers = socket.set_buffers(RECEIVE, SEND).map_err(|error| cannot("prepare a socket", error))?;
        let addresses = Addresses::open().map_err(|error| cannot("read the node's addresses", error))?;
        let mut nftables = Nftables {
            bits,
            socket,
            limit: buffers.send - 4096,
            owned: true,
            batch: Batch::new(&config.table),
            addresses,
            addresses_changed: false,
            held: Held::default(),
            number: 0,
            turn: Turn::new(setup.first_slot % NUMBERS),
            lost: false,
            epoch: 0,
            config,
            setup,
        };
        nftables.load()?;
        Ok(nftables)
    }

    /// Whether the kernel removes the table when this process ends. Kernels before 5.12 cannot; leases alone
    /// protect there.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// How often the table was made. When it was made anew, all counters began again from zero; slots are numbered
    /// on.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What it is, in words.
    fn name(&self) -> String {
        format!("table {}", self.config.table)
    }

    /// Whether the table is gone or half changed: the next fresh plan makes it anew.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The bits of the conntrack mark that are ours.
    pub fn mark_bits(&self) -> MarkBits {
        self.bits
    }

    /// The current age slot.
    pub fn slot(&self) -> Slot {
        self.turn.current()
    }

    /// The age slots that are told apart, newest first.
    pub fn live_slots(&self) -> impl Iterator<Item = Slot> {
        self.turn.live()
    }

    /// Carries out the plan but for `release`: that is conntrack's part.
    ///
    /// All of it takes effect in one transaction where the socket can send it at once, which it always can with
    /// `CAP_NET_ADMIN` in the first user namespace. Otherwise it takes effect in parts, each of which leaves every
    /// key either served or with the proxy below.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        if self.lost {
            if !plan.fresh {
                let what = format!("change table {} before it is made anew", self.config.table);
                return Err(Error::Refused { what, source: io::Error::other("a fresh plan is needed") });
            }
            self.load()?;
        }
        let result = self.try_apply(plan);
        if plan.fresh && self.lost {
            self.load()?;
            return self.try_apply(plan);
        }
        result
    }

    /// Removes the table and all it holds. Established connections live on.
    pub fn withdraw(&mut self) -> Result<(), Error> {
        self.lost = true;
        self.held = Held::default();
        self.delete_table()
    }

    /// Begins a new age slot in one transaction: the resting pair becomes the current slot's, and the oldest slot,
    /// when there are [`AGE_SLOTS`](plimsoll_core::load::AGE_SLOTS), is not live any more, so that its further
    /// closes are counted as old. Packets on their way through the kernel may still be counted in the old place
    /// for some microseconds: read the retired pair a little later, then [`clean`](Nftables::clean) it. If that was
    /// not done before the pair's next turn, its counts are lost.
    pub fn rotate(&mut self) -> Result<Rotation, Error> {
        let (next, rotation) = self.turn.next();
        self.batch.clear();
        if self.turn.unclean {
            counting::clean(&mut self.batch, rotation.began.pair);
        }
        counting::rotate(&mut self.batch, self.bits, next, rotation);
        self.commit()?;
        self.turn = next;
        Ok(rotation)
    }

    /// Sets the counters of a pair that is not live to zero, in one transaction.
    pub fn clean(&mut self, pair: u8) -> Result<(), Error> {
        if usize::from(pair) >= PAIRS || self.turn.live().any(|slot| slot.pair == pair) {
            let what = format!("clean the counters of slot pair {pair}");
            return Err(Error::Refused { what, source: io::Error::other("it is in use or does not exist") });
        }
        self.batch.clear();
        counting::clean(&mut self.batch, pair);
        self.commit()?;
        self.turn.unclean = false;
        Ok(())
    }

    /// Replaces `into` by all counts of a counter, in no order. Endpoints for which nothing was counted are not in
    /// it.
    pub fn read_counter(&mut self, counter: Counter, into: &mut Vec<(EndpointId, u64)>) -> Result<(), Error> {
        into.clear();
        let mut last = netlink::Error::Interrupted;
        for _ in 0..READINGS {
            match counting::read(&mut self.socket, &self.config.table, counter, into) {
                Ok(()) => return Ok(()),
                Err(error @ (netlink::Error::Interrupted | netlink::Error::Overrun)) => last = error,
                Err(error) => {
                    self.lost |= error.errno() == Some(libc::ENOENT);
                    return Err(cannot(&format!("read {counter:?} (message {GET_ELEMENT:#x})"), error));
                }
            }
        }
        Err(cannot(&format!("read {counter:?}"), last))
    }

    /// Makes the table with all that does not depend on Services, owned if the kernel can.
    fn load(&mut self) -> Result<(), Error> {
        self.held = Held::default();
        // Marks outlive the table: a number that they may bear is not given to another slot soon.
        if self.epoch > 0 {
            self.turn = Turn::new((self.turn.current().number + 1) % NUMBERS);
        }
        self.number = 0;
        // One that an agent on a kernel without owners left behind.
        self.delete_table().map_err(explain)?;
        let result = self.load_as(if self.setup.unowned { 0 } else { OWNER });
        let errno = match &result {
            Err(Error::Refused { source, .. }) => source.raw_os_error(),
            _ => None,
        };
        let result = match errno {
            Some(libc::EOPNOTSUPP | libc::EINVAL) => self.load_as(0),
            _ => result,
        };
        result.map_err(explain)?;
        self.lost = false;
        self.epoch += 1;
        Ok(())
    }

    fn load_as(&mut self, flags: u32) -> Result<(), Error> {
        self.owned = flags == OWNER;
        let batch = &mut self.batch;
        batch.clear();
        batch.table(flags);
        let scope = Scope::new(&self.config, self.setup);
        frame::make(batch, &scope);
        frame::set_node_addresses(batch, self.addresses.current());
        counting::make(batch, self.bits, self.turn);
        self.commit()
    }

    /// Deletes the table if there is one.
    fn delete_table(&mut self) -> Result<(), Error> {
        self.batch.clear();
        self.batch.delete_table();
        match self.commit() {
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        let result = self.batch.commit(&mut self.socket, self.limit);
        if let Err(Error::Refused { source, .. }) = &result {
            // Without an owner somebody may have removed the table, or what was in it.
            self.lost |= source.raw_os_error() == Some(libc::ENOENT);
        }
        result
    }

    fn try_apply(&mut self, plan: &Plan) -> Result<(), Error> {
        change::check(plan)?;
        if plan.renew || plan.fresh {
            self.refresh_addresses()?;
        }
        let undo = self.write(plan);
        let parts = self.batch.parts(self.limit);
        let result = self.commit();
        if let Err(Error::Refused { .. }) = &result {
            // One of which some parts are new and some old cannot be repaired.
            self.lost |= parts > 1;
        }
        if result.is_err() {
            self.undo(undo);
        }
        result
    }

    fn refresh_addresses(&mut self) -> Result<(), Error> {
        self.addresses_changed |=
            self.addresses.refresh().map_err(|error| cannot("read the node's addresses", error))?;
        if self.addresses_changed {
            self.batch.clear();
            frame::set_node_addresses(&mut self.batch, self.addresses.current());
            self.commit()?;
            self.addresses_changed = false;
        }
        Ok(())
    }
}

fn cannot(what: &str, error: netlink::Error) -> Error {
    Error::Broken { what: what.to_owned(), source: error.into() }
}

/// Says what to check when the table cannot be made.
fn explain(error: Error) -> Error {
    let Error::Refused { what, source } = error else { return error };
    let check = match source.raw_os_error() {
        Some(libc::EPERM) => {
            "it needs CAP_NET_ADMIN, and no other running agent may own the table (`nft list tables`)"
        }
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            "the kernel must have nf_tables with inet, nat, masq, fib, numgen and ct (CONFIG_NFT_…)"
        }
        _ => "see the kernel's message",
    };
    Error::Broken { what: format!("{what} ({check})"), source }
}

/// Reads arbitrary bytes as the kernel's answers to what this dataplane asks, and returns how many endpoints and
/// addresses it found: what a fuzzer calls.
pub fn check_bytes(bytes: &[u8]) -> (usize, usize) {
    let mut counts = Vec::new();
    let mut addresses = 0;
    for message in netlink::messages(bytes) {
        counting::read_elements(&message, &mut counts);
        addresses += usize::from(addresses::address_of(&message).is_some());
    }
    (counts.len(), addresses)
}

#[cfg(test)]
mod tests;
