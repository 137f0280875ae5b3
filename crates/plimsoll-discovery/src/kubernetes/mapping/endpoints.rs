//! The endpoints of one port in one family, from all slices of the Service.

use plimsoll_core::service::{Endpoint, EndpointId, Family};

use super::super::object::{self, Port, Slice};
use crate::remark::Problem;

/// An endpoint, how unfit it is to serve, and the name of the slice that it is in.
type Candidate<'a> = (EndpointId, (bool, bool, bool), &'a str, &'a object::Endpoint);

/// The endpoints of a port: of the slices that have a port of the same name and protocol, at the number these give.
/// Sorted, each once: of an endpoint that is in several slices the one that is the fittest to serve counts, else the
/// one of the first slice by name. (kube-proxy takes any of them.) Where they say different things of it, that is told.
pub(super) fn endpoints(
    port: &Port,
    family: Family,
    slices: &[&Slice],
    problems: &mut Vec<Problem>,
) -> Vec<Endpoint> {
    let mut found: Vec<Candidate<'_>> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let same = |other: &&object::SlicePort| *other.name == *port.name && other.protocol == port.protocol;
        for number in slice.ports.iter().filter(same).map(|port| port.number) {
            found.extend(slice.endpoints.iter().map(|endpoint| {
                let id = EndpointId { address: endpoint.address, port: number, protocol: port.protocol };
                let said = endpoint.conditions;
                (id, (!said.ready, said.terminating, !said.serving), &*slice.name, endpoint)
            }));
        }
    }
    // Stable, so that the first of a slice comes first.
    found.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
    // Of many the first: they tend to have one cause.
    problems.extend(found.chunk_by(|a, b| a.0 == b.0).find_map(|same| {
        let other = same.iter().find(|other| other.1 != same[0].1)?;
        Some(contradiction(&same[0], other))
    }));
    found.dedup_by(|b, a| a.0 == b.0);
    // These stay for as long as the Service does: no more room than they need.
    let mut endpoints = Vec::with_capacity(found.len());
    endpoints.extend(found.into_iter().map(|(id, _, _, endpoint)| Endpoint {
        id,
        node: endpoint.node.clone(),
        capacity: None,
        conditions: endpoint.conditions,
        for_zones: endpoint.for_zones.clone(),
        for_nodes: endpoint.for_nodes.clone(),
    }));
    endpoints
}

fn contradiction(counts: &Candidate<'_>, other: &Candidate<'_>) -> Problem {
    Problem {
        object: format!("EndpointSlice {}", other.2).into(),
        part: "endpoint".into(),
        value: other.0.address.to_string().into(),
        what: format!(
            "is in EndpointSlice {} too, with other conditions; kube-proxy takes either, here the one that is the fitter \
             to serve counts; remove it from one of the slices",
            counts.2
        )
        .into(),
    }
}
