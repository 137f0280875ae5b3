//! When a node's own open connections opened, by endpoint, for as long as somebody wants to know.

use std::collections::VecDeque;

use plimsoll_core::time::Timestamp;

/// The young ones among a node's own open connections.
#[derive(Default)]
pub(super) struct Young {
    opened: Vec<VecDeque<Timestamp>>,
}

impl Young {
    pub(super) fn opened(&mut self, now: Timestamp, endpoint: usize) {
        if self.opened.len() <= endpoint {
            self.opened.resize(endpoint + 1, VecDeque::new());
        }
        self.opened[endpoint].push_back(now);
    }

    pub(super) fn closed(&mut self, endpoint: usize, opened: Timestamp) {
        if let Some(young) = self.opened.get_mut(endpoint)
            && let Ok(at) = young.binary_search(&opened)
        {
            young.remove(at);
        }
    }

    /// Those that opened before are not young any more.
    pub(super) fn forget(&mut self, endpoint: usize, before: Timestamp) {
        if let Some(young) = self.opened.get_mut(endpoint) {
            young.drain(..young.partition_point(|opened| *opened < before));
        }
    }

    pub(super) fn count(&self, endpoint: usize) -> usize {
        self.opened.get(endpoint).map_or(0, VecDeque::len)
    }

    /// How many of them opened before a time.
    pub(super) fn count_before(&self, endpoint: usize, before: Timestamp) -> usize {
        self.opened.get(endpoint).map_or(0, |young| young.partition_point(|opened| *opened < before))
    }
}
