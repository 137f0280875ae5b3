//! Carrying out a plan: what it changes in the kernel, and in what we know of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use plimsoll_core::order;
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, ServiceId};
use plimsoll_core::table::{Masquerade, ServiceTable};

use super::choice::{self, Installed};
use super::counting::{self, Members};
use super::{Nftables, Scope, frame};
use crate::Error;

/// What the kernel holds for us.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    services: BTreeMap<ServiceId, Installed>,
    orders: BTreeSet<u32>,
    /// How many entries of lists each address has.
    hairpins: BTreeMap<IpAddr, u32>,
    hosted: BTreeSet<EndpointId>,
    known: BTreeSet<EndpointId>,
}

/// Endpoints that were added to a set, and that were taken out of it.
type CameAndWent = (Vec<EndpointId>, Vec<EndpointId>);

/// What to put back when the kernel refuses a plan.
#[derive(Debug, Default)]
pub(super) struct Undo {
    services: Vec<(ServiceId, Option<Installed>)>,
    orders: BTreeSet<u32>,
    hairpins: Vec<(IpAddr, u32)>,
    hosted: CameAndWent,
    known: CameAndWent,
    number: u32,
}

impl Nftables {
    /// Writes the whole plan into the batch and does it to `held`.
    pub(super) fn write(&mut self, plan: &Plan) -> Undo {
        self.batch.clear();
        let mut undo = Undo { orders: self.held.orders.clone(), number: self.number, ..Undo::default() };
        self.write_members(plan, &mut undo);
        let mut removed = Vec::new();
        let mut keys: BTreeMap<Key, (Option<Masquerade>, Option<Masquerade>)> = BTreeMap::new();
        let mut hairpins: BTreeMap<IpAddr, i64> = BTreeMap::new();
        let mut leases = plan.renew || plan.fresh;
        for (id, table) in changes(plan, &self.held) {
            let before = self.held.services.remove(&id);
            let scope = Scope::new(&self.config, self.setup);
            let after = table.map(|table| match &before {
                Some(before) if before.fits(table) => before.with(table.clone(), &scope),
                _ => {
                    self.number += 1;
                    Installed::new(self.number, id.family, table.clone(), &scope)
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
            _ => after.make(&mut self.batch, &Scope::new(&self.config, self.setup)),
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
            let went: Vec<EndpointId> = if plan.fresh {
                held.difference(join).copied().collect()
            } else {
                leave.difference(join).filter(|id| held.contains(id)).copied().collect()
            };
            let came: Vec<EndpointId> = join.iter().filter(|id| !held.contains(id)).copied().collect();
            if went.is_empty() && came.is_empty() {
                continue;
            }
            counting::leave(batch, members, &went);
            counting::join(batch, members, &came);
            take_out(held, &went);
            held.extend(&came);
            *undo = (came, went);
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

    pub(super) fn undo(&mut self, undo: Undo) {
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
        for (set, (came, went)) in [(&mut held.hosted, undo.hosted), (&mut held.known, undo.known)] {
            take_out(set, &came);
            set.extend(went);
        }
        self.number = undo.number;
    }
}

fn take_out(set: &mut BTreeSet<EndpointId>, endpoints: &[EndpointId]) {
    for endpoint in endpoints {
        set.remove(endpoint);
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
pub(super) fn check(plan: &Plan) -> Result<(), Error> {
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
fn changes<'p>(plan: &'p Plan, held: &Held) -> Vec<(ServiceId, Option<&'p ServiceTable>)> {
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
