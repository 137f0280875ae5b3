//! Services and endpoints from a Kubernetes cluster, by watching its API server.
//!
//! Only what is switched on is watched: Services with the label `plimsoll.dev/balance`, and their slices, to which the
//! cluster's controller copies it. What comes is mapped at once to small types of our own (`object`), what follows
//! from it is decided without I/O (`mapping`, `cluster`), in proportion to what changed.
//!
//! A thread of its own does all of it, so that a large list does not keep the balancer waiting.

pub mod config;
mod object;
mod annotations;
mod mapping;
mod facts;
mod known;
mod nodes;
mod cluster;
mod wire;
mod kube_proxy;
mod news;
mod trouble;
mod watching;
mod watches;
mod events;
mod follow;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use plimsoll_core::service::{NodeName, ServiceChange};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use self::config::Config;
use self::events::Events;
use self::follow::{Outlets, follow};
use crate::below::{DropsForwarded, Proxy};
use crate::remark::Remarks;
use crate::{Discovery, Error, Health, Node};

/// How many changes wait for the agent before the thread waits too.
const QUEUE: usize = 64;
/// How long a connection to the API server may take.
const CONNECT: Duration = Duration::from_secs(10);
/// A watch in which nothing was heard for so long is begun again; the API server says something every minute.
const SILENCE: Duration = Duration::from_secs(150);

/// Services and endpoints from a Kubernetes cluster.
pub struct KubernetesDiscovery {
    changes: mpsc::Receiver<Result<ServiceChange, Error>>,
    nodes: watch::Receiver<Arc<[Node]>>,
    health: watch::Receiver<Health>,
    remarks: watch::Receiver<Remarks>,
    proxy: watch::Receiver<Option<Proxy>>,
    /// Those that are written on Services, if any are.
    events: Option<Events>,
}

impl KubernetesDiscovery {
    /// Starts to follow the cluster, on the node of this name. Fails where it is not known how to reach it; whether
    /// it answers is found out later.
    pub fn start(
        config: &Config,
        node: &NodeName,
        drops_forwarded: DropsForwarded,
    ) -> Result<KubernetesDiscovery, Error> {
        config.check()?;
        let (changes, received) = mpsc::channel(QUEUE);
        let (nodes, nodes_receiver) = watch::channel(Arc::from([]));
        let (health, health_receiver) = watch::channel(Health::default());
        let (remarks, remarks_receiver) = watch::channel(Remarks::default());
        let (proxy, proxy_receiver) = watch::channel(None);
        let events = config.events.then(|| Events::new(node.clone()));
        let outlets = Outlets { changes, nodes, health, remarks, proxy, events: events.clone() };
        let (config, node) = (config.clone(), node.clone());
        let (made, outcome) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = made.send(Err(Error::Cluster { what: error.to_string() }));
                    return;
                }
            };
            runtime.block_on(async {
                let client = client(&config).await;
                let outcome =
                    client.as_ref().map(|_| ()).map_err(|what| Error::Cluster { what: what.clone() });
                let _ = made.send(outcome);
                if let Ok(client) = client {
                    follow(client, &config, node, drops_forwarded, outlets).await;
                }
            });
        };
        std::thread::Builder::new()
            .name("kubernetes".into())
            .spawn(run)
            .map_err(|error| Error::Cluster { what: format!("a thread cannot be started: {error}") })?;
        outcome.recv().map_err(|_| Error::Over)??;
        Ok(KubernetesDiscovery {
            changes: received,
            nodes: nodes_receiver,
            health: health_receiver,
            remarks: remarks_receiver,
            proxy: proxy_receiver,
            events,
        })
    }
}

#[async_trait]
impl Discovery for KubernetesDiscovery {
    async fn next(&mut self) -> Result<ServiceChange, Error> {
        self.changes.recv().await.unwrap_or(Err(Error::Over))
    }

    fn nodes(&self) -> watch::Receiver<Arc<[Node]>> {
        self.nodes.clone()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn remarks(&self) -> watch::Receiver<Remarks> {
        self.remarks.clone()
    }

    fn proxy(&self) -> watch::Receiver<Option<Proxy>> {
        self.proxy.clone()
    }

    fn live(&self, nodes: &[NodeName]) {
        if let Some(events) = &self.events {
            events.live(nodes);
        }
    }
}

/// Waits until then; for ever where there is nothing to wait for.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A client of the configured cluster; an error says what is wrong with what it was to be made from.
async fn client(config: &Config) -> Result<Client, String> {
    let options = KubeConfigOptions { context: config.context.clone(), ..KubeConfigOptions::default() };
    let mut made = match (&config.kubeconfig, &config.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path)
                .map_err(|error| format!("the kubeconfig {}: {error}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| format!("the kubeconfig {}: {error}", path.display()))?
        }
        (None, Some(_)) => {
            kube::Config::from_kubeconfig(&options).await.map_err(|error| error.to_string())?
        }
        (None, None) => kube::Config::infer().await.map_err(|error| error.to_string())?,
    };
    made.connect_timeout = Some(CONNECT);
    made.read_timeout = Some(SILENCE);
    made.reset_reader_on_write = true;
    Client::try_from(made).map_err(|error| trouble::chain(&error))
}
