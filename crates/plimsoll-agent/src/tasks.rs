//! The tasks of an agent: an essential one that ends is the agent's end, and the end goes in order.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
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

/// The tasks of an agent, which ones have ended, and the first error of any.
pub(crate) struct Tasks {
    running: JoinSet<(&'static str, Result<(), Error>)>,
    ended: BTreeSet<&'static str>,
    outcome: Result<(), Error>,
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks { running: JoinSet::new(), ended: BTreeSet::new(), outcome: Ok(()) }
    }
}

impl Tasks {
    pub(crate) fn spawn(
        &mut self,
        what: &'static str,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.running.spawn(async move { (what, task.await) });
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
        self.until(DATAPLANE).await;
        stops.goodbye.cancel();
        self.until(STORE).await;
        stops.last.cancel();
        let _ = tokio::time::timeout(GRACE, self.until(API)).await;
        info!("stopped");
        self.outcome
    }

    /// Waits for the next task to end; `None` when none is left, or when one panicked.
    async fn next(&mut self) -> Option<&'static str> {
        let (what, outcome) = self.running.join_next().await?.ok()?;
        self.ended.insert(what);
        if let Err(error) = outcome {
            error!("{what} failed: {error}");
            if self.outcome.is_ok() {
                self.outcome = Err(error);
            }
        }
        Some(what)
    }

    /// Waits until this task has ended.
    async fn until(&mut self, what: &'static str) {
        while !self.ended.contains(what) && !self.running.is_empty() {
            self.next().await;
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
