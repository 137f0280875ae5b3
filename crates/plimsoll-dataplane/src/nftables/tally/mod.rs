//! From counting sets, ends of connections and dumps to exact counts.
//!
//! The sets count what opens and closes by packets; DESTROY events tell of what ends without; a dump of conntrack
//! measures what both missed: connections from before (at the start, or when an endpoint joins), and ends whose
//! events were lost. After a measurement the sum is exact again, per age slot too ([`account`] says how that can be
//! while connections come and go).
//!
//! Marks outlive the table. So before a table is loaded, [`prepare`] makes all marked connections old; when
//! slot numbers come round again, those that still bear them are made old first; and what an endpoint had open when
//! it joined is marked as opened and old, so that its end is counted.

mod account;
mod measure;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use plimsoll_core::load::{AGE_SLOTS, Count, Counts};
use plimsoll_core::plan::Plan;
use plimsoll_core::service::{EndpointId, Protocol};
use plimsoll_core::time::Timestamp;

use self::account::{Account, OLD_CELL};
use self::measure::Suspects;
use super::counting::{Counter, Rotation, Slot};
use super::mark::{MarkBits, NUMBERS, OLD};
use crate::conntrack::{Conntrack, Ended, Entry, Filter, Marking, TcpState};
use crate::{Error, netlink};

/// What the tally needs of the kernel; the tests have one without a kernel.
pub(crate) trait Kernel {
    /// Our bits of the mark.
    fn mark_bits(&self) -> MarkBits;
    /// The slot in which connections open now.
    fn slot(&self) -> Slot;
    /// Begins a new slot.
    fn rotate(&mut self) -> Result<Rotation, Error>;
    /// Sets the counters of a retired pair to zero.
    fn clean(&mut self, pair: u8) -> Result<(), Error>;
    /// Reads a counter of all endpoints that have one.
    fn read_counter(&mut self, counter: Counter, into: &mut Vec<(EndpointId, u64)>) -> Result<(), Error>;
    /// The connections that ended since the last call.
    fn ended(&mut self) -> Result<Ended, Error>;
    /// Shows the connections that match, and sets the bits of their marks that `each` asks for, a little later.
    fn mark(&mut self, filter: &Filter, each: &mut dyn FnMut(&Entry) -> Option<Marking>)
    -> Result<(), Error>;
}

/// Which ends matter to the tally: of connections that no packet closed, and of those never answered.
pub(crate) fn matters(bits: MarkBits) -> impl Fn(&Entry) -> bool + Send + 'static {
    move |entry| was_open(bits, entry) || was_unanswered(entry)
}

fn was_open(bits: MarkBits, entry: &Entry) -> bool {
    entry.mark & (bits.opened | bits.closed) == bits.opened
}

/// UDP has no answer where nobody expects one, so there silence is no failure. A TCP connection that was refused
/// ends without an answer too, as conntrack sees it, but closed.
fn was_unanswered(entry: &Entry) -> bool {
    let expected = match Protocol::from_number(entry.protocol) {
        Some(Protocol::Tcp) => entry.tcp != Some(TcpState::Closing),
        Some(Protocol::Sctp) => true,
        _ => false,
    };
    expected && !entry.is_answered()
}

/// Numbers of slots return in thirds: those of the third before the last are made old this long after.
const THIRD: u8 = NUMBERS / 3;
/// The shortest and the longest time between measurements that did not settle everything.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(2));
/// Endpoints come and go all the time in a large cluster, and what was sent to a new one before it was known is little:
/// their measurements wait for each other.
const PATIENCE_FOR_SENT: Duration = Duration::from_secs(10);
/// When connections without an age are looked at for the first time; then twice as long after, and so on, up to the
/// longest wait. It never ends: what connections from before end in silence is found by nothing else, and when both
/// sides' FINs pass at the same instant on two CPUs, a close is counted twice, for marks are not changed atomically.
const FIRST_SWEEP: Duration = Duration::from_mins(1);
const LONGEST_SWEEP: Duration = Duration::from_mins(15);

/// The accounts of one side: of endpoints hosted here, or of connections sent from here.
#[derive(Debug, Default)]
struct Side {
    members: BTreeSet<EndpointId>,
    accounts: BTreeMap<EndpointId, Account>,
    /// Members that may have connections from before they joined.
    joined: BTreeSet<EndpointId>,
    /// Those whose connections are marked, and still to be measured.
    adopted: BTreeSet<EndpointId>,
}

impl Side {
    fn join(&mut self, endpoints: &BTreeSet<EndpointId>) {
        for endpoint in endpoints {
            if self.members.insert(*endpoint) {
                self.joined.insert(*endpoint);
            }
        }
    }

