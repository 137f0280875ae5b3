//! Hostile runs: random clusters and random faults, with the balancer held to its rules after every step.

use anyhow::{Result, bail};

use crate::run::{cargo, command, run};
use crate::workspace::Workspace;

/// Runs the balancer in random clusters in which everything goes wrong, and checks its rules after every step.
///
/// Each seed is one cluster with its faults, the same on every machine. A seed that breaks a rule is told with the
/// step and with what was found; `--seed` runs it again and tells what led up to it. docs/simulator.md says what is
/// drawn and what is checked. CI runs 50 seeds among the tests.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask sim --seeds 20000\n  cargo xtask sim --seed 4711")]
pub(crate) struct Arguments {
    /// How many seeds, from 1.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Only this seed, with a log of what happened.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
}

pub(crate) fn sim(arguments: &Arguments) -> Result<()> {
    run(cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "plimsoll-sim",
        "--example",
        "hostile",
    ]))?;
    let program = Workspace::read()?.target.join("release/examples/hostile");
    let (flag, number) = match arguments.seed {
        Some(seed) => ("--seed", seed),
        None => ("--seeds", arguments.seeds),
    };
    if run(command(&program).args([flag, &number.to_string()])).is_err() {
        bail!("a rule was broken, as told above");
    }
    Ok(())
}
