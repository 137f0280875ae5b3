//! Stochastically coordinated dispatching: nodes that see the same counts fill the endpoints to one level together,
//! each as if the others' connections of this moment were its own.
//!
//! Source: G. Goren, S. Vargaftik and Y. Moses, "Distributed dispatching in the parallel server model", DISC 2020, and
//! "Stochastic coordination in heterogeneous load balancing systems", PODC 2021. Here every tick, with the connections
//! expected until the next counts arrive.

use std::time::Duration;

use plimsoll_core::time::Timestamp;

use super::feedback::Rule;
use super::gauge::Figures;
use crate::cluster::Cluster;
use crate::scenario::Scenario;
use crate::selection::{Kind, Weight};

const TICK: Duration = Duration::from_millis(500);
/// With fewer connections than this to come, all go to the lowest endpoint.
const ALONE: f64 = 0.25;

/// All nodes; they see the same counts.
pub struct Scd {
    delay: f64,
}

impl Scd {
    /// With the delay at which the scenario's nodes see each other's counts.
    pub fn new(scenario: &Scenario) -> Scd {
        Scd { delay: (TICK + scenario.mesh.interval.0).as_secs_f64() }
    }
}

impl Rule for Scd {
    const SELECTION: Kind = Kind::Wrr;
    const INTERVAL: Duration = TICK;

    fn decide(&mut self, _now: Timestamp, seen: &[Figures], cluster: &Cluster) -> Vec<Weight> {
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
        let sum: f64 = parts.iter().sum();
        let weight =
            |e: &usize| Weight { endpoint: *e, weight: libm::round(parts[*e] / sum * 4096.0) as u32 };
        cluster.serving.iter().map(weight).filter(|weight| weight.weight > 0).collect()
    }
}