    fn leave(&mut self, endpoints: &BTreeSet<EndpointId>) {
        for endpoint in endpoints {
            self.members.remove(endpoint);
            self.accounts.remove(endpoint);
            self.joined.remove(endpoint);
            self.adopted.remove(endpoint);
        }
    }

    /// The account of a member; most endpoints never need one.
    fn account(&mut self, endpoint: EndpointId) -> Option<&mut Account> {
        let measured = !self.joined.contains(&endpoint) && !self.adopted.contains(&endpoint);
        let member = self.members.contains(&endpoint);
        member.then(|| self.accounts.entry(endpoint).or_insert_with(|| Account::new(measured)))
    }

    fn each(&mut self, values: &[(EndpointId, u64)], mut take: impl FnMut(&mut Account, u64)) {
        for (endpoint, value) in values {
            if let Some(account) = self.account(*endpoint) {
                take(account, *value);
            }
        }
    }

    fn counts(&self, slots: &VecDeque<Live>) -> impl Iterator<Item = Count> {
        self.accounts.iter().map(|(id, account)| account.count(*id, slots.iter().map(|live| live.slot.pair)))
    }
}

/// A slot whose connections are counted by age.
#[derive(Clone, Copy, Debug)]
struct Live {
    slot: Slot,
    began: Timestamp,
    /// Connections may have opened in it since the last reading.
    opening: bool,
    /// None opened in it: none can close.
    empty: bool,
}

impl Live {
    fn new(slot: Slot, began: Timestamp) -> Live {
        Live { slot, began, opening: true, empty: false }
    }
}

/// A measurement to be made.
#[derive(Clone, Copy, Debug)]
struct Planned {
    /// When. All its dumps are due from then on, so that the first counts wait for all of them.
    at: Timestamp,
    /// How long to wait before the next one if this one does not settle everything.
    patience: Duration,
    /// Dumps so far.
    dumps: usize,
}

/// Makes [`Counts`] of what the kernel says.
#[derive(Debug)]
pub(crate) struct Tally {
    slot_length: Duration,
    hosted: Side,
    sent: Side,
    /// Newest first.
    slots: VecDeque<Live>,
    /// Not live any more, but not read for the last time.
    retired: Option<u8>,
    measure: Option<Planned>,
    /// Since when the numbers of a third of the slots wait to be made old, and of which.
    aging: Option<(Timestamp, u8)>,
    sweep: Option<(Timestamp, Duration)>,
    /// When the last measurement was.
    measured: Timestamp,
    /// Open by their mark, but not by their state, when they were last looked at.
    suspects: Suspects,
    /// How often ends were lost.
    losses: u64,
}

impl Tally {
    /// An empty one; a slot lasts at least `slot_length`.
    pub(crate) fn new(slot_length: Duration) -> Tally {
        Tally {
            slot_length,
            hosted: Side::default(),
            sent: Side::default(),
            slots: VecDeque::new(),
            retired: None,
            measure: None,
            aging: None,
            sweep: None,
            measured: Timestamp::ZERO,
            suspects: Suspects::default(),
            losses: 0,
        }
    }

    /// Takes over who is to be counted, once the kernel has the plan.
    pub(crate) fn apply(&mut self, plan: &Plan, now: Timestamp) {
        for (side, came, went) in
            [(&mut self.hosted, &plan.host, &plan.unhost), (&mut self.sent, &plan.know, &plan.forget)]
        {
            if plan.fresh {
                let gone = side.members.difference(came).copied().collect();
                side.leave(&gone);
            }
            side.leave(went);
            side.join(came);
        }
        self.measure_joined(now);
    }

    /// Takes note that the table was made anew, with all counters at zero. What was counted before stays counted.
    pub(crate) fn begin_again(&mut self, now: Timestamp) {
        for side in [&mut self.hosted, &mut self.sent] {
            side.accounts.values_mut().for_each(Account::begin_again);
            // Of what opened while there was no table nothing is known.
            side.joined.clone_from(&side.members);
            side.adopted.clear();
        }
        self.slots.clear();
        self.retired = None;
        self.aging = None;
        self.sweep = Some((now + FIRST_SWEEP, FIRST_SWEEP));
        self.measure_at(now);
    }

    /// What is counted now. Ends the current slot if that is due, and does a step of what is due, with one dump at
    /// most: then what the reading itself found missing is made good in it, most of the time.
    pub(crate) fn read(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<Counts, Error> {
        self.begin_counting(kernel, now);
        self.finish_retired(kernel)?;
        self.read_kernel(kernel, now)?;
        if let Some((at, wait)) = self.sweep
            && at <= now
        {
            let wait = (wait * 2).min(LONGEST_SWEEP);
            self.sweep = Some((now + wait, wait));
            self.hosted
                .accounts
                .values_mut()
                .chain(self.sent.accounts.values_mut())
                .for_each(Account::doubt_old);
            self.measure_at(now);
        }
        self.step(kernel, now)?;
        if now.since(self.slots[0].began) >= self.slot_length {
            self.rotate(kernel, now)?;
        }
        Ok(self.counts(now))
    }

    /// When there is a step to do besides readings.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let (measure, aging) = (self.measure.map(|planned| planned.at), self.aging.map(|(at, _)| at));
        measure.into_iter().chain(aging).min()
    }

