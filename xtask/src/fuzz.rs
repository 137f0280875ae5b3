//! Parsers of foreign bytes against random input.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, command, run, say, succeeds};
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
const LONGEST: usize = 1024;

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
    let mut counts = Vec::new();
    for target in targets {
        let found = root().join("fuzz/target/corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let known = root().join("fuzz/corpus").join(target);
        // By its name: our own cargo is that of the pinned toolchain.
        let mut fuzz = command("rustup");
        // Without AddressSanitizer, which costs nine tenths of the speed and looks for what safe Rust does not do.
        fuzz.current_dir(root())
            .args(["run", "nightly", "cargo", "fuzz", "run", "--sanitizer=none", target])
            .arg(found)
            .arg(known)
            .arg("--")
            .arg(format!("-runs={}", arguments.runs))
            .arg(format!("-max_len={LONGEST}"));
        counts.push((target, inputs(&mut fuzz)?));
    }
    for (target, count) in counts {
        eprintln!("{target:<16} survived {count} inputs");
    }
    Ok(())
}

/// Runs a target, passes on what it says, and tells how many inputs it says it was given.
fn inputs(fuzz: &mut Command) -> Result<u64> {
    let shown = say(fuzz);
    let mut child = fuzz.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let mut done = None;
    let said = child.stderr.take().context("its messages are piped")?;
    for line in BufReader::new(said).split(b'\n') {
        // It shows inputs in its messages, and those are not always text.
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("{line}");
        done = count(&line).or(done);
    }
    let status = child.wait()?;
    match done {
        Some(count) if status.success() => Ok(count),
        _ => bail!("`{shown}` failed ({status}); its output above names the input"),
    }
}

/// The count in libFuzzer's last line, `Done 1000000 runs in 211 second(s)`.
fn count(line: &str) -> Option<u64> {
    line.strip_prefix("Done ")?.split_once(" runs in ")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_line_has_the_count() {
        assert_eq!(count("Done 1000000 runs in 211 second(s)"), Some(1_000_000));
        assert_eq!(count("#5 NEW cov: 17 ft: 18"), None);
    }
}
