//! A laboratory of network namespaces: nodes, endpoints and clients on one machine, for the tests, the demo and the
//! benchmarks.
//!
//! Everything happens in kernel namespaces without a name: they live as long as something of this process is in
//! them, so nothing is left when it ends, however it ends. It needs the rights `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` over its own
//! namespaces: root, or `unshare -Urnm PROGRAM` ([`namespace::enter_rootless`] does the same from within).
//! Where the programs of Kubernetes are, a real [`control_plane`] runs in them. Traffic never leaves these namespaces;
//! all loads are bounded in number and in time.

mod poll;
mod patience;
pub mod usage;
pub mod random;
pub mod namespace;
mod bound;
pub mod enclosure;
mod needs;
pub mod cluster;
pub mod proxy;
pub mod server;
pub mod client;
pub mod sctp;
pub mod control_plane;

pub use bound::Bound;
pub use needs::available;
pub use patience::eventually;
