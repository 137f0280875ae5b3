//! Sessions: which process starts are known to be alive, so that nothing recorded earlier counts again.
//!
//! A datagram counts only if it names this process's start as its receiver and comes from a start that has a
//! session, with a counter that was not there before. A session begins with a proof that the other side is alive
//! now: it answered a challenge with the right token, or its own challenge repeats a counter that we used in the
//! last seconds. A session that was quiet for longer than any proof is good for may be forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_core::time::Timestamp;
use ring::hmac;

use super::seal::{Opener, Start};

/// A proof of life is good for at most twice this.
const PROOF: Duration = Duration::from_secs(5);
/// After this long without a datagram a session may be forgotten. Much longer than a proof is good for, so that
/// a recorded proof cannot bring a forgotten session back.
pub(crate) const FORGET: Duration = Duration::from_mins(1);
/// How many sessions there are at most; only holders of a key can open any.
pub(crate) const MAX_SESSIONS: usize = 4096;
/// Challenges per second, and at once: a large mesh greets a restarted node with a datagram from each member.
const CHALLENGES_PER_SECOND: f64 = 1024.0;
/// How many counters a window remembers.
const WINDOW: usize = 256;

/// What an answer to a challenge must repeat.
pub(crate) type Token = [u8; 16];

/// The counters that were seen of one start. The sender counts all its datagrams together, so one receiver sees
/// gaps; a list of the last ones therefore reaches further back than a bitmap of the same size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Rising; nothing below the first is accepted once the list is full.
    seen: Vec<u64>,
}

impl Window {
    /// Whether a datagram with this counter would be new.
    fn would_accept(&self, counter: u64) -> bool {
        let too_old = self.seen.len() == WINDOW && self.seen.first().is_some_and(|first| counter < *first);
        !too_old && self.seen.binary_search(&counter).is_err()
    }

    /// Notes the counter; false if it was there before or is too old to tell.
    fn accept(&mut self, counter: u64) -> bool {
        if !self.would_accept(counter) {
            return false;
        }
        if self.seen.len() == WINDOW {
            self.seen.remove(0);
        }
        let place = self.seen.partition_point(|seen| *seen < counter);
        self.seen.insert(place, counter);
        true
    }
}

/// What is known of one process start.
#[derive(Debug)]
struct Session {
    window: Window,
    heard: Timestamp,
    opener: Option<Opener>,
}

/// All process starts that proved to be alive.
#[derive(Debug)]
pub(crate) struct Sessions {
    known: BTreeMap<Start, Session>,
    /// Signs challenges, so that nothing need be kept for those who never answer.
    secret: hmac::Key,
    /// Our counter at points in time, to tell whether a repeated counter is a recent one.
    sent: VecDeque<(Timestamp, u64)>,
    allowance: f64,
    refilled: Timestamp,
}

