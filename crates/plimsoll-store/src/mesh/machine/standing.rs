//! Being a member: finding the others, being found, dying and coming back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification};
use plimsoll_core::time::Timestamp;
use rand::RngExt;
use rand::rngs::StdRng;

use super::agenda::Due;
use super::{Machine, Output, Peer, REJOIN_SUPERSEDED, Standing};
use crate::Heard;
use crate::mesh::incoming::Incoming;
use crate::mesh::membership::{self, Codec, Identity};
use crate::mesh::seal::Mark;
use crate::mesh::wire;

/// How many absent peers are greeted at once.
const GREET_AT_ONCE: usize = 16;
/// A node that was declared dead comes back after this long, and not again before [`REJOIN_AGAIN`].
const REJOIN: Duration = Duration::from_millis(50);
const REJOIN_AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// Greets configured peers that are not there, and members that have not taken notice of this node.
    pub(super) fn greet(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if self.standing == Standing::Left {
            return;
        }
        let there: BTreeSet<SocketAddr> = if self.standing == Standing::Member {
            self.members.values().map(|peer| peer.identity.address).collect()
        } else {
            BTreeSet::new()
        };
        for _ in 0..self.peers.len().min(GREET_AT_ONCE) {
            let peer = self.peers[self.next_peer % self.peers.len()];
            self.next_peer = (self.next_peer + 1) % self.peers.len();
            if peer != self.me.address && !there.contains(&peer) {
                self.send(peer, Mark::UNKNOWN, &wire::hello(), out);
            }
        }
        if self.standing == Standing::Outside {
            self.announce(now, out);
        }
    }

    /// Announces this node to whoever told it that it is dead, and to a few members.
    pub(super) fn announce(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let mut to: Vec<Identity> = self.told_dead_by.take().into_iter().collect();
        let count = self.members.len();
        if count > 0 {
            let first = self.rng.random_range(0..count);
            let members = self.members.values().cycle().skip(first).take(count.min(3));
            to.extend(members.map(|peer| peer.identity.clone()));
        }
        for identity in to {
            let _ = self.drive(now, out, |foca, runtime| foca.announce(identity, runtime));
        }
    }

    /// Comes back with a new identity after having been declared dead, or to go beyond a dead predecessor.
    pub(super) fn rejoin(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        self.rejoin_due = false;
        let wanted = match self.standing {
            Standing::Left => false,
            Standing::Dead => true,
            Standing::Outside | Standing::Member => self.beyond >= self.me.generation,
        };
        if !wanted {
            return;
        }
        let mut next = self.me.clone();
        next.renewal = next.renewal.saturating_add(1);
        if self.beyond >= next.generation {
            next.generation = self.beyond.saturating_add(1);
        }
        self.me = next.clone();
        self.standing = Standing::Outside;
        self.rejoined = now;
        let _ = self.drive(now, out, |foca, runtime| foca.change_identity(next, runtime));
        self.announce(now, out);
    }

    pub(super) fn plan_rejoin(&mut self, now: Timestamp) {
        if self.rejoin_due || self.standing == Standing::Left {
            return;
        }
        self.rejoin_due = true;
        let pause = if self.superseded_now(now).is_some() { REJOIN_SUPERSEDED } else { REJOIN_AGAIN };
        let soonest = if self.me.renewal == 0 && pause == REJOIN_AGAIN { now } else { self.rejoined + pause };
        self.agenda.add(soonest.max(now + REJOIN), Due::Rejoin);
    }

    /// Lets foca do something and carries out what it wants done.
    pub(super) fn drive(
        &mut self,
        now: Timestamp,
        out: &mut Vec<Output>,
        step: impl FnOnce(
            &mut Foca<Identity, Codec, StdRng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Identity>,
        ) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut runtime = AccumulatingRuntime::new();
        let result = step(&mut self.foca, &mut runtime);
        while let Some((to, bytes)) = runtime.to_send() {
            self.send(to.address, to.start.mark(), &wire::membership(&bytes), out);
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            self.agenda.add(now + after, Due::Foca(timer));
        }
        while let Some(notification) = runtime.to_notify() {
            self.notified(now, notification, out);
        }
        result
    }

    fn notified(&mut self, now: Timestamp, notification: OwnedNotification<Identity>, out: &mut Vec<Output>) {
        match notification {
            OwnedNotification::MemberUp(identity) => self.joined(identity, out),
            OwnedNotification::MemberDown(identity) => self.lost(&identity, out),
            OwnedNotification::Rename(old, new) => {
                let Some(peer) = self.members.get_mut(&old.name) else { return };
                if old.start == new.start {
                    peer.identity = new;
                } else {
                    self.lost(&old, out);
                    self.joined(new, out);
                }
            }
            OwnedNotification::Active => self.standing = Standing::Member,
            OwnedNotification::Idle => self.standing = Standing::Outside,
            OwnedNotification::Defunct => {
                self.standing = Standing::Dead;
                self.plan_rejoin(now);
            }
            OwnedNotification::Rejoin(_) => {}
        }
    }

    fn joined(&mut self, identity: Identity, out: &mut Vec<Output>) {
        if identity.name == self.me.name {
            return;
        }
        self.lost(&identity, out);
        // The sessions both ways should be there before the first report.
        self.send(identity.address, Mark::UNKNOWN, &wire::hello(), out);
        out.push(Output::Heard(Heard::Joined(identity.name.clone())));
        self.starts.insert(identity.start, identity.name.clone());
        let name = identity.name.clone();
        self.members
            .insert(name, Peer { identity, incoming: Incoming::default(), heard: None, wants_full: true });
        self.fit_to_size();
    }

    fn lost(&mut self, identity: &Identity, out: &mut Vec<Output>) {
        if let Some(peer) = self.members.remove(&identity.name) {
            self.starts.remove(&peer.identity.start);
            out.push(Output::Heard(Heard::Left(identity.name.clone())));
            self.fit_to_size();
        }
    }

    pub(super) fn fit_to_size(&mut self) {
        let changed = self.foca.set_config(membership::config(self.members.len()));
        debug_assert!(changed.is_ok(), "only what foca lets change depends on the size");
    }
}
