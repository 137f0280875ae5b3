//! Reports under way from node to node: as often as they are sent, each with a delay of its own; some are lost.

use std::sync::Arc;

use plimsoll_core::report::Report;
use plimsoll_core::time::Timestamp;

use crate::dice::Dice;
use crate::places::Places;
use crate::scenario;

/// A report under way.
#[derive(Debug)]
struct Datagram {
    to: usize,
    report: Arc<Report>,
}

/// Brings reports from node to node.
#[derive(Debug)]
pub(super) struct Mesh {
    least_delay: f64,
    most_delay: f64,
    loss: f64,
    /// Whether a node is on the other side.
    is_cut: Vec<bool>,
    datagrams: Places<Datagram>,
    /// Where each endpoint is hosted.
    hosts: Vec<Option<usize>>,
}

impl Mesh {
    pub(super) fn new(mesh: &scenario::Mesh, nodes: usize) -> Mesh {
        Mesh {
            least_delay: mesh.least_delay.0.as_secs_f64(),
            most_delay: mesh.most_delay.0.as_secs_f64(),
            loss: mesh.loss,
            is_cut: vec![false; nodes],
            datagrams: Places::default(),
            hosts: Vec::new(),
        }
    }

    pub(super) fn set_hosts(&mut self, hosts: Vec<Option<usize>>) {
        self.hosts = hosts;
    }

    /// The node that hosts an endpoint.
    pub(super) fn host(&self, endpoint: usize) -> Option<usize> {
        self.hosts[endpoint]
    }

    pub(super) fn cut_off(&mut self, nodes: &[usize], is_cut: bool) {
        for node in nodes {
            self.is_cut[*node] = is_cut;
        }
    }

    /// Sends a report to all other nodes; `add` is told when which datagram arrives.
    pub(super) fn send(
        &mut self,
        now: Timestamp,
        from: usize,
        report: &Arc<Report>,
        dice: &mut Dice,
        mut add: impl FnMut(Timestamp, usize),
    ) {
        for to in (0..self.is_cut.len()).filter(|to| *to != from) {
            let delay = dice.between(self.least_delay, self.most_delay);
            let is_lost = self.loss > 0.0 && dice.unit() < self.loss;
            if is_lost || self.is_cut[from] != self.is_cut[to] {
                continue;
            }
            let place = self.datagrams.add(Datagram { to, report: report.clone() });
            add(now + std::time::Duration::from_nanos((delay * 1e9) as u64), place);
        }
    }

    /// Takes a datagram out.
    pub(super) fn deliver(&mut self, place: usize) -> Option<(usize, Arc<Report>)> {
        let datagram = self.datagrams.take(place)?;
        Some((datagram.to, datagram.report))
    }
}
