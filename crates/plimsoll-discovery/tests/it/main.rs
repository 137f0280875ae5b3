//! The discoveries from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod corpus;
mod file;
mod kubernetes;
mod rights;
mod bad_objects;
mod events;
mod admission;
