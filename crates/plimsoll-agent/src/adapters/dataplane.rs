//! The dataplane's own thread: it counts every report interval, applies plans as they come, and withdraws at the
//! end. A thread and not a task, because its calls block and because what happens when the agent is stuck must be
//! nothing: no renewal without a plan from the owner.

use std::time::{Duration, Instant};

use plimsoll_core::balancer::Event;
use plimsoll_core::plan::Plan;
use plimsoll_dataplane::{Dataplane, Error};
use rand::RngExt as _;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::metrics::{Kind, Metrics};

/// What the thread needs.
pub(crate) struct Thread {
    pub(crate) interval: Duration,
    /// How long an entry lives without renewal.
    pub(crate) lease: Duration,
    pub(crate) plans: mpsc::Receiver<Plan>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) metrics: Metrics,
}

/// A part of the interval by which reads are moved at random, so that nodes do not fall into step.
const JITTER: f64 = 0.05;

/// How something on the thread ended.
pub(crate) type Outcome = oneshot::Receiver<Result<(), Error>>;

/// Makes the dataplane on a thread of its own and runs it there until the plans end, then withdraws it. The first
/// answer says whether it could be made, the second how it ended.
pub(crate) fn spawn(
    build: impl FnOnce() -> Result<Box<dyn Dataplane>, Error> + Send + 'static,
    thread: Thread,
) -> std::io::Result<(Outcome, Outcome)> {
    let (made, is_made) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new().name("dataplane".into()).spawn(move || {
        let mut dataplane = match build() {
            Ok(dataplane) => dataplane,
            Err(error) => {
                let _ = made.send(Err(error));
                return;
            }
        };
        let _ = made.send(Ok(()));
        let outcome = thread.run(&runtime, dataplane.as_mut());
        // What went wrong first is what to tell; the withdrawal is tried in any case.
        let _ = ended.send(outcome.and(dataplane.withdraw()));
    })?;
    Ok((is_made, has_ended))
}

