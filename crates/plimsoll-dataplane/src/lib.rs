//! Weights into the kernel, counts out of it.
//!
//! One trait, [`Dataplane`]; one directory or file per way into the kernel; [`build`] is the catalogue. A dataplane
//! knows nothing of load, policies or other nodes: it takes a [`Plan`] and answers with what it counted.

pub mod netlink;
pub mod forwarding;
pub mod conntrack;
pub mod nftables;
pub mod dry_run;

use std::time::{Duration, Instant};

use plimsoll_core::load::Counts;
use plimsoll_core::plan::Plan;
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A way into the kernel.
///
/// Calls block, for a few milliseconds at most in steady state: the agent gives a dataplane a thread of its own,
/// which must be in the network namespace that is to be balanced when it calls `build`.
///
/// What is transient (a full event buffer, an interrupted dump) is repaired inside. A plan that the kernel refuses
/// leaves everything as it was: [`Error::Refused`], and the caller sends a fresh plan. [`Error::Lost`] says that what
/// was put into the kernel is not there any more: the next plan is refused, and a fresh one brings it back. Any other
/// error means: broken for good.
pub trait Dataplane: Send {
    /// What the kernel counted, exact as of this call. To be called every report interval: it also ends the
    /// current age slot when that is due.
    fn read(&mut self) -> Result<Counts, Error>;

    /// Carries out the plan, whole or not at all; what it releases within some 50 ms, by [`step`](Dataplane::step).
    fn apply(&mut self, plan: &Plan) -> Result<(), Error>;

    /// When [`step`](Dataplane::step) is to be called.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Does a part of the work that is neither a plan nor a reading, if some is due: at most one look through all of
    /// the node's connections, so that no plan waits for longer than that.
    fn step(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Removes everything this dataplane put into the kernel. Established connections live on.
    fn withdraw(&mut self) -> Result<(), Error>;
}

/// The configuration section `dataplane`: exactly one of the ways there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Config {
    /// A table of its own in front of the installed proxy.
    Nftables(nftables::Config),
    /// Nothing: counts by dumps, for a look at what would be done.
    DryRun(dry_run::Config),
}

impl Default for Config {
    fn default() -> Config {
        Config::Nftables(nftables::Config::default())
    }
}

impl Config {
    /// The dataplane that touches nothing.
    pub fn dry_run() -> Config {
        Config::DryRun(dry_run::Config::default())
    }

    /// Which dataplane it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Config::Nftables(_) => "nftables",
            Config::DryRun(_) => "dry_run",
        }
    }

    /// Checks each field, for a balancer that can renew leases every `renewal`.
    pub fn check(&self, renewal: Duration) -> Result<(), Error> {
        match self {
            Config::Nftables(config) => config.check(renewal),
            Config::DryRun(config) => config.check(),
        }
    }

    /// How long an entry lives without renewal.
    pub fn lease(&self) -> Span {
        match self {
            Config::Nftables(config) => config.lease,
            // There is nothing to renew.
            Config::DryRun(_) => nftables::Config::default().lease,
        }
    }
}

/// Age slots per horizon: young connections are told from old ones to a quarter of the horizon, and within a slot
/// ages are taken as spread evenly.
const SLOTS_PER_HORIZON: u32 = 4;

/// Makes the configured dataplane, in the network namespace of the calling thread.
pub fn build(config: &Config, node: &NodeName, horizon: Duration) -> Result<Box<dyn Dataplane>, Error> {
    let slot_length = horizon / SLOTS_PER_HORIZON;
    match config {
        Config::Nftables(config) => {
            let setup = nftables::Setup { node_offset: offset(node), ..nftables::Setup::default() };
            let terms = nftables::Terms::new(setup, slot_length);
            Ok(Box::new(nftables::NftablesDataplane::open(config.clone(), terms)?))
        }
        Config::DryRun(config) => Ok(Box::new(dry_run::DryRun::open(config, slot_length)?)),
    }
}

/// A number of the node's own, from its name: nodes must not go through the endpoints in step (FNV-1a, folded).
fn offset(node: &NodeName) -> u16 {
    let hash = node
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) as u16
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
    /// What was put into the kernel is not there any more. A fresh plan brings it back.
    #[error("{what} is not in the kernel any more: {source}")]
    Lost {
        /// What is gone.
        what: String,
        /// How that was found.
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

impl Error {
    /// Whether the kernel refused a plan, so that a fresh one may go better.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Refused { .. })
    }
}
