//! The benchmarks: one line a row, measured in release.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::run::{cargo, command, output, run};
use crate::setup::ensure;
use crate::workspace::{Workspace, root};

/// Measures how fast and how large everything is, and fails where a ratio misses its bound.
///
/// Builds in release, then measures for some minutes in network namespaces; best on a machine that does nothing
/// else. docs/performance.md says how each row is measured.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench order mesh-bytes\n  cargo xtask bench -o json"
)]
pub(crate) struct Arguments {
    /// Names of measurements (without any: all), and `-o json`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    ensure()?;
    run(cargo().args(["build", "--release", "--package", "plimsoll", "--package", "plimsoll-bench"]))?;
    let programs = Workspace::read()?.target.join("release");
    let program = programs.join("plimsoll-bench");
    let error = command(&program)
        .arg("--program")
        .arg(programs.join("plimsoll"))
        .args(["--commit", &commit()])
        .args(&arguments.rest)
        .exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// The commit, with a mark where files differ from it; a source without git has none.
fn commit() -> String {
    let mut git = command("git");
    git.current_dir(root()).args(["describe", "--always", "--dirty", "--exclude=*"]);
    output(&mut git).map_or("unknown".into(), |text| text.trim().to_owned())
}
