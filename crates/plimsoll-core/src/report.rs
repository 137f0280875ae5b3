//! What one node tells the others: the load of the endpoints it hosts, and what it sent to those nobody hosts.

use std::time::Duration;

use crate::load::{Load, Loads};
use crate::service::{EndpointId, NodeName};

/// The load of one endpoint as one node knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointReport {
    /// Whose load.
    pub endpoint: EndpointId,
    /// Open connections.
    pub open: u32,
    /// Of those, younger than the horizon `h`.
    pub young: u32,
    /// Of those, with an age in `[h, 2h)`.
    pub middle: u32,
    /// Connections opened per second, filtered with the time constant `tau`.
    pub opens_per_second: f32,
    /// Connections refused or never answered per second, filtered likewise.
    pub failures_per_second: f32,
    /// CPU in use in cores, where a signal source tells.
    pub cpu: Option<f32>,
    /// CPU pressure, 0 to 1, where a signal source tells.
    pub pressure: Option<f32>,
}

/// What one node tells the others. The newest replaces all older ones of that node.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Who reports.
    pub node: NodeName,
    /// How old the figures are: the time since they were measured, added up by whoever held them. No clocks are
    /// compared between nodes.
    pub age: Duration,
    /// Connections this node sends per second, to all endpoints, filtered with 10 s.
    pub opens_per_second: f32,
    /// All connections of the endpoints this node hosts. Sorted by endpoint.
    pub hosted: Vec<EndpointReport>,
    /// This node's own connections to endpoints that no agent hosts. Sorted by endpoint.
    pub sent: Vec<EndpointReport>,
}

/// What this node has to say: `is_hosted_elsewhere` tells which endpoints another node's agent counts.
pub fn build(node: &NodeName, loads: &Loads, is_hosted_elsewhere: impl Fn(&EndpointId) -> bool) -> Report {
    Report {
        node: node.clone(),
        age: Duration::ZERO,
        opens_per_second: loads.opens_per_second() as f32,
        hosted: loads.hosted().map(|(endpoint, load)| summarise(endpoint, load)).collect(),
        sent: loads
            .sent()
            .filter(|(endpoint, _)| loads.hosted_load(endpoint).is_none() && !is_hosted_elsewhere(endpoint))
            .map(|(endpoint, load)| summarise(endpoint, load))
            .collect(),
    }
}

fn summarise(endpoint: EndpointId, load: &Load) -> EndpointReport {
    EndpointReport {
        endpoint,
        open: libm::round(load.open) as u32,
        young: libm::round(load.young) as u32,
        middle: libm::round(load.middle) as u32,
        opens_per_second: load.opens_per_second as f32,
        failures_per_second: load.failures_per_second as f32,
        cpu: load.cpu.map(|cpu| cpu as f32),
        pressure: load.pressure.map(|pressure| pressure as f32),
    }
}
