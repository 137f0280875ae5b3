//! Tests of the mesh in virtual time.

mod cluster;
mod wire;
mod scenarios;
mod hostile;
mod size;
