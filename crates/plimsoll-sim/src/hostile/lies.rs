//! What a broken kernel, a broken signal source and a broken node tell instead of the truth.

use plimsoll_core::load::{Count, Counts, Sample};
use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::{EndpointId, NodeName};
use plimsoll_core::time::Timestamp;

use crate::dice::Dice;

use super::population::{Misreading, Population};

/// Figures that no source should tell.
const NONSENSE: [f64; 9] =
    [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.0, 1e-300, 1e300, f64::MAX, 0.0];

fn nonsense(dice: &mut Dice) -> f64 {
    NONSENSE[dice.below(NONSENSE.len())]
}

/// How an endpoint's readings are wrong.
pub(super) fn misreading(dice: &mut Dice) -> Misreading {
    match dice.below(4) {
        0 => Misreading::Silent,
        1 => Misreading::Missing,
        2 => Misreading::Constant([0.0, 0.5, 1.0, 64.0][dice.below(4)]),
        _ => Misreading::Constant(nonsense(dice)),
    }
}

/// What is read of an endpoint with so many open connections; `None`: nothing.
pub(super) fn sample(
    endpoint: EndpointId,
    open: u32,
    at: Timestamp,
    misreading: Option<Misreading>,
    dice: &mut Dice,
) -> Option<Sample> {
    let noise = dice.between(0.9, 1.1);
    let cpu = noise * (0.1 + 0.02 * f64::from(open));
    let (cpu, pressure) = match misreading {
        Some(Misreading::Silent) => return None,
        Some(Misreading::Missing) => (None, None),
        Some(Misreading::Constant(value)) => (Some(value), Some(value)),
        None => (Some(cpu), Some((0.05 + 0.1 * cpu).min(1.0))),
    };
    Some(Sample { endpoint, at, cpu, pressure })
}

/// Makes some of what a kernel counted wrong: counters go back, leap or vanish.
pub(super) fn miscount(counts: &mut Counts, dice: &mut Dice) {
    for count in counts.hosted.iter_mut().chain(&mut counts.sent) {
        match dice.below(12) {
            0 => *count = Count::none(count.endpoint),
            1 => count.opened /= 2,
            // Beyond that the rates need longer to forget it than a run lasts.
            2 => count.opened += 1_000_000,
            3 => (count.refused, count.unanswered) = (1_000_000, 1_000_000),
            4 => count.open = [0, u32::MAX][dice.below(2)],
            5 => count.open_by_age.fill(u32::MAX),
            _ => {}
        }
    }
    match dice.below(12) {
        0 => counts.hosted.clear(),
        1 => counts.sent.clear(),
        2 => counts.slots.fill(f32::INFINITY),
        3 => counts.slots.fill(0.0),
        _ => {}
    }
}

/// Makes some of what a node reports wrong.
pub(super) fn misreport(report: &mut Report, dice: &mut Dice) {
    for entry in report.hosted.iter_mut().chain(&mut report.sent) {
        let figure = nonsense(dice) as f32;
        match dice.below(10) {
            0 => entry.opens_per_second = figure,
            1 => entry.failures_per_second = figure,
            2 => entry.cpu = Some(figure),
            3 => entry.pressure = Some(figure),
            4 => (entry.open, entry.young, entry.middle) = (u32::MAX, u32::MAX, u32::MAX),
            5 => (entry.open, entry.young) = (0, u32::MAX),
            _ => {}
        }
    }
    if dice.below(4) == 0 {
        report.opens_per_second = nonsense(dice) as f32;
    }
    if dice.below(4) == 0 {
        report.hosted.clear();
    }
}

/// What a node reports that nobody knows: that it hosts endpoints of others.
pub(super) fn ghost(name: &str, population: &Population, dice: &mut Dice) -> Report {
    let endpoints = &population.endpoints;
    let mut hosted: Vec<EndpointId> =
        (0..endpoints.len().min(5)).map(|_| endpoints[dice.below(endpoints.len())].id).collect();
    hosted.sort_unstable();
    hosted.dedup();
    let entry = |endpoint: EndpointId| EndpointReport {
        endpoint,
        open: 1000,
        young: 500,
        middle: 200,
        opens_per_second: 100.0,
        failures_per_second: 0.0,
        cpu: None,
        pressure: None,
    };
    Report {
        node: NodeName::new(name),
        age: std::time::Duration::ZERO,
        opens_per_second: 5.0,
        hosted: hosted.into_iter().map(entry).collect(),
        sent: Vec::new(),
    }
}
