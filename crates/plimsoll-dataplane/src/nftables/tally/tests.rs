//! The tally against a kernel of a few lines in which connections come and go while it reads and dumps.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::nftables::PAIRS;

#[derive(Clone, Copy, Debug)]
enum Act {
    Open {
        endpoint: u8,
        translated: bool,
    },
    /// By a packet.
    Close(usize),
    /// In silence.
    Vanish(usize),
    Nothing,
}

#[derive(Clone, Debug)]
enum Step {
    /// Happens between two readings.
    Act(Act),
    /// A reading after so many milliseconds, and what happens during it.
    Read(u64, Vec<Act>),
    Leave(u8),
    Join(u8),
    /// The process ends; things happen; another one begins.
    Restart(Vec<Act>),
    /// Events stay unread until they are too many.
    Deaf,
}

struct Fake {
    bits: MarkBits,
    turn: u64,
    entries: BTreeMap<u16, (Entry, u64)>,
    next: u16,
    members: BTreeSet<EndpointId>,
    counters: BTreeMap<Counter, BTreeMap<EndpointId, u64>>,
    counting: bool,
    ended: Ended,
    deaf: bool,
    /// How often all connections were looked through.
    dumps: usize,
    /// The counters that were read.
    read: Vec<Counter>,
    /// What happens meanwhile: one act before each answer and each shown entry.
    meanwhile: Vec<Act>,
}

fn endpoint(number: u8) -> EndpointId {
    EndpointId { address: [10, 1, 0, number].into(), port: 8080, protocol: Protocol::Tcp }
}

impl Fake {
    fn slot_of(turn: u64) -> Slot {
        Slot { number: (turn % u64::from(NUMBERS)) as u8, pair: (turn % PAIRS as u64) as u8 }
    }

    fn count(&mut self, counter: Counter, endpoint: EndpointId) {
        if self.members.contains(&endpoint) && self.counting {
            *self.counters.entry(counter).or_default().entry(endpoint).or_default() += 1;
        }
    }

    fn act(&mut self, act: Act) {
        let pick = |n: usize, entries: &BTreeMap<u16, (Entry, u64)>| {
            let open: Vec<u16> = entries
                .iter()
                .filter(|(_, (entry, _))| entry.tcp == Some(TcpState::Established))
                .map(|(id, _)| *id)
                .collect();
            (!open.is_empty()).then(|| open[n % open.len()])
        };
        let slot = Fake::slot_of(self.turn);
        match act {
            Act::Nothing => {}
            Act::Open { endpoint: number, translated } => {
                let id = endpoint(number);
                self.next += 1;
                let mut entry = Entry::sample(SocketAddr::from(([10, 9, 9, 9], self.next)), id, translated);
                if self.counting && self.members.contains(&id) {
                    entry.mark = self.bits.opened | self.bits.seen | self.bits.with_slot(slot.number);
                    self.count(Counter::HostedOpened(slot.pair), id);
                    if translated {
                        self.count(Counter::SentOpened(slot.pair), id);
                    }
                }
                self.entries.insert(self.next, (entry, self.turn));
            }
            Act::Close(n) => {
                let Some(id) = pick(n, &self.entries) else { return };
                let (mut entry, turn) = self.entries[&id];
                entry.tcp = Some(TcpState::Closing);
                let of_mark = entry.mark & (self.bits.opened | self.bits.closed);
                if self.counting && of_mark == self.bits.opened {
                    entry.mark |= self.bits.closed;
                    let number = self.bits.slot_of(entry.mark);
                    let live = (self.turn.saturating_sub(AGE_SLOTS as u64 - 1)..=self.turn)
                        .map(Fake::slot_of)
                        .find(|slot| slot.number == number);
                    let endpoint = entry.endpoint().unwrap();
                    let (hosted, sent) = match live {
                        Some(Slot { pair, .. }) => (Counter::HostedClosed(pair), Counter::SentClosed(pair)),
                        None => (Counter::HostedClosedOld, Counter::SentClosedOld),
                    };
                    self.count(hosted, endpoint);
                    if entry.is_translated() {
                        self.count(sent, endpoint);
                    }
                }
                self.entries.insert(id, (entry, turn));
            }
            Act::Vanish(n) => {
                let Some(id) = pick(n, &self.entries) else { return };
                let (entry, _) = self.entries.remove(&id).unwrap();
                if self.deaf {
                    self.ended.lost = true;
                } else if matters(self.bits)(&entry) {
                    self.ended.entries.push(entry);
                }
            }
        }
    }

