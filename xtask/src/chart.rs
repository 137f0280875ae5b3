//! The Helm chart, and the manifests in `deploy/` that are rendered from it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::control_plane::{self, pins};
use crate::run::{command, output, run};
use crate::workspace::root;

/// Renders the Helm chart into the manifests in `deploy/`, or checks that they are up to date.
///
/// They are for those who install without helm. Helm itself is built once from its pinned Go module, as the programs
/// of the control plane are (`cargo xtask control-plane`).
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask chart\n  cargo xtask chart --check")]
pub(crate) struct Arguments {
    /// Change nothing; fail if a manifest is not what the chart says.
    #[arg(long)]
    pub(crate) check: bool,
}

/// A file in `deploy/`: its name, what it is, and what is asked of the chart for it.
struct Rendered {
    name: &'static str,
    what: &'static str,
    arguments: &'static [&'static str],
}

/// Those who apply manifests have no cluster that the chart could ask for a key it drew before, so they make a Secret.
const ALL: [Rendered; 2] = [
    Rendered {
        name: "plimsoll.yaml",
        what: "Plimsoll in the namespace plimsoll; needs a Secret plimsoll-mesh there, as docs/guides/kubernetes.md says.",
        arguments: &["--set=namespace.create=true", "--set=meshKey.existingSecret=plimsoll-mesh"],
    },
    Rendered {
        name: "admission-policy.yaml",
        what: "Refuses wrong values of Plimsoll's label and annotations when they are written (Kubernetes 1.30 or newer).",
        arguments: &["--set=admissionPolicy.enabled=true", "--show-only=templates/admissionpolicy.yaml"],
    },
];

pub(crate) fn chart(arguments: &Arguments) -> Result<()> {
    let (helm, chart) = (control_plane::helm()?, root().join("charts/plimsoll"));
    check_version(&chart)?;
    run(command(&helm).arg("lint").arg("--strict").arg("--quiet").arg(&chart))?;
    let mut stale = Vec::new();
    for rendered in &ALL {
        let text = rendered.text(command(&helm), &chart)?;
        let path = root().join("deploy").join(rendered.name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if arguments.check {
            stale.push(format!("deploy/{}", rendered.name));
        } else {
            fs::create_dir_all(root().join("deploy")).context("cannot make deploy/")?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("deploy/{} is written", rendered.name);
        }
    }
    if !stale.is_empty() {
        bail!("{} is not what the chart says; run `cargo xtask chart`", stale.join(", "));
    }
    Ok(())
}

impl Rendered {
    fn text(&self, mut helm: Command, chart: &Path) -> Result<String> {
        // helm cannot know the cluster; what the chart may use is what the tests run on.
        helm.args(["template", "plimsoll", "--namespace=plimsoll", "--kube-version"]).arg(pins::kubernetes());
        let manifests = output(helm.args(self.arguments).arg(chart))?;
        Ok(format!("# {}\n# Made by `cargo xtask chart` from charts/plimsoll.\n{manifests}", self.what))
    }
}

/// Chart, image and program have one version.
fn check_version(chart: &Path) -> Result<()> {
    let path = chart.join("Chart.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    for field in ["version", "appVersion"] {
        if !text.lines().any(|line| line == format!("{field}: {version}")) {
            bail!("{}: `{field}` is not {version}, the version of the program", path.display());
        }
    }
    Ok(())
}
