//! What the balancer says of itself when asked.

use crate::explain::{EndpointExplanation, Explanation, NodeStatus};
use crate::service::{Endpoint, ServiceId};
use crate::time::Timestamp;

use super::{Balanced, Balancer};

impl Balancer {
    /// Every Service there is, sorted.
    pub fn services(&self) -> impl Iterator<Item = &ServiceId> {
        self.services.ids()
    }

    /// Why every endpoint of a Service has its weight; `None` if there is no such Service.
    pub fn explain(&self, now: Timestamp, id: &ServiceId) -> Option<Explanation> {
        let balanced = self.services.get(id)?;
        let service = &balanced.service;
        Some(Explanation {
            service: id.clone(),
            mode: service.mode,
            policy: service.policy.unwrap_or(self.parameters.policy),
            taken: balanced.keys.clone(),
            left: balanced.left.clone(),
            endpoints: service
                .endpoints
                .iter()
                .map(|endpoint| self.explain_endpoint(now, balanced, endpoint))
                .collect(),
        })
    }

    /// The other nodes that reported.
    pub fn nodes(&self, now: Timestamp) -> Vec<NodeStatus> {
        let nodes = self.view.nodes(now);
        nodes
            .map(|(node, age, opens_per_second)| NodeStatus { node: node.clone(), age, opens_per_second })
            .collect()
    }

    fn explain_endpoint(
        &self,
        now: Timestamp,
        balanced: &Balanced,
        endpoint: &Endpoint,
    ) -> EndpointExplanation {
        let (cluster, local) = (&balanced.cluster, balanced.local.as_ref());
        let decision = cluster.decision(&endpoint.id).or_else(|| local?.decision(&endpoint.id));
        let figures = self.view.figures(now, &self.loads, &endpoint.id);
        let row = decision.map(|(row, _)| row);
        let share = decision.map(|(_, share)| share);
        EndpointExplanation {
            endpoint: endpoint.id,
            node: endpoint.node.clone(),
            share: cluster.part(&endpoint.id),
            local_share: local.and_then(|local| local.part(&endpoint.id)),
            target: share.map_or(0.0, |share| share.target),
            nominal_capacity: endpoint.capacity,
            capacity: share.map_or(endpoint.capacity.unwrap_or(0.0), |share| share.capacity),
            open: row.map_or(figures.load.open, |row| row.load.open),
            young: row.map_or(figures.load.young, |row| row.load.young),
            sent: figures.sent,
            opens_per_second: figures.load.opens_per_second,
            failures_per_second: figures.load.failures_per_second,
            cpu: figures.load.cpu,
            pressure: figures.load.pressure,
            age: (figures.age != std::time::Duration::MAX).then_some(figures.age),
            origin: figures.origin,
            limit: share.and_then(|share| share.limit),
        }
    }
}
