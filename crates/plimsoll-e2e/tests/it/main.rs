//! The command itself: nothing of it is left, however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_lab::control_plane::available;
use plimsoll_lab::eventually;

/// How long the control plane, the proxies and the agents may take to start, on a busy machine.
const START: Duration = Duration::from_mins(3);
const SOON: Duration = Duration::from_secs(30);

/// The processes that this one started: number and name.
fn children(of: u32) -> Vec<(u32, String)> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").expect("a system has it").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // `NUMBER (NAME) STATE PARENT …`; it may be gone by now.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((start, rest)) = stat.rsplit_once(") ") else { continue };
        if rest.split(' ').nth(1) == Some(&of.to_string()) {
            children.push((id, start.split_once('(').unwrap_or_default().1.to_owned()));
        }
    }
    children
}

#[test]
fn nobody_outlives_a_command_that_is_killed() {
    if !available(&["kube-proxy"], &["nft", "conntrack"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // In the place of agents, and no less long-lived.
    let program = directory.path().join("plimsoll");
    fs::write(&program, "#!/bin/sh\nexec sleep 300\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll-e2e"));
    command.args(["kubernetes", "--mode", "nftables", "cluster-ip: from a pod", "--program"]).arg(&program);
    command.env("TMPDIR", directory.path()).stdout(Stdio::null());
    let mut killed = command.spawn().unwrap();
    let named = |names: &[(u32, String)], name: &str| names.iter().filter(|(_, other)| other == name).count();
    let all_run = eventually(START, || {
        let there = children(killed.id());
        killed.try_wait().unwrap().is_some() || named(&there, "sleep") == 3
    });
    let left = children(killed.id());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(all_run && named(&left, "sleep") == 3 && named(&left, "kube-proxy") == 3, "{left:?}");
    assert!(named(&left, "etcd") == 1 && named(&left, "kube-apiserver") == 1, "{left:?}");
    let is_there = |(id, _): &&(u32, String)| Path::new(&format!("/proc/{id}")).exists();
    assert!(
        eventually(SOON, || !left.iter().any(|one| is_there(&one))),
        "still there: {:?}",
        left.iter().filter(is_there).collect::<Vec<_>>()
    );
}
