//! The composition root: builds the edges, wires them to the owner, and takes them down in order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balancer::{Balancer, Event};
use plimsoll_core::service::{Here, NodeName};
use plimsoll_discovery::Discovery;
use plimsoll_discovery::below::{LocalSources, Proxy};
use plimsoll_store::Found;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::adapters::{self, dataplane::Thread, discovery::Surroundings};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::http::{self, Shared};
use crate::metrics::Metrics;
use crate::owner::{EVENTS, Owner, QUESTIONS};
use crate::pulse::Pulse;
use crate::ready::Readiness;
use crate::tasks::{API, DATAPLANE, DISCOVERY, OWNER, STORE, Stops, Tasks};

/// Checks a configuration with the files it names, and starts nothing. Gives back what is odd, but works.
pub fn check(config: &Config) -> Result<Vec<String>, Error> {
    config.check()?;
    config.node_name()?;
    plimsoll_discovery::check(&config.discovery)?;
    plimsoll_store::check_files(&config.store)?;
    Ok(plimsoll_store::warnings(&config.store))
}

/// Runs an agent until `stop`, or until something it cannot do without fails. Either way nothing stays behind in
/// the kernel.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    config.check()?;
    let (node, config) = (config.node_name()?, config.effective()?);
    let listener = listen(&config).await?;
    let mut discovery =
        plimsoll_discovery::build(&config.discovery, &node, plimsoll_dataplane::forwarding::dropped)?;
    let mut tasks = Tasks::default();
    let stops = Stops::default();

    // The API answers from the beginning, so that one can see what a start waits for.
    let readiness = Readiness::default();
    let first_look = readiness.await_for("discovery");
    let metrics = Metrics::default();
    let pulse = Pulse::new(config.dataplane.lease().0);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let (store_health, health_of_store) = watch::channel(plimsoll_store::Health::default());
    let shared = Shared {
        questions,
        readiness: readiness.clone(),
        pulse: pulse.clone(),
        metrics: metrics.clone(),
        discovery: discovery.health(),
        store: health_of_store.clone(),
        config: Arc::new(serde_json::to_value(&config).unwrap_or_default()),
    };
    tasks.spawn(API, http::serve(listener, shared, stops.last.clone()));

    let first = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = discovery.next() => first?,
    };
    let config = in_front_of(config, discovery.as_ref());
    let parameters = config.parameters();
    let interval = parameters.report_interval;
    let here = here(&config, &node, discovery.as_ref());
    let horizon = parameters.horizon();
    warn_if_unlisted(&node, discovery.as_ref());
    info!(%node, zone = ?here.zone, ?interval, ?horizon, config = %effective(&config), "starting");

    let (events, received) = mpsc::channel(EVENTS);
    let (reports, to_publish) = mpsc::channel(2);
    let (plans, to_apply) = mpsc::channel(2);
    // Before the dataplane counts: the first plan is to be a whole one.
    let _ = events.send(Event::Services(first)).await;
    let lease = config.dataplane.lease().0;
    let thread =
        Thread { interval, lease, plans: to_apply, events: events.clone(), metrics: metrics.clone() };
    let dataplane = dataplane(&config, &node, horizon, thread).await?;
    // After the dataplane: a second agent on this node fails there, before it takes the first one's place in the mesh.
    let (places, found) = found(&node, discovery.as_ref());
    let around = Surroundings {
        node: node.clone(),
        zone: here.zone.clone(),
        zone_is_set: config.zone.is_some(),
        places,
        store: health_of_store,
    };
    let store = plimsoll_store::build(config.store.clone(), node.clone(), found).await?;
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
        pulse,
        dataplane: config.dataplane.kind(),
        store: config.store.kind(),
        dry_run: matches!(config.dataplane, plimsoll_dataplane::Config::DryRun(_)),
    };
    drop(first_look);
    let following = adapters::discovery::run(discovery, around, events.clone(), stops.intake.clone());
    tasks.spawn(DISCOVERY, following);
    tasks.spawn(OWNER, owner.run(received, asked, stops.intake.clone()));
    let publishing =
        adapters::store::run(store, to_publish, events, store_health, metrics, stops.goodbye.clone());
    tasks.spawn(STORE, publishing);
    tasks.spawn(DATAPLANE, async move { Ok(dataplane.await.unwrap_or(Ok(()))?) });
    tasks.until_stopped(&stop, &stops).await
}

/// Makes the dataplane on its thread; what is given back tells how it ends.
async fn dataplane(
    config: &Config,
    node: &NodeName,
    horizon: Duration,
    thread: Thread,
) -> Result<adapters::dataplane::Outcome, Error> {
    let (config, node) = (config.dataplane.clone(), node.clone());
    let build = move || plimsoll_dataplane::build(&config, &node, horizon);
    let (made, ended) = adapters::dataplane::spawn(build, thread).map_err(Error::Thread)?;
    made.await.map_err(|_| Error::Ended { what: DATAPLANE })??;
    Ok(ended)
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

/// What the discovery knows of the nodes' places, and where it tells of others.
fn found(node: &NodeName, discovery: &dyn Discovery) -> (watch::Sender<Arc<[IpAddr]>>, Found) {
    let nodes = discovery.nodes();
    let nodes = nodes.borrow();
    let own = nodes.iter().find(|listed| listed.name == *node).map(|own| own.addresses.clone());
    let (places, receiver) = watch::channel(adapters::discovery::places(&nodes));
    (places, Found { own: own.unwrap_or_default(), nodes: receiver })
}

/// The configuration, with what the discovery knows of the proxy below where nothing is configured.
fn in_front_of(mut config: Config, discovery: &dyn Discovery) -> Config {
    if let plimsoll_dataplane::Config::Nftables(dataplane) = &mut config.dataplane
        && dataplane.local_sources.is_empty()
        && dataplane.local_interface.is_none()
        && let Some(Proxy { local, masquerade_all, .. }) = &*discovery.proxy().borrow()
    {
        match local {
            LocalSources::Ranges(ranges) => dataplane.local_sources.clone_from(ranges),
            LocalSources::Interface(name) => dataplane.local_interface = Some(name.to_string()),
        }
        dataplane.masquerade_all |= masquerade_all;
    }
    config
}

/// A node that calls itself differently from the list counts nothing for the others.
fn warn_if_unlisted(node: &NodeName, discovery: &dyn Discovery) {
    let nodes = discovery.nodes();
    let nodes = nodes.borrow();
    if !nodes.is_empty() && !nodes.iter().any(|listed| listed.name == *node) {
        let listed: Vec<&str> = nodes.iter().map(|listed| listed.name.as_str()).take(10).collect();
        warn!(
            "this node calls itself {node}, which is not among the nodes of the discovery ({}): it counts for nobody; \
             set `node` or --node",
            listed.join(", ")
        );
    }
}

fn effective(config: &Config) -> String {
    serde_json::to_string(config).unwrap_or_else(|error| format!("(not shown: {error})"))
}
