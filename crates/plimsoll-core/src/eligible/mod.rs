//! Which endpoints of a Service may get new connections, with kube-proxy's rules for conditions and topology hints.

use crate::service::{Endpoint, Here, Service};

/// Indices of the endpoints that clients anywhere may be sent to from this node: the ready ones, narrowed by
/// topology hints; where none is ready, those that terminate but still serve, without regard to hints.
pub fn cluster(service: &Service, here: &Here) -> Vec<usize> {
    let ready = select(service, |endpoint| endpoint.conditions.ready);
    if ready.is_empty() {
        return select(service, still_serves);
    }
    by_node_hint(service, &ready, here).or_else(|| by_zone_hint(service, &ready, here)).unwrap_or(ready)
}

/// Indices of the endpoints on this node, for traffic that must not leave it; hints do not apply.
pub fn local(service: &Service, here: &Here) -> Vec<usize> {
    let is_here = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(&here.node);
    let ready = select(service, |endpoint| is_here(endpoint) && endpoint.conditions.ready);
    if ready.is_empty() {
        return select(service, |endpoint| is_here(endpoint) && still_serves(endpoint));
    }
    ready
}

/// Whether the endpoint can still answer packets of connections it has.
pub fn serves(endpoint: &Endpoint) -> bool {
    endpoint.conditions.ready || endpoint.conditions.serving
}

fn still_serves(endpoint: &Endpoint) -> bool {
    endpoint.conditions.serving && endpoint.conditions.terminating
}

fn select(service: &Service, which: impl Fn(&Endpoint) -> bool) -> Vec<usize> {
    let endpoints = service.endpoints.iter().enumerate();
    endpoints.filter(|(_, endpoint)| which(endpoint)).map(|(i, _)| i).collect()
}

/// Hints count only when every ready endpoint has one and at least one names this node.
fn by_node_hint(service: &Service, ready: &[usize], here: &Here) -> Option<Vec<usize>> {
    let hints = |i: usize| &service.endpoints[i].for_nodes;
    if ready.iter().any(|&i| hints(i).is_empty()) {
        return None;
    }
    let ours: Vec<usize> = ready.iter().copied().filter(|&i| hints(i).contains(&here.node)).collect();
    (!ours.is_empty()).then_some(ours)
}

/// The same for this node's zone.
fn by_zone_hint(service: &Service, ready: &[usize], here: &Here) -> Option<Vec<usize>> {
    let zone = here.zone.as_ref()?;
    let hints = |i: usize| &service.endpoints[i].for_zones;
    if ready.iter().any(|&i| hints(i).is_empty()) {
        return None;
    }
    let ours: Vec<usize> = ready.iter().copied().filter(|&i| hints(i).contains(zone)).collect();
    (!ours.is_empty()).then_some(ours)
}

#[cfg(test)]
mod tests;
