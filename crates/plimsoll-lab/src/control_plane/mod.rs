//! A real Kubernetes control plane: etcd and the API server, with certificates made for it, and beside it, as wanted,
//! kube-proxy on the nodes, the controllers, and a kubelet with containerd that runs Pods.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use plimsoll_lab::control_plane::{ControlPlane, Settings};
//! use plimsoll_lab::namespace::Namespace;
//!
//! let plane = ControlPlane::start(Settings::new(&Namespace::new("control-plane")?))?;
//! plane.kubectl().apply("{apiVersion: v1, kind: Namespace, metadata: {name: web}}")?;
//! # Ok(())
//! # }
//! ```
//!
//! The programs are those in the directory that `KUBEBUILDER_ASSETS` names; `cargo xtask control-plane` builds them.
//! They end with the values that stand for them, and with this process however it ends; only when it is killed, a
//! directory `plimsoll-control-plane-…` stays among the temporary files.

mod error;
mod programs;
mod process;
mod identity;
mod kubectl;
mod plane;
mod kube_proxy;
mod controllers;
mod kubelet;
mod install;

pub use controllers::{ControllerManager, Scheduler};
pub use error::Error;
pub use install::MANIFESTS;
pub use kube_proxy::{KubeProxy, Mode};
pub use kubectl::Kubectl;
pub use kubelet::{Kubelet, Network};
pub use plane::{ControlPlane, Settings};
pub use programs::{available, program};
