//! The dataplane that touches nothing: plans are accepted and forgotten, connections are counted by dumps.
//!
//! Each reading dumps conntrack: about 2 us of CPU for each connection of the node, so readings of large tables are
//! not cheap. What no rule counted is inferred: a connection that was not in the last dump was opened since, and its
//! age is known from there on. For that up to [`Config::remembered`] connections are remembered, as 64-bit hashes;
//! those beyond are counted as open, but not as opened, and have no age. What opens and is forgotten by conntrack
//! between two dumps is missed. Refused connections are not in a dump, since conntrack forgets them at once, and
//! unanswered ones are not told from those that are being opened: neither is known.

use std::collections::hash_map::{DefaultHasher, Entry as Place};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use plimsoll_core::load::{AGE_SLOTS, Count, Counts};
use plimsoll_core::plan::Plan;
use plimsoll_core::service::EndpointId;
use plimsoll_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conntrack::{Conntrack, Entry, Filter, TcpState};
use crate::{Dataplane, Error};

/// The section of the configuration for the dataplane that touches nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many connections are remembered from one dump to the next, to know which are new and how old they are.
    /// A connection takes some 20 to 40 bytes.
    pub remembered: u32,
}

impl Default for Config {
    fn default() -> Config {
        // About 8 MB, and more connections than most nodes have.
        Config { remembered: 262_144 }
    }
}

impl Config {
    /// Checks each field.
    pub fn check(&self) -> Result<(), Error> {
        if (1..=16_777_216).contains(&self.remembered) {
            return Ok(());
        }
        let problem = format!("{} is not between 1 and 16777216", self.remembered);
        Err(Error::Config { field: "remembered", problem })
    }
}

/// Counts, and changes nothing.
#[derive(Debug)]
pub struct DryRun {
    conntrack: Conntrack,
    start: Instant,
    dumps: Dumps,
}

impl DryRun {
    /// Opens conntrack in the network namespace of the calling thread; age slots last at least `slot_length`.
    pub fn open(config: &Config, slot_length: Duration) -> Result<DryRun, Error> {
        config.check()?;
        let conntrack = Conntrack::open().map_err(|error| broken("ask conntrack", error))?;
        Ok(DryRun {
            conntrack,
            start: Instant::now(),
            dumps: Dumps::new(config.remembered as usize, slot_length),
        })
    }
}

impl Dataplane for DryRun {
    fn read(&mut self) -> Result<Counts, Error> {
        let now = Timestamp::from_duration(self.start.elapsed());
        self.dumps.begin(now);
        let dumps = &mut self.dumps;
        self.conntrack
            .dump(&Filter::default(), |entry| dumps.see(entry))
            .map_err(|error| broken("dump conntrack (it takes CAP_NET_ADMIN)", error))?;
        Ok(self.dumps.end(now))
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        self.dumps.apply(plan);
        Ok(())
    }

    fn withdraw(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

fn broken(what: &str, error: crate::netlink::Error) -> Error {
    Error::Broken { what: what.to_owned(), source: error.into() }
}

/// The slots' turn of connections without an age.
const NO_AGE: u32 = u32::MAX;

/// A connection that was in the last dump.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    /// The turn of the slot it was opened in.
    turn: u32,
    /// The last dump that showed it.
    dump: u32,
}

/// One endpoint's connections.
#[derive(Clone, Debug, Default)]
struct Tallied {
    open: u32,
    opened: u64,
    /// By turn modulo the number of slots.
    opened_by_turn: [u32; AGE_SLOTS],
    open_by_turn: [u32; AGE_SLOTS],
}

/// One side: what is hosted, or what was sent.
#[derive(Debug, Default)]
struct Side {
    members: BTreeSet<EndpointId>,
    /// Members whose connections have not been in a dump yet.
    joined: BTreeSet<EndpointId>,
    tallied: BTreeMap<EndpointId, Tallied>,
}

impl Side {
    fn change(&mut self, fresh: bool, came: &BTreeSet<EndpointId>, went: &BTreeSet<EndpointId>) {
        self.members.retain(|id| !went.contains(id) && (!fresh || came.contains(id)));
        for endpoint in came {
            if self.members.insert(*endpoint) {
                self.joined.insert(*endpoint);
            }
        }
        let members = &self.members;
        self.joined.retain(|id| members.contains(id));
        self.tallied.retain(|id, _| members.contains(id));
    }

    fn see(&mut self, endpoint: EndpointId, seen: Seen) {
        if !self.members.contains(&endpoint) {
            return;
        }
        let tallied = self.tallied.entry(endpoint).or_default();
        let place = (seen.turn != NO_AGE).then_some(seen.turn as usize % AGE_SLOTS);
        if seen.new && !self.joined.contains(&endpoint) {
            tallied.opened += 1;
            if let Some(place) = place {
                tallied.opened_by_turn[place] += 1;
            }
        }
        if seen.open {
            tallied.open += 1;
            if let Some(place) = place {
                tallied.open_by_turn[place] += 1;
            }
        }
    }

