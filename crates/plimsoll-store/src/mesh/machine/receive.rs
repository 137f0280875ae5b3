//! What the machine does with a datagram: from foreign bytes to a change of state, or to a counted rejection.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use foca::{Message as Foca, State};
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;

use super::agenda::Due;
use super::{MAX_MEMBERS, Machine, Output, Standing};
use crate::mesh::incoming::{PATIENCE, Took};
use crate::mesh::membership::{Identity, Membership};
use crate::mesh::part::Part;
use crate::mesh::seal::{Header, OVERHEAD, Start};
use crate::mesh::wire::{self, CHALLENGE_BYTES, Message};

/// Why a datagram changed nothing; the words are label values of a metric.
type Rejection = &'static str;

const MALFORMED: Rejection = "malformed";
const OWN: Rejection = "own";
const UNKNOWN_KEY: Rejection = "unknown_key";
const FORGED: Rejection = "forged";
const REPLAYED: Rejection = "replayed";
const CHALLENGED: Rejection = "challenged";
const UNCHALLENGED: Rejection = "unchallenged";
const STALE_PROOF: Rejection = "stale_proof";
const GARBLED: Rejection = "garbled";
const STRANGER: Rejection = "stranger";
const LATE: Rejection = "late";
const FULL: Rejection = "full";
const MEMBERSHIP: Rejection = "membership";

impl Machine {
    pub(super) fn receive(&mut self, now: Timestamp, from: SocketAddr, bytes: &[u8], out: &mut Vec<Output>) {
        self.health.datagrams_in += 1;
        self.health.bytes_in += bytes.len() as u64;
        if let Err(rejection) = self.open(now, from, bytes, out) {
            self.health.reject(rejection);
        }
    }

