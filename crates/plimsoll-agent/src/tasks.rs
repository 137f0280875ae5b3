//! The tasks of an agent: an essential one that ends is the agent's end, and the end goes in order.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::error::Error;

pub(crate) const DISCOVERY: &str = "the discovery";
pub(crate) const OWNER: &str = "the owner of the balancer";
pub(crate) const STORE: &str = "the store";
pub(crate) const DATAPLANE: &str = "the dataplane's thread";
pub(crate) const API: &str = "the HTTP API";
/// How long an answer of the API may take at the end.
const GRACE: Duration = Duration::from_secs(1);
/// How long the way out of the kernel, and the goodbye, may take: a thread that is stuck in the kernel must not keep
/// the process, whose end takes out of the kernel what it owns there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What tells the tasks to end, step by step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops {
    /// No new input.
    pub(crate) intake: CancellationToken,
    /// Goodbye to the peers.
    pub(crate) goodbye: CancellationToken,
    /// No more answers.
    pub(crate) last: CancellationToken,
}

/// The tasks of an agent, with the names of those that run, and the first error of any.
pub(crate) struct Tasks {
    running: JoinSet<Result<(), Error>>,
    names: HashMap<Id, &'static str>,
    outcome: Result<(), Error>,
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks { running: JoinSet::new(), names: HashMap::new(), outcome: Ok(()) }
    }
}

impl Tasks {
    pub(crate) fn spawn(
        &mut self,
        what: &'static str,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.names.insert(self.running.spawn(task).id(), what);
    }

    /// Runs until told to stop, or until a task ends; then takes everything down in order.
    pub(crate) async fn until_stopped(
        mut self,
        stop: &CancellationToken,
        stops: &Stops,
    ) -> Result<(), Error> {
        tokio::select! {
            () = stop.cancelled() => {}
            what = self.next() => self.must_not_end(what),
        }
        // No new input; out of the kernel, so that the proxy below takes over (the owner's end closes the queue of
        // plans, and that ends the dataplane's thread); goodbye to the peers; and the API last, so that it tells
        // the truth until the end.
        stops.intake.cancel();
        self.until_at_last(DATAPLANE).await;
        stops.goodbye.cancel();
        self.until_at_last(STORE).await;
        stops.last.cancel();
        let _ = tokio::time::timeout(GRACE, self.until(API)).await;
        info!("stopped");
        self.outcome
    }

    /// Waits for the next task to end, and says which; `None` when none is left.
    async fn next(&mut self) -> Option<&'static str> {
        let (id, outcome) = match self.running.join_next_with_id().await? {
            Ok((id, outcome)) => (id, outcome.map_err(Some)),
            Err(panicked) => (panicked.id(), Err(None)),
        };
        let what = self.names.remove(&id).unwrap_or("a task");
        if let Err(error) = outcome {
            // The panic has told more of itself by now.
            let error = error.unwrap_or(Error::Ended { what });
            error!("{what} failed: {error}");
            self.fail(error);
        }
        Some(what)
    }

    /// Waits until this task has ended.
    async fn until(&mut self, what: &'static str) {
        while self.names.values().any(|running| *running == what) {
            self.next().await;
        }
    }

    /// Waits until this task has ended, but not for ever.
    async fn until_at_last(&mut self, what: &'static str) {
        if tokio::time::timeout(PATIENCE, self.until(what)).await.is_err() {
            let error = Error::Stuck { what, patience: PATIENCE };
            error!("{error}");
            self.fail(error);
        }
    }

    /// The first error is the one to tell.
    fn fail(&mut self, error: Error) {
        if self.outcome.is_ok() {
            self.outcome = Err(error);
        }
    }

    /// An essential task ended by itself: that is an error even if it does not say so.
    fn must_not_end(&mut self, what: Option<&'static str>) {
        let what = what.unwrap_or("a task");
        if self.outcome.is_ok() {
            error!("{what} ended");
            self.outcome = Err(Error::Ended { what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs an agent's last moments with this dataplane and this store.
    async fn end(
        dataplane: impl Future<Output = ()> + Send + 'static,
        store: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let (mut tasks, stops, stop) = (Tasks::default(), Stops::default(), CancellationToken::new());
        let last = stops.last.clone();
        tasks.spawn(API, async move {
            last.cancelled().await;
            Ok(())
        });
        tasks.spawn(DATAPLANE, async move {
            dataplane.await;
            Ok(())
        });
        tasks.spawn(STORE, async move {
            store.await;
            Ok(())
        });
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_mins(1), tasks.until_stopped(&stop, &stops));
        ended.await.expect("it comes to an end")
    }

    #[tokio::test]
    async fn a_panic_of_the_store_does_not_keep_the_agent() {
        let panics = async { panic!("on purpose") };
        let outcome = end(std::future::ready(()), panics).await;
        assert!(matches!(outcome, Err(Error::Ended { what: STORE })), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_dataplane_does_not_keep_the_agent() {
        let outcome = end(std::future::pending(), std::future::ready(())).await;
        assert!(matches!(outcome, Err(Error::Stuck { what: DATAPLANE, .. })), "{outcome:?}");
    }
}
