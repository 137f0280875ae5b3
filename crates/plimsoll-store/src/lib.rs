//! What the other nodes know: reports out, reports in.
//!
//! One trait, [`Store`]; one file or directory per store; [`build`] is the catalogue. A store carries one report
//! per node, the newest replacing the older ones, and knows nothing of Services, weights or the kernel.

use std::sync::Arc;

use async_trait::async_trait;
use plimsoll_core::report::Report;
use plimsoll_core::service::NodeName;

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

    /// Says goodbye, so that the others do not have to find out.
    async fn leave(&mut self) -> Result<(), Error>;
}

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("the mesh's socket failed: {0}")]
    Socket(#[from] std::io::Error),
}
