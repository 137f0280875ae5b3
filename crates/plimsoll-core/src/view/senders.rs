//! Endpoints that no agent hosts: every node reports what it sent there, and the reader adds up.
//!
//! A node that fell silent stays in the sum until its report expires, since its connections may well be open. What it
//! said is no evidence any more, though, for or against an endpoint: that is what those say that are heard.

use crate::load::{Load, Loads};
use crate::time::Timestamp;

use super::{FIGURES, NodeRecord, Record, Sent, Total, View, find, load_of};

impl View {
    /// What all nodes report to have sent to an endpoint that no agent hosts.
    pub(super) fn sum_of_senders(&self, now: Timestamp, loads: &Loads, record: &Record) -> Total {
        let own = loads.sent_load(&record.endpoint).copied().unwrap_or_default();
        let Sent { open, young, middle } = record.sent;
        let mut load = Load { open, young, middle, ..own };
        let mut heard = load;
        let mut oldest = now;
        for node in self.nodes.values() {
            let Some(entry) = find(&node.report.sent, &record.endpoint) else { continue };
            let mut part = load_of(entry);
            let is_heard = self.is_heard(now, node);
            for figure in FIGURES {
                *figure(&mut load) += *figure(&mut part);
                if is_heard {
                    *figure(&mut heard) += *figure(&mut part);
                }
            }
            oldest = oldest.min(node.measured);
        }
        Total { load, measured: Some(oldest), heard: Some(heard) }
    }

    /// Whether a node's last report is as good as new.
    fn is_heard(&self, now: Timestamp, node: &NodeRecord) -> bool {
        now.since(node.measured) < self.parameters.trust()
    }

    /// Since when the same nodes are heard; `None` if since ever.
    pub(super) fn same_senders_since(&self, now: Timestamp) -> Option<Timestamp> {
        let turned = |node: &NodeRecord| {
            let heard = node.heard?;
            Some(if self.is_heard(now, node) { heard } else { node.measured + self.parameters.trust() })
        };
        self.nodes.values().filter_map(turned).max()
    }
}
