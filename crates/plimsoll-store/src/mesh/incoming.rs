//! What another node reported: the parts of its reports, merged into a copy of its own.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;

use super::outgoing::MAX_ENDPOINTS;
use super::part::{List, Part, Position};

/// How long the parts of one report are waited for before it is handed out without those that are missing.
pub(crate) const PATIENCE: Duration = Duration::from_millis(30);
/// After this many reports with something missing the node is asked for a full one.
const MISSED: u64 = 2;

/// What a part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// The report is whole: hand it out.
    Whole,
    /// Parts are missing: hand it out with the next part or after [`PATIENCE`].
    Some,
    /// It was there before, or a newer report was.
    Late,
    /// It contradicts the other parts of its report.
    Odd,
}

/// What of full reports ever arrived; changes alone say nothing of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Basis {
    #[default]
    Nothing,
    /// Some parts.
    Partial,
    /// All parts of one.
    Whole,
}

/// The newest figures of one process of another node.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    loads: BTreeMap<Position, EndpointReport>,
    sequence: u64,
    full: bool,
    count: u32,
    /// One bit per part that arrived.
    arrived: Vec<u64>,
    missing: u32,
    first_arrived: Timestamp,
    age: Duration,
    opens_per_second: f32,
    /// Whether parts arrived that were not handed out.
    pending: bool,
    basis: Basis,
    /// How many reports in a row had something missing.
    missed: u64,
}

impl Incoming {
    /// Merges a part.
    pub(crate) fn take(&mut self, now: Timestamp, part: Part) -> Took {
        if part.sequence < self.sequence {
            return Took::Late;
        }
        if part.sequence > self.sequence {
            self.turn_to(now, &part);
        } else if (part.full, part.count) != (self.full, self.count) {
            return Took::Odd;
        }
        let (word, bit) = (part.index as usize / 64, 1 << (part.index % 64));
        if self.arrived[word] & bit != 0 {
            return Took::Late;
        }
        self.arrived[word] |= bit;
        self.missing -= 1;
        self.pending = true;
        if part.full {
            self.basis = self.basis.max(Basis::Partial);
            self.clear_run(&part);
        }
        for record in part.records {
            match record.load {
                None => drop(self.loads.remove(&record.position)),
                Some(load) => {
                    if self.loads.len() < MAX_ENDPOINTS || self.loads.contains_key(&record.position) {
                        self.loads.insert(record.position, load);
                    }
                }
            }
        }
        if self.missing > 0 {
            return Took::Some;
        }
        if self.full {
            self.basis = Basis::Whole;
        }
        if self.full || self.missed < MISSED {
            self.missed = 0;
        }
        Took::Whole
    }

    /// Begins the next report.
    fn turn_to(&mut self, now: Timestamp, part: &Part) {
        if self.sequence > 0 {
            let skipped = part.sequence - self.sequence - 1;
            self.missed = self.missed.saturating_add(skipped).saturating_add(u64::from(self.missing > 0));
        }
        self.sequence = part.sequence;
        self.full = part.full;
        self.count = part.count;
        self.missing = part.count;
        self.arrived.clear();
        self.arrived.resize(part.count.div_ceil(64) as usize, 0);
        self.first_arrived = now;
        self.age = part.age;
        self.opens_per_second = part.opens_per_second;
    }

    /// Forgets what a part of a full report speaks for: from behind the part before it to its own last record,
    /// or to the end if it is the last.
    fn clear_run(&mut self, part: &Part) {
        let from = part.after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = match part.records.last() {
            Some(last) if part.index + 1 < part.count => Bound::Included(last.position),
            _ => Bound::Unbounded,
        };
        let gone: Vec<Position> = self.loads.range((from, to)).map(|(position, _)| *position).collect();
        for position in gone {
            self.loads.remove(&position);
        }
    }

    /// Whether parts arrived since the last [`Self::hand_out`].
    pub(crate) fn is_pending(&self) -> bool {
        self.pending
    }

    /// The report as far as it is known, if anything arrived since the last call. Endpoints whose part of a full
    /// report is still to come are missing.
    pub(crate) fn hand_out(&mut self, now: Timestamp, node: &NodeName) -> Option<Report> {
        if !std::mem::take(&mut self.pending) || self.basis == Basis::Nothing {
            return None;
        }
        let of = |list: List| {
            self.loads
                .iter()
                .filter(move |(position, _)| position.0 == list)
                .map(|(_, load)| load.clone())
                .collect()
        };
        Some(Report {
            node: node.clone(),
            age: self.age + now.since(self.first_arrived),
            opens_per_second: self.opens_per_second,
            hosted: of(List::Hosted),
            sent: of(List::Sent),
        })
    }

    /// Whether the node should be asked for a full report.
    pub(crate) fn needs_full(&self) -> bool {
        self.basis < Basis::Whole || self.missed >= MISSED
    }

    /// Which report the newest part was of.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether this is the first part of its report.
    pub(crate) fn just_begun(&self) -> bool {
        self.missing + 1 == self.count
    }

    /// How many endpoints are known.
    pub(crate) fn len(&self) -> usize {
        self.loads.len()
    }
}
