//! End to end: the real programs of a cluster beside ours, in network namespaces.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, command, run};
use crate::setup::{ensure, ensure_programs, is_root};
use crate::workspace::Workspace;
use crate::{control_plane, debian, image};

/// Runs real programs of Kubernetes with Plimsoll in front of kube-proxy: a control plane and three nodes, or a kubelet.
///
/// `kubernetes` compares kube-proxy alone with Plimsoll in front of it, case by case (crates/plimsoll-e2e/src/cases.txt).
/// `kubelet` installs the image and the manifests on a node with a kubelet and containerd, and lets happen what
/// happens to Pods. Both install missing system programs or name them, build the programs of Kubernetes (some minutes,
/// once: `cargo xtask control-plane`) and ours, and print a line each, and `N passed, N failed`. docs/e2e.md says more.
/// Needs root.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask e2e kubernetes\n  cargo xtask e2e kubernetes --mode iptables source-ranges\n  \
                        cargo xtask e2e kubernetes --only evenness\n  cargo xtask e2e kubernetes --only scale\n  \
                        cargo xtask e2e kubelet\n  cargo xtask e2e kubernetes --help"
)]
pub(crate) struct Arguments {
    /// `kubernetes` or `kubelet`, and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    rest: Vec<OsString>,
}

/// What a node that runs Pods needs, each with its package of Debian and Ubuntu.
const FOR_PODS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
];

pub(crate) fn e2e(arguments: &Arguments) -> Result<()> {
    let asks = |word: &&OsString| ["--help", "-h", "--list"].iter().any(|asking| *word == asking);
    let runs = arguments.rest.iter().find(asks).is_none();
    let has_pods = runs && arguments.rest[0] == "kubelet";
    if runs {
        if !is_root()? {
            bail!(
                "nodes are network namespaces with a kube-proxy each: run it as root, `sudo -E cargo xtask e2e …`"
            );
        }
        ensure()?;
    }
    if has_pods {
        ensure_programs(&FOR_PODS)?;
    }
    run(cargo().args(["build", "--package", "plimsoll", "--package", "plimsoll-e2e"]))?;
    let target = Workspace::read()?.target;
    // What it costs is only told by what is shipped.
    let measures = runs && arguments.rest.iter().any(|word| word == "scale" || word == "--only=scale");
    if measures {
        run(cargo().args(["build", "--release", "--package", "plimsoll"]))?;
    }
    let program = target.join("debug/plimsoll-e2e");
    let mut e2e = command(&program);
    let agent = if measures { "release/plimsoll" } else { "debug/plimsoll" };
    e2e.args(&arguments.rest).arg("--program").arg(target.join(agent));
    if has_pods {
        let [agent, pod] = image::for_tests()?;
        e2e.arg("--image").arg(agent).arg("--pod-image").arg(pod);
        e2e.env(control_plane::ASSETS, control_plane::for_pods()?);
    } else if runs {
        e2e.env(control_plane::ASSETS, control_plane::for_tests()?);
    }
    if runs && arguments.rest.iter().any(|word| word == "old-etcd" || word == "--only=old-etcd") {
        e2e.arg("--etcd").arg(debian::program("etcd-server", "usr/bin/etcd")?);
    }
    // In our place, so that signals and the terminal are its own.
    let error = e2e.exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
