//! Whether the dataplane's thread still answers: it counts every report interval, and carries out plans.
//!
//! A thread that is stuck in the kernel harms nobody, since leases that are not renewed expire. But nothing is balanced
//! any more, and only a restart may help: liveness has to tell.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The thread may be silent for three leases, within these bounds: a dump of millions of connections takes seconds,
/// and counts are due every two seconds however long the leases are.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(1);

/// The last signs of life of the dataplane's thread; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    patience: Duration,
    signs: Arc<Mutex<Signs>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Signs {
    /// The last sign of any kind; none before the thread takes plans.
    any: Option<Instant>,
    applied: Option<Instant>,
    counted: Option<Instant>,
}

/// For how long a thread was silent that should not have been for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Silence(pub(crate) Duration);

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the dataplane's thread, which has neither counted nor answered to a plan for {} s: it hangs, leases \
             expire, and the proxy below serves; restart the agent, and look into the kernel's log if it hangs again",
            self.0.as_secs()
        )
    }
}

impl Pulse {
    /// The pulse of a thread that has not begun, for leases of this length.
    pub(crate) fn new(lease: Duration) -> Pulse {
        Pulse::with_patience((3 * lease).clamp(SHORTEST, LONGEST))
    }

    pub(crate) fn with_patience(patience: Duration) -> Pulse {
        Pulse { patience, signs: Arc::default() }
    }

    /// The thread takes plans from now on.
    pub(crate) fn begin(&self) {
        self.note(|_, _| {});
    }

    /// The thread told how a plan ended.
    pub(crate) fn plan_ended(&self, applied: bool) {
        self.note(|signs, now| {
            if applied {
                signs.applied = Some(now);
            }
        });
    }

    /// The thread counted.
    pub(crate) fn counted(&self) {
        self.note(|signs, now| signs.counted = Some(now));
    }

    /// The silence, if it is longer than it may be.
    pub(crate) fn silence(&self) -> Option<Silence> {
        self.signs().any.map(|at| Silence(at.elapsed())).filter(|silence| silence.0 > self.patience)
    }

    /// How long ago a plan was applied the last time.
    pub(crate) fn plan_age(&self) -> Option<Duration> {
        self.signs().applied.map(|at| at.elapsed())
    }

    /// How long ago the last counts came in.
    pub(crate) fn counts_age(&self) -> Option<Duration> {
        self.signs().counted.map(|at| at.elapsed())
    }

    fn note(&self, change: impl FnOnce(&mut Signs, Instant)) {
        let (mut signs, now) = (self.signs.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        signs.any = Some(now);
        change(&mut signs, now);
    }

    fn signs(&self) -> Signs {
        *self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_whatever_the_lease() {
        for (lease, silent_for) in [(1, 10), (5, 15), (3600, 60)] {
            let pulse = Pulse::new(Duration::from_secs(lease));
            pulse.begin();
            pass(silent_for).await;
            assert_eq!(pulse.silence(), None, "a lease of {lease} s");
            pass(1).await;
            assert!(pulse.silence().is_some(), "a lease of {lease} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_answer_is_a_sign_of_life() {
        let pulse = Pulse::with_patience(Duration::from_secs(10));
        pass(100).await;
        assert_eq!(pulse.silence(), None, "it has not begun");
        pulse.begin();
        pass(9).await;
        pulse.plan_ended(false);
        assert_eq!((pulse.plan_age(), pulse.counts_age()), (None, None), "refused is not applied");
        pass(9).await;
        pulse.plan_ended(true);
        pass(9).await;
        pulse.counted();
        pass(9).await;
        assert_eq!(pulse.silence(), None);
        pass(2).await;
        let (plan, counts) = (Duration::from_secs(20), Duration::from_secs(11));
        assert_eq!((pulse.plan_age(), pulse.counts_age()), (Some(plan), Some(counts)));
        assert_eq!(pulse.silence(), Some(Silence(counts)));
        assert!(pulse.silence().unwrap().to_string().contains("for 11 s"));
        pulse.counted();
        assert_eq!(pulse.silence(), None);
    }
}
