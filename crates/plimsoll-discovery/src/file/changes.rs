//! From two states of the world to the changes between them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use plimsoll_core::service::{Key, Service, ServiceChange, ServiceId};

/// What leads from `old` to `new`: the Services that went, then those that came or changed. Where a key passes
/// from one Service to another it is everything at once, so that at no moment two have it or none.
pub(super) fn changes(
    old: &BTreeMap<ServiceId, Arc<Service>>,
    new: &BTreeMap<ServiceId, Arc<Service>>,
) -> Vec<ServiceChange> {
    let changed: Vec<&Arc<Service>> =
        new.values().filter(|service| old.get(&service.id) != Some(service)).collect();
    let owners: HashMap<&Key, &ServiceId> =
        old.values().flat_map(|service| service.keys.iter().map(|key| (key, &service.id))).collect();
    let passes = |service: &&Arc<Service>| {
        service.keys.iter().any(|key| owners.get(key).is_some_and(|&owner| *owner != service.id))
    };
    if changed.iter().any(passes) {
        return vec![ServiceChange::All(new.values().cloned().collect())];
    }
    let removed = old.keys().filter(|&id| !new.contains_key(id)).cloned().map(ServiceChange::Remove);
    removed.chain(changed.into_iter().cloned().map(ServiceChange::Set)).collect()
}
