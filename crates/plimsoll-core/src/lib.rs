//! What the balancer thinks: samples in, weights out, with no I/O, no clock, no randomness of its own.
//!
//! ```text
//! sample -> load -> report -> view -> policy -> guard -> table -> plan
//! ```
//!
//! Each arrow is one function and each type is made in one module and used in the next. [`balancer::Balancer`]
//! ties them together: it takes events with the time at which they happened and answers with commands. The agent
//! and the simulator run this very code. Modules are declared in reading order and name only modules above them.

pub mod time;
pub mod service;
pub mod eligible;
pub mod load;
pub mod report;
pub mod policy;
mod roster;
pub mod view;
pub mod order;
pub mod table;
pub mod guard;
pub mod selection;
pub mod plan;
pub mod explain;
pub mod balancer;
