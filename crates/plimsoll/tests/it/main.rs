//! What must hold, on the real kernel: agents as processes of their own, nodes in network namespaces.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod agent;
mod stage;

mod api;
mod bad_input;
mod counts;
mod ends;
mod foreign;
mod partition;
mod removal;