    fn set_marks(&mut self, waiting: &mut Vec<Marking>) {
        for marking in waiting.drain(..) {
            self.meanwhile();
            // Each client has one connection.
            let client = marking.flow.original.source.port();
            if let Some((entry, _)) = self.entries.get_mut(&client) {
                entry.mark = entry.mark & !marking.mask | marking.bits;
            }
        }
    }

    fn meanwhile(&mut self) {
        if let Some(act) = self.meanwhile.pop() {
            self.act(act);
        }
    }
}

impl Kernel for Fake {
    fn mark_bits(&self) -> MarkBits {
        self.bits
    }

    fn slot(&self) -> Slot {
        Fake::slot_of(self.turn)
    }

    fn rotate(&mut self) -> Result<Rotation, Error> {
        self.turn += 1;
        let retired = self.turn.checked_sub(AGE_SLOTS as u64).map(Fake::slot_of);
        Ok(Rotation { began: self.slot(), retired })
    }

    fn clean(&mut self, pair: u8) -> Result<(), Error> {
        let of_pair = [
            Counter::HostedOpened(pair),
            Counter::HostedClosed(pair),
            Counter::SentOpened(pair),
            Counter::SentClosed(pair),
        ];
        for counter in of_pair {
            self.counters.remove(&counter);
        }
        Ok(())
    }

    fn read_counter(&mut self, counter: Counter, into: &mut Vec<(EndpointId, u64)>) -> Result<(), Error> {
        self.meanwhile();
        self.read.push(counter);
        into.clear();
        into.extend(self.counters.get(&counter).into_iter().flatten().map(|(id, count)| (*id, *count)));
        Ok(())
    }

    fn ended(&mut self) -> Result<Ended, Error> {
        self.meanwhile();
        self.deaf = false;
        Ok(std::mem::take(&mut self.ended))
    }

    fn mark(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(&Entry) -> Option<Marking>,
    ) -> Result<(), Error> {
        self.dumps += 1;
        let mut waiting = Vec::new();
        let mut at = 0;
        while let Some((id, (entry, _))) = self.entries.range(at..).next() {
            at = id + 1;
            if filter.matches(entry) {
                waiting.extend(each(entry));
            }
            self.meanwhile();
            if waiting.len() == 3 {
                self.set_marks(&mut waiting);
            }
        }
        self.set_marks(&mut waiting);
        Ok(())
    }
}

struct Play {
    fake: Fake,
    tally: Tally,
    now: Timestamp,
}

impl Play {
    fn new() -> Play {
        let fake = Fake {
            bits: MarkBits::new(0x0ff7_0000).unwrap(),
            turn: 0,
            entries: BTreeMap::new(),
            next: 0,
            members: BTreeSet::new(),
            counters: BTreeMap::new(),
            counting: false,
            ended: Ended::default(),
            deaf: false,
            dumps: 0,
            read: Vec::new(),
            meanwhile: Vec::new(),
        };
        let mut play = Play { fake, tally: Tally::new(Duration::from_millis(250)), now: Timestamp::ZERO };
        play.start();
        play
    }

    fn start(&mut self) {
        let bits = self.fake.bits;
        let filter = Filter { mark: Some((bits.opened, bits.opened | bits.closed)), ..Filter::default() };
        self.fake.mark(&filter, &mut |entry| leftover(bits, entry)).unwrap();
        self.fake.turn = 0;
        self.fake.counters.clear();
        self.fake.counting = true;
        self.fake.ended = Ended::default();
        self.fake.entries.values_mut().for_each(|(_, turn)| *turn = u64::MAX);
        self.tally = Tally::new(Duration::from_millis(250));
        self.tally.begin_again(self.now);
        let all: BTreeSet<_> = (0..4).map(endpoint).collect();
        self.fake.members.clone_from(&all);
        self.tally.apply(&Plan { fresh: true, host: all.clone(), know: all, ..Plan::default() }, self.now);
    }

