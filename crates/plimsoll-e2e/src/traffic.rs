//! What becomes of the load on two Services alike: the one that kube-proxy serves alone, and the one with Plimsoll in front.

use std::fmt;

use plimsoll_lab::client::Client;
use serde::Serialize;

/// What became of it. The pairs are of both Services.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Traffic {
    /// Connections opened.
    pub opened: [u64; 2],
    /// Connections that failed.
    pub failed: [u64; 2],
    /// Connections of the second that kube-proxy served.
    pub fell_back: u64,
}

impl Traffic {
    /// What clients of both Services opened so far, and what of it failed.
    pub(crate) fn of(clients: &[[Client; 2]]) -> Traffic {
        let sum = |what: fn(&Client) -> u64| {
            [0, 1].map(|service| clients.iter().map(|both| what(&both[service])).sum::<u64>())
        };
        Traffic { opened: sum(Client::opened), failed: sum(Client::failed), fell_back: 0 }
    }

    /// Together with that of others.
    pub(crate) fn and(self, other: Traffic) -> Traffic {
        let sum = |a: [u64; 2], b: [u64; 2]| [0, 1].map(|service| a[service] + b[service]);
        Traffic {
            opened: sum(self.opened, other.opened),
            failed: sum(self.failed, other.failed),
            fell_back: self.fell_back + other.fell_back,
        }
    }

    /// What came after `before`.
    pub(crate) fn since(self, before: Traffic) -> Traffic {
        let difference = |a: [u64; 2], b: [u64; 2]| [0, 1].map(|service| a[service] - b[service]);
        Traffic {
            opened: difference(self.opened, before.opened),
            failed: difference(self.failed, before.failed),
            fell_back: self.fell_back - before.fell_back,
        }
    }

    /// What is wrong with it in any case, where there was to be some.
    pub(crate) fn problems(&self, is_loaded: bool) -> Vec<String> {
        let mut problems = Vec::new();
        if self.failed[1] > self.failed[0] {
            problems.push("connections failed that did not with kube-proxy alone".into());
        }
        if is_loaded && self.opened.contains(&0) {
            problems.push("no connection was opened".into());
        }
        problems
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { opened: [_, opened], failed: [alone, with], fell_back } = self;
        write!(f, "failed alone {alone}, with Plimsoll {with} of {opened}; {fell_back} fell back")
    }
}
