//! Where the programs of a control plane are.

use std::path::PathBuf;

use super::error::Error;
use crate::needs;

/// The variable that names the directory with the programs.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The path of a program (`etcd`, `kube-apiserver`, `kubectl`, …).
pub fn program(name: &str) -> Result<PathBuf, Error> {
    let Some(directory) = std::env::var_os(ASSETS).filter(|directory| !directory.is_empty()) else {
        return Err(Error::Missing(format!(
            "no {name}: {ASSETS} is not set; `cargo xtask test` sets it, and `cargo xtask control-plane` builds the \
             programs and prints the directory to set it to"
        )));
    };
    let path = PathBuf::from(directory).join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Missing(format!(
        "no {}: put it there, or have it built by `cargo xtask control-plane {name}` without {ASSETS}",
        path.display()
    )))
}

/// Whether tests that need namespaces, these programs of a control plane and these of the system can run here. If not
/// it says so on stderr, and panics where `PLIMSOLL_REQUIRE_ALL_TESTS=1` asks for all tests.
pub fn available(programs: &[&str], of_system: &[&str]) -> bool {
    let needed = ["ip", "setpriv"].iter().chain(of_system).copied().collect::<Vec<_>>();
    if !needs::available(&needed) {
        return false;
    }
    let mut needed = ["etcd", "kube-apiserver", "kubectl"].iter().chain(programs);
    let Some(missing) = needed.find_map(|name| program(name).err()) else { return true };
    needs::skip(&missing.to_string());
    false
}