    fn counts(&self, turn: u32, ages: usize) -> impl Iterator<Item = Count> {
        self.tallied.iter().map(move |(id, tallied)| {
            let mut count = Count { open: tallied.open, opened: tallied.opened, ..Count::none(*id) };
            for age in 0..ages {
                let place = turn.wrapping_sub(age as u32) as usize % AGE_SLOTS;
                count.opened_by_age[age] = tallied.opened_by_turn[place];
                count.open_by_age[age] = tallied.open_by_turn[place];
            }
            count
        })
    }
}

/// A connection in a dump.
#[derive(Clone, Copy)]
struct Seen {
    new: bool,
    open: bool,
    turn: u32,
}

/// What follows from one dump after the other.
#[derive(Debug)]
struct Dumps {
    limit: usize,
    slot_length: Duration,
    hosted: Side,
    sent: Side,
    remembered: HashMap<u64, Remembered>,
    dump: u32,
    turn: u32,
    /// When the slots began, newest first.
    began: VecDeque<Timestamp>,
}

impl Dumps {
    fn new(limit: usize, slot_length: Duration) -> Dumps {
        let (hosted, sent) = (Side::default(), Side::default());
        let (remembered, began) = (HashMap::new(), VecDeque::new());
        Dumps { limit, slot_length, hosted, sent, remembered, dump: 0, turn: 0, began }
    }

    fn apply(&mut self, plan: &Plan) {
        self.hosted.change(plan.fresh, &plan.host, &plan.unhost);
        self.sent.change(plan.fresh, &plan.know, &plan.forget);
    }

    fn begin(&mut self, now: Timestamp) {
        self.dump = self.dump.wrapping_add(1);
        if self.began.is_empty() {
            self.began.push_front(now);
        }
        for tallied in self.hosted.tallied.values_mut().chain(self.sent.tallied.values_mut()) {
            tallied.open = 0;
            tallied.open_by_turn = [0; AGE_SLOTS];
        }
    }

    fn see(&mut self, entry: &Entry) {
        let Some(endpoint) = entry.endpoint() else { return };
        let hosted = self.hosted.members.contains(&endpoint);
        let sent = entry.is_translated() && self.sent.members.contains(&endpoint);
        let opened = entry.is_answered() && entry.tcp != Some(TcpState::Opening);
        if !(hosted || sent) || !opened {
            return;
        }
        let joined = |side: &Side, member: bool| member && side.joined.contains(&endpoint);
        let from_before = joined(&self.hosted, hosted) || joined(&self.sent, sent);
        let (new, turn) = self.remember(entry, from_before);
        let seen = Seen { new, open: entry.tcp != Some(TcpState::Closing), turn };
        self.hosted.see(endpoint, seen);
        if sent {
            self.sent.see(endpoint, seen);
        }
    }

    /// Whether it was opened since the last dump, and the turn in which it was opened.
    fn remember(&mut self, entry: &Entry, from_before: bool) -> (bool, u32) {
        let mut hasher = DefaultHasher::new();
        (entry.flow(), entry.id).hash(&mut hasher);
        let room = self.remembered.len() < self.limit;
        match self.remembered.entry(hasher.finish()) {
            Place::Occupied(mut place) => {
                place.get_mut().dump = self.dump;
                (false, place.get().turn)
            }
            Place::Vacant(place) if room => {
                let turn = if from_before { NO_AGE } else { self.turn };
                place.insert(Remembered { turn, dump: self.dump });
                (!from_before, turn)
            }
            Place::Vacant(_) => (false, NO_AGE),
        }
    }

    fn end(&mut self, now: Timestamp) -> Counts {
        let dump = self.dump;
        self.remembered.retain(|_, remembered| remembered.dump == dump);
        self.hosted.joined.clear();
        self.sent.joined.clear();
        if now.since(self.began[0]) >= self.slot_length {
            self.next_slot(now);
        }
        let mut slots = [f32::INFINITY; AGE_SLOTS];
        for (age, began) in slots.iter_mut().zip(&self.began) {
            *age = now.seconds_since(*began) as f32;
        }
        let ages = self.began.len();
        let mut hosted: Vec<Count> = self.hosted.members.iter().map(|id| Count::none(*id)).collect();
        for count in self.hosted.counts(self.turn, ages) {
            if let Ok(place) = hosted.binary_search_by_key(&count.endpoint, |count| count.endpoint) {
                hosted[place] = count;
            }
        }
        let some = |count: &Count| *count != Count::none(count.endpoint);
        Counts { slots, hosted, sent: self.sent.counts(self.turn, ages).filter(some).collect() }
    }

