//! Plimsoll itself, as its manifests install it, but for the Pods: what stands for them the tests start themselves.

use std::path::PathBuf;

use super::error::Error;
use super::plane::ControlPlane;

/// What those who install without helm apply.
pub const MANIFESTS: &str = include_str!("../../../../deploy/plimsoll.yaml");

impl ControlPlane {
    /// Applies the manifests of Plimsoll but its `DaemonSet`, and gives back a kubeconfig file of its `ServiceAccount`: who
    /// uses it may do what the manifests allow, and nothing else.
    pub fn install(&self) -> Result<PathBuf, Error> {
        let documents =
            MANIFESTS.split("\n---\n").filter(|document| !document.contains("\nkind: DaemonSet\n"));
        self.kubectl().apply(&documents.collect::<Vec<_>>().join("\n---\n"))?;
        let groups = ["system:serviceaccounts", "system:serviceaccounts:plimsoll"];
        self.kubeconfig_for("system:serviceaccount:plimsoll:plimsoll", &groups)
    }
}
