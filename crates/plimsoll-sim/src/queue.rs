//! What is still to happen, soonest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use plimsoll_core::time::Timestamp;

/// What is still to happen, soonest first; of what happens at the same time, the lower `what` first. Time and `what`
/// are one number, so that a comparison is one instruction or two.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<u128>>,
}

impl Queue {
    /// Adds what is to happen at a time.
    pub fn add(&mut self, at: Timestamp, what: u64) {
        self.heap.push(Reverse((u128::from(at.as_nanos()) << 64) | u128::from(what)));
    }

    /// When the next happens; never, when there is none.
    pub fn next_at(&self) -> Timestamp {
        self.heap.peek().map_or(Timestamp::NEVER, |Reverse(entry)| time(*entry))
    }

    /// Takes the next.
    pub fn take(&mut self) -> Option<(Timestamp, u64)> {
        let Reverse(entry) = self.heap.pop()?;
        Some((time(entry), entry as u64))
    }
}

const fn time(entry: u128) -> Timestamp {
    Timestamp::from_nanos((entry >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soonest_first_and_then_by_what() {
        const NEVER: u64 = Timestamp::NEVER.as_nanos();
        let mut queue = Queue::default();
        assert_eq!((queue.next_at(), queue.take()), (Timestamp::NEVER, None));
        for (at, what) in [(5, 1), (3, u64::MAX), (5, 0), (3, 7), (NEVER, 2)] {
            queue.add(Timestamp::from_nanos(at), what);
        }
        assert_eq!(queue.next_at(), Timestamp::from_nanos(3));
        let taken: Vec<_> =
            std::iter::from_fn(|| queue.take()).map(|(at, what)| (at.as_nanos(), what)).collect();
        assert_eq!(taken, [(3, 7), (3, u64::MAX), (5, 0), (5, 1), (NEVER, 2)]);
    }
}
