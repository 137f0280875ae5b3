//! From two states of the world to the changes between them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_core::service::{Family, Key, Place, Protocol, Service, ServiceChange, ServiceId};

/// What leads from `old` to `new`: the Services that went, then those that came or changed. Where a key passes
/// from one Service to another it is everything at once, so that at no moment two have it or none.
pub(super) fn changes(
    old: &BTreeMap<ServiceId, Arc<Service>>,
    new: &BTreeMap<ServiceId, Arc<Service>>,
) -> Vec<ServiceChange> {
    let changed: Vec<&Arc<Service>> =
        new.values().filter(|service| old.get(&service.id).is_none_or(|old| differ(old, service))).collect();
    if changed.is_empty() && old.len() == new.len() {
        return Vec::new();
    }
    let owners: HashMap<_, &ServiceId> = old
        .values()
        .flat_map(|service| service.keys.iter().map(|key| (reached_at(key), &service.id)))
        .collect();
    let passes = |service: &&Arc<Service>| {
        service.keys.iter().any(|key| owners.get(&reached_at(key)).is_some_and(|&owner| *owner != service.id))
    };
    if changed.iter().any(passes) {
        return vec![ServiceChange::All(new.values().cloned().collect())];
    }
    let removed = old.keys().filter(|&id| !new.contains_key(id)).cloned().map(ServiceChange::Remove);
    removed.chain(changed.into_iter().cloned().map(ServiceChange::Set)).collect()
}

/// Most are the very same, which need not be compared.
fn differ(old: &Arc<Service>, new: &Arc<Service>) -> bool {
    !Arc::ptr_eq(old, new) && old != new
}

/// What only one Service can have, whoever the clients are that may use it.
fn reached_at(key: &Key) -> (Option<IpAddr>, Family, u16, Protocol) {
    let address = match key.place {
        Place::Internal(address) | Place::External(address) => Some(address),
        Place::AnyLocal(_) => None,
    };
    (address, key.place.family(), key.port, key.protocol)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn services(text: &str) -> BTreeMap<ServiceId, Arc<Service>> {
        super::super::by_id(parse(text).unwrap().services)
    }

    #[test]
    fn an_address_that_passes_to_outside_clients_of_another_service_passes_at_once() {
        let file = |a: &str, b: &str| {
            services(&format!(
                "services:\n  - {{name: a, {a}, ports: [{{port: 80}}]}}\n  - {{name: b, {b}, ports: [{{port: 80}}]}}\n"
            ))
        };
        let before = file("addresses: [10.96.0.1]", "addresses: [10.96.0.2]");
        let after = file("addresses: [10.96.0.1], external_addresses: [10.96.0.2]", "addresses: [10.96.0.3]");
        let changes = changes(&before, &after);
        assert!(matches!(changes[..], [ServiceChange::All(_)]), "{changes:?}");
    }
}
