//! The mesh as a pure state machine: datagrams, reports and time in, datagrams and news out.
//!
//! No I/O, no clock, no randomness of its own: with the same seed and the same inputs it does the same.

mod agenda;
mod standing;
mod receive;
mod siege;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foca::{Foca, NoCustomBroadcast};
use plimsoll_core::report::Report;
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::incoming::Incoming;
use super::membership::{self, Codec, Identity};
use super::outgoing::Outgoing;
use super::seal::{KeyRing, Mark, Sealer, Start};
use super::session::{FORGET, Sessions};
use super::wire;
use crate::{Health, Heard, MemberHealth};
use agenda::{Agenda, Due};

pub use siege::check_bytes;

/// How many nodes, dead ones included, a mesh may have.
pub(crate) const MAX_MEMBERS: usize = 2048;
/// How many configured peers there may be.
pub(crate) const MAX_PEERS: usize = 2048;
/// How often absent peers are greeted, when this node is in a mesh and when it is alone.
const GREET_IN_MESH: Duration = Duration::from_secs(5);
const GREET_ALONE: Duration = Duration::from_secs(1);
/// The same while a newer process with its name is alive.
const REJOIN_SUPERSEDED: Duration = Duration::from_secs(10);

/// What happens to the mesh.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// What it says.
        bytes: &'a [u8],
    },
    /// This node has a new report.
    Publish(Arc<Report>),
    /// The configured peers resolve to these addresses now.
    Peers(Vec<SocketAddr>),
    /// The keys changed.
    Keys(KeyRing),
    /// This node is about to stop.
    Leave,
    /// The time of [`Machine::next_wake`] has come.
    Wake,
}

/// What the mesh wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// Tell the agent.
    Heard(Heard),
}

/// A live member.
#[derive(Debug)]
struct Peer {
    identity: Identity,
    incoming: Incoming,
    /// When the last genuine datagram came from it.
    heard: Option<Timestamp>,
    /// Whether it gets a full report next.
    wants_full: bool,
}

/// See the module's description.
pub struct Machine {
    me: Identity,
    foca: Foca<Identity, Codec, StdRng, NoCustomBroadcast>,
    ring: KeyRing,
    sealer: Sealer,
    sessions: Sessions,
    members: BTreeMap<NodeName, Peer>,
    starts: BTreeMap<Start, NodeName>,
    outgoing: Outgoing,
    peers: Vec<SocketAddr>,
    next_peer: usize,
    agenda: Agenda,
    rng: StdRng,
    health: Health,
    standing: Standing,
    rejoin_due: bool,
    rejoined: Timestamp,
    /// Who told this node that it is dead: where to announce its return.
    told_dead_by: Option<Identity>,
    /// The newest process that has this node's name, if it is newer than this one.
    superseded: Option<(Identity, Timestamp)>,
    /// A generation to go beyond: that of a dead process with this node's name.
    beyond: u64,
    opened: Vec<u8>,
}

/// How the mesh sees this node, as far as it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No live member has taken notice of it.
    Outside,
    /// It is a member.
    Member,
    /// It was declared dead and has not come back yet.
    Dead,
    /// It said goodbye.
    Left,
}

/// Who a machine is.
#[derive(Clone, Debug)]
pub struct Me {
    /// The node's name, of 1 to 253 bytes.
    pub name: NodeName,
    /// Where others reach it.
    pub address: SocketAddr,
    /// Milliseconds since 1970, by its own clock.
    pub generation: u64,
}

impl Machine {
    /// A node that knows nobody yet. `seed` must be random: the start number and all else is drawn from it.
    pub fn new(now: Timestamp, me: Me, ring: KeyRing, seed: [u8; 32]) -> Machine {
        let mut rng = StdRng::from_seed(seed);
        let me = Identity {
            name: me.name,
            generation: me.generation,
            renewal: 0,
            start: Start(rng.random()),
            address: me.address,
        };
        let config = membership::config(1);
        let mut agenda = Agenda::default();
        agenda.add(now, Due::Greet);
        agenda.add(now + FORGET, Due::Sweep);
        Machine {
            foca: Foca::new(me.clone(), config, StdRng::from_seed(rng.random()), Codec::default()),
            sealer: Sealer::new(&ring, me.start),
            sessions: Sessions::new(&rng.random()),
            health: Health { keys: ring.len(), ..Health::default() },
            me,
            ring,
            members: BTreeMap::new(),
            starts: BTreeMap::new(),
            outgoing: Outgoing::default(),
            peers: Vec::new(),
            next_peer: 0,
            agenda,
            rng,
            standing: Standing::Outside,
            rejoin_due: false,
            rejoined: Timestamp::ZERO,
            told_dead_by: None,
            superseded: None,
            beyond: 0,
            opened: Vec::new(),
        }
    }

    /// Takes an input and appends what it wants done to `out`. Only [`Input::Wake`] does what is due, so that
    /// the caller can first pass on what waited for a process that stood still.
    pub fn on(&mut self, now: Timestamp, input: Input<'_>, out: &mut Vec<Output>) {
        self.sessions.note_counter(now, self.sealer.counter());
        match input {
            Input::Datagram { from, bytes } => self.receive(now, from, bytes, out),
            Input::Publish(report) => self.publish(&report, out),
            Input::Peers(mut peers) => {
                peers.truncate(MAX_PEERS);
                self.peers = peers;
            }
            Input::Keys(ring) => {
                self.sealer.change_keys(&ring);
                self.sessions.drop_openers();
                self.health.keys = ring.len();
                self.ring = ring;
            }
            Input::Leave => self.leave(now, out),
            Input::Wake => {
                while let Some(due) = self.agenda.take_due(now) {
                    self.do_due(now, due, out);
                }
            }
        }
    }

