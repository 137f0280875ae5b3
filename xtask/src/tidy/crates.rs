//! Which crate may depend on which.

use anyhow::Result;

use super::Findings;
use crate::run::{cargo, output};
use crate::workspace::{Workspace, root};

/// The crates that touch the world: each knows one part of it, and only the agent knows several.
pub(super) const EDGES: [&str; 3] = ["plimsoll-discovery", "plimsoll-store", "plimsoll-dataplane"];
/// What thinks, and must not act.
pub(super) const CORE: &str = "plimsoll-core";
/// What plays the world to it, in virtual time.
const SIMULATOR: &str = "plimsoll-sim";
/// What would let them act.
const IMPURE: [&str; 6] = ["tokio", "hyper", "tracing", "rustix", "libc", "rand"];

pub(super) fn check(workspace: &Workspace, findings: &mut Findings) -> Result<()> {
    order(workspace, findings);
    for pure in [CORE, SIMULATOR] {
        let tree = output(cargo().current_dir(root()).args([
            "tree",
            "--package",
            pure,
            "--edges=normal",
            "--prefix=none",
            "--format={p}",
        ]))?;
        purity(pure, &tree, findings);
    }
    Ok(())
}

fn order(workspace: &Workspace, findings: &mut Findings) {
    let place = |name: &str| workspace.members.iter().position(|member| member.name == name);
    for member in &workspace.members {
        for needed in &member.needs {
            if place(needed) >= place(&member.name) {
                findings.breaches.push(format!(
                    "{}/Cargo.toml: {} depends on {needed}, which is listed below it in the workspace; look up, never down",
                    member.directory.display(),
                    member.name
                ));
            }
            if EDGES.contains(&member.name.as_str()) && EDGES.contains(&needed.as_str()) {
                findings.breaches.push(format!(
                    "{}/Cargo.toml: {} depends on {needed}; the edges do not know each other, only the agent knows both",
                    member.directory.display(),
                    member.name
                ));
            }
        }
    }
}

fn purity(pure: &str, tree: &str, findings: &mut Findings) {
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if IMPURE.contains(&name) {
            findings.breaches.push(format!(
                "{pure} depends on {name}; it has no I/O, no clock, no logging and no randomness of its own \
                 (find the way with `cargo tree -p {pure} -i {name}`)"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Member;

    fn workspace(members: &[(&str, &[&str])]) -> Workspace {
        let members = members.iter().map(|(name, needs)| Member {
            name: (*name).to_owned(),
            directory: name.into(),
            needs: needs.iter().map(|name| (*name).to_owned()).collect(),
        });
        Workspace { members: members.collect(), target: "target".into() }
    }

    #[test]
    fn a_crate_depends_only_on_crates_above_it_and_edges_not_on_each_other() {
        let mut findings = Findings::default();
        order(&workspace(&[("plimsoll-core", &[]), ("plimsoll-store", &["plimsoll-core"])]), &mut findings);
        assert!(findings.breaches.is_empty());
        order(&workspace(&[("plimsoll-core", &["plimsoll-store"]), ("plimsoll-store", &[])]), &mut findings);
        assert!(findings.breaches[0].contains("look up, never down"));
        order(
            &workspace(&[("plimsoll-discovery", &[]), ("plimsoll-store", &["plimsoll-discovery"])]),
            &mut findings,
        );
        assert!(findings.breaches[1].contains("the edges do not know each other"));
    }

    #[test]
    fn the_core_must_not_reach_what_acts() {
        let mut findings = Findings::default();
        purity(CORE, "plimsoll-core v0.1.0 (x)\nserde v1.0.0\nrandom v1\n", &mut findings);
        assert!(findings.breaches.is_empty());
        purity(CORE, "tokio v1.0.0 (*)\n", &mut findings);
        assert_eq!(findings.breaches.len(), 1);
    }
}
