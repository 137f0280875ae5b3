//! The simulator's whole table, and the promise to be never worse than what was there before.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, command, output, run};
use crate::workspace::{Workspace, root};

/// Simulates every scenario with every policy and writes the tables, then checks that ours is never worse than
/// kube-proxy's draw.
///
/// The tables go into `docs/simulated.txt`, which is under version control. Takes an hour or so on two cores: not for
/// CI.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask figures\n  cargo xtask figures --seeds 1 c-mix p-mix")]
pub(crate) struct Arguments {
    /// How many seeds the tables are medians of.
    #[arg(long, default_value_t = 5)]
    seeds: u32,
    /// How many seeds to look for one in which ours is worse.
    #[arg(long, default_value_t = 20)]
    against_seeds: u32,
    /// Only these scenarios; nothing is written then.
    scenarios: Vec<String>,
}

/// Where the tables are kept.
const TABLES: &str = "docs/simulated.txt";
/// What is to be never worse than `random`, kube-proxy's draw.
const OURS: &str = "waterline:wrr,waterline:counter,waterline:edf";

pub(crate) fn figures(arguments: &Arguments) -> Result<()> {
    run(cargo().args(["build", "--release", "--locked", "--package", "plimsoll", "--bin", "plimsoll"]))?;
    let program = Workspace::read()?.target.join("release/plimsoll");
    let whole = arguments.scenarios.is_empty();
    let scenarios = if whole { vec!["all".to_owned()] } else { arguments.scenarios.clone() };
    let seeds = arguments.seeds.to_string();
    let tables = output(command(&program).arg("simulate").args(&scenarios).args([
        "--policies=all",
        "--seeds",
        &seeds,
    ]))?;
    if whole {
        let path = root().join(TABLES);
        fs::write(&path, tables).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{TABLES} is written");
    } else {
        eprint!("{tables}");
    }
    let seeds = arguments.against_seeds.to_string();
    let never_worse = run(command(&program).arg("simulate").args(&scenarios).args([
        "--policies",
        OURS,
        "--against=random",
        "--seeds",
        &seeds,
    ]));
    if never_worse.is_err() {
        bail!(
            "ours was worse than a uniform draw in the runs above; `plimsoll simulate` with that scenario repeats them"
        );
    }
    Ok(())
}
