//! Whether all that we depend on may be used, and comes from where it should.

use anyhow::Result;

use crate::run::{cargo, run, succeeds};
use crate::workspace::root;

/// Checks licences, banned crates and sources of all dependencies against deny.toml.
///
/// Uses cargo-deny, and installs it if it is not there.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// The cargo-deny that is installed: newer ones may find new things, which is no reason for a build to fail.
const VERSION: &str = "0.20.2";

pub(crate) fn licences(_: &Arguments) -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        run(cargo().args(["install", "cargo-deny", "--locked", "--version", VERSION]))?;
    }
    run(cargo().current_dir(root()).args([
        "deny",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}
