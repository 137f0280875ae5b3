//! Which Services and endpoints exist.
//!
//! One trait, [`Discovery`]; one file or directory per way to find out; [`build`] is the catalogue. A discovery
//! maps what it finds at once to the core's own small types and knows nothing of load or weights.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use plimsoll_core::service::{NodeName, Service, ServiceChange};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub mod remark;
pub mod below;
pub mod file;
pub mod kubernetes;

use self::below::{DropsForwarded, Proxy};
use self::remark::Remarks;

/// A way to find out which Services and endpoints exist.
///
/// An error means: broken for good. What is transient (an invalid reload, a lost watch) is logged, counted (see
/// [`Discovery::health`]) and retried inside, and what was known before stays.
#[async_trait]
pub trait Discovery: Send {
    /// Waits for the next change; the first answer is [`ServiceChange::All`]. Cancel-safe.
    async fn next(&mut self) -> Result<ServiceChange, Error>;

    /// The nodes that have an agent, as far as this discovery knows: empty where it knows of none, which is not
    /// the same as there being none. Kept up to date; a receiver may outlive the discovery.
    fn nodes(&self) -> watch::Receiver<Arc<[Node]>>;

    /// How well it keeps up. Kept up to date; a receiver may outlive the discovery.
    fn health(&self) -> watch::Receiver<Health>;

    /// What there is to say of Services. Kept up to date; a receiver may outlive the discovery.
    fn remarks(&self) -> watch::Receiver<Remarks> {
        watch::channel(Remarks::default()).1
    }

    /// What the proxy below does, as far as this discovery finds out; known with the first change, if at all. Kept up
    /// to date; a receiver may outlive the discovery.
    fn proxy(&self) -> watch::Receiver<Option<Proxy>> {
        watch::channel(None).1
    }

    /// Learns which nodes have a live agent, this one among them if it is a member. Where what there is to say of
    /// Services is written down for all to read, one of them does it; until this is told nobody does.
    fn live(&self, _nodes: &[NodeName]) {}
}

/// A node with an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its zone, for topology hints.
    pub zone: Option<Arc<str>>,
    /// Where other nodes reach its agent, the usual address first; none where that is not this discovery's to know.
    pub addresses: Vec<IpAddr>,
}

/// How well a discovery keeps up with the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How often it took over what it found, the first time included.
    pub loaded: u64,
    /// How often it had to refuse what it found and kept what was known before.
    pub refused: u64,
    /// Why it refused the last time; `None` as soon as something valid was found again.
    pub last_error: Option<Arc<str>>,
}

/// The configuration section `discovery`: exactly one of the ways there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Config {
    /// A YAML file of Services and endpoints, read again whenever it changes.
    File(file::Config),
    /// A Kubernetes cluster: the Services with the label `plimsoll.dev/balance`.
    Kubernetes(kubernetes::Config),
}

/// Starts the configured discovery on the node of this name. To be called inside a tokio runtime.
pub fn build(
    config: &Config,
    node: &NodeName,
    drops_forwarded: DropsForwarded,
) -> Result<Box<dyn Discovery>, Error> {
    Ok(match config {
        Config::File(config) => Box::new(file::FileDiscovery::start(config)?),
        Config::Kubernetes(config) => {
            Box::new(kubernetes::KubernetesDiscovery::start(config, node, drops_forwarded)?)
        }
    })
}

/// Finds out once what exists, and starts nothing. A cluster is not asked: then nothing is found.
pub fn check(config: &Config) -> Result<Vec<Arc<Service>>, Error> {
    match config {
        Config::File(config) => config.check(),
        Config::Kubernetes(config) => config.check().map(|()| Vec::new()),
    }
}

/// What went wrong in a discovery.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error(
        "cannot read the Services file {path}: {source}; check `discovery.file.path` and that this user may read it",
        path = path.display()
    )]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}", .problems.in_file(path))]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and where.
        problems: file::Problems,
    },
    /// The file cannot be watched, because a thread could not be started.
    #[error("cannot start the thread that watches {path}: {source}; check the limit on processes (`ulimit -u`)", path = path.display())]
    Unwatched {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The thread that watches the file ended; the log says why.
    #[error("the thread that watches {path} ended; see the log for its panic", path = path.display())]
    Ended {
        /// Which file.
        path: PathBuf,
    },
    /// A field has a value that cannot be.
    #[error("discovery.{field}: {problem}")]
    Config {
        /// Which field of the section.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// It is not known how to reach the cluster.
    #[error(
        "it is not known how to reach the Kubernetes cluster: {what}; in a Pod check its service account, elsewhere \
         set `discovery.kubernetes.kubeconfig`"
    )]
    Cluster {
        /// What was tried.
        what: String,
    },
    /// kube-proxy treats clients in another way than when the dataplane was made.
    #[error(
        "kube-proxy's ranges of clients inside the cluster, or its masqueradeAll, are known only now or have changed; \
         the agent has to start again with them"
    )]
    ProxyChanged,
    /// The thread that follows the cluster ended; the log says why.
    #[error("the thread that follows the cluster ended; see the log for its panic")]
    Over,
}