    /// Does the next step that is due, if one is: one dump at most.
    pub(crate) fn step(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<(), Error> {
        self.begin_counting(kernel, now);
        if let Some(planned) = self.measure
            && planned.at <= now
        {
            return self.step_of_measurement(kernel, planned, now);
        }
        match self.aging.take() {
            Some((_, third)) => make_old(kernel, third),
            None => Ok(()),
        }
    }

    fn begin_counting(&mut self, kernel: &impl Kernel, now: Timestamp) {
        if self.slots.is_empty() {
            self.slots.push_front(Live::new(kernel.slot(), now));
        }
    }

    /// How often ends were lost.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    fn measure_at(&mut self, at: Timestamp) {
        if self.measure.is_none_or(|planned| planned.at > at) {
            self.measure = Some(Planned { at, patience: PATIENCE.0, dumps: 0 });
        }
    }

    fn measure_joined(&mut self, now: Timestamp) {
        if !self.hosted.joined.is_empty() {
            self.measure_at(now);
        } else if !self.sent.joined.is_empty() {
            self.measure_at(now.max(self.measured + PATIENCE_FOR_SENT));
        }
    }

    fn counts(&self, now: Timestamp) -> Counts {
        let mut slots = [f32::INFINITY; AGE_SLOTS];
        for (age, live) in slots.iter_mut().zip(&self.slots) {
            *age = now.seconds_since(live.began) as f32;
        }
        let silent = |count: &Count| {
            count.open == 0 && count.opened == 0 && count.refused == 0 && count.unanswered == 0
        };
        // A hosted endpoint without connections is in the counts: that it is idle is what matters.
        let mut hosted: Vec<Count> = self.hosted.members.iter().map(|id| Count::none(*id)).collect();
        for count in self.hosted.counts(&self.slots) {
            if let Ok(place) = hosted.binary_search_by_key(&count.endpoint, |count| count.endpoint) {
                hosted[place] = count;
            }
        }
        let sent = self.sent.counts(&self.slots).filter(|count| !silent(count)).collect();
        Counts { slots, hosted, sent }
    }

    /// Reads the pair that retired at an earlier reading, when nothing can count there any more, and frees it.
    fn finish_retired(&mut self, kernel: &mut impl Kernel) -> Result<(), Error> {
        let Some(pair) = self.retired else { return Ok(()) };
        // What opened there is known since the slot ended. It is not to be read again: of a member that left and came
        // back it would count what is in its base.
        self.read_closed(kernel, pair)?;
        kernel.clean(pair)?;
        for account in self.hosted.accounts.values_mut().chain(self.sent.accounts.values_mut()) {
            account.retire(pair);
        }
        self.retired = None;
        Ok(())
    }

