//! The demo: a small cluster in network namespaces, live.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::run::{cargo, command, run};
use crate::setup::ensure;
use crate::workspace::Workspace;

/// Watch real connections even out, in a small cluster on this machine.
///
/// Installs missing system programs or names them, builds the `plimsoll` command and runs its `demo`. Needs no
/// root where user namespaces are allowed. Nothing is left behind.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --json")]
pub(crate) struct Arguments {
    /// Arguments for `plimsoll demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

pub(crate) fn demo(arguments: &Arguments) -> Result<()> {
    ensure()?;
    run(cargo().args(["build", "--profile", "demo", "--package", "plimsoll", "--bin", "plimsoll"]))?;
    let program = Workspace::read()?.target.join("demo/plimsoll");
    // In our place, so that signals and the terminal are its own.
    let error = command(&program).arg("demo").args(&arguments.rest).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
