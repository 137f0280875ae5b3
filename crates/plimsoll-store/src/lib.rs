//! What the other nodes know: reports out, reports in.
//!
//! One trait, [`Store`]; one file or directory per store; [`build`] is the catalogue. A store carries one report
//! per node, the newest replacing the older ones, and knows nothing of Services, weights or the kernel.

pub mod local;
pub mod mesh;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use plimsoll_core::report::Report;
use plimsoll_core::service::NodeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What a store tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A node's newest report. `report.age` includes the time it spent in the store.
    Report(Arc<Report>),
    /// A node became a live member.
    Joined(NodeName),
    /// A node left, fell silent or was replaced; its last report ages.
    Left(NodeName),
}

/// A way to share reports.
///
/// An error means: broken for good. Lost datagrams, absent peers and forged messages are not errors: they are
/// counted (see [`Store::health`]) and change nothing.
#[async_trait]
pub trait Store: Send {
    /// Sends this node's report to all others. Does not wait for them.
    async fn publish(&mut self, report: Arc<Report>) -> Result<(), Error>;

    /// Waits for news. Cancel-safe: what was not returned is returned by the next call.
    async fn next(&mut self) -> Result<Heard, Error>;

    /// Says goodbye, so that the others do not have to find out. The last call: nothing is published or heard
    /// afterwards.
    async fn leave(&mut self) -> Result<(), Error>;

    /// Who is there and what was counted, as of a second ago at most.
    fn health(&self) -> Health;
}

/// Which store, and its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Config {
    /// One node alone: reports go nowhere.
    #[default]
    Local,
    /// Nodes tell each other, without anything else to run.
    Mesh(mesh::Config),
}

impl Config {
    /// Which store it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Config::Local => "local",
            Config::Mesh(_) => "mesh",
        }
    }

    /// Checks what can be checked without touching the system.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Config::Local => Ok(()),
            Config::Mesh(config) => config.check(),
        }
    }
}

/// What is known of this node and the others besides the settings.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where the others reach this node, the usual address first; none where nobody knows.
    pub own: Vec<IpAddr>,
    /// Where all nodes are reached, this one among them or not; kept up to date.
    pub nodes: watch::Receiver<Arc<[IpAddr]>>,
}

impl Found {
    /// Nothing but the settings.
    pub fn nothing() -> Found {
        Found { own: Vec::new(), nodes: watch::channel(Arc::from([])).1 }
    }
}

/// Opens a store for this node. Within a tokio runtime, and in the network namespace whose nodes are to meet.
pub async fn build(config: Config, node: NodeName, found: Found) -> Result<Box<dyn Store>, Error> {
    Ok(match config {
        Config::Local => Box::new(local::Local),
        Config::Mesh(config) => Box::new(mesh::Mesh::open(config, node, found).await?),
    })
}

/// Reads the files that the settings name, and starts nothing.
pub fn check_files(config: &Config) -> Result<(), Error> {
    match config {
        Config::Local => Ok(()),
        Config::Mesh(config) => config.check_files(),
    }
}

/// What is odd about those files, but works.
pub fn warnings(config: &Config) -> Vec<String> {
    match config {
        Config::Local => Vec::new(),
        Config::Mesh(config) => config.key_file.as_deref().and_then(mesh::exposed).into_iter().collect(),
    }
}

/// Who is there and what was counted since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The live members besides this node, by name.
    pub members: Vec<MemberHealth>,
    /// Process starts that proved to be alive and are remembered.
    pub sessions: usize,
    /// Keys on the ring.
    pub keys: usize,
    /// Datagrams that arrived, whatever they were.
    pub datagrams_in: u64,
    /// Their bytes, without UDP and IP headers.
    pub bytes_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Their bytes, without UDP and IP headers.
    pub bytes_out: u64,
    /// Datagrams the socket did not take.
    pub send_failures: u64,
    /// Reports handed to the agent.
    pub reports: u64,
    /// Datagrams that changed nothing, by reason. `challenged` and `late` are part of normal life.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Endpoints of this node that did not fit into its own report.
    pub endpoints_left_out: usize,
    /// Where the live process is that is newer than this one and has its name: then this node is not a member.
    pub superseded_by: Option<SocketAddr>,
    /// What is wrong at the moment and is being retried (a key file that cannot be read, a peer that does not
    /// resolve).
    pub troubles: Vec<String>,
}

/// A live member.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberHealth {
    /// Its name.
    pub node: NodeName,
    /// Where it receives datagrams.
    pub address: SocketAddr,
    /// How long ago a genuine datagram came from it; `None`: never, others vouch for it.
    pub heard: Option<Duration>,
    /// How many endpoints it reported.
    pub endpoints: usize,
}

impl Health {
    pub(crate) fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
    }
}

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("the mesh's socket failed: {0}")]
    Socket(#[from] std::io::Error),
    /// The address cannot be bound.
    #[error(
        "the mesh cannot bind {address}/udp: {source}; check that no other agent runs here and that the address \
         is this node's, or set another `bind`"
    )]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The key file is of no use.
    #[error(transparent)]
    Key(#[from] mesh::KeyError),
    /// There is no key, and the mesh would leave loopback.
    #[error(
        "the mesh would send from {address} without a key, so that anyone who reaches the port could steer this \
         node: set `key_file` (`openssl rand -base64 32` makes a key, the same for all nodes), bind a loopback \
         address, or set `insecure: true` on a network where nobody else is"
    )]
    NoKey {
        /// The address that is not loopback.
        address: SocketAddr,
    },
    /// It is not clear which of this node's addresses the others should use.
    #[error(
        "the mesh listens on all addresses and cannot tell which one the others reach: {source}; set `advertise` \
         to this node's address and port"
    )]
    NoAddress {
        /// Why the system did not tell.
        source: std::io::Error,
    },
    /// A setting cannot be used.
    #[error("mesh: {setting}: {reason}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The store has left.
    #[error("the store has left the mesh: nothing more to hear")]
    Left,
}
