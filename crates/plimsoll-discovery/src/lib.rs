//! Which Services and endpoints exist.
//!
//! One trait, [`Discovery`]; one file or directory per way to find out; [`build`] is the catalogue. A discovery
//! maps what it finds at once to the core's own small types and knows nothing of load or weights.

use async_trait::async_trait;
use plimsoll_core::service::ServiceChange;

/// A way to find out which Services and endpoints exist.
///
/// An error means: broken for good. What is transient (an invalid reload, a lost watch) is logged, counted and
/// retried inside, and what was known before stays.
#[async_trait]
pub trait Discovery: Send {
    /// Waits for the next change; the first answer is [`ServiceChange::All`]. Cancel-safe.
    async fn next(&mut self) -> Result<ServiceChange, Error>;
}

/// What went wrong in a discovery.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
