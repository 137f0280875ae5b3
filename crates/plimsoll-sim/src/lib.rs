//! A whole cluster in virtual time, in one thread: the very balancer of the agents, and beside it the policies people
//! use today.
//!
//! ```text
//! scenario -> engine (clients, connections, requests, endpoints) <-> steering (agents | baseline | oracle)
//!          -> measure -> results -> table
//! recording -> replay -> scenario
//! ```
//!
//! No I/O, no clock, no randomness but that of one seed: a run is the same on every machine, bit by bit.

pub mod dice;
pub mod queue;
mod places;
pub mod histogram;
pub mod recording;
pub mod traffic;
pub mod scenario;
pub mod processor;
pub mod cluster;
pub mod steering;
pub mod selection;
pub mod agents;
pub mod baselines;
pub mod catalogue;
pub mod measure;
pub mod engine;
pub mod trace;
pub mod batch;
pub mod replay;
pub mod results;
pub mod against;
pub mod hostile;
