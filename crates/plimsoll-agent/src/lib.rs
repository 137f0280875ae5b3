//! One per node: wires discovery, store, dataplane and the core into a running agent.
//!
//! One task owns the balancer; every other task sends it events over a bounded queue and gets commands or
//! immutable values back. [`run`] is the composition root.

mod clock;
mod ready;
mod pulse;
mod metrics;
mod config;
mod error;
mod owner;
mod adapters;
mod callers;
mod http;
mod tasks;
mod run;

pub use callers::{DEADLINE as API_DEADLINE, MOST as MOST_API_CONNECTIONS};
pub use config::{Config, ConfigError};
pub use error::Error;
pub use http::{PAGES, Page};
pub use metrics::sample as sample_metrics;
pub use run::{check, run};
