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

mod addresses;
mod batch;
mod choice;
mod config;
mod counting;
mod expression;
mod frame;
mod mark;
mod notes;
mod order;
mod tally;
mod dataplane;

pub use config::Config;
pub use counting::{Counter, PAIRS, Rotation, Slot};
pub use dataplane::{NftablesDataplane, Terms};
pub use mark::{MarkBits, NUMBERS, OLD};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, ServiceId};
use plimsoll_core::table::Masquerade;

use self::addresses::Addresses;
use self::batch::{Batch, GET_ELEMENT};
use self::choice::Installed;
use self::counting::{Members, Turn};
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
}

/// What the writers of the table's parts look up.
struct Scope<'a> {
    config: &'a Config,
}

impl Scope<'_> {
    /// The set of clients inside the cluster.
    fn local_sources(family: Family) -> &'static str {
        frame::of_family(family, "local_sources4", "local_sources6")
    }

    fn has_local_sources(&self, family: Family) -> bool {
        self.config.local_sources.iter().any(|net| Family::of(net.addr()) == family)
    }
}

/// What the kernel holds for us.
#[derive(Clone, Debug, Default)]
struct Held {
    services: BTreeMap<ServiceId, Installed>,
    orders: BTreeSet<u32>,
    /// How many entries of lists each address has.
    hairpins: BTreeMap<IpAddr, u32>,
    hosted: BTreeSet<EndpointId>,
    known: BTreeSet<EndpointId>,
}

/// What to put back when the kernel refuses a plan.
#[derive(Debug, Default)]
struct Undo {
    services: Vec<(ServiceId, Option<Installed>)>,
    orders: BTreeSet<u32>,
    hairpins: Vec<(IpAddr, u32)>,
    hosted: Option<BTreeSet<EndpointId>>,
    known: Option<BTreeSet<EndpointId>>,
    number: u32,
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

