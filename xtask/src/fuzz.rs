//! Parsers of foreign bytes against random input.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, command, run, succeeds};
use crate::workspace::{files, root};

/// Runs the parsers of foreign bytes against random input.
///
/// Needs a nightly toolchain; installs cargo-fuzz if it is not there. New inputs are kept under fuzz/target, failing
/// ones under fuzz/artifacts. One worth keeping belongs into fuzz/corpus, which the tests read on every run.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz services_file --runs 10000000")]
pub(crate) struct Arguments {
    /// Only this target; without it, all of them one after the other.
    target: Option<String>,
    /// How many inputs each target is given.
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
}

/// The cargo-fuzz that is installed where there is none.
const VERSION: &str = "0.13.2";
/// The longest input, in bytes: long enough for every structure, short enough for many runs.
const LONGEST: usize = 4096;

pub(crate) fn fuzz(arguments: &Arguments) -> Result<()> {
    let sources = files("fuzz/fuzz_targets".as_ref())?;
    let mut targets: Vec<&str> = sources.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    if let Some(chosen) = &arguments.target {
        if !targets.contains(&chosen.as_str()) {
            bail!("there is no target `{chosen}`; there are {}", targets.join(", "));
        }
        targets = vec![chosen];
    }
    if !succeeds(command("rustup").args(["run", "nightly", "rustc", "--version"])) {
        bail!(
            "fuzzing needs a nightly toolchain; install one:\n\n    rustup toolchain install nightly --profile minimal\n"
        );
    }
    if !succeeds(cargo().args(["fuzz", "--version"])) {
        run(cargo().args(["install", "cargo-fuzz", "--locked", "--version", VERSION]))?;
    }
    for target in targets {
        let found = root().join("fuzz/target/corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let known = root().join("fuzz/corpus").join(target);
        // By its name: our own cargo is that of the pinned toolchain.
        let mut fuzz = command("rustup");
        fuzz.current_dir(root())
            .args(["run", "nightly", "cargo", "fuzz", "run", target])
            .arg(found)
            .arg(known);
        run(fuzz.arg("--").arg(format!("-runs={}", arguments.runs)).arg(format!("-max_len={LONGEST}")))?;
    }
    Ok(())
}
