//! What people use today and what has been proposed, each as its source describes it, and oracles to measure by.

pub mod oracle;
pub mod blind;
mod gauge;
pub mod feedback;
pub mod central;
pub mod scd;
pub mod clients;
pub mod recorded;
