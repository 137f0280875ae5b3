//! What must change in the dataplane.

use std::collections::BTreeSet;

use crate::service::{EndpointId, ServiceId};
use crate::table::ServiceTable;

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

    /// Begins to count what this node sends to an endpoint, or takes back that it was to end.
    pub fn know(&mut self, endpoint: EndpointId) {
        turn(&mut self.forget, &mut self.know, endpoint);
    }

    /// The opposite.
    pub fn forget(&mut self, endpoint: EndpointId) {
        turn(&mut self.know, &mut self.forget, endpoint);
    }

    /// Begins to count all connections of an endpoint, or takes back that it was to end.
    pub fn host(&mut self, endpoint: EndpointId) {
        turn(&mut self.unhost, &mut self.host, endpoint);
    }

    /// The opposite.
    pub fn unhost(&mut self, endpoint: EndpointId) {
        turn(&mut self.host, &mut self.unhost, endpoint);
    }
}

/// Takes the endpoint out of `from`; puts it into `to` if it was not there.
fn turn(from: &mut BTreeSet<EndpointId>, to: &mut BTreeSet<EndpointId>, endpoint: EndpointId) {
    if !from.remove(&endpoint) {
        to.insert(endpoint);
    }
}

/// What makes of what the dataplane holds for a Service what it should hold, if they differ. `None`: nothing.
pub fn change(id: &ServiceId, present: Option<&ServiceTable>, wanted: &ServiceTable) -> Option<Change> {
    match present {
        Some(present) if present == wanted => None,
        Some(present) if same_shape(present, wanted) => Some(Change::Reweight(id.clone(), wanted.clone())),
        _ => Some(Change::Replace(id.clone(), wanted.clone())),
    }
}

fn same_shape(a: &ServiceTable, b: &ServiceTable) -> bool {
    a.protocol == b.protocol && a.keys == b.keys && a.affinity == b.affinity
}

#[cfg(test)]
mod tests;
