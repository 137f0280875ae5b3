//! How fast and how large Plimsoll is: measures the rows of a table and holds the ratios to their bounds.

mod row;
mod memory;
mod scene;
mod order;
mod simulate;
mod core;
mod dataplane;
mod connection;
mod mesh;
mod agent;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::row::Row;

/// What to measure, and how to tell.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    /// Only these measurements; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How to tell
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// The plimsoll program
    #[arg(long)]
    program: PathBuf,
    /// The commit that is measured
    #[arg(long, default_value = "unknown")]
    commit: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

type Measurement = fn(&Setting) -> Result<Vec<Row>>;

/// What measurements need to know.
struct Setting {
    program: PathBuf,
}

const MEASUREMENTS: [(&str, Measurement); 13] = [
    ("reweight-all", |_| dataplane::reweight_all()),
    ("reweight-one", |_| dataplane::reweight_one()),
    ("read-counters", |_| dataplane::read_counters()),
    ("decide", |_| core::decide_all()),
    ("growth", |_| core::growth()),
    ("agent", |setting| agent::agent(&setting.program)),
    ("new-connection", |_| connection::new_connection()),
    ("recorded-connection", |_| connection::recorded_connection()),
    ("file-to-kernel", |setting| agent::file_to_kernel(&setting.program)),
    ("order", |_| Ok(order::deviation())),
    ("simulate", |_| simulate::events()),
    ("mesh-delay", |_| mesh::delay()),
    ("mesh-bytes", |_| mesh::bytes()),
];

/// A whole run.
#[derive(Serialize)]
struct Run {
    cores: usize,
    kernel: String,
    date: String,
    commit: String,
    seconds: f64,
    rows: Vec<Row>,
    /// What could not be measured, and why.
    failed: Vec<(String, String)>,
    ok: bool,
}

fn main() -> ExitCode {
    // First of all: the kernel refuses it to a process with threads.
    let entered = plimsoll_lab::namespace::enter_rootless().map_err(anyhow::Error::from);
    match entered.and_then(|()| run(&Arguments::parse())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that gates holds.
fn run(arguments: &Arguments) -> Result<bool> {
    let known: Vec<&str> = MEASUREMENTS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = arguments.names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no measurement `{unknown}`; there are {}", known.join(", "));
    }
    dataplane::check_programs()?;
    let setting = Setting { program: arguments.program.clone() };
    let start = Instant::now();
    let mut run = Run {
        cores: std::thread::available_parallelism()?.get(),
        kernel: printed("uname", &["-r"])?,
        date: printed("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])?,
        commit: arguments.commit.clone(),
        seconds: 0.0,
        rows: Vec::new(),
        failed: Vec::new(),
        ok: true,
    };
    let text = arguments.output == Output::Text;
    let mut out = std::io::stdout().lock();
    if text {
        writeln!(out, "{} cores, kernel {}, {}, commit {}", run.cores, run.kernel, run.date, run.commit)?;
        let (name, measured, reference, ratio, bound) = ("name", "measured", "reference", "ratio", "bound");
        writeln!(out, "{name:<24} {measured:>12} {reference:>12} {ratio:>8} {bound:>14}")?;
    }
    for (name, measure) in MEASUREMENTS {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        match measure(&setting) {
            Ok(rows) => {
                for row in rows {
                    run.ok &= row.holds || !row.gates;
                    if text {
                        writeln!(out, "{row}")?;
                    }
                    run.rows.push(row);
                }
            }
            Err(error) => {
                run.ok = false;
                if text {
                    writeln!(out, "{name:<24} FAILED: {error:#}")?;
                }
                run.failed.push((name.to_owned(), format!("{error:#}")));
            }
        }
    }
    run.seconds = start.elapsed().as_secs_f64();
    if text {
        writeln!(out, "{} in {:.0} s", if run.ok { "ok" } else { "MISSED" }, run.seconds)?;
    } else {
        serde_json::to_writer_pretty(&mut out, &run)?;
        writeln!(out)?;
    }
    Ok(run.ok)
}

fn printed(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot start {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
