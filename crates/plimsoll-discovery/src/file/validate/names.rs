//! The names of nodes, each kept once however many endpoints say it.

use std::collections::HashSet;

use plimsoll_core::service::NodeName;

/// As many nodes as no mesh has: when there are more, most of them are gone, and it begins anew.
const MAX_NAMES: usize = 16_384;

/// The names of nodes.
#[derive(Clone, Debug, Default)]
pub(in crate::file) struct Names {
    known: HashSet<NodeName>,
    /// Whether these are all the nodes there are, because the file lists them.
    listed: bool,
}

impl Names {
    /// All the nodes there are.
    pub(super) fn listed(nodes: impl Iterator<Item = NodeName>) -> Names {
        Names { known: nodes.collect(), listed: true }
    }

    /// Whether the file lists the nodes.
    pub(super) fn are_listed(&self) -> bool {
        self.listed
    }

    /// Whether the name was there before.
    pub(super) fn contain(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// Whether there may be a node of this name.
    pub(super) fn admit(&self, name: &NodeName) -> bool {
        !self.listed || self.known.contains(name)
    }

    /// The name, shared with all who asked for it before.
    pub(super) fn get(&mut self, name: &str) -> NodeName {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let name = NodeName::new(name);
        // A name that the list does not have is an error by now; it must not get into the list.
        if !self.listed {
            if self.known.len() >= MAX_NAMES {
                self.known.clear();
            }
            self.known.insert(name.clone());
        }
        name
    }
}
