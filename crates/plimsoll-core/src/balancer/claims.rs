//! Which Service has which key: two Services may claim one, and a dataplane can serve it for one of them only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::service::{Family, Key, Place, Protocol, Service, ServiceId};

/// What a packet shows of a key: whether an address is internal or external cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Destination {
    address: Option<IpAddr>,
    family: Family,
    port: u16,
    protocol: Protocol,
}

impl From<Key> for Destination {
    fn from(key: Key) -> Destination {
        let address = match key.place {
            Place::Internal(address) | Place::External(address) => Some(address),
            Place::AnyLocal(_) => None,
        };
        Destination { address, family: key.place.family(), port: key.port, protocol: key.protocol }
    }
}

/// Who claims what. The first by name has it, so that all nodes agree.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimants: BTreeMap<Destination, BTreeSet<ServiceId>>,
}

impl Claims {
    /// Takes note of a Service's keys in place of those it had; the Services whose keys this gives or takes.
    pub(super) fn change(
        &mut self,
        id: &ServiceId,
        before: Option<&Service>,
        after: Option<&Service>,
    ) -> BTreeSet<ServiceId> {
        let keys = |service: Option<&Service>| -> BTreeSet<Destination> {
            service.into_iter().flat_map(|service| &service.keys).map(|key| (*key).into()).collect()
        };
        let (before, after) = (keys(before), keys(after));
        let mut touched = BTreeSet::new();
        for destination in before.symmetric_difference(&after) {
            let claimants = self.claimants.entry(*destination).or_default();
            if after.contains(destination) {
                claimants.insert(id.clone());
            } else {
                claimants.remove(id);
            }
            touched.extend(claimants.iter().cloned());
            if claimants.is_empty() {
                self.claimants.remove(destination);
            }
        }
        touched
    }

    /// The Service that has this key, if it is not the one that asks.
    pub(super) fn rival(&self, id: &ServiceId, key: Key) -> Option<&ServiceId> {
        let first = self.claimants.get(&key.into())?.first()?;
        (first != id).then_some(first)
    }
}
