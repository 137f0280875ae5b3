//! The classic of the LVS documentation: every few seconds each weight moves by the cube root of the distance
//! between a wanted utilisation and a measured one.
//!
//! Source: W. Zhang, "Dynamic feedback load balancing scheduling", Linux Virtual Server documentation:
//! `w += 5 cbrt(0.95 - A)` with the aggregate load `A = 0.3 * 0.95 (o / mean o) + 0.7 L`. `L` is the CPU in use per
//! capacity or, without that, the connections per capacity relative to the group's. Here for one Service on each
//! node instead of one director for all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Group, Limit, Memory, Policy, Row, Share, figure, in_range, nominal_capacities};

/// The utilisation at which a weight rests.
const WANTED: f64 = 0.95;
/// The part of new connections in the aggregate load; the rest is `L`.
const FLOW_PART: f64 = 0.3;
/// What the weights of a group are on average at the start.
const START: f64 = 100.0;
/// The largest weight relative to the one at the start.
const MOST: f64 = 10.0;

/// What can be set about the policy `lvs-feedback`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Seconds from one change of the weights to the next; 1 to 60.
    pub interval_seconds: f64,
    /// How much a weight moves: times the cube root of the distance, of an average weight of 100; 0.5 to 20.
    pub step: f64,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { interval_seconds: 5.0, step: 5.0 }
    }
}

impl Parameters {
    /// Says which value is out of its range, if any is.
    pub fn check(&self) -> Result<(), String> {
        in_range("interval_seconds", self.interval_seconds, 1.0, 60.0)?;
        in_range("step", self.step, 0.5, 20.0)
    }
}

/// The policy `lvs-feedback` with one Service's weights.
pub struct LvsFeedback {
    parameters: Parameters,
    weights: Memory<f64>,
    since_change: f64,
    nominal: Vec<f64>,
}

impl LvsFeedback {
    /// Without memory.
    pub fn new(parameters: &Parameters) -> LvsFeedback {
        LvsFeedback {
            parameters: parameters.clone(),
            weights: Memory::new(),
            since_change: 0.0,
            nominal: Vec::new(),
        }
    }

    fn change(&mut self, rows: &[Row], unit: f64) {
        let known = |value: fn(&Row) -> Option<f64>| {
            let known = rows.iter().zip(&self.nominal).filter_map(|(row, c)| Some((value(row)?, *c)));
            let (sum, capacity) = known.fold((0.0, 0.0), |(x, c), (x_e, c_e)| (x + x_e, c + c_e));
            (sum, sum / capacity)
        };
        let cpu = |row: &Row| row.load.cpu.and_then(figure);
        let (cpu_sum, cpu_level) = known(cpu);
        let (_, open_level) = known(|row| figure(row.load.open));
        let (opens, _) = known(|row| figure(row.load.opens_per_second));
        let with_cpu = rows.iter().any(|row| cpu(row).is_some()) && cpu_sum > 0.0;
        let mean_opens = opens / rows.len() as f64;
        for ((row, weight), c0) in rows.iter().zip(self.weights.values_mut()).zip(&self.nominal) {
            // Without a measure, or before there is anything to measure, an endpoint is as loaded as the group.
            let load = if with_cpu {
                cpu(row).map_or(cpu_level, |cpu| cpu / c0)
            } else {
                figure(row.load.open)
                    .filter(|_| open_level > 0.0)
                    .map_or(WANTED, |n| WANTED * n / c0 / open_level)
            };
            let flow = figure(row.load.opens_per_second)
                .filter(|_| mean_opens > 0.0)
                .map_or(1.0, |o| o / mean_opens);
            let aggregate = FLOW_PART * WANTED * flow + (1.0 - FLOW_PART) * load;
            let moved = *weight + self.parameters.step * libm::cbrt(WANTED - aggregate);
            *weight = moved.max(1.0).min((MOST * unit * c0).max(1.0));
        }
    }
}

impl Policy for LvsFeedback {
    fn decide(&mut self, group: &Group<'_>, shares: &mut Vec<Share>) {
        shares.clear();
        nominal_capacities(group.rows.iter().map(|row| row.capacity), &mut self.nominal);
        let capacity: f64 = self.nominal.iter().sum();
        let unit = START * group.rows.len() as f64 / capacity;
        let nominal = &self.nominal;
        self.weights.align(group.rows, |index| (unit * nominal[index]).max(1.0));
        self.since_change += figure(group.elapsed).unwrap_or(0.0);
        if self.since_change >= self.parameters.interval_seconds {
            self.since_change = 0.0;
            self.change(group.rows, unit);
        }
        let sum: f64 = self.weights.values().iter().sum();
        shares.extend(self.weights.values().iter().zip(&self.nominal).map(|(weight, c0)| Share {
            share: weight / sum,
            target: c0 / capacity,
            capacity: *c0,
            limit: match *weight {
                _ if group.rows.len() == 1 => None,
                w if w <= 1.0 => Some(Limit::Floor),
                w if w >= MOST * unit * c0 => Some(Limit::Ceiling),
                _ => None,
            },
        }));
    }
}
