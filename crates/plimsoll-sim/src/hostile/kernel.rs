//! A node's dataplane: what it holds, for how long, and what it counts. It carries plans out to the letter, and says
//! so where a plan does not fit what is there.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, ServiceId};
use plimsoll_core::table::ServiceTable;
use plimsoll_core::time::Timestamp;

/// What a dataplane holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    pub(super) services: BTreeMap<ServiceId, ServiceTable>,
    pub(super) hosted: BTreeSet<EndpointId>,
    pub(super) known: BTreeSet<EndpointId>,
}

impl Holding {
    /// Carries a plan out; whether all leases are new then. `Err`: the plan does not fit what is there.
    pub(super) fn apply(&mut self, plan: &Plan) -> Result<bool, String> {
        if plan.fresh {
            *self = Holding::default();
        }
        let mut leads_elsewhere = plan.fresh;
        for change in &plan.changes {
            match change {
                Change::Replace(id, table) => {
                    self.services.insert(id.clone(), table.clone());
                    leads_elsewhere = true;
                }
                Change::Reweight(id, table) => match self.services.insert(id.clone(), table.clone()) {
                    Some(before) if before.keys == table.keys && before.affinity == table.affinity => {}
                    Some(_) => {
                        return Err(format!("{id} is to be reweighted, but its keys or affinity are others"));
                    }
                    None => return Err(format!("{id} is to be reweighted, but is not there")),
                },
                Change::Remove(id) => {
                    if self.services.remove(id).is_none() {
                        return Err(format!("{id} is to be removed, but is not there"));
                    }
                    leads_elsewhere = true;
                }
            }
        }
        turn(&mut self.hosted, &plan.host, &plan.unhost)?;
        turn(&mut self.known, &plan.know, &plan.forget)?;
        Ok(leads_elsewhere || plan.renew)
    }
}

fn turn(
    set: &mut BTreeSet<EndpointId>,
    come: &BTreeSet<EndpointId>,
    go: &BTreeSet<EndpointId>,
) -> Result<(), String> {
    for endpoint in go {
        if !set.remove(endpoint) {
            return Err(format!("{endpoint} is not to be counted any more, but was not"));
        }
    }
    for endpoint in come {
        if !set.insert(*endpoint) {
            return Err(format!("{endpoint} is to be counted, but is already"));
        }
    }
    Ok(())
}

/// A dataplane: what it holds, and until when, by the node's clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) holding: Holding,
    pub(super) leased_until: Timestamp,
}

impl Kernel {
    /// What connections to a Service are chosen from, unless they are left to the proxy below.
    pub(super) fn table(&self, now: Timestamp, id: &ServiceId) -> Option<&ServiceTable> {
        let table = self.holding.services.get(id).filter(|table| !table.keys.is_empty())?;
        (self.leased_until > now).then_some(table)
    }
}
