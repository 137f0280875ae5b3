//! The composition root: builds the edges, wires them to the owner, and takes them down in order.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balancer::{Balancer, Event};
use plimsoll_core::service::{Here, NodeName};
use plimsoll_discovery::Discovery;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::adapters::{self, dataplane::Thread};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::http::{self, Shared};
use crate::metrics::Metrics;
use crate::owner::{EVENTS, Owner, QUESTIONS};
use crate::ready::Readiness;

/// Why an agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The discovery.
    #[error(transparent)]
    Discovery(#[from] plimsoll_discovery::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] plimsoll_store::Error),
    /// The dataplane.
    #[error(transparent)]
    Dataplane(#[from] plimsoll_dataplane::Error),
    /// The HTTP API.
    #[error(
        "cannot listen on {listen}: {source}; is another agent running here? \
         set `api.listen` to another address or port"
    )]
    Listen {
        /// Where.
        listen: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The HTTP API.
    #[error("the HTTP API failed: {0}")]
    Api(std::io::Error),
    /// A task or thread that must run ended.
    #[error("{what} ended without an error; this is a defect, please report it with the log")]
    Ended {
        /// Which one.
        what: &'static str,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; check the limit on processes (`ulimit -u`)")]
    Thread(std::io::Error),
}

/// Runs an agent until `stop`, or until something it cannot do without fails. Either way nothing stays behind in
/// the kernel.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    config.check()?;
    let node = config.node_name()?;
    let listener = listen(&config).await?;
    let readiness = Readiness::default();
    let found = readiness.await_for("discovery");
    let mut discovery = plimsoll_discovery::build(&config.discovery)?;
    let first = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = discovery.next() => first?,
    };
    drop(found);
    let nodes = discovery.nodes();
    let interval = config.report_interval(nodes.borrow().len());
    let here = here(&config, &node, discovery.as_ref());
    let parameters = config.parameters(interval);
    let horizon = parameters.horizon();
    info!(%node, zone = ?here.zone, ?interval, ?horizon, config = %effective(&config), "starting");

    let metrics = Metrics::default();
    let (events, received) = mpsc::channel(EVENTS);
    let (reports, to_publish) = mpsc::channel(2);
    let (plans, to_apply) = mpsc::channel(2);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let store = plimsoll_store::build(config.store.clone(), node.clone()).await?;
    let (store_health, health_of_store) = watch::channel(store.health());
    let thread = Thread { interval, plans: to_apply, events: events.clone(), metrics: metrics.clone() };
    let build = {
        let config = config.dataplane.clone();
        let node = node.clone();
        move || plimsoll_dataplane::build(&config, &node, horizon)
    };
    let (made, dataplane_ended) = adapters::dataplane::spawn(build, thread).map_err(Error::Thread)?;
    made.await.map_err(|_| Error::Ended { what: "the dataplane's thread" })??;

    let shared = Shared {
        questions,
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        discovery: discovery.health(),
        store: health_of_store,
        config: Arc::new(serde_json::to_value(&config).unwrap_or_default()),
    };
    let owner = Owner {
        balancer: Balancer::new(here, parameters),
        node,
        clock: Clock::start(),
        reports,
        plans,
        metrics: metrics.clone(),
        first_plan: Some(readiness.await_for("the first plan in the dataplane")),
        first_counts: Some(readiness.await_for("the first counts")),
        readiness,
        dataplane: config.dataplane.kind(),
        store: config.store.kind(),
    };
    let _ = events.send(Event::Services(first)).await;

    let intake = CancellationToken::new();
    let goodbye = CancellationToken::new();
    let last = CancellationToken::new();
    let mut tasks = Tasks::default();
    tasks.spawn(DISCOVERY, adapters::discovery::run(discovery, events.clone(), intake.clone()));
    tasks.spawn(OWNER, {
        let run = owner.run(received, asked, intake.clone());
        async move {
            run.await;
            Ok(())
        }
    });
    tasks.spawn(
        STORE,
        adapters::store::run(store, to_publish, events, store_health, metrics, goodbye.clone()),
    );
    tasks.spawn(DATAPLANE, async move { Ok(dataplane_ended.await.unwrap_or(Ok(()))?) });
    tasks.spawn(API, http::serve(listener, shared, last.clone()));
    tokio::select! {
        () = stop.cancelled() => {}
        what = tasks.next() => tasks.must_not_end(what),
    }
    // In this order: no new input; out of the kernel, so that the proxy below takes over (the owner's end closes
    // the queue of plans, and that ends the dataplane's thread); goodbye to the peers; and the API last, so that it
    // tells the truth until the end.
    intake.cancel();
    tasks.until(DATAPLANE).await;
    goodbye.cancel();
    tasks.until(STORE).await;
    last.cancel();
    let _ = tokio::time::timeout(GRACE, tasks.until(API)).await;
    info!("stopped");
    tasks.outcome
}

const DISCOVERY: &str = "the discovery";
const OWNER: &str = "the owner of the balancer";
const STORE: &str = "the store";
const DATAPLANE: &str = "the dataplane's thread";
const API: &str = "the HTTP API";
/// How long an answer of the API may take at the end.
const GRACE: Duration = Duration::from_secs(1);

/// The tasks of an agent, which ones have ended, and the first error of any.
struct Tasks {
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
    fn spawn(&mut self, what: &'static str, task: impl Future<Output = Result<(), Error>> + Send + 'static) {
        self.running.spawn(async move { (what, task.await) });
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

async fn listen(config: &Config) -> Result<TcpListener, Error> {
    let listen = config.api.listen;
    TcpListener::bind(listen).await.map_err(|source| Error::Listen { listen, source })
}

/// Who this node is: the configured zone, else what the discovery says of it.
fn here(config: &Config, node: &NodeName, discovery: &dyn Discovery) -> Here {
    let nodes = discovery.nodes();
    let nodes = nodes.borrow();
    let listed = nodes.iter().find(|listed| listed.name == *node).and_then(|listed| listed.zone.clone());
    Here { node: node.clone(), zone: config.zone.as_deref().map(Into::into).or(listed) }
}

fn effective(config: &Config) -> String {
    serde_json::to_string(config).unwrap_or_else(|error| format!("(not shown: {error})"))
}
