//! Hostile runs: random clusters and random faults, with the balancer held to its rules after every step.

use anyhow::{Context as _, Result};

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
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
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
    run(command(&program).args([flag, &number.to_string()]))
        .context("not all seeds passed; what is told above says with which seed to look again")
}
