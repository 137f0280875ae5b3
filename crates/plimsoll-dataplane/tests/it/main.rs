//! The dataplanes on a real kernel, each test in a network namespace of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::format_push_string)]

mod corpus;
mod namespace;
mod nftables;
mod stage;
mod traffic;
mod counting;
mod sources;
mod sctp;
mod reweight;
mod lives;
mod forwarding;
