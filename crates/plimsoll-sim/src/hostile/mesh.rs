//! Reports under way between nodes: lost, doubled, late, out of order, cut off in one direction or both.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::report::Report;
use plimsoll_core::time::Timestamp;

use crate::dice::Dice;
use crate::places::Places;

/// How long a report is under way when nothing is wrong.
const PROMPT: Duration = Duration::from_millis(5);

/// A report under way.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Which of the sender's agents sent it, and as which of its reports.
    pub(super) number: (u32, u64),
    sent: Timestamp,
    pub(super) report: Arc<Report>,
}

/// Reports of one side do not reach the other.
#[derive(Clone, Debug)]
struct Cut {
    from: Vec<bool>,
    to: Vec<bool>,
    until: Timestamp,
}

/// Brings reports from node to node, as badly as it is told to.
#[derive(Debug)]
pub(super) struct Mesh {
    nodes: usize,
    /// Whether those who receive drop what is older than what they have, as the mesh does.
    is_orderly: bool,
    /// Whether those who receive know how long a report was under way.
    knows_age: bool,
    loss: (f64, Timestamp),
    doubling: (f64, Timestamp),
    delay: (Duration, Timestamp),
    cuts: Vec<Cut>,
    datagrams: Places<Datagram>,
    /// The number of the newest report that a node has of another: `newest[to][from]`.
    newest: Vec<Vec<(u32, u64)>>,
}

impl Mesh {
    pub(super) fn new(nodes: usize, dice: &mut Dice) -> Mesh {
        Mesh {
            nodes,
            is_orderly: dice.below(2) == 0,
            knows_age: dice.below(2) == 0,
            loss: (0.0, Timestamp::ZERO),
            doubling: (0.0, Timestamp::ZERO),
            delay: (Duration::ZERO, Timestamp::ZERO),
            cuts: Vec::new(),
            datagrams: Places::default(),
            newest: vec![vec![(0, 0); nodes]; nodes],
        }
    }

    pub(super) fn lose(&mut self, part: f64, until: Timestamp) {
        self.loss = (part, until);
    }

    pub(super) fn double(&mut self, part: f64, until: Timestamp) {
        self.doubling = (part, until);
    }

    pub(super) fn delay(&mut self, most: Duration, until: Timestamp) {
        self.delay = (most, until);
    }

    /// Cuts the nodes in two at random; whether reports pass in the other direction.
    pub(super) fn cut(&mut self, until: Timestamp, dice: &mut Dice) -> bool {
        let from: Vec<bool> = (0..self.nodes).map(|_| dice.below(2) == 0).collect();
        let to: Vec<bool> = from.iter().map(|side| !side).collect();
        let is_one_way = dice.below(2) == 0;
        if !is_one_way {
            self.cuts.push(Cut { from: to.clone(), to: from.clone(), until });
        }
        self.cuts.push(Cut { from, to, until });
        is_one_way
    }

    /// Sends a report from a node to all others; `add` is told when which datagram arrives.
    pub(super) fn send(
        &mut self,
        now: Timestamp,
        (from, number): (usize, (u32, u64)),
        report: &Arc<Report>,
        dice: &mut Dice,
        mut add: impl FnMut(Timestamp, usize),
    ) {
        self.cuts.retain(|cut| now < cut.until);
        let part = |(part, until): (f64, Timestamp)| if now < until { part } else { 0.0 };
        let (loss, doubling) = (part(self.loss), part(self.doubling));
        let most = if now < self.delay.1 { self.delay.0 } else { PROMPT };
        for to in (0..self.nodes).filter(|to| *to != from) {
            let is_cut = self.cuts.iter().any(|cut| cut.from[from] && cut.to[to]);
            if is_cut || (loss > 0.0 && dice.unit() < loss) {
                continue;
            }
            let copies = if doubling > 0.0 && dice.unit() < doubling { 2 } else { 1 };
            for _ in 0..copies {
                let at = now + most.mul_f64(dice.unit());
                add(at, self.datagrams.add(Datagram { from, to, number, sent: now, report: report.clone() }));
            }
        }
    }

    /// Takes a datagram out; its report if the receiver wants it, with the age that the receiver thinks it has.
    pub(super) fn deliver(&mut self, now: Timestamp, place: usize) -> Option<(usize, Arc<Report>)> {
        let datagram = self.datagrams.take(place)?;
        let newest = &mut self.newest[datagram.to][datagram.from];
        if self.is_orderly && datagram.number <= *newest {
            return None;
        }
        *newest = datagram.number.max(*newest);
        if !self.knows_age {
            return Some((datagram.to, datagram.report));
        }
        let age = datagram.report.age + now.since(datagram.sent);
        Some((datagram.to, Arc::new(Report { age, ..(*datagram.report).clone() })))
    }

    /// A node's agent is gone, and with it what it knew of the others.
    pub(super) fn forget(&mut self, node: usize) {
        self.newest[node].fill((0, 0));
    }
}
