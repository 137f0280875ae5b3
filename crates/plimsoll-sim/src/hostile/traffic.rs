//! Clients: connections open and close, sent by a node's kernel or, where its leases ran out, by the proxy below.

use std::time::Duration;

use plimsoll_core::table::Weighted;

use crate::agents::index;
use crate::agents::ledger::Slot;
use crate::dice::Dice;

use super::agenda::Due;
use super::population::Failing;
use super::world::{Phase, World};

/// An open connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) node: usize,
    endpoint: usize,
    /// The age slot it was opened in, and in which incarnation of the counting node: by the sender and by the host.
    sent: (u32, Slot),
    hosted: Option<(usize, u32, Slot)>,
}

impl World<'_> {
    /// A client connects through a node.
    pub(super) fn open(&mut self, node: usize) {
        if self.phase >= Phase::Quiet {
            return;
        }
        let next = Duration::from_secs_f64(self.dice.traffic.exponential(1.0 / self.rate));
        self.add(self.now + next, Due::Open(node));
        let Some(endpoint) = self.choose(node) else { return };
        let failing = self.population.endpoints[endpoint].failing(self.now);
        for it in &mut self.nodes {
            match failing {
                Some(Failing::Refuses) => it.ledger.hosted.refuse(endpoint),
                _ => it.ledger.hosted.open(endpoint, it.ledger.current),
            }
        }
        let sender = &mut self.nodes[node];
        if failing == Some(Failing::Refuses) {
            sender.ledger.sent.refuse(endpoint);
            return;
        }
        sender.ledger.sent.open(endpoint, sender.ledger.current);
        let sent = (sender.incarnation, sender.ledger.current);
        let hosted = self.population.endpoints[endpoint].host.map(|host| {
            let host_node = &self.nodes[host];
            (host, host_node.incarnation, host_node.ledger.current)
        });
        self.open[node][endpoint] += 1;
        let place = self.connections.add(Connection { node, endpoint, sent, hosted });
        let life = if failing.is_some() { 1e-4 } else { self.dice.traffic.exponential(self.life) };
        self.add(self.now + Duration::from_secs_f64(life), Due::Close(place));
    }

    /// Whom the node's kernel sends a new connection to: by its weights, or as the proxy below does.
    fn choose(&mut self, node: usize) -> Option<usize> {
        let service = self.dice.traffic.below(self.population.len());
        let service = self.population.told().nth(service)??.clone();
        let now = self.nodes[node].clock.read(self.now);
        let dice = &mut self.dice.traffic;
        if let Some(table) = self.nodes[node].kernel.table(now, &service.id) {
            return weighted(&table.cluster, dice);
        }
        let ready: Vec<usize> = service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.conditions.ready)
            .map(|endpoint| index(&endpoint.id))
            .collect();
        (!ready.is_empty()).then(|| ready[dice.below(ready.len())])
    }

    pub(super) fn close(&mut self, place: usize) {
        let Some(connection) = self.connections.take(place) else { return };
        self.open[connection.node][connection.endpoint] -= 1;
        for (number, it) in self.nodes.iter_mut().enumerate() {
            let opened_in = match connection.hosted {
                Some((host, incarnation, slot)) if (host, incarnation) == (number, it.incarnation) => slot,
                _ => 0,
            };
            it.ledger.hosted.close(connection.endpoint, opened_in, it.ledger.current);
        }
        let sender = &mut self.nodes[connection.node];
        let opened_in = if connection.sent.0 == sender.incarnation { connection.sent.1 } else { 0 };
        sender.ledger.sent.close(connection.endpoint, opened_in, sender.ledger.current);
    }
}

/// One of a list, with a chance in proportion to its weight.
fn weighted(list: &[Weighted], dice: &mut Dice) -> Option<usize> {
    let sums: Vec<f64> = list
        .iter()
        .scan(0.0, |sum, one| {
            *sum += f64::from(one.weight);
            Some(*sum)
        })
        .collect();
    (!list.is_empty()).then(|| index(&list[dice.weighted(&sums)].endpoint))
}
