//! What must change in the dataplane: the difference between two tables.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::service::{EndpointId, ServiceId};
use crate::table::{ServiceTable, Table};

/// One change of one Service.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The Service is new, or its keys or its affinity changed: replace all of it.
    Replace(ServiceId, ServiceTable),
    /// Only endpoints or weights changed; keys are as before.
    Reweight(ServiceId, ServiceTable),
    /// The Service is gone or no longer ours; new connections go to the proxy below.
    Remove(ServiceId),
}

/// What must change in the dataplane. Applied whole or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Start from nothing: what is not in `changes`, `host` and `know` is to go. Set in the first plan and after
    /// one that failed.
    pub fresh: bool,
    /// Per Service, each at most once.
    pub changes: Vec<Change>,
    /// Endpoints that this node hosts from now on.
    pub host: BTreeSet<EndpointId>,
    /// Endpoints that it does not host any more.
    pub unhost: BTreeSet<EndpointId>,
    /// Endpoints whose connections from this node are counted from now on.
    pub know: BTreeSet<EndpointId>,
    /// Endpoints whose connections are not counted any more.
    pub forget: BTreeSet<EndpointId>,
    /// Endpoints that do not serve any more: conntrack entries that would send more packets there (UDP, and TCP
    /// without an answer) are to be deleted.
    pub release: BTreeSet<EndpointId>,
    /// Renew the leases of all Services in the dataplane.
    pub renew: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }
}

/// What leads from `actual` to `desired`. Neither renews nor releases: those depend on time and on conditions.
pub fn diff(actual: &Table, desired: &Table) -> Plan {
    let mut changes = Vec::new();
    for id in actual.services.keys() {
        if !desired.services.contains_key(id) {
            changes.push(Change::Remove(id.clone()));
        }
    }
    for (id, wanted) in &desired.services {
        match actual.services.get(id) {
            Some(present) if present == wanted => {}
            Some(present) if same_shape(present, wanted) => {
                changes.push(Change::Reweight(id.clone(), wanted.clone()));
            }
            _ => changes.push(Change::Replace(id.clone(), wanted.clone())),
        }
    }
    Plan {
        fresh: false,
        changes,
        host: missing(&actual.hosted, &desired.hosted),
        unhost: missing(&desired.hosted, &actual.hosted),
        know: missing(&actual.known, &desired.known),
        forget: missing(&desired.known, &actual.known),
        release: BTreeSet::new(),
        renew: false,
    }
}

/// What `to` has and `from` has not. Most of the time the two are one and the same set.
fn missing(from: &Arc<BTreeSet<EndpointId>>, to: &Arc<BTreeSet<EndpointId>>) -> BTreeSet<EndpointId> {
    if Arc::ptr_eq(from, to) {
        return BTreeSet::new();
    }
    to.difference(from).copied().collect()
}

fn same_shape(a: &ServiceTable, b: &ServiceTable) -> bool {
    a.protocol == b.protocol && a.keys == b.keys && a.affinity == b.affinity
}

/// Does to `table` what a dataplane does with `plan`.
pub fn apply(table: &mut Table, plan: &Plan) {
    if plan.fresh {
        *table = Table::default();
    }
    for change in &plan.changes {
        match change {
            Change::Replace(id, service) | Change::Reweight(id, service) => {
                table.services.insert(id.clone(), service.clone());
            }
            Change::Remove(id) => {
                table.services.remove(id);
            }
        }
    }
    change(&mut table.hosted, &plan.host, &plan.unhost);
    change(&mut table.known, &plan.know, &plan.forget);
}

fn change(set: &mut Arc<BTreeSet<EndpointId>>, add: &BTreeSet<EndpointId>, remove: &BTreeSet<EndpointId>) {
    if !add.is_empty() || !remove.is_empty() {
        let set = Arc::make_mut(set);
        set.retain(|endpoint| !remove.contains(endpoint));
        set.extend(add);
    }
}

#[cfg(test)]
mod tests;
