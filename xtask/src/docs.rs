//! The reference pages, made from the code.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, command, output, run};
use crate::workspace::{Workspace, root};

/// Writes the reference pages in `docs/` from the code, or checks that they are up to date.
///
/// Configuration, Services file, commands, metrics and HTTP API: what they say is written in the code's comments.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask docs\n  cargo xtask docs --check")]
pub(crate) struct Arguments {
    /// Change nothing; fail if a page is not what the code says.
    #[arg(long)]
    pub(crate) check: bool,
}

const PAGES: [&str; 5] = ["configuration", "services-file", "commands", "metrics", "api"];

pub(crate) fn docs(arguments: &Arguments) -> Result<()> {
    run(cargo().args(["build", "--package", "plimsoll", "--bin", "plimsoll"]))?;
    let program = Workspace::read()?.target.join("debug/plimsoll");
    let mut stale = Vec::new();
    for page in PAGES {
        let text = output(command(&program).args(["reference", page]))?;
        let path = root().join("docs").join(page).with_extension("md");
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if arguments.check {
            stale.push(format!("docs/{page}.md"));
        } else {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("docs/{page}.md is written");
        }
    }
    if !stale.is_empty() {
        bail!("{} says something else than the code; run `cargo xtask docs`", stale.join(", "));
    }
    Ok(())
}