    /// Opens a datagram and passes it on.
    fn open(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Rejection> {
        if self.standing == Standing::Left {
            return Err(STRANGER);
        }
        let header = Header::parse(bytes).ok_or(MALFORMED)?;
        if header.sender == self.me.start {
            return Err(OWN);
        }
        // Cheap checks first; what they reject is not worth a decryption.
        if !self.ring.knows(&header) {
            return Err(UNKNOWN_KEY);
        }
        if self.is_for_us(&header) && self.sessions.is_replay(&header.sender, header.counter) {
            return Err(REPLAYED);
        }
        let mut opener = self.sessions.take_opener(&header.sender);
        let mut buffer = std::mem::take(&mut self.opened);
        let opened = self.ring.open(&header, &mut opener, bytes, &mut buffer);
        self.sessions.keep_opener(&header.sender, opener);
        let result = match opened {
            Some(message) => self.admit(now, from, &header, message, out),
            None => Err(FORGED),
        };
        self.opened = buffer;
        result
    }

    fn is_for_us(&self, header: &Header) -> bool {
        header.receiver == self.me.start.mark()
    }

    /// Lets a genuine message in if it is new, from a live process, and meant for this one; else challenges.
    fn admit(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Rejection> {
        let message = Message::decode(bytes).map_err(|_| GARBLED)?;
        let (sender, for_us) = (header.sender, self.is_for_us(header));
        let proof = match &message {
            Message::Challenge { echo, .. } => {
                Some(self.sessions.is_recent(now, *echo, self.sealer.counter()))
            }
            Message::Answer { token } => Some(self.sessions.is_token(now, &sender, from, token)),
            _ => None,
        };
        match proof {
            // Never answered with a challenge: two nodes that do not believe each other would go on for ever.
            Some(valid) if !valid || !for_us => return Err(STALE_PROOF),
            Some(_) if !self.sessions.contains(&sender) => {
                if !self.sessions.begin(now, sender, header.counter) {
                    return Err(FULL);
                }
            }
            None if !for_us || !self.sessions.contains(&sender) => {
                return Err(self.challenge(now, from, header, bytes.len() + OVERHEAD, out));
            }
            _ => {
                if !self.sessions.accept(now, &sender, header.counter) {
                    return Err(REPLAYED);
                }
            }
        }
        if let Some(peer) = self.starts.get(&sender).and_then(|name| self.members.get_mut(name)) {
            peer.heard = Some(now);
        }
        self.act(now, from, sender, message, bytes, out)
    }

    /// Asks for a proof of life. The answer is never larger than what provoked it, and rationed.
    fn challenge(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        header: &Header,
        provoked_by: usize,
        out: &mut Vec<Output>,
    ) -> Rejection {
        if provoked_by < CHALLENGE_BYTES + OVERHEAD || !self.sessions.may_challenge(now) {
            return UNCHALLENGED;
        }
        let token = self.sessions.token(now, &header.sender, from);
        self.send(from, header.sender.mark(), &wire::challenge(header.counter, &token), out);
        CHALLENGED
    }

    fn act(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        sender: Start,
        message: Message,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Rejection> {
        match message {
            Message::Hello => {}
            Message::Challenge { token, .. } => self.send(from, sender.mark(), &wire::answer(&token), out),
            Message::Answer { .. } => {
                let welcome = wire::welcome(&self.me);
                self.send(from, sender.mark(), &welcome, out);
            }
            Message::Welcome(identity) if identity.start != sender => return Err(GARBLED),
            Message::Welcome(identity) => self.welcomed(now, identity, out),
            Message::Membership(membership) => {
                return self.membership(now, sender, membership, &bytes[1..], out);
            }
            Message::Report(part) if !self.starts.contains_key(&sender) => {
                if part.index == 0 {
                    self.send(from, sender.mark(), &[wire::WHO], out);
                }
                return Err(STRANGER);
            }
            Message::Report(part) => return self.report(now, sender, part, out),
            Message::Who => {
                let name = self.starts.get(&sender).ok_or(STRANGER)?;
                let identity = self.members.get(name).ok_or(STRANGER)?.identity.clone();
                if self.standing != Standing::Dead && self.superseded_now(now).is_none() {
                    let _ = self.drive(now, out, |foca, runtime| foca.announce(identity, runtime));
                }
            }
            Message::Ask => {
                let name = self.starts.get(&sender).ok_or(STRANGER)?;
                if let Some(peer) = self.members.get_mut(name) {
                    peer.wants_full = true;
                }
            }
            Message::Superseded { by, live } => {
                if by.name == self.me.name && by.beats(&self.me) {
                    self.superseded_by(now, by, live);
                }
            }
        }
        Ok(())
    }

    /// A peer believes us and says who it is: announce ourselves, unless we are in the mesh with it.
    fn welcomed(&mut self, now: Timestamp, identity: Identity, out: &mut Vec<Output>) {
        if identity.name == self.me.name {
            self.rival(now, identity, out);
            return;
        }
        let known = self.members.get(&identity.name).is_some_and(|peer| peer.identity == identity);
        let announce = match self.standing {
            Standing::Outside => true,
            Standing::Member => !known,
            Standing::Dead | Standing::Left => false,
        };
        if announce {
            let _ = self.drive(now, out, |foca, runtime| foca.announce(identity, runtime));
        }
    }

    /// A live process has this node's name: the newer of the two is the member, and tells the other.
    fn rival(&mut self, now: Timestamp, rival: Identity, out: &mut Vec<Output>) {
        if rival.beats(&self.me) {
            self.superseded_by(now, rival, true);
        } else {
            let told = wire::superseded(&self.me, true);
            self.send(rival.address, rival.start.mark(), &told, out);
        }
    }

    fn superseded_by(&mut self, now: Timestamp, by: Identity, live: bool) {
        if live {
            self.superseded = Some((by, now));
            return;
        }
        if self.superseded.as_ref().is_some_and(|(newest, _)| !newest.beats(&by)) {
            self.superseded = None;
        }
        if self.superseded_now(now).is_none() {
            // An earlier life of this node, when its clock was ahead.
            self.beyond = self.beyond.max(by.generation);
            self.plan_rejoin(now);
        }
    }

    fn membership(
        &mut self,
        now: Timestamp,
        sender: Start,
        mut message: Membership,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Rejection> {
        let src = message.header.src.clone();
        if src.start != sender {
            return Err(GARBLED);
        }
        if src.name == self.me.name {
            self.rival(now, src, out);
            return Err(MEMBERSHIP);
        }
        let cut = self.keep_to_size(&mut message)?;
        let newer = self.foca.iter_membership_state().find(|member| member.id().name == src.name);
        if let Some(newer) = newer.filter(|member| member.id().beats(&src)) {
            let told = wire::superseded(newer.id(), newer.state() != State::Down);
            self.send(src.address, src.start.mark(), &told, out);
        }
        if message.header.message == Foca::TurnUndead && message.header.dst == self.me {
            self.told_dead_by = Some(src);
        }
        // foca would declare dead whoever else has its name, even a newer process.
        let ours = |id: &Identity| id.name == self.me.name && id.beats(&self.me);
        let (newer, others): (Vec<_>, Vec<_>) =
            message.updates.into_iter().partition(|member| ours(member.id()));
        if newer.is_empty() && !cut {
            return self
                .drive(now, out, |foca, runtime| foca.handle_data(bytes, runtime))
                .map_err(|_| MEMBERSHIP);
        }
        for member in newer {
            let live = member.state() != State::Down;
            self.superseded_by(now, member.id().clone(), live);
        }
        message.updates = others;
        let mut rest = Vec::with_capacity(bytes.len());
        message.encode(&mut rest);
        self.drive(now, out, |foca, runtime| foca.handle_data(&rest, runtime)).map_err(|_| MEMBERSHIP)
    }

    /// Takes out what a message says of nodes that there is no room for; whether there was any such. What it says
    /// of others stays: a full mesh must go on noticing who lives.
    fn keep_to_size(&mut self, message: &mut Membership) -> Result<bool, Rejection> {
        let known = self.foca.iter_membership_state().len();
        if known + message.updates.len() < MAX_MEMBERS {
            return Ok(false);
        }
        let names: BTreeSet<&NodeName> =
            self.foca.iter_membership_state().map(|member| &member.id().name).collect();
        if known >= MAX_MEMBERS && !names.contains(&message.header.src.name) {
            return Err(FULL);
        }
        let before = message.updates.len();
        message.updates.retain(|member| names.contains(&member.id().name));
        let cut = message.updates.len() < before;
        if cut {
            self.health.reject(FULL);
        }
        Ok(cut)
    }

    fn report(
        &mut self,
        now: Timestamp,
        sender: Start,
        part: Part,
        out: &mut Vec<Output>,
    ) -> Result<(), Rejection> {
        let name = self.starts.get(&sender).ok_or(STRANGER)?.clone();
        let peer = self.members.get_mut(&name).ok_or(STRANGER)?;
        let sequence = part.sequence;
        if sequence > peer.incoming.sequence() {
            // What is still missing of the report before is not waited for any longer.
            self.hand_out(now, &name, None, out);
        }
        let peer = self.members.get_mut(&name).ok_or(STRANGER)?;
        match peer.incoming.take(now, part) {
            Took::Whole => self.hand_out(now, &name, None, out),
            Took::Some if peer.incoming.just_begun() => {
                self.agenda.add(now + PATIENCE, Due::HandOut(name, sequence));
            }
            Took::Some => {}
            Took::Late => return Err(LATE),
            Took::Odd => return Err(GARBLED),
        }
        Ok(())
    }
}
