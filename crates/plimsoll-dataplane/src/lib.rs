//! Weights into the kernel, counts out of it.
//!
//! One trait, [`Dataplane`]; one directory or file per way into the kernel; [`build`] is the catalogue. A dataplane
//! knows nothing of load, policies or other nodes: it takes a [`Plan`] and answers with what it counted.

pub mod netlink;
pub mod conntrack;
pub mod nftables;

use plimsoll_core::load::Counts;
use plimsoll_core::plan::Plan;

/// A way into the kernel.
///
/// Calls block, for a few milliseconds at most in steady state: the agent gives a dataplane a thread of its own,
/// which must be in the network namespace that is to be balanced when it calls `build`.
///
/// An error from [`read`](Dataplane::read) or [`withdraw`](Dataplane::withdraw) means: broken for good. What is
/// transient (a full event buffer, an interrupted dump) is repaired inside. A plan that the kernel refuses leaves
/// everything as it was: [`Error::Refused`], and the caller sends a fresh plan.
pub trait Dataplane: Send {
    /// What the kernel counted, exact as of this call. To be called every report interval: it also ends the
    /// current age slot when that is due.
    fn read(&mut self) -> Result<Counts, Error>;

    /// Carries out the plan, whole or not at all.
    fn apply(&mut self, plan: &Plan) -> Result<(), Error>;

    /// Removes everything this dataplane put into the kernel. Established connections live on.
    fn withdraw(&mut self) -> Result<(), Error>;
}

/// What went wrong on the way into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a plan; nothing of it was applied.
    #[error("the kernel refused to {what}: {source}; nothing of the plan was applied")]
    Refused {
        /// What could not be done, with what.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The way into the kernel does not work (any more).
    #[error("cannot {what}: {source}")]
    Broken {
        /// What could not be done, with what, and what to check.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration makes no sense.
    #[error("{field}: {problem}")]
    Config {
        /// The field of the dataplane's section.
        field: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
}