    /// When the next input is due, at the latest.
    pub fn next_wake(&self) -> Timestamp {
        self.agenda.next()
    }

    /// Who this node is now.
    pub fn identity(&self) -> &Identity {
        &self.me
    }

    /// The counters, and who is there.
    pub fn health(&self, now: Timestamp) -> Health {
        let member = |(name, peer): (&NodeName, &Peer)| MemberHealth {
            node: name.clone(),
            address: peer.identity.address,
            heard: peer.heard.map(|at| now.since(at)),
            endpoints: peer.incoming.len(),
        };
        Health {
            members: self.members.iter().map(member).collect(),
            sessions: self.sessions.len(),
            endpoints_left_out: self.outgoing.left_out,
            superseded_by: self.superseded_now(now).map(|by| by.address),
            ..self.health.clone()
        }
    }

    fn superseded_now(&self, now: Timestamp) -> Option<&Identity> {
        let (by, at) = self.superseded.as_ref()?;
        (now.since(*at) < 3 * REJOIN_SUPERSEDED).then_some(by)
    }

    fn send(&mut self, to: SocketAddr, receiver: Mark, message: &[u8], out: &mut Vec<Output>) {
        let bytes = self.sealer.seal(receiver, message);
        self.health.datagrams_out += 1;
        self.health.bytes_out += bytes.len() as u64;
        out.push(Output::Send { to, bytes });
    }

    fn publish(&mut self, report: &Report, out: &mut Vec<Output>) {
        if self.standing == Standing::Left {
            return;
        }
        let someone_needs_full = self.members.values().any(|peer| peer.wants_full);
        let round = self.outgoing.next(report, someone_needs_full);
        let mut receivers: Vec<(SocketAddr, Mark, bool)> = Vec::with_capacity(self.members.len());
        for peer in self.members.values_mut() {
            let full = std::mem::take(&mut peer.wants_full);
            receivers.push((peer.identity.address, peer.identity.start.mark(), full));
        }
        // Not all nodes should begin with the same one.
        if !receivers.is_empty() {
            let first = self.rng.random_range(0..receivers.len());
            receivers.rotate_left(first);
        }
        for (to, receiver, full) in receivers {
            for message in if full { &round.full } else { &round.changed } {
                self.send(to, receiver, message, out);
            }
        }
    }

    fn leave(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if self.standing == Standing::Left {
            return;
        }
        // foca tells as many as it would ask for an indirect probe, each update a few times: let that be all.
        let mut config = membership::config(self.members.len());
        if let Some(all) = std::num::NonZeroUsize::new(self.members.len()) {
            config.num_indirect_probes = all;
            config.max_transmissions = all.try_into().unwrap_or(std::num::NonZeroU8::MAX);
        }
        let _ = self.foca.set_config(config);
        let _ = self.drive(now, out, |foca, runtime| foca.leave_cluster(runtime));
        self.standing = Standing::Left;
    }

    fn do_due(&mut self, now: Timestamp, due: Due, out: &mut Vec<Output>) {
        match due {
            Due::Foca(timer) => {
                if self.drive(now, out, |foca, runtime| foca.handle_timer(timer, runtime)).is_err() {
                    self.health.reject("membership");
                }
            }
            Due::Greet => {
                self.greet(now, out);
                let pace = if self.standing == Standing::Member { GREET_IN_MESH } else { GREET_ALONE };
                let jitter = self.rng.random_range(1.0..1.2);
                self.agenda.add(now + pace.mul_f64(jitter), Due::Greet);
            }
            Due::Rejoin => self.rejoin(now, out),
            Due::HandOut(node, sequence) => self.hand_out(now, &node, Some(sequence), out),
            Due::Sweep => {
                self.sessions.sweep(now);
                self.agenda.add(now + FORGET, Due::Sweep);
            }
        }
    }

    /// Hands out what arrived of a node's report; with a sequence, only if the report is still that one.
    fn hand_out(&mut self, now: Timestamp, node: &NodeName, sequence: Option<u64>, out: &mut Vec<Output>) {
        let Some(peer) = self.members.get_mut(node) else { return };
        if sequence.is_some_and(|sequence| sequence != peer.incoming.sequence())
            || !peer.incoming.is_pending()
        {
            return;
        }
        if let Some(report) = peer.incoming.hand_out(now, node) {
            self.health.reports += 1;
            out.push(Output::Heard(Heard::Report(Arc::new(report))));
        }
        if peer.incoming.needs_full() {
            let (to, receiver) = (peer.identity.address, peer.identity.start.mark());
            self.send(to, receiver, &[wire::ASK], out);
        }
    }

    /// Everything that a forged or replayed datagram could change; counters and rations aside.
    #[cfg(test)]
    pub(crate) fn state(&self) -> String {
        let mut members: Vec<String> =
            self.foca.iter_membership_state().map(|member| format!("{member:?}")).collect();
        members.sort();
        format!(
            "{:?} {members:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?} {}",
            self.me,
            self.sessions.state(),
            self.members,
            self.starts,
            self.outgoing,
            self.peers,
            self.agenda,
            self.standing,
            self.rejoin_due,
            self.told_dead_by,
            self.superseded,
            self.beyond,
        )
    }

    /// Tells this node of others that are dead.
    #[cfg(test)]
    pub(crate) fn bury(&mut self, now: Timestamp, dead: Vec<Identity>, out: &mut Vec<Output>) {
        let dead = dead.into_iter().map(|identity| foca::Member::new(identity, 0, foca::State::Down));
        self.drive(now, out, |foca, runtime| foca.apply_many(dead, true, runtime))
            .expect("all are strangers");
    }

    /// How much is kept: sessions, members, timers.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [self.sessions.len(), self.members.len(), self.agenda.len(), self.foca.iter_membership_state().len()]
    }
}
