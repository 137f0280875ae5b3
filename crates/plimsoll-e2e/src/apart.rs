//! A run whose processes detach, mount and make control groups: in an enclosure, after which nothing is left of it,
//! also when it is interrupted.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use plimsoll_lab::{Bound, enclosure, eventually};
use tokio::signal::unix::{SignalKind, signal};

/// In the environment of the run inside: the directory for all that it writes.
const DIRECTORY: &str = "PLIMSOLL_E2E_DIRECTORY";
/// The control group in which containerd puts the Pods' containers, in each hierarchy.
const OF_PODS: &str = "k8s.io";
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this process is the one that runs inside; then it is made ready for it. To be called before there are
/// threads.
pub fn is_inside() -> Result<bool> {
    let Some(directory) = env::var_os(DIRECTORY) else { return Ok(false) };
    ensure!(std::process::id() == 1, "{DIRECTORY} is set, but this is not inside of an enclosure; unset it");
    enclosure::enter(Path::new(&directory))?;
    Ok(true)
}

/// Runs this program again with the same arguments, inside, and cleans up after it.
pub fn again() -> Result<ExitStatus> {
    let before = groups();
    let directory = tempfile::Builder::new().prefix("plimsoll-e2e-kubelet-").tempdir()?;
    let at = directory.path();
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1)).env(DIRECTORY, at).env("TMPDIR", at);
    let ended = wait(enclosure::start(&command)?);
    let mut left = Vec::new();
    for group in groups().iter().rev().filter(|group| !before.contains(*group)) {
        // The kernel takes a moment to see that it is empty.
        if !eventually(PATIENCE, || fs::remove_dir(group).is_ok() || !group.exists()) {
            left.push(group.display().to_string());
        }
    }
    let path = directory.keep();
    if !eventually(PATIENCE, || fs::remove_dir_all(&path).is_ok() || !path.exists()) {
        left.push(path.display().to_string());
    }
    if !left.is_empty() {
        bail!("what could not be removed: {}", left.join(", "));
    }
    ended
}

/// Waits until it ends, or ends it when this process is asked to end.
fn wait(mut enclosure: Bound) -> Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut asked = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<Result<Vec<_>, _>>()
            .context("signals cannot be listened for")?;
        let mut interrupted = futures_util::future::select_all(asked.iter_mut().map(|s| Box::pin(s.recv())));
        loop {
            if let Some(status) = enclosure.ended()? {
                return Ok(status);
            }
            if tokio::time::timeout(Duration::from_millis(50), &mut interrupted).await.is_ok() {
                bail!("interrupted");
            }
        }
    })
}

/// The control groups of Pods that there are, parents before what is in them.
fn groups() -> BTreeSet<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    // One hierarchy, or one for each controller.
    let hierarchies = directories(root).into_iter().chain([root.to_owned()]);
    let mut found = BTreeSet::new();
    let mut next: Vec<PathBuf> = hierarchies
        .flat_map(|hierarchy| directories(&hierarchy))
        .filter(|path| path.file_name() == Some(OsStr::new(OF_PODS)))
        .collect();
    while let Some(path) = next.pop() {
        next.extend(directories(&path));
        found.insert(path);
    }
    found
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    // Links to hierarchies, of which there are some, are the same hierarchies.
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
