//! Stochastically coordinated dispatching: nodes that see the same counts fill the endpoints to one level together,
//! each as if the others' connections of this moment were its own.
//!
//! Source: G. Goren, S. Vargaftik and Y. Moses, "Distributed dispatching in the parallel server model", DISC 2020, and
//! "Stochastic coordination in heterogeneous load balancing systems", PODC 2021. Here every tick, with the connections
//! expected until the next counts arrive.

use std::time::Duration;

use plimsoll_core::time::Timestamp;

use super::gauge::Gauge;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::scenario::Scenario;
use crate::selection::{self, Kind, Selection, Weight};
use crate::steering::Steering;

const TICK: Duration = Duration::from_millis(500);
/// With fewer connections than this to come, all go to the lowest endpoint.
const ALONE: f64 = 0.25;

/// All nodes; they see the same counts.
pub struct Scd {
    gauge: Gauge,
    delay: f64,
    measure_at: Timestamp,
    decide_at: Timestamp,
    selections: Vec<Box<dyn Selection>>,
    changes: u64,
    written: Vec<Weight>,
    dice: Dice,
}

impl Scd {
    /// Knows nothing yet: shares by capacity.
    pub fn new(scenario: &Scenario, cluster: &Cluster, mut dice: Dice) -> Scd {
        let selections = (0..cluster.nodes).map(|_| selection::build(Kind::Wrr, false, &mut dice)).collect();
        let mut scd = Scd {
            gauge: Gauge::new(scenario, Dice::new(dice.bits(), 0)),
            delay: (TICK + scenario.report_interval()).as_secs_f64(),
            measure_at: Timestamp::ZERO,
            decide_at: Timestamp::ZERO + TICK,
            selections,
            changes: 0,
            written: Vec::new(),
            dice,
        };
        scd.members_changed(Timestamp::ZERO, cluster);
        scd
    }

    fn decide(&mut self, now: Timestamp, cluster: &Cluster) {
        let seen = self.gauge.seen();
        let open = |e: usize| seen.get(e).map_or(0.0, |figures| figures.open) + 0.5;
        let rate: f64 =
            cluster.serving.iter().filter_map(|e| seen.get(*e)).map(|figures| figures.opens_per_second).sum();
        let arrivals = rate * self.delay - 1.0;
        let mut order = cluster.serving.clone();
        let level = |e: &usize| open(*e) / cluster.nominal(*e);
        order.sort_by(|a, b| level(a).total_cmp(&level(b)));
        let mut parts = vec![0.0; cluster.endpoints.len()];
        if seen.is_empty() {
            for endpoint in &order {
                parts[*endpoint] = cluster.nominal(*endpoint);
            }
        } else if arrivals < ALONE {
            if let Some(lowest) = order.first() {
                parts[*lowest] = 1.0;
            }
        } else {
            // The level that the lowest reach when all that is to come is poured into them.
            let (mut held, mut size, mut reached) = (0.0, 0.0, f64::INFINITY);
            for endpoint in &order {
                if level(endpoint) >= reached {
                    break;
                }
                held += open(*endpoint);
                size += cluster.nominal(*endpoint);
                reached = (held + arrivals) / size;
            }
            for endpoint in &order {
                parts[*endpoint] = (reached * cluster.nominal(*endpoint) - open(*endpoint)).max(0.0);
            }
        }
        self.write(now, &parts, cluster);
    }

    fn write(&mut self, now: Timestamp, parts: &[f64], cluster: &Cluster) {
        let sum: f64 = parts.iter().sum();
        let weights: Vec<Weight> = cluster
            .serving
            .iter()
            .map(|e| Weight { endpoint: *e, weight: libm::round(parts[*e] / sum * 4096.0) as u32 })
            .filter(|weight| weight.weight > 0)
            .collect();
        let changed = weights.iter().filter(|weight| !self.written.contains(weight)).count();
        self.changes += (changed * cluster.nodes) as u64;
        for selection in &mut self.selections {
            selection.set(now, &weights, &mut self.dice);
        }
        self.written = weights;
    }
}

impl Steering for Scd {
    fn choose(&mut self, now: Timestamp, node: usize, cluster: &Cluster) -> Option<usize> {
        self.selections[node].choose(now, cluster.own(node), &mut self.dice)
    }

    fn members_changed(&mut self, now: Timestamp, cluster: &Cluster) {
        self.decide(now, cluster);
    }

    fn next_wake(&self) -> Timestamp {
        self.measure_at.min(self.decide_at)
    }

    fn wake(&mut self, now: Timestamp, cluster: &Cluster) {
        if now >= self.measure_at {
            self.measure_at = self.gauge.measure(now, cluster);
        }
        if now >= self.decide_at {
            self.decide_at = now + TICK;
            self.decide(now, cluster);
        }
    }

    fn weight_changes(&self) -> u64 {
        self.changes
    }
}