    /// How often the table was made. When it was made anew, all counters began again from zero and slots from the
    /// first.
    pub fn epoch(&self) -> u64 {
        self.epoch
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
        // Without an owner somebody may have removed the table.
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
                    return Err(cannot(&format!("read {counter:?} (message {GET_ELEMENT:#x})"), error));
                }
            }
        }
        Err(cannot(&format!("read {counter:?}"), last))
    }

    /// Makes the table with all that does not depend on Services, owned if the kernel can.
    fn load(&mut self) -> Result<(), Error> {
        self.held = Held::default();
        self.turn = Turn::new(self.setup.first_slot % NUMBERS);
        self.number = 0;
        // One that an agent on a kernel without owners left behind.
        self.delete_table().map_err(|error| self.explain(error))?;
        let result = self.load_as(OWNER);
        let errno = match &result {
            Err(Error::Refused { source, .. }) => source.raw_os_error(),
            _ => None,
        };
        let result = match errno {
            Some(libc::EOPNOTSUPP | libc::EINVAL) => self.load_as(0),
            _ => result,
        };
        result.map_err(|error| self.explain(error))?;
        self.lost = false;
        self.epoch += 1;
        Ok(())
    }

    fn load_as(&mut self, flags: u32) -> Result<(), Error> {
        self.owned = flags == OWNER;
        let batch = &mut self.batch;
        batch.clear();
        batch.table(flags);
        let scope = Scope { config: &self.config };
        frame::make(batch, &scope);
        frame::set_node_addresses(batch, self.addresses.current().iter());
        counting::make(batch, self.bits, self.turn);
        self.commit()
    }

    fn explain(&self, error: Error) -> Error {
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
        self.batch.commit(&mut self.socket, self.limit)
    }

    fn try_apply(&mut self, plan: &Plan) -> Result<(), Error> {
        check(plan)?;
        if plan.renew || plan.fresh {
            self.refresh_addresses()?;
        }
        let undo = self.write(plan);
        let parts = self.batch.parts(self.limit);
        let result = self.commit();
        if let Err(Error::Refused { source, .. }) = &result {
            // A table that is gone cannot be repaired, nor one of which some parts are new and some old.
            self.lost = parts > 1 || (plan.fresh && source.raw_os_error() == Some(libc::ENOENT));
        }
        if result.is_err() {
            self.undo(undo);
        }
        result
    }

    fn refresh_addresses(&mut self) -> Result<(), Error> {
        let changed = self.addresses.refresh().map_err(|error| cannot("read the node's addresses", error))?;
        if changed {
            self.batch.clear();
            frame::set_node_addresses(&mut self.batch, self.addresses.current().iter());
            self.commit()?;
        }
        Ok(())
    }

    /// Writes the whole plan into the batch and does it to `held`.
    fn write(&mut self, plan: &Plan) -> Undo {
        self.batch.clear();
        let mut undo = Undo { orders: self.held.orders.clone(), number: self.number, ..Undo::default() };
        self.write_members(plan, &mut undo);
        let mut removed = Vec::new();
        let mut keys: BTreeMap<Key, (Option<Masquerade>, Option<Masquerade>)> = BTreeMap::new();
        let mut hairpins: BTreeMap<IpAddr, i64> = BTreeMap::new();
        let mut leases = plan.renew || plan.fresh;
        for (id, table) in changes(plan, &self.held) {
            let before = self.held.services.remove(&id);
            let after = table.map(|table| match &before {
                Some(before) if before.fits(table) => before.with(table.clone()),
                _ => {
                    self.number += 1;
                    Installed::new(self.number, id.family, table.clone())
                }
            });
            self.write_service(before.as_ref(), after.as_ref(), plan.fresh);
            leases |= leads_elsewhere(before.as_ref(), after.as_ref());
            for key in before.iter().flat_map(|before| &before.table.keys) {
                keys.entry(key.key).or_default().0 = Some(key.masquerade);
            }
            for key in after.iter().flat_map(|after| &after.table.keys) {
                keys.entry(key.key).or_default().1 = Some(key.masquerade);
            }
            before.iter().flat_map(Installed::addresses).for_each(|ip| *hairpins.entry(ip).or_default() -= 1);
            after.iter().flat_map(Installed::addresses).for_each(|ip| *hairpins.entry(ip).or_default() += 1);
            if let Some(before) = &before
                && after.as_ref().is_none_or(|after| after.number != before.number)
            {
                removed.push(before.clone());
            }
            if let Some(after) = after {
                self.held.services.insert(id.clone(), after);
            }
            undo.services.push((id, before));
        }
        let (came, went) = self.count_hairpins(&hairpins, &mut undo);
        frame::change_hairpins(&mut self.batch, &came, true);
        for (key, (before, after)) in keys.iter().filter(|(_, (before, after))| before != after) {
            frame::change_masquerade(&mut self.batch, &self.config, key, *before, *after);
        }
        self.batch.cut();
        if leases {
            self.write_leases();
        }
        frame::change_hairpins(&mut self.batch, &went, false);
        for service in removed {
            service.remove(&mut self.batch);
            self.batch.cut();
        }
        undo
    }

    fn write_service(&mut self, before: Option<&Installed>, after: Option<&Installed>, all: bool) {
        let Some(after) = after else { return };
        for steps in after.steps() {
            if self.held.orders.insert(steps) {
                choice::make_order(&mut self.batch, steps, self.setup.node_offset);
                self.batch.cut();
            }
        }
        match before {
            Some(before) if before.number == after.number => after.update(&mut self.batch, before, all),
            _ => after.make(&mut self.batch, &Scope { config: &self.config }),
        }
        self.batch.cut();
    }

    /// Fills the maps that lead from keys to Services, each element with a full lease.
    fn write_leases(&mut self) {
        let mut maps: BTreeMap<&str, Vec<(Key, String)>> =
            frame::LEASE_MAPS.iter().map(|map| (*map, Vec::new())).collect();
        for service in self.held.services.values() {
            for key in service.table.keys.iter().filter(|key| service.serves(key)) {
                let map = maps.entry(frame::lease_map(key.key.place)).or_default();
                map.push((key.key, service.chain_of(key)));
            }
        }
        for (map, leases) in maps {
            self.batch.flush_set(map);
            self.batch.add_loosely(map, leases.iter().map(|(key, chain)| frame::lease(key, chain)));
            self.batch.cut();
        }
    }

    /// Changes whose connections are counted.
    fn write_members(&mut self, plan: &Plan, undo: &mut Undo) {
        let Nftables { held, batch, .. } = self;
        let sets = [
            (Members::Hosted, &mut held.hosted, &plan.host, &plan.unhost, &mut undo.hosted),
            (Members::Known, &mut held.known, &plan.know, &plan.forget, &mut undo.known),
        ];
        for (members, held, join, leave, undo) in sets {
            if join.is_empty() && leave.is_empty() && !plan.fresh {
                continue;
            }
            let leaves = |id: &&EndpointId| !join.contains(id) && (plan.fresh || leave.contains(id));
            let went: Vec<EndpointId> = held.iter().filter(leaves).copied().collect();
            let came: Vec<EndpointId> = join.difference(held).copied().collect();
            if went.is_empty() && came.is_empty() {
                continue;
            }
            *undo = Some(held.clone());
            counting::leave(batch, members, &went);
            counting::join(batch, members, &came);
            held.retain(|id| !went.contains(id));
            held.extend(came);
            batch.cut();
        }
    }

    /// Does the change to the counts; returns the addresses that came and those that went.
    fn count_hairpins(
        &mut self,
        change: &BTreeMap<IpAddr, i64>,
        undo: &mut Undo,
    ) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for (address, change) in change.iter().filter(|(_, change)| **change != 0) {
            let before = self.held.hairpins.get(address).copied().unwrap_or(0);
            let after = i64::from(before).saturating_add(*change).max(0) as u32;
            undo.hairpins.push((*address, before));
            match (before, after) {
                (0, 1..) => came.push(*address),
                (1.., 0) => went.push(*address),
                _ => {}
            }
            set_count(&mut self.held.hairpins, *address, after);
        }
        (came, went)
    }

    fn undo(&mut self, undo: Undo) {
        let held = &mut self.held;
        for (id, before) in undo.services.into_iter().rev() {
            match before {
                Some(before) => held.services.insert(id, before),
                None => held.services.remove(&id),
            };
        }
        held.orders = undo.orders;
        for (address, count) in undo.hairpins {
            set_count(&mut held.hairpins, address, count);
        }
        if let Some(hosted) = undo.hosted {
            held.hosted = hosted;
        }
        if let Some(known) = undo.known {
            held.known = known;
        }
        self.number = undo.number;
    }
}

