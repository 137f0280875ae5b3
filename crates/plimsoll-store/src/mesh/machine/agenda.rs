//! What is to be done when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;

use crate::mesh::membership::Identity;

/// Something to be done.
#[derive(Debug)]
pub(super) enum Due {
    /// One of foca's timers.
    Foca(foca::Timer<Identity>),
    /// Look after peers that are not there.
    Greet,
    /// Come back after having been declared dead.
    Rejoin,
    /// Hand out what arrived of this report of this node.
    HandOut(NodeName, u64),
    /// Forget quiet sessions.
    Sweep,
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    /// Entries of the same time are done in the order they were added.
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// All that is to be done.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Timestamp, due: Due) {
        self.order += 1;
        self.entries.push(Reverse(Entry { at, order: self.order, due }));
    }

    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Due> {
        if self.next() > now {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| entry.due)
    }

    pub(super) fn next(&self) -> Timestamp {
        self.entries.peek().map_or(Timestamp::NEVER, |Reverse(entry)| entry.at)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
