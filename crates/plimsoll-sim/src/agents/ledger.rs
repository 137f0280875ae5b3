//! What a node's dataplane counts: open and opened connections, by endpoint and age slot, as the kernel does it.

use std::time::Duration;

use plimsoll_core::load::{AGE_SLOTS, Count, Counts};
use plimsoll_core::service::EndpointId;
use plimsoll_core::time::Timestamp;

/// Age slots per horizon, as the agents have it.
const SLOTS_PER_HORIZON: u32 = 4;

/// The number of the age slot in which a connection was opened; 0 if nobody counted then.
pub(crate) type Slot = u32;

/// One side of the counting: the connections of hosted endpoints, or those sent from here.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// By endpoint index; `None`: not counted.
    tallies: Vec<Option<Box<Tally>>>,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    open: u32,
    opened: u64,
    refused: u64,
    /// Where slot `s` is at `s % AGE_SLOTS`.
    opened_in: [u32; AGE_SLOTS],
    open_in: [u32; AGE_SLOTS],
}

impl Side {
    /// Counts an endpoint from now on. `open` connections are there already.
    pub(crate) fn join(&mut self, endpoint: usize, open: u32) {
        if self.tallies.len() <= endpoint {
            self.tallies.resize(endpoint + 1, None);
        }
        self.tallies[endpoint] = Some(Box::new(Tally { open, ..Tally::default() }));
    }

    /// Counts it no more.
    pub(crate) fn leave(&mut self, endpoint: usize) {
        if let Some(tally) = self.tallies.get_mut(endpoint) {
            *tally = None;
        }
    }

    fn tally(&mut self, endpoint: usize) -> Option<&mut Tally> {
        self.tallies.get_mut(endpoint)?.as_deref_mut()
    }

    pub(crate) fn open(&mut self, endpoint: usize, slot: Slot) {
        if let Some(tally) = self.tally(endpoint) {
            tally.open += 1;
            tally.opened += 1;
            tally.opened_in[slot as usize % AGE_SLOTS] += 1;
            tally.open_in[slot as usize % AGE_SLOTS] += 1;
        }
    }

    /// `current` is the newest slot.
    pub(crate) fn close(&mut self, endpoint: usize, slot: Slot, current: Slot) {
        if let Some(tally) = self.tally(endpoint) {
            // Opened before it was counted, and joined since: not in the count.
            tally.open = tally.open.saturating_sub(1);
            if slot > 0 && slot + AGE_SLOTS as u32 > current {
                let open = &mut tally.open_in[slot as usize % AGE_SLOTS];
                *open = open.saturating_sub(1);
            }
        }
    }

    pub(crate) fn refuse(&mut self, endpoint: usize) {
        if let Some(tally) = self.tally(endpoint) {
            tally.refused += 1;
        }
    }

    fn begin_slot(&mut self, slot: Slot) {
        for tally in self.tallies.iter_mut().flatten() {
            tally.opened_in[slot as usize % AGE_SLOTS] = 0;
            tally.open_in[slot as usize % AGE_SLOTS] = 0;
        }
    }

    fn counts(&self, current: Slot, id: impl Fn(usize) -> EndpointId) -> Vec<Count> {
        let counted = self
            .tallies
            .iter()
            .enumerate()
            .filter_map(|(endpoint, tally)| Some((endpoint, tally.as_deref()?)));
        let count = |(endpoint, tally): (usize, &Tally)| {
            let mut count = Count {
                open: tally.open,
                opened: tally.opened,
                refused: tally.refused,
                ..Count::none(id(endpoint))
            };
            for age in 0..AGE_SLOTS.min(current as usize) {
                let place = (current as usize - age) % AGE_SLOTS;
                count.opened_by_age[age] = tally.opened_in[place];
                count.open_by_age[age] = tally.open_in[place];
            }
            count
        };
        counted.map(count).collect()
    }
}

/// What a node's dataplane counts.
#[derive(Debug)]
pub(crate) struct Ledger {
    slot_length: Duration,
    /// The newest slot; the first is 1.
    pub(crate) current: Slot,
    /// When the live slots began, at `slot % AGE_SLOTS`.
    began: [Timestamp; AGE_SLOTS],
    pub(crate) hosted: Side,
    pub(crate) sent: Side,
}

impl Ledger {
    pub(crate) fn new(horizon: Duration) -> Ledger {
        Ledger {
            slot_length: horizon / SLOTS_PER_HORIZON,
            current: 1,
            began: [Timestamp::ZERO; AGE_SLOTS],
            hosted: Side::default(),
            sent: Side::default(),
        }
    }

    /// What is counted now. A slot that lasted long enough ends.
    pub(crate) fn read(&mut self, now: Timestamp, id: impl Fn(usize) -> EndpointId) -> Counts {
        if now.since(self.began[self.current as usize % AGE_SLOTS]) >= self.slot_length {
            self.current += 1;
            self.began[self.current as usize % AGE_SLOTS] = now;
            self.hosted.begin_slot(self.current);
            self.sent.begin_slot(self.current);
        }
        let mut slots = [f32::INFINITY; AGE_SLOTS];
        for (age, slot) in slots.iter_mut().enumerate().take(self.current as usize) {
            *slot = now.seconds_since(self.began[(self.current as usize - age) % AGE_SLOTS]) as f32;
        }
        let mut sent = self.sent.counts(self.current, &id);
        // As the dataplane: what this node never sent to is left out, what it hosts never is.
        sent.retain(|count| count.open > 0 || count.opened > 0 || count.refused > 0);
        Counts { slots, hosted: self.hosted.counts(self.current, &id), sent }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::service::Protocol;

    use super::*;

    #[test]
    fn connections_are_told_apart_by_age() {
        let id = |endpoint: usize| EndpointId {
            address: [10, 0, 0, endpoint as u8].into(),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let at = Timestamp::from_nanos;
        let mut ledger = Ledger::new(Duration::from_nanos(40));
        ledger.hosted.join(1, 3);
        ledger.hosted.open(1, ledger.current);
        let first = ledger.current;
        ledger.read(at(10), id);
        let second = ledger.current;
        assert_eq!((first, second), (1, 2));
        ledger.hosted.open(1, second);
        ledger.hosted.open(1, second);
        ledger.hosted.open(9, second);
        ledger.hosted.close(1, second, ledger.current);
        ledger.hosted.close(1, 0, ledger.current);
        ledger.hosted.refuse(1);
        let counts = ledger.read(at(15), id);
        assert!(counts.sent.is_empty());
        let [count] = &counts.hosted[..] else { panic!("{counts:?}") };
        assert_eq!((count.open, count.opened, count.refused), (4, 3, 1));
        assert_eq!(
            (count.open_by_age[..3].to_vec(), count.opened_by_age[..3].to_vec()),
            (vec![1, 1, 0], vec![2, 1, 0])
        );
        assert!((counts.slots[0] - 5e-9).abs() < 1e-12 && (counts.slots[1] - 15e-9).abs() < 1e-12);
        assert_eq!(counts.slots[2], f32::INFINITY);
        // Slots that are not live any more are counted together with what has no age.
        for turn in 2..40 {
            ledger.read(at(10 * turn), id);
        }
        ledger.hosted.close(1, first, ledger.current);
        let counts = ledger.read(at(400), id);
        assert_eq!((counts.hosted[0].open, counts.hosted[0].open_by_age.iter().sum::<u32>()), (3, 0));
    }
}
