//! This node's own report: what changed since the last ones, as parts that are ready to be sealed.

use std::collections::BTreeMap;

use plimsoll_core::report::{EndpointReport, Report};

use super::part::{self, Heading, List, Position};
use super::seal::MAX_MESSAGE;
use super::wire::REPORT;

/// How many endpoints a report may have; the rest is left out and counted.
pub(crate) const MAX_ENDPOINTS: usize = 65_536;
/// Every so many reports all get a full one.
const FULL_EVERY: u64 = 10;
/// What changed stays in this many reports, so that one lost datagram costs nothing.
const REPEAT: u64 = 2;
/// A rate that moved by less than this part of itself, or by less than [`STILL_ABSOLUTE`], did not change.
const STILL: f32 = 0.02;
const STILL_ABSOLUTE: f32 = 0.005;

#[derive(Clone, Debug)]
struct Told {
    /// What was told last; `None`: that it is gone.
    load: Option<EndpointReport>,
    /// In which report that was new.
    changed: u64,
}

/// What this node has told so far.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    sequence: u64,
    told: BTreeMap<Position, Told>,
    /// How many endpoints were left out of the newest report.
    pub(crate) left_out: usize,
}

/// One report, as the messages that carry it.
#[derive(Debug)]
pub(crate) struct Round {
    /// All there is: for new members, for those who ask, and every tenth time for all.
    pub(crate) full: Vec<Vec<u8>>,
    /// What changed lately.
    pub(crate) changed: Vec<Vec<u8>>,
}

impl Outgoing {
    /// The next report. `someone_needs_full`: whether anybody will be sent the full one.
    pub(crate) fn next(&mut self, report: &Report, someone_needs_full: bool) -> Round {
        self.sequence += 1;
        let sequence = self.sequence;
        let all_get_full = sequence % FULL_EVERY == 1;
        let records = self.note(report, all_get_full);
        let heading =
            Heading { sequence, full: true, age: report.age, opens_per_second: report.opens_per_second };
        let full = if all_get_full || someone_needs_full {
            let records = records.iter().map(|(position, load)| (*position, Some(*load)));
            part::encode(REPORT, &heading, records, MAX_MESSAGE)
        } else {
            Vec::new()
        };
        let changed = if all_get_full {
            full.clone()
        } else {
            let lately = |(_, told): &(&Position, &Told)| told.changed + REPEAT > sequence;
            let records =
                self.told.iter().filter(lately).map(|(position, told)| (*position, told.load.as_ref()));
            part::encode(REPORT, &Heading { full: false, ..heading }, records, MAX_MESSAGE)
        };
        Round { full, changed }
    }

    /// Notes what is new in this report; gives back all its records in order.
    fn note<'a>(&mut self, report: &'a Report, all_get_full: bool) -> BTreeMap<Position, &'a EndpointReport> {
        let sequence = self.sequence;
        let hosted = report.hosted.iter().map(|load| ((List::Hosted, load.endpoint), load));
        let sent = report.sent.iter().map(|load| ((List::Sent, load.endpoint), load));
        let addressed = |(position, _): &(Position, &EndpointReport)| !position.1.address.is_unspecified();
        let records: BTreeMap<_, _> = hosted.chain(sent).filter(addressed).take(MAX_ENDPOINTS).collect();
        self.left_out = report.hosted.len() + report.sent.len() - records.len();
        for (position, told) in &mut self.told {
            if told.load.is_some() && !records.contains_key(position) {
                *told = Told { load: None, changed: sequence };
            }
        }
        self.told.retain(|_, told| told.load.is_some() || told.changed + REPEAT > sequence);
        for (position, load) in &records {
            match self.told.get_mut(position) {
                Some(told) if told.load.as_ref().is_some_and(|told| !differs(told, load)) => {
                    if all_get_full {
                        told.load = Some((*load).clone());
                    }
                }
                _ => {
                    self.told.insert(*position, Told { load: Some((*load).clone()), changed: sequence });
                }
            }
        }
        records
    }
}

/// Whether a load is worth telling again.
fn differs(told: &EndpointReport, now: &EndpointReport) -> bool {
    let moved = |a: f32, b: f32| (a - b).abs() > STILL_ABSOLUTE.max(STILL * a.abs().max(b.abs()));
    let moved_some = |a: Option<f32>, b: Option<f32>| match (a, b) {
        (Some(a), Some(b)) => moved(a, b),
        (a, b) => a.is_some() != b.is_some(),
    };
    (told.open, told.young, told.middle) != (now.open, now.young, now.middle)
        || moved(told.opens_per_second, now.opens_per_second)
        || moved(told.failures_per_second, now.failures_per_second)
        || moved_some(told.cpu, now.cpu)
        || moved_some(told.pressure, now.pressure)
}
