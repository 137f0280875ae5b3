//! The project's own rules: those that no compiler knows.

mod crates;
mod files;
mod modules;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Checks the project's own rules.
///
/// Crates depend only on crates listed above them, modules name only modules declared above them, the core stays
/// pure, files say what they are, have honest names and a readable size, and name no path of a single machine.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// What was found: breaches, which fail, and warnings, which do not.
#[derive(Default)]
struct Findings {
    breaches: Vec<String>,
    warnings: Vec<String>,
}

pub(crate) fn tidy(_: &Arguments) -> Result<()> {
    let workspace = Workspace::read()?;
    let mut findings = Findings::default();
    crates::check(&workspace, &mut findings)?;
    modules::check(&workspace, &mut findings)?;
    files::check(&mut findings)?;
    for warning in &findings.warnings {
        eprintln!("warning: {warning}");
    }
    for breach in &findings.breaches {
        eprintln!("error: {breach}");
    }
    match findings.breaches.len() {
        0 => Ok(()),
        number => bail!("{number} of the project's rules do not hold"),
    }
}