fn set_count(counts: &mut BTreeMap<IpAddr, u32>, address: IpAddr, count: u32) {
    if count == 0 {
        counts.remove(&address);
    } else {
        counts.insert(address, count);
    }
}

/// Refuses what the table cannot express.
fn check(plan: &Plan) -> Result<(), Error> {
    for change in &plan.changes {
        let (Change::Replace(id, table) | Change::Reweight(id, table)) = change else { continue };
        for list in [&table.cluster, &table.local] {
            if order::steps(list.len()).is_none() {
                let what = format!("choose among {} endpoints of {id}", list.len());
                return Err(Error::Refused { what, source: io::Error::other("more than 16384 endpoints") });
            }
            let foreign = list.iter().find(|weighted| Family::of(weighted.endpoint.address) != id.family);
            if let Some(weighted) = foreign {
                let what = format!("send {id} to {}", weighted.endpoint);
                return Err(Error::Refused { what, source: io::Error::other("it is of the other family") });
            }
        }
    }
    Ok(())
}

/// What is to become of each Service that the plan touches; `None`: nothing.
fn changes<'p>(
    plan: &'p Plan,
    held: &Held,
) -> Vec<(ServiceId, Option<&'p plimsoll_core::table::ServiceTable>)> {
    let mut all: Vec<_> = plan
        .changes
        .iter()
        .map(|change| match change {
            Change::Replace(id, table) | Change::Reweight(id, table) => (id.clone(), Some(table)),
            Change::Remove(id) => (id.clone(), None),
        })
        .collect();
    if plan.fresh {
        let named: BTreeSet<ServiceId> = all.iter().map(|(id, _)| id.clone()).collect();
        all.extend(held.services.keys().filter(|id| !named.contains(*id)).map(|id| (id.clone(), None)));
    }
    all
}

/// Whether the change of a Service changes which keys lead where.
fn leads_elsewhere(before: Option<&Installed>, after: Option<&Installed>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return true };
    before.number != after.number
        || before.table.keys != after.table.keys
        || after.table.keys.iter().any(|key| before.serves(key) != after.serves(key))
}

fn cannot(what: &str, error: netlink::Error) -> Error {
    Error::Broken { what: what.to_owned(), source: error.into() }
}
