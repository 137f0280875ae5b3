//! Whether Services that were each checked alone may stand in one file.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_core::service::{EndpointId, Family, NodeName, Service};

use super::{Names, Taken, taken};

/// Whether the Services of a file, grouped by what they were written as, have nothing against each other: the rules
/// that [`super::validate`] has for more than one Service, without the places, at a tenth of the cost.
pub(in crate::file) fn fit<'a>(
    written: &(impl Iterator<Item = &'a [Arc<Service>]> + Clone),
    names: &Names,
) -> bool {
    let mut said = HashSet::new();
    let all_named =
        written.clone().all(|one| one.first().is_none_or(|service| said.insert(&service.id.name)));
    let services = || written.clone().flatten();
    let mut keys: HashSet<Taken> = HashSet::new();
    if !all_named || !services().flat_map(|service| &service.keys).all(|key| keys.insert(taken(key))) {
        return false;
    }
    let mut hosts: HashMap<IpAddr, &Option<NodeName>> =
        HashMap::with_capacity(services().map(|service| service.endpoints.len()).sum());
    let endpoints = || services().flat_map(|service| &service.endpoints);
    let agreed = endpoints().all(|endpoint| {
        let at_one_host = match hosts.entry(endpoint.id.address) {
            Entry::Occupied(said) => **said.get() == endpoint.node,
            Entry::Vacant(entry) => {
                entry.insert(&endpoint.node);
                endpoint.node.iter().all(|node| names.admit(node))
            }
        };
        at_one_host && endpoint.for_nodes.iter().all(|node| names.admit(node))
    });
    let is_key =
        |id: EndpointId| keys.contains(&(Some(id.address), Family::of(id.address), id.port, id.protocol));
    // Few Services have the address of an endpoint, so most files need not be looked through for their ports.
    let shares_address = |key: &Taken| key.0.is_some_and(|address| hosts.contains_key(&address));
    agreed && (!keys.iter().any(shares_address) || !endpoints().any(|endpoint| is_key(endpoint.id)))
}