    fn read(&mut self, after: u64, meanwhile: Vec<Act>) -> Counts {
        self.now = self.now + Duration::from_millis(after);
        self.fake.meanwhile = meanwhile;
        self.steps();
        let counts = self.bounded(Tally::read);
        while !self.fake.meanwhile.is_empty() {
            self.fake.meanwhile();
        }
        counts
    }

    /// Does what is due, as the agent does between readings.
    fn steps(&mut self) {
        while self.tally.due().is_some_and(|due| due <= self.now) {
            self.bounded(Tally::step);
        }
    }

    /// Whatever is asked of the tally, it looks through all connections once at most, so that nothing waits for longer
    /// than that, and remembers few of them.
    fn bounded<T>(&mut self, ask: impl FnOnce(&mut Tally, &mut Fake, Timestamp) -> Result<T, Error>) -> T {
        let before = self.fake.dumps;
        let answer = ask(&mut self.tally, &mut self.fake, self.now).unwrap();
        assert!(self.fake.dumps <= before + 1, "{} dumps at once", self.fake.dumps - before);
        assert!(self.tally.suspects.flows.len() <= measure::MOST_SUSPECTS);
        answer
    }

    fn step(&mut self, step: Step) {
        let only = |number: u8| BTreeSet::from([endpoint(number)]);
        match step {
            Step::Act(act) => self.fake.act(act),
            Step::Read(after, meanwhile) => drop(self.read(after, meanwhile)),
            Step::Leave(number) => {
                if self.fake.members.remove(&endpoint(number)) {
                    let lasting = [Counter::HostedClosedOld, Counter::SentClosedOld];
                    for counter in lasting {
                        self.fake.counters.entry(counter).or_default().remove(&endpoint(number));
                    }
                    let plan = Plan { unhost: only(number), forget: only(number), ..Plan::default() };
                    self.tally.apply(&plan, self.now);
                }
            }
            Step::Join(number) => {
                if self.fake.members.insert(endpoint(number)) {
                    // What this endpoint has from before bears no age any more, as far as it can be told.
                    let plan = Plan { host: only(number), know: only(number), ..Plan::default() };
                    self.tally.apply(&plan, self.now);
                }
            }
            Step::Restart(meanwhile) => {
                self.fake.counting = false;
                for act in meanwhile {
                    self.fake.act(act);
                }
                self.start();
            }
            Step::Deaf => self.fake.deaf = true,
        }
    }

    /// Once it is quiet, everything is exact.
    fn check(&mut self) {
        let mut counts = Counts::default();
        for _ in 0..24 {
            counts = self.read(20_000, Vec::new());
        }
        for id in self.fake.members.clone() {
            let open = |translated: bool| {
                let open = self.fake.entries.values().filter(|(entry, _)| {
                    entry.endpoint() == Some(id)
                        && entry.tcp == Some(TcpState::Established)
                        && (!translated || entry.is_translated())
                });
                open.count()
            };
            let of = |counts: &[Count]| {
                counts.iter().find(|count| count.endpoint == id).map_or(0, |count| count.open as usize)
            };
            assert_eq!(of(&counts.hosted), open(false), "hosted, {id}");
            assert_eq!(of(&counts.sent), open(true), "sent, {id}");
        }
    }

