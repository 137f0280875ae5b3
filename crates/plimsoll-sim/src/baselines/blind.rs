//! Dispatchers without reports: each node by fixed weights and its own connections, as the proxies of today.

use plimsoll_core::time::Timestamp;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::selection::{self, Kind, Selection, Weight};
use crate::steering::{Connection, Steering};

/// A uniform draw, as kube-proxy makes it with iptables and with nftables.
pub struct Uniform {
    dice: Dice,
}

impl Uniform {
    /// The draw.
    pub fn new(dice: Dice) -> Uniform {
        Uniform { dice }
    }
}

impl Steering for Uniform {
    fn choose(&mut self, _now: Timestamp, _node: usize, cluster: &Cluster) -> Option<usize> {
        if cluster.serving.is_empty() {
            return None;
        }
        Some(cluster.serving[self.dice.below(cluster.serving.len())])
    }
}

/// Every node by weights that nobody changes: equal ones, or the stated capacities.
pub struct Fixed {
    selections: Vec<Box<dyn Selection>>,
    by_capacity: bool,
    dice: Dice,
}

/// The weight of a capacity of 1.
const UNIT: f64 = 100.0;

impl Fixed {
    /// Fixed weights on all nodes, chosen from in this way.
    pub fn new(kind: Kind, by_capacity: bool, cluster: &Cluster, mut dice: Dice) -> Fixed {
        let selections = (0..cluster.nodes).map(|_| selection::build(kind, false, &mut dice)).collect();
        let mut fixed = Fixed { selections, by_capacity, dice };
        fixed.members_changed(Timestamp::ZERO, cluster);
        fixed
    }
}

impl Steering for Fixed {
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        self.selections[node].choose(now, cluster.own(node), &mut self.dice)
    }

    fn opened(&mut self, now: Timestamp, node: usize, endpoint: usize) -> u64 {
        self.selections[node].opened(now, endpoint);
        0
    }

    fn closed(&mut self, now: Timestamp, connection: &Connection) {
        self.selections[connection.node].closed(now, connection.endpoint, connection.opened);
    }

    fn members_changed(&mut self, now: Timestamp, cluster: &Cluster) {
        let weight = |endpoint: &usize| {
            let capacity = if self.by_capacity { cluster.nominal(*endpoint) } else { 1.0 };
            Weight { endpoint: *endpoint, weight: (libm::round(UNIT * capacity) as u32).max(1) }
        };
        let weights: Vec<Weight> = cluster.serving.iter().map(weight).collect();
        for selection in &mut self.selections {
            selection.set(now, &weights, &mut self.dice);
        }
    }
}