    fn next_slot(&mut self, now: Timestamp) {
        self.turn += 1;
        self.began.push_front(now);
        if self.began.len() > AGE_SLOTS {
            self.began.pop_back();
            // The place of the oldest slot is the new one's: its connections have no age any more.
            let gone = self.turn - AGE_SLOTS as u32;
            for remembered in self.remembered.values_mut().filter(|remembered| remembered.turn == gone) {
                remembered.turn = NO_AGE;
            }
        }
        let place = self.turn as usize % AGE_SLOTS;
        for tallied in self.hosted.tallied.values_mut().chain(self.sent.tallied.values_mut()) {
            tallied.opened_by_turn[place] = 0;
            tallied.open_by_turn[place] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use plimsoll_core::service::Protocol;

    use super::*;

    fn endpoint() -> EndpointId {
        EndpointId { address: [10, 1, 0, 11].into(), port: 8080, protocol: Protocol::Tcp }
    }

    fn entries(ports: std::ops::Range<u16>) -> Vec<Entry> {
        ports
            .map(|port| Entry::sample(SocketAddr::from(([10, 1, 0, 12], port)), endpoint(), port % 2 == 0))
            .collect()
    }

    fn read(dumps: &mut Dumps, seconds: u64, entries: &[Entry]) -> Counts {
        let now = Timestamp::from_duration(Duration::from_secs(seconds));
        dumps.begin(now);
        for entry in entries {
            dumps.see(entry);
        }
        dumps.end(now)
    }

    fn dumps(limit: usize) -> Dumps {
        let mut dumps = Dumps::new(limit, Duration::from_secs(1));
        let only = BTreeSet::from([endpoint()]);
        dumps.apply(&Plan { fresh: true, host: only.clone(), know: only, ..Plan::default() });
        dumps
    }

    #[test]
    fn what_was_there_at_first_has_no_age_and_what_comes_later_has_one() {
        let mut dumps = dumps(100);
        let counts = read(&mut dumps, 0, &entries(0..10));
        assert_eq!((counts.hosted[0].open, counts.hosted[0].opened), (10, 0));
        assert_eq!(counts.sent[0].open, 5);
        let counts = read(&mut dumps, 1, &entries(4..20));
        let count = &counts.hosted[0];
        assert_eq!((count.open, count.opened), (16, 10));
        assert_eq!((count.opened_by_age[..3].to_vec(), count.open_by_age[1]), (vec![0, 10, 0], 10));
        assert_eq!(counts.slots[..2], [0.0, 1.0]);
        assert_eq!((counts.sent[0].open, counts.sent[0].opened), (8, 5));
        let counts = read(&mut dumps, 2, &entries(15..20));
        assert_eq!((counts.hosted[0].open_by_age[2], counts.hosted[0].opened_by_age[2]), (5, 10));
    }

    #[test]
    fn a_connection_that_came_and_went_was_opened_all_the_same() {
        let mut dumps = dumps(100);
        read(&mut dumps, 0, &[]);
        let mut closed = entries(0..3);
        for entry in &mut closed {
            entry.tcp = Some(TcpState::Closing);
        }
        let counts = read(&mut dumps, 1, &closed);
        assert_eq!((counts.hosted[0].open, counts.hosted[0].opened), (0, 3));
        assert_eq!(read(&mut dumps, 2, &closed).hosted[0].opened, 3, "once");
        let mut half_open = entries(5..6);
        half_open[0].tcp = Some(TcpState::Opening);
        assert_eq!(read(&mut dumps, 3, &half_open).hosted[0].opened, 3);
    }

    #[test]
    fn ages_end_and_memory_is_bounded() {
        let mut dumps = dumps(8);
        read(&mut dumps, 0, &[]);
        let counts = read(&mut dumps, 1, &entries(0..20));
        assert_eq!((counts.hosted[0].open, counts.hosted[0].opened), (20, 8));
        assert_eq!(dumps.remembered.len(), 8);
        for second in 2..40 {
            let counts = read(&mut dumps, second, &entries(0..8));
            let aged: u32 = counts.hosted[0].open_by_age.iter().sum();
            assert_eq!(counts.hosted[0].open, 8);
            assert_eq!(aged, if second < AGE_SLOTS as u64 { 8 } else { 0 }, "after {second} s");
        }
        assert!(read(&mut dumps, 41, &[]).slots.iter().all(|age| age.is_finite()));
        assert_eq!(dumps.remembered.len(), 0);
    }

    #[test]
    fn a_configuration_that_remembers_nothing_is_refused() {
        assert!(Config::default().check().is_ok());
        let error = Config { remembered: 0 }.check().unwrap_err().to_string();
        assert!(error.contains("remembered"), "{error}");
    }
}
