//! What is known of one endpoint's connections, per pair of counting sets.
//!
//! For each cell (an endpoint and an age) three figures only rise: opened, closed by packets, and ended without them.
//! What is open is `base + opened - closed - ended`, where the base stands for what these figures missed: connections
//! that were there before, and ends that were lost. The base is not measured at an instant, since connections come
//! and go while conntrack is dumped; it is enclosed. With `O` the connections that a dump found open, and the figures
//! before (1) and after (2) it,
//!
//! ```text
//! O - opened2 + closed1 + ended1  <=  base  <=  O - opened1 + closed2 + ended2
//! ```
//!
//! for each connection was looked at somewhen between. Bounds of several dumps hold together, so they close in on
//! one number as soon as a cell is quiet during one dump, and an old slot's cells always become quiet.

use plimsoll_core::load::{AGE_SLOTS, Count};
use plimsoll_core::service::EndpointId;

use crate::nftables::counting::PAIRS;

/// The cell of connections without an age, after those of the pairs.
pub(super) const OLD_CELL: usize = PAIRS;

const UNKNOWN: i64 = i64::MAX / 4;

/// A number known to lie between two others, and the best guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base {
    guess: i64,
    low: i64,
    high: i64,
}

impl Base {
    const NONE: Base = Base { guess: 0, low: 0, high: 0 };
    const UNKNOWN: Base = Base { guess: 0, low: -UNKNOWN, high: UNKNOWN };

    /// Nearer than before, or, if something else changed it meanwhile, anew.
    fn enclose(&mut self, low: i64, high: i64) {
        let (nearer_low, nearer_high) = (self.low.max(low), self.high.min(high));
        (self.low, self.high) =
            if nearer_low <= nearer_high { (nearer_low, nearer_high) } else { (low, high) };
        self.guess = self.guess.clamp(self.low, self.high);
    }

    fn add(&mut self, other: Base) {
        self.guess += other.guess;
        self.low = (self.low + other.low).max(-UNKNOWN);
        self.high = (self.high + other.high).min(UNKNOWN);
    }
}

/// One endpoint's connections of one age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    opened: u64,
    closed: u64,
    ended: u64,
    base: Base,
}

impl Cell {
    const fn empty(base: Base) -> Cell {
        Cell { opened: 0, closed: 0, ended: 0, base }
    }

    fn open(&self) -> i64 {
        self.base.guess + self.opened as i64 - self.closed as i64 - self.ended as i64
    }
}

/// The figures of one cell when a measurement began, and what it found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    opened: u64,
    gone: u64,
    /// Connections that the dump found open.
    pub(super) found: u64,
}

/// A measurement of one endpoint.
pub(super) type Measurement = [Measured; PAIRS + 1];

/// What is known of one endpoint's connections.
#[derive(Clone, Debug)]
pub(super) struct Account {
    cells: [Cell; PAIRS + 1],
    closed_old: Rising,
    refused: Rising,
    pub(super) unanswered: u64,
}

/// The total of a counter that may begin again at zero.
#[derive(Clone, Copy, Debug, Default)]
struct Rising {
    total: u64,
    read: u64,
}

impl Rising {
    /// Takes what the counter says now; returns how much that is more than before.
    fn read(&mut self, value: u64) -> u64 {
        let more = if value >= self.read { value - self.read } else { value };
        self.read = value;
        self.total += more;
        more
    }
}

impl Account {
    /// Of an endpoint that has no connections, or (`measured` is false) of one that may have some.
    pub(super) fn new(measured: bool) -> Account {
        let base = if measured { Base::NONE } else { Base::UNKNOWN };
        Account {
            cells: [Cell::empty(base); PAIRS + 1],
            closed_old: Rising::default(),
            refused: Rising::default(),
            unanswered: 0,
        }
    }

    pub(super) fn opened(&mut self, pair: u8, value: u64) {
        self.cells[usize::from(pair)].opened = value;
    }

    pub(super) fn closed(&mut self, pair: u8, value: u64) {
        self.cells[usize::from(pair)].closed = value;
    }

    pub(super) fn closed_old(&mut self, value: u64) {
        self.cells[OLD_CELL].closed += self.closed_old.read(value);
    }

    pub(super) fn refused(&mut self, value: u64) {
        self.refused.read(value);
    }

    /// A connection ended without a packet that would have closed it.
    pub(super) fn ended(&mut self, cell: usize) {
        self.cells[cell].ended += 1;
    }

    /// The slot of this pair is not live any more and its figures are final.
    pub(super) fn retire(&mut self, pair: u8) {
        let cell = std::mem::replace(&mut self.cells[usize::from(pair)], Cell::empty(Base::NONE));
        self.add_to_old(cell);
    }

    fn add_to_old(&mut self, cell: Cell) {
        let old = &mut self.cells[OLD_CELL];
        old.opened += cell.opened;
        old.closed += cell.closed;
        old.ended += cell.ended;
        old.base.add(cell.base);
    }

    /// All counting sets begin again at zero and all connections are old.
    pub(super) fn begin_again(&mut self) {
        for pair in 0..PAIRS {
            self.retire(pair as u8);
        }
        self.closed_old.read = 0;
        self.refused.read = 0;
        self.doubt_old();
    }

    /// Ends were lost: any number of the open connections may be gone, but none came.
    pub(super) fn lost(&mut self) {
        self.cells.iter_mut().for_each(|cell| cell.base.low = -UNKNOWN);
    }

    /// Connections without an age may have ended in silence.
    pub(super) fn doubt_old(&mut self) {
        let base = &mut self.cells[OLD_CELL].base;
        (base.low, base.high) = (-UNKNOWN, UNKNOWN);
    }

    /// What measurements found may not have been open.
    pub(super) fn doubt(&mut self) {
        for cell in &mut self.cells {
            (cell.base.low, cell.base.high) = (-UNKNOWN, UNKNOWN);
        }
    }

    /// Whether all bases are known.
    pub(super) fn is_settled(&self) -> bool {
        self.cells.iter().all(|cell| cell.base.low == cell.base.high)
    }

    /// Whether more seems to have ended than there was.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.cells.iter().any(|cell| cell.open() < 0)
    }

    pub(super) fn begin_measurement(&self) -> Measurement {
        self.cells.map(|cell| Measured { opened: cell.opened, gone: cell.closed + cell.ended, found: 0 })
    }

    /// Encloses the bases by what was found between the figures at the beginning and those of now.
    pub(super) fn end_measurement(&mut self, began: &Measurement) {
        for (cell, began) in self.cells.iter_mut().zip(began) {
            let found = began.found as i64;
            cell.base.enclose(
                found - cell.opened as i64 + began.gone as i64,
                found - began.opened as i64 + (cell.closed + cell.ended) as i64,
            );
        }
    }

    /// The figures, with ages by the pairs of the live slots, newest first.
    pub(super) fn count(&self, endpoint: EndpointId, pairs: impl Iterator<Item = u8>) -> Count {
        let size = |open: i64| u32::try_from(open.max(0)).unwrap_or(u32::MAX);
        let mut count = Count {
            open: size(self.cells.iter().map(Cell::open).sum()),
            opened: self.cells.iter().map(|cell| cell.opened).sum(),
            refused: self.refused.total,
            unanswered: self.unanswered,
            ..Count::none(endpoint)
        };
        for (place, pair) in pairs.take(AGE_SLOTS).enumerate() {
            let cell = &self.cells[usize::from(pair)];
            count.opened_by_age[place] = u32::try_from(cell.opened).unwrap_or(u32::MAX);
            count.open_by_age[place] = size(cell.open());
        }
        count
    }
}
