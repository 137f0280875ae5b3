//! What can keep an agent from starting, or end it.

use crate::config::ConfigError;

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
    /// A task or thread that must run ended.
    #[error("{what} ended without an error; this is a defect, please report it with the log")]
    Ended {
        /// Which one.
        what: &'static str,
    },
    /// At the end, a task or thread did not end.
    #[error(
        "{what} did not end within {} s; the process ends without it, and the kernel lets go of what it owns or \
         of what is not renewed", patience.as_secs()
    )]
    Stuck {
        /// Which one.
        what: &'static str,
        /// How long it was waited for.
        patience: std::time::Duration,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; check the limit on processes (`ulimit -u`)")]
    Thread(std::io::Error),
}