impl Thread {
    fn run(mut self, runtime: &Handle, dataplane: &mut dyn Dataplane) -> Result<(), Error> {
        // Before the first plan there is nobody to count: counts would say that nothing is open.
        let Some(first) = runtime.block_on(self.plans.recv()) else { return Ok(()) };
        let mut renewed = Instant::now();
        self.apply(dataplane, &first)?;
        let mut next_read = Instant::now() + self.interval.mul_f64(rand::random());
        let (mut counted, mut stepped) = (false, false);
        loop {
            let due = dataplane.due();
            let next = due.map_or(next_read, |due| due.min(next_read));
            let deadline = tokio::time::Instant::from_std(next);
            let received =
                runtime.block_on(async { tokio::time::timeout_at(deadline, self.plans.recv()).await });
            match received {
                Ok(Some(plan)) => {
                    let began = Instant::now();
                    let applied = self.apply(dataplane, &plan)?;
                    if applied && (plan.renew || plan.fresh) {
                        // From before the last one to after this one: leases cannot have run out unnoticed.
                        self.tell_if_late(renewed.elapsed());
                        renewed = began;
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => {}
            }
            // One thing at a time: the next plan may renew the leases.
            if Instant::now() < next {
                continue;
            }
            // What was due first: the first counts wait for the measurement that was due before them. Later ones wait
            // for one step at most, since leases are renewed only while there are counts.
            let overdue = Instant::now() >= next_read;
            if due.is_some_and(|due| due < next_read) && !(stepped && overdue) {
                unless_lost(dataplane.step())?;
                stepped = counted;
            } else {
                (counted, stepped) = (true, false);
                next_read = Instant::now()
                    + self.interval.mul_f64(rand::rng().random_range(1.0 - JITTER..1.0 + JITTER));
                self.read(dataplane)?;
            }
        }
    }

    /// Whether the kernel took the plan.
    fn apply(&mut self, dataplane: &mut dyn Dataplane, plan: &Plan) -> Result<bool, Error> {
        let started = Instant::now();
        let outcome = dataplane.apply(plan);
        self.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(error) if error.is_refusal() => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let applied = outcome.is_ok();
        let kind = if applied { "applied" } else { "refused" };
        self.metrics.plans.get_or_create(&Kind { kind }).inc();
        // Waits for room: a plan whose end the owner does not hear of would be the last one.
        let _ = self.events.blocking_send(Event::Applied(outcome));
        Ok(applied)
    }

    /// Says so when leases ran out because this process, or this thread, did not get to renew them.
    fn tell_if_late(&self, since_last: Duration) {
        if since_last > self.lease {
            self.metrics.late_renewals.inc();
            warn!(
                ?since_last,
                lease = ?self.lease,
                "leases were renewed too late: the proxy below served meanwhile; is this host overloaded?"
            );
        }
    }

    fn read(&mut self, dataplane: &mut dyn Dataplane) -> Result<(), Error> {
        let started = Instant::now();
        let Some(counts) = unless_lost(dataplane.read())? else { return Ok(()) };
        self.metrics.read_seconds.observe(started.elapsed().as_secs_f64());
        // Counts that find no room are replaced by the next ones.
        if self.events.try_send(Event::Counts(counts)).is_err() {
            self.metrics.dropped.get_or_create(&Kind { kind: "counts" }).inc();
        }
        Ok(())
    }
}

/// What is lost comes back by the fresh plan that follows when the next one is refused.
fn unless_lost<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ Error::Lost { .. }) => {
            warn!("{error}; it is made anew, and the proxy below serves meanwhile");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::load::Counts;

    use super::*;

    /// Has endless work, asks for a plan in the midst of it, and loses what it has at its first reading.
    struct Busy {
        plans: Option<mpsc::Sender<Plan>>,
        began: Instant,
        steps: usize,
        /// How many steps were done when each plan came.
        applied: Vec<usize>,
        read: usize,
    }

    /// After so many steps a plan comes.
    const EACH: usize = 10;

    impl Dataplane for Busy {
        fn read(&mut self) -> Result<Counts, Error> {
            self.read += 1;
            if self.read == 1 {
                return Err(Error::Lost { what: "it".into(), source: std::io::ErrorKind::NotFound.into() });
            }
            // The owner ends.
            self.plans = None;
            Ok(Counts::default())
        }

        fn apply(&mut self, _: &Plan) -> Result<(), Error> {
            self.applied.push(self.steps);
            Ok(())
        }

        fn due(&self) -> Option<Instant> {
            (self.steps < 5 * EACH).then_some(self.began)
        }

        fn step(&mut self) -> Result<(), Error> {
            self.steps += 1;
            if self.steps.is_multiple_of(EACH) {
                self.plans.as_ref().unwrap().try_send(Plan::default()).unwrap();
            }
            Ok(())
        }

        fn withdraw(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn plans_wait_for_one_step_at_most_and_a_loss_is_not_the_end() {
        let (plans, to_apply) = mpsc::channel(2);
        let (events, mut told) = mpsc::channel(64);
        let interval = Duration::from_millis(1);
        let lease = Duration::from_secs(10);
        let thread = Thread { interval, lease, plans: to_apply, events, metrics: Metrics::default() };
        plans.try_send(Plan::default()).unwrap();
        let mut busy =
            Busy { plans: Some(plans), began: Instant::now(), steps: 0, applied: Vec::new(), read: 0 };
        let runtime = Handle::current();
        let running = std::thread::spawn(move || {
            let outcome = thread.run(&runtime, &mut busy);
            (outcome, busy)
        });
        let (outcome, busy) = tokio::task::spawn_blocking(|| running.join().unwrap()).await.unwrap();
        outcome.unwrap();
        assert_eq!(busy.applied, [0, 10, 20, 30, 40, 50]);
        assert_eq!(busy.read, 2);
        let mut counts = 0;
        while let Some(event) = told.recv().await {
            counts += usize::from(matches!(event, Event::Counts(_)));
        }
        assert_eq!(counts, 1);
    }
}
