//! Readiness by guards: the agent is ready when nothing is waited for any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is still waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    awaited: Arc<Mutex<BTreeMap<u64, &'static str>>>,
}

/// Something that is waited for; dropping it says that it is there.
#[derive(Debug)]
pub(crate) struct Awaited {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// Waits for one more thing, until the guard is dropped.
    pub(crate) fn await_for(&self, what: &'static str) -> Awaited {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let id = awaited.last_key_value().map_or(0, |(id, _)| id + 1);
        awaited.insert(id, what);
        Awaited { readiness: self.clone(), id }
    }

    /// What is still waited for, oldest first.
    pub(crate) fn awaited(&self) -> Vec<&'static str> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut awaited = self.readiness.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = awaited.remove(&self.id) {
            tracing::info!(what, still_waiting_for = ?awaited.values(), "there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_is_dropped() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.await_for("a"), readiness.await_for("b"));
        assert_eq!(readiness.awaited(), ["a", "b"]);
        drop(a);
        assert_eq!(readiness.awaited(), ["b"]);
        drop(b);
        assert!(readiness.awaited().is_empty());
    }
}
