//! The process's clock, as the core wants to be told the time.

use std::time::{Duration, Instant};

use plimsoll_core::time::Timestamp;

/// Counts from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts at the origin.
    pub(crate) fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// How long it runs.
    pub(crate) fn uptime(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_duration(self.uptime())
    }

    /// The moment of a timestamp; `None` for one that never comes.
    pub(crate) fn instant(&self, at: Timestamp) -> Option<tokio::time::Instant> {
        let since = Duration::from_nanos(at.as_nanos());
        (at != Timestamp::NEVER).then(|| tokio::time::Instant::from_std(self.origin + since))
    }
}
