//! Tests of the mesh in virtual time.

mod cluster;
mod config;
mod wire;
mod scenarios;
mod hostile;
mod size;