    /// The ages too, as soon as nothing is in doubt.
    fn check_ages(&mut self) {
        // So short that no slot ends.
        let mut counts = Counts::default();
        for _ in 0..3 {
            self.tally.measure_at(self.now);
            counts = self.read(0, Vec::new());
        }
        let turn = self.fake.turn;
        for count in &counts.hosted {
            for (age, open) in count.open_by_age.iter().enumerate() {
                let open_then = self.fake.entries.values().filter(|(entry, then)| {
                    entry.endpoint() == Some(count.endpoint)
                        && entry.tcp == Some(TcpState::Established)
                        && turn.checked_sub(age as u64) == Some(*then)
                });
                assert_eq!(*open as usize, open_then.count(), "{} of age {age}", count.endpoint);
            }
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..5u8, any::<bool>()).prop_map(|(endpoint, translated)| Act::Open { endpoint, translated }),
        2 => any::<usize>().prop_map(Act::Close),
        1 => any::<usize>().prop_map(Act::Vanish),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(act(), 0..20)
}

fn reading() -> impl Strategy<Value = Step> {
    (0..400u64, acts()).prop_map(|(after, meanwhile)| Step::Read(after, meanwhile))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_it_is_exact_when_it_is_quiet(
        steps in proptest::collection::vec(
            prop_oneof![
                6 => act().prop_map(Step::Act),
                6 => reading(),
                1 => (0..4u8).prop_map(Step::Leave),
                2 => (0..4u8).prop_map(Step::Join),
                1 => acts().prop_map(Step::Restart),
                1 => Just(Step::Deaf),
            ],
            0..80,
        )
    ) {
        let mut play = Play::new();
        for step in steps {
            play.step(step);
        }
        play.check();
    }

    #[test]
    fn ages_are_exact_after_losses(
        steps in proptest::collection::vec(
            prop_oneof![6 => act().prop_map(Step::Act), 6 => reading(), 1 => Just(Step::Deaf)],
            0..120,
        )
    ) {
        let mut play = Play::new();
        for step in steps {
            play.step(step);
        }
        play.check_ages();
        play.check();
    }
}

/// What the slots of a member counted before it left is in its base when it comes back, and not to be counted again.
#[test]
fn a_member_that_left_and_came_back_has_what_it_has() {
    let mut play = Play::new();
    for _ in 0..5 {
        play.fake.act(Act::Open { endpoint: 0, translated: true });
    }
    play.fake.act(Act::Close(0));
    for _ in 0..4 {
        play.read(300, Vec::new());
    }
    play.step(Step::Leave(0));
    play.step(Step::Join(0));
    // Every slot of before retires, and no sweep mends anything yet.
    for reading in 0..60 {
        let counts = play.read(300, Vec::new());
        if reading >= 4 {
            let open = |counts: &[Count]| counts.iter().find(|c| c.endpoint == endpoint(0)).unwrap().open;
            assert_eq!((open(&counts.hosted), open(&counts.sent)), (4, 4), "reading {reading}");
        }
    }
}

/// An end that passes after the look at a connection and before its mark is counted nowhere: only the state tells.
#[test]
fn an_end_while_connections_are_adopted_is_made_good_soon() {
    for (position, gap) in (0..40).flat_map(|position| (0..20).map(move |gap| (position, gap))) {
        let mut play = Play::new();
        play.fake.counting = false;
        for _ in 0..8 {
            play.fake.act(Act::Open { endpoint: 1, translated: true });
        }
        play.start();
        // Taken from the back: an end at some position, others at some distance, so that no dump is quiet.
        let mut meanwhile = Vec::new();
        for end in (0..6).rev() {
            meanwhile.push(Act::Close(end));
            meanwhile.resize(meanwhile.len() + if end == 0 { position } else { gap }, Act::Nothing);
        }
        play.read(200, meanwhile);
        // Before old connections are looked for in any case.
        let mut counts = Counts::default();
        for _ in 0..6 {
            counts = play.read(5_000, Vec::new());
        }
        let of = |counts: &[Count]| counts.iter().find(|c| c.endpoint == endpoint(1)).map(|c| c.open);
        assert_eq!(of(&counts.hosted), Some(2), "hosted, at {position}, {gap}");
        assert_eq!(of(&counts.sent), Some(2), "sent, at {position}, {gap}");
    }
}

#[test]
fn totals_never_fall() {
    let mut play = Play::new();
    let mut last = 0;
    for round in 0..200u8 {
        if round == 100 {
            play.tally.begin_again(play.now);
            play.fake.turn = 0;
            play.fake.counters.clear();
        }
        play.step(Step::Act(Act::Open { endpoint: 1, translated: true }));
        play.step(Step::Act(Act::Close(usize::from(round))));
        let counts = play.read(100, Vec::new());
        let opened = counts.hosted.iter().find(|count| count.endpoint == endpoint(1)).unwrap().opened;
        assert!(opened > last, "{opened} after {last} in round {round}");
        last = opened;
    }
    assert_eq!(last, 200);
}

#[test]
fn a_close_that_was_counted_twice_is_found_however_long_this_runs() {
    let mut play = Play::new();
    for _ in 0..5 {
        play.step(Step::Act(Act::Open { endpoint: 1, translated: true }));
    }
    let minute = 60_000;
    for _ in 0..600 {
        play.read(minute, Vec::new());
    }
    let Slot { pair, .. } = Fake::slot_of(play.fake.turn);
    // Two, so that the slot has enough left for it not to be noticed.
    play.step(Step::Act(Act::Open { endpoint: 1, translated: true }));
    play.step(Step::Act(Act::Open { endpoint: 1, translated: true }));
    play.step(Step::Act(Act::Close(6)));
    play.fake.count(Counter::HostedClosed(pair), endpoint(1));
    play.fake.count(Counter::SentClosed(pair), endpoint(1));
    let open = |play: &mut Play| {
        let counts = play.read(minute, Vec::new());
        (counts.hosted[1].open, counts.sent[0].open)
    };
    assert_eq!(open(&mut play), (5, 5));
    // The slot's time as a young one, and the longest wait.
    for _ in 0..17 + 15 {
        open(&mut play);
    }
    assert_eq!(open(&mut play), (6, 6));
}

#[test]
fn many_that_end_while_they_are_adopted_are_made_good_with_little_memory() {
    let mut play = Play::new();
    play.fake.counting = false;
    for _ in 0..2 * measure::MOST_SUSPECTS {
        play.fake.act(Act::Open { endpoint: 1, translated: true });
    }
    play.start();
    play.bounded(Tally::step);
    // They are marked by now. As if their ends had passed just before.
    for (entry, _) in play.fake.entries.values_mut() {
        entry.tcp = Some(TcpState::Closing);
    }
    play.bounded(Tally::step);
    assert_eq!(play.tally.suspects.flows.len(), measure::MOST_SUSPECTS);
    play.check();
    assert!(play.tally.suspects.flows.is_empty());
}

#[test]
fn plans_may_come_between_the_dumps_of_a_measurement() {
    let mut play = Play::new();
    play.fake.counting = false;
    for number in [1, 2, 1, 2, 2] {
        play.fake.act(Act::Open { endpoint: number, translated: true });
    }
    play.start();
    play.step(Step::Leave(2));
    let before = play.fake.dumps;
    play.bounded(Tally::step);
    play.step(Step::Join(2));
    play.bounded(Tally::step);
    assert_eq!(play.fake.dumps, before + 2);
    // The one that came in between is not taken for measured.
    let counts = play.read(1_000, Vec::new());
    let open: Vec<u32> = counts.hosted.iter().map(|count| count.open).collect();
    assert_eq!(open, [0, 2, 3, 0]);
    play.step(Step::Act(Act::Close(4)));
    play.check();
}

#[test]
fn counters_in_which_nothing_opened_are_not_read_again() {
    let mut play = Play::new();
    play.step(Step::Act(Act::Open { endpoint: 1, translated: false }));
    for _ in 0..8 {
        play.read(1_000, Vec::new());
    }
    play.fake.read.clear();
    play.read(0, Vec::new());
    let closed = |pair| Counter::HostedClosed(pair);
    // The first slot has a connection that may close, the last one may get some.
    assert!(play.fake.read.contains(&closed(0)) && play.fake.read.contains(&closed(7)));
    assert!(!(1..6).any(|pair| play.fake.read.contains(&closed(pair))), "{:?}", play.fake.read);
}
