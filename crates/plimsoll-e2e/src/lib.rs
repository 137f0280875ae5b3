//! End to end: a real Kubernetes control plane, three nodes as network namespaces with a real kube-proxy and an agent
//! each, pods with real servers, and clients everywhere. What kube-proxy alone does is compared with what happens with
//! Plimsoll in front of it. And a node with a real kubelet, on which it is installed and its Pods live.

pub mod table;
pub mod report;
pub mod traffic;
pub mod objects;
mod agent;
mod witness;
mod world;
mod dial;
mod judge;
mod differential;
mod changes;
pub mod flows;
mod run;
pub mod old_etcd;
pub mod evenness;
pub mod chaos;
pub mod apart;
pub mod kubelet;
mod writer;
mod kernel;
pub mod scale;

pub use run::{Cases, differential};
