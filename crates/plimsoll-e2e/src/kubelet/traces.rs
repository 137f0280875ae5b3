//! What there is of Plimsoll on the node and in the API server: while it is installed, and when it is not any more.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use plimsoll_lab::namespace::Namespace;

use super::rig::{self, Rig};

/// The capability `NET_ADMIN`, in the kernel's mask.
const NET_ADMIN: u64 = 1 << 12;

/// The directory in /proc of the agent's process, if there is one.
pub(super) fn process() -> Result<Option<PathBuf>> {
    rig::process(|path| {
        fs::read(path.join("cmdline")).is_ok_and(|words| words.starts_with(b"/usr/bin/plimsoll\0agent\0"))
    })
}

/// What the agent's process has or may that the manifests do not give it, and what they give that it lacks.
pub(super) fn unconfined(process: &Path) -> Result<Vec<String>> {
    let read =
        |name: &str| fs::read_to_string(process.join(name)).with_context(|| format!("{name} of the agent"));
    let status = read("status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let mask = format!("{NET_ADMIN:016x}");
    let mut problems: Vec<String> = [
        ("Uid", "0 0 0 0"),
        ("CapPrm", &mask),
        ("CapEff", &mask),
        ("CapBnd", &mask),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ]
    .into_iter()
    .filter(|(name, expected)| field(name) != *expected)
    .map(|(name, expected)| format!("{name} of the agent is {} and not {expected}", field(name)))
    .collect();
    let mounts = read("mountinfo")?;
    let mut root = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
    if !root.any(|line| line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|o| o == "ro"))) {
        problems.push("the agent can write to its root".into());
    }
    let token = process.join("root/var/run/secrets/kubernetes.io/serviceaccount/token");
    if !fs::read(token).is_ok_and(|token| !token.is_empty()) {
        problems.push("the agent has no token of its ServiceAccount".into());
    }
    Ok(problems)
}

/// Whether a table of ours is in the node's kernel.
pub(super) fn has_table(node: &Namespace) -> Result<bool> {
    let tables = node.text("nft", &["list", "tables"])?;
    Ok(tables.lines().any(|line| line.ends_with(" plimsoll")))
}

/// The objects of Plimsoll in the API server, of all kinds and namespaces, as `kind/name`.
pub(super) fn objects(rig: &Rig) -> Result<Vec<String>> {
    let kubectl = rig.kubectl();
    let kinds = kubectl.run(&["api-resources", "--verbs=list", "--output=name"])?;
    let kinds = kinds.split_whitespace().collect::<Vec<_>>().join(",");
    let all = kubectl.run(&["get", &kinds, "--all-namespaces", "--ignore-not-found", "--output=name"])?;
    Ok(all.lines().filter(|name| name.contains("plimsoll")).map(str::to_owned).collect())
}