impl Sessions {
    pub(crate) fn new(secret: &[u8; 32]) -> Sessions {
        Sessions {
            known: BTreeMap::new(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            sent: VecDeque::new(),
            allowance: CHALLENGES_PER_SECOND,
            refilled: Timestamp::ZERO,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether a datagram of this start with this counter was there before, as far as its header tells.
    pub(crate) fn is_replay(&self, start: &Start, counter: u64) -> bool {
        self.known.get(start).is_some_and(|session| !session.window.would_accept(counter))
    }

    /// Takes the opener of this start out; see [`Self::keep_opener`].
    pub(crate) fn take_opener(&mut self, start: &Start) -> Option<Opener> {
        self.known.get_mut(start)?.opener.take()
    }

    /// Puts the opener back, if the start has a session.
    pub(crate) fn keep_opener(&mut self, start: &Start, opener: Option<Opener>) {
        if let Some(session) = self.known.get_mut(start) {
            session.opener = opener;
        }
    }

    /// Forgets all openers: the keys changed.
    pub(crate) fn drop_openers(&mut self) {
        for session in self.known.values_mut() {
            session.opener = None;
        }
    }

    pub(crate) fn contains(&self, start: &Start) -> bool {
        self.known.contains_key(start)
    }

    /// Notes a genuine datagram; false if the start has no session or the counter was there before.
    pub(crate) fn accept(&mut self, now: Timestamp, start: &Start, counter: u64) -> bool {
        let Some(session) = self.known.get_mut(start) else { return false };
        let new = session.window.accept(counter);
        if new {
            session.heard = now;
        }
        new
    }

    /// Opens a session for a start that proved to be alive; false if there is no room.
    pub(crate) fn begin(&mut self, now: Timestamp, start: Start, counter: u64) -> bool {
        if self.known.len() >= MAX_SESSIONS {
            self.sweep(now);
        }
        if self.known.len() >= MAX_SESSIONS {
            return false;
        }
        let mut window = Window::default();
        window.accept(counter);
        self.known.insert(start, Session { window, heard: now, opener: None });
        true
    }

    /// Forgets sessions that were quiet for [`FORGET`].
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        self.known.retain(|_, session| now.since(session.heard) <= FORGET);
    }

    /// Notes which counter comes next, so that [`Self::is_recent`] can tell.
    pub(crate) fn note_counter(&mut self, now: Timestamp, counter: u64) {
        if self.sent.back().is_none_or(|(at, _)| now.since(*at) >= PROOF) {
            self.sent.push_back((now, counter));
        }
        while self.sent.len() > 2 && now.since(self.sent[1].0) >= PROOF {
            self.sent.pop_front();
        }
    }

    /// Whether we used this counter not longer ago than a proof is good for.
    pub(crate) fn is_recent(&self, now: Timestamp, counter: u64, next: u64) -> bool {
        let oldest = self.sent.iter().find(|(at, _)| now.since(*at) <= 2 * PROOF);
        counter < next && oldest.is_some_and(|(_, first)| counter >= *first)
    }

    /// Whether one more challenge may be sent now.
    pub(crate) fn may_challenge(&mut self, now: Timestamp) -> bool {
        let earned = now.seconds_since(self.refilled) * CHALLENGES_PER_SECOND;
        self.allowance = (self.allowance + earned).min(CHALLENGES_PER_SECOND);
        self.refilled = now;
        if self.allowance < 1.0 {
            return false;
        }
        self.allowance -= 1.0;
        true
    }

    /// The token that a start at this address must repeat.
    pub(crate) fn token(&self, now: Timestamp, start: &Start, address: SocketAddr) -> Token {
        self.token_of(Self::period(now), start, address)
    }

    /// Whether the token was issued to this start at this address not long ago.
    pub(crate) fn is_token(&self, now: Timestamp, start: &Start, address: SocketAddr, token: &Token) -> bool {
        let period = Self::period(now);
        [period, period.wrapping_sub(1)].iter().any(|period| self.token_of(*period, start, address) == *token)
    }

    fn period(now: Timestamp) -> u64 {
        now.as_nanos() / PROOF.as_nanos() as u64
    }

    fn token_of(&self, period: u64, start: &Start, address: SocketAddr) -> Token {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(&period.to_be_bytes());
        context.update(&start.0);
        match address.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => context.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&address.port().to_be_bytes());
        context.sign().as_ref().first_chunk().copied().expect("a hash has 32 bytes")
    }

    /// Everything that a replayed datagram could change.
    #[cfg(test)]
    pub(crate) fn state(&self) -> String {
        let windows: Vec<_> =
            self.known.iter().map(|(start, session)| (start, session.heard, &session.window)).collect();
        format!("{windows:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_window_never_accepts_twice(counters in proptest::collection::vec(0u64..900, 0..1500)) {
            let mut window = Window::default();
            let mut accepted = std::collections::BTreeSet::new();
            for counter in counters {
                if window.accept(counter) {
                    prop_assert!(accepted.insert(counter));
                }
                prop_assert!(window.seen.len() <= WINDOW);
                prop_assert!(window.seen.is_sorted());
            }
        }
    }

    #[test]
    fn a_window_takes_what_is_late_but_not_what_is_old() {
        let mut window = Window::default();
        for counter in (0..1000).step_by(2) {
            assert!(window.accept(counter));
        }
        assert!(window.accept(751), "late");
        assert!(!window.accept(751));
        assert!(!window.accept(1), "older than the window");
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn tokens_belong_to_a_start_an_address_and_a_time() {
        let sessions = Sessions::new(&[7; 32]);
        let (start, address) = (Start([1; 16]), "10.0.0.1:9653".parse().unwrap());
        let token = sessions.token(at(100), &start, address);
        assert!(sessions.is_token(at(100), &start, address, &token));
        assert!(sessions.is_token(at(105), &start, address, &token));
        assert!(!sessions.is_token(at(111), &start, address, &token));
        assert!(!sessions.is_token(at(100), &Start([2; 16]), address, &token));
        assert!(!sessions.is_token(at(100), &start, "10.0.0.2:9653".parse().unwrap(), &token));
        assert!(!Sessions::new(&[8; 32]).is_token(at(100), &start, address, &token));
    }

    #[test]
    fn recent_counters() {
        let mut sessions = Sessions::new(&[7; 32]);
        for second in 0..100 {
            sessions.note_counter(at(second), second * 10);
        }
        assert!(sessions.is_recent(at(99), 985, 990));
        assert!(!sessions.is_recent(at(99), 990, 990), "not used yet");
        assert!(!sessions.is_recent(at(99), 880, 990), "eleven seconds ago");
        assert!(!sessions.is_recent(at(150), 989, 990), "nothing was sent lately");
        assert!(sessions.sent.len() <= 3);
    }

    #[test]
    fn the_table_has_an_end_and_forgets_only_the_quiet() {
        let mut sessions = Sessions::new(&[7; 32]);
        for index in 0..MAX_SESSIONS as u64 {
            assert!(sessions.begin(at(0), Start((u128::from(index)).to_be_bytes()), 0));
        }
        let next = Start([0xff; 16]);
        assert!(!sessions.begin(at(60), next, 0), "all were heard within a minute");
        assert!(sessions.accept(at(60), &Start([0; 16]), 1));
        assert!(sessions.begin(at(61), next, 0));
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn challenges_are_rationed() {
        let mut sessions = Sessions::new(&[7; 32]);
        let sent = (0..5000).filter(|_| sessions.may_challenge(at(1))).count();
        assert_eq!(sent, 1024);
        assert!(sessions.may_challenge(at(2)));
    }
}