    fn rotate(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<(), Error> {
        let rotation = kernel.rotate()?;
        self.slots.push_front(Live::new(rotation.began, now));
        if let Some(retired) = rotation.retired {
            self.slots.retain(|live| live.slot != retired);
            self.retired = Some(retired.pair);
        }
        // All live numbers are now of this third, so the one before can be made old, and its numbers used again.
        if rotation.began.number % THIRD == AGE_SLOTS as u8 {
            self.aging = Some((now, (rotation.began.number / THIRD + 2) % 3));
        }
        Ok(())
    }

    /// Takes what ended, then reads every counter that can have changed. In this order an end that is known was
    /// opened in what is read.
    fn read_kernel(&mut self, kernel: &mut impl Kernel, now: Timestamp) -> Result<(), Error> {
        let lost = self.take_ended(kernel)?;
        let mut values = Vec::new();
        kernel.read_counter(Counter::HostedClosedOld, &mut values)?;
        self.hosted.each(&values, Account::closed_old);
        kernel.read_counter(Counter::SentClosedOld, &mut values)?;
        self.sent.each(&values, Account::closed_old);
        kernel.read_counter(Counter::Refused, &mut values)?;
        self.hosted.each(&values, Account::refused);
        kernel.read_counter(Counter::SentRefused, &mut values)?;
        self.sent.each(&values, Account::refused);
        for place in 0..self.slots.len() {
            let Live { slot, opening, empty, .. } = self.slots[place];
            if opening {
                self.slots[place].empty = self.read_pair(kernel, slot.pair)?;
                self.slots[place].opening = place == 0;
            } else if !empty {
                self.read_closed(kernel, slot.pair)?;
            }
        }
        if lost {
            // Only now does each endpoint have an account at which something can have ended.
            self.losses += 1;
            self.hosted.accounts.values_mut().chain(self.sent.accounts.values_mut()).for_each(Account::lost);
            self.measure_at(now);
        }
        let overdrawn = |side: &Side| side.accounts.values().any(Account::is_overdrawn);
        if self.measure.is_none() && (overdrawn(&self.hosted) || overdrawn(&self.sent)) {
            // Seen once it may be a close that was read before its open; measured, it is repaired or nothing.
            self.measure_at(now + PATIENCE.0);
        }
        Ok(())
    }

    fn read_closed(&mut self, kernel: &mut impl Kernel, pair: u8) -> Result<(), Error> {
        let mut values = Vec::new();
        kernel.read_counter(Counter::HostedClosed(pair), &mut values)?;
        self.hosted.each(&values, |account, value| account.closed(pair, value));
        kernel.read_counter(Counter::SentClosed(pair), &mut values)?;
        self.sent.each(&values, |account, value| account.closed(pair, value));
        Ok(())
    }

    /// Reads what closed, then what opened. Whether nothing did, on either side: they share the marks.
    fn read_pair(&mut self, kernel: &mut impl Kernel, pair: u8) -> Result<bool, Error> {
        self.read_closed(kernel, pair)?;
        let mut values = Vec::new();
        kernel.read_counter(Counter::HostedOpened(pair), &mut values)?;
        let none_hosted = values.is_empty();
        self.hosted.each(&values, |account, value| account.opened(pair, value));
        kernel.read_counter(Counter::SentOpened(pair), &mut values)?;
        self.sent.each(&values, |account, value| account.opened(pair, value));
        Ok(none_hosted && values.is_empty())
    }

    /// Whether some that ended are not known.
    fn take_ended(&mut self, kernel: &mut impl Kernel) -> Result<bool, Error> {
        let bits = kernel.mark_bits();
        let ended = kernel.ended()?;
        for entry in &ended.entries {
            let cell = self.cell_of(bits, entry.mark);
            self.sides_of(entry, |account| {
                if was_open(bits, entry) {
                    account.ended(cell);
                } else if was_unanswered(entry) {
                    account.unanswered += 1;
                }
            });
        }
        Ok(ended.lost)
    }

    fn cell_of(&self, bits: MarkBits, mark: u32) -> usize {
        let number = bits.slot_of(mark);
        let live = self.slots.iter().find(|live| live.slot.number == number);
        live.map_or(OLD_CELL, |live| usize::from(live.slot.pair))
    }

    fn sides_of(&mut self, entry: &Entry, mut each: impl FnMut(&mut Account)) {
        let Some(endpoint) = entry.endpoint() else { return };
        if let Some(account) = self.hosted.account(endpoint) {
            each(account);
        }
        if entry.is_translated()
            && let Some(account) = self.sent.account(endpoint)
        {
            each(account);
        }
    }
}

/// Makes all connections old that earlier tables marked. To be called right before a table is loaded, whose counters
/// begin at zero.
pub(crate) fn prepare(bits: MarkBits, conntrack: &mut Conntrack) -> Result<(), netlink::Error> {
    let filter = Filter { mark: Some((bits.opened, bits.opened | bits.closed)), ..Filter::default() };
    conntrack.mark(&filter, |entry| leftover(bits, entry))
}

/// What to change in the mark of a connection that an earlier table counted as open.
fn leftover(bits: MarkBits, entry: &Entry) -> Option<Marking> {
    let flow = entry.flow();
    if entry.tcp == Some(TcpState::Closing) {
        // Its end came while nobody counted.
        return Some(Marking { flow, mask: bits.closed, bits: bits.closed });
    }
    let aged = bits.slot_of(entry.mark) != OLD;
    aged.then(|| Marking { flow, mask: bits.slot, bits: bits.with_slot(OLD) })
}

/// Makes the connections old whose slot number is of a third that will be used again.
fn make_old(kernel: &mut impl Kernel, third: u8) -> Result<(), Error> {
    let bits = kernel.mark_bits();
    // Thirds differ in the two highest bits; the fourth pattern is that of OLD, so what is old is never shown.
    let pattern = bits.with_slot(third * THIRD);
    let mask = bits.opened | bits.closed | bits.with_slot(0b1100_0000);
    let filter = Filter { mark: Some((bits.opened | pattern, mask)), ..Filter::default() };
    kernel.mark(&filter, &mut |entry| {
        Some(Marking { flow: entry.flow(), mask: bits.slot, bits: bits.with_slot(OLD) })
    })
}
