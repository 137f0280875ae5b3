//! The law: water-filling on predicted load.
//!
//! ```text
//! rows -> capacity (usage and pressure) ┐
//!      -> survival (counts by age)      ├-> targets -> lines -> pour -> shares
//!      -> traffic (what CPU follows)    │
//!      -> flow (rates, past shares)     ┘
//! ```

mod capacity;
mod fill;
mod parameters;
mod survival;
mod traffic;

pub use parameters::Parameters;

use super::{Group, Line, Memory, Policy, Row, Share, figure, median, nominal_capacities};
use capacity::Usage;
use fill::{Situation, Vessel};
use survival::{Ages, Survival};
use traffic::Traffic;

#[cfg(test)]
mod tests;

/// The policy `waterline` with one Service's memory.
pub struct Waterline {
    parameters: Parameters,
    survival: Survival,
    traffic: Traffic,
    memory: Memory<Past>,
    /// Room to work in, kept from one decision to the next.
    nominal: Vec<f64>,
    vessels: Vec<Vessel>,
    lines: Vec<Line>,
}

/// What is remembered of one endpoint.
#[derive(Clone, Copy, Debug)]
struct Past {
    /// The estimate of its capacity.
    capacity: f64,
    /// Our own share, smoothed.
    share: f64,
}

impl Waterline {
    /// Without memory.
    pub fn new(parameters: &Parameters) -> Waterline {
        Waterline {
            parameters: parameters.clone(),
            survival: Survival::new(),
            traffic: Traffic::default(),
            memory: Memory::new(),
            nominal: Vec::new(),
            vessels: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Brings memory in line with the rows that there are now.
    fn remember(&mut self, rows: &[Row], load: bool) {
        let count = rows.len() as f64;
        let nominal = &self.nominal;
        let mut estimates: Vec<f64> = Vec::new();
        if load && rows.iter().any(|row| super::capacity(row.capacity).is_none()) {
            estimates.extend(self.memory.values().iter().map(|past| past.capacity));
        }
        let unknown = median(&mut estimates);
        let turnover = self.memory.align(rows, |index| Past {
            capacity: super::capacity(rows[index].capacity).or(unknown).unwrap_or(nominal[index]),
            share: 1.0 / count,
        });
        if turnover.went {
            self.survival.start_over();
        }
        if turnover.went || turnover.came {
            let sum: f64 = self.memory.values().iter().map(|past| past.share).sum();
            for past in self.memory.values_mut() {
                past.share /= sum;
            }
        }
    }

    /// Moves the estimates of capacity and fills `self.vessels`.
    fn measure(&mut self, group: &Group<'_>, load: bool, elapsed: f64) {
        let rows = group.rows;
        let gain = 1.0 - libm::exp(-elapsed / self.parameters.capacity_seconds);
        let slow_start = group.slow_start.as_secs_f64();
        self.vessels.clear();
        for ((row, past), nominal) in rows.iter().zip(self.memory.values_mut()).zip(&self.nominal) {
            if let Some(cpu) = row.load.cpu.and_then(figure) {
                let pressure = row.load.pressure.and_then(figure).map(|pressure| pressure.min(1.0));
                let usage = Usage { cpu, pressure, nominal: *nominal, trusted: row.trusted };
                past.capacity = capacity::follow(&self.parameters, past.capacity, usage, gain);
            }
            self.vessels.push(Vessel {
                capacity: if load { past.capacity } else { *nominal },
                prior: past.share,
                cpu_guessed: row.load.cpu.and_then(figure).is_none(),
                slow_start: (row.seconds_eligible < slow_start)
                    .then(|| figure(row.seconds_eligible).unwrap_or(0.0) / slow_start),
                ..Vessel::default()
            });
        }
        let vessels = &mut self.vessels;
        complete(rows, vessels, |row| figure(row.load.open), |v| &mut v.open);
        complete(rows, vessels, |row| figure(row.load.young), |v| &mut v.young);
        complete(rows, vessels, |row| figure(row.load.opens_per_second), |v| &mut v.opens);
        if load {
            complete(rows, vessels, |row| row.load.cpu.and_then(figure), |v| &mut v.cpu);
        }
        for vessel in vessels {
            vessel.young = vessel.young.min(vessel.open);
        }
    }
}

/// Sets one figure of all vessels; where it is missing, what a fair split would give the endpoint. So a missing
/// figure moves shares towards capacity shares.
fn complete(
    rows: &[Row],
    vessels: &mut [Vessel],
    value: impl Fn(&Row) -> Option<f64>,
    place: impl Fn(&mut Vessel) -> &mut f64,
) {
    let (mut sum, mut capacity, mut missing) = (0.0, 0.0, false);
    for (row, vessel) in rows.iter().zip(vessels.iter_mut()) {
        if let Some(value) = value(row) {
            *place(vessel) = value;
            sum += value;
            capacity += vessel.capacity;
        } else {
            missing = true;
        }
    }
    if missing && capacity > 0.0 {
        for (row, vessel) in rows.iter().zip(vessels) {
            if value(row).is_none() {
                *place(vessel) = vessel.capacity * (sum / capacity);
            }
        }
    }
}

impl Policy for Waterline {
    fn decide(&mut self, group: &Group<'_>, shares: &mut Vec<Share>) {
        shares.clear();
        let rows = group.rows;
        let elapsed = figure(group.elapsed).unwrap_or(0.0);
        let load = rows.iter().any(|row| row.load.cpu.and_then(figure).is_some());
        nominal_capacities(rows.iter().map(|row| row.capacity), &mut self.nominal);
        self.remember(rows, load);
        if rows.is_empty() {
            return;
        }
        self.measure(group, load, elapsed);

        let mut ages = Ages::default();
        for (row, vessel) in rows.iter().zip(&self.vessels) {
            ages.open += vessel.open;
            ages.young += vessel.young;
            ages.middle += figure(row.load.middle).unwrap_or(0.0).min(vessel.open - vessel.young);
        }
        let horizon = figure(group.horizon).unwrap_or(0.0).max(0.1);
        self.survival.observe(ages, horizon, elapsed);
        self.traffic.observe(&self.vessels, elapsed);

        let situation = Situation {
            floor: group.floor.unwrap_or(self.parameters.floor),
            young_survive: self.survival.of_young(),
            old_survive: self.survival.of_old(),
            young_traffic: self.traffic.of_young(),
            load,
            delay: figure(group.delay).unwrap_or(1.0),
        };
        fill::targets(&self.parameters, load, &mut self.vessels);
        fill::lines(&self.parameters, &situation, &self.vessels, &mut self.lines);
        fill::shares(&self.vessels, &self.lines, shares);

        let gain = 1.0 - libm::exp(-elapsed / self.parameters.filter_seconds);
        for (past, share) in self.memory.values_mut().iter_mut().zip(shares.iter()) {
            past.share += gain * (share.share - past.share);
        }
    }
}
