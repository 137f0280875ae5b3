//! An etcd whose API server cannot stream lists: what clients are served is as with any other, and agents do not make
//! much of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use plimsoll_lab::control_plane::Mode;

use crate::report::Outcome;
use crate::run::{self, Cases};
use crate::world::World;

/// Before 3.4.31 and 3.5.13 etcd does not tell watchers how far it is, without which a list has no end.
const VERSION: &str = "etcd Version: 3.4.";
/// Services of the tables: one that nobody changes, one with slices that are watched alone, and changes of both kinds.
const PART: [&str; 5] =
    ["cluster-ip", "hand-made-slices", "an-endpoint-goes-and-comes", "the-label", "deleted-and-made-anew"];
const STREAMED: &str = "/api/v1/services?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
    &allowWatchBookmarks=true&timeoutSeconds=1";

/// Runs a part of the cases beside this etcd.
pub fn old_etcd(
    program: &Path,
    etcd: &Path,
    tell: &dyn Fn(&str),
    done: &mut dyn FnMut(Outcome),
) -> Result<()> {
    let version = Command::new(etcd).arg("--version").output();
    let version = version.with_context(|| format!("cannot start {}", etcd.display()))?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    ensure!(version.starts_with(VERSION), "{} is `{version}`, not `{VERSION}…`", etcd.display());
    let mut cases = Cases::of_repository()?;
    cases.retain(|name| PART.iter().any(|service| name.split(':').next() == Some(service)));
    tell(&format!("old-etcd: a control plane with {version}, three nodes and their pods start"));
    let mut world = run::build(program, Some(etcd), &cases)?;
    // The stream begins, and all that comes is that there will be none.
    let streamed = world.kubectl().run(&["get", "--raw", STREAMED])?;
    let refused = streamed.contains("ERROR") && streamed.contains("RequestWatchProgress");
    ensure!(refused, "the API server streams lists with {version}: nothing is shown by this: {streamed}");
    run::dial_all(&mut world, &cases, Mode::Nftables, &|what| tell(&format!("old-etcd: {what}")), done)?;
    done(quiet(&world, &version)?);
    Ok(())
}

/// Whether agents said as good as nothing of it.
fn quiet(world: &World, version: &str) -> Result<Outcome> {
    let mut problems = Vec::new();
    for agent in &world.agents {
        let log = agent.log()?;
        let of_lists =
            |line: &&str| line.contains("RequestWatchProgress") || line.contains("streaming lists");
        let told: Vec<&str> = log.lines().filter(of_lists).collect();
        if told.len() > 1 {
            problems.push(format!("an agent says so {} times: {}", told.len(), told.join("\n")));
        }
    }
    Ok(Outcome {
        mode: Mode::Nftables.name(),
        case: "old-etcd: agents say so in a line at most".into(),
        alone: version.to_owned(),
        with_plimsoll: version.to_owned(),
        served: "-",
        problems,
    })
}
