//! Which Services have to be looked at again.
//!
//! One that is new waits until its slices have come: the cluster's controller copies our label to them one after the
//! other, and served from the first of ten, a tenth of the endpoints would get all of its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The Services that have to be looked at again.
#[derive(Default)]
pub(super) struct Due {
    now: BTreeSet<Arc<str>>,
    fresh: BTreeMap<Arc<str>, Fresh>,
}

/// How it stands with a Service that is new.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fresh {
    /// It came, or a slice of it did, since the last round.
    Comes,
    /// Nothing came since.
    Quiet,
    /// It was looked at without slices.
    Empty,
}

impl Due {
    /// Something of a Service changed.
    pub(super) fn touch(&mut self, service: &Arc<str>) {
        // Those that wait are looked at anyway.
        if self.fresh.get(service).is_none_or(|fresh| *fresh == Fresh::Empty) {
            self.now.insert(service.clone());
        }
    }

    /// Something of its slices did.
    pub(super) fn touch_slices(&mut self, service: &Arc<str>) {
        match self.fresh.get_mut(service) {
            Some(fresh) => *fresh = Fresh::Comes,
            None => self.touch(service),
        }
    }

    /// A Service is new.
    pub(super) fn comes(&mut self, service: &Arc<str>) {
        self.fresh.insert(service.clone(), Fresh::Comes);
    }

    /// A Service is gone.
    pub(super) fn goes(&mut self, service: &Arc<str>) {
        self.fresh.remove(service);
        self.touch(service);
    }

    /// Whether one that is new waits for a round to pass.
    pub(super) fn waits(&self) -> bool {
        self.fresh.values().any(|fresh| *fresh != Fresh::Empty)
    }

    /// A round has passed: those of which nothing came in a whole one are due. Who has no slices is looked at too, for
    /// there may be something to tell, and is new still.
    pub(super) fn round(&mut self, has_slices: impl Fn(&str) -> bool) {
        let now = &mut self.now;
        self.fresh.retain(|service, fresh| {
            match fresh {
                Fresh::Comes => *fresh = Fresh::Quiet,
                Fresh::Quiet => {
                    now.insert(service.clone());
                    *fresh = Fresh::Empty;
                    return !has_slices(service);
                }
                Fresh::Empty => {}
            }
            true
        });
    }

    /// Whether there is one to look at.
    pub(super) fn is_due(&self) -> bool {
        !self.now.is_empty()
    }

    /// Takes one to look at.
    pub(super) fn next(&mut self) -> Option<Arc<str>> {
        self.now.pop_first()
    }
}
