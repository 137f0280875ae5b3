//! `plimsoll demo`: a cluster in network namespaces that becomes even, is hurt, and recovers, before one's eyes.

mod world;
mod agents;
mod measure;
mod promises;
mod script;
mod bars;
mod report;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::output;
use measure::{Phase, Results};

/// Options of `plimsoll demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Three nodes, eight endpoints of unequal size, clients on all nodes, a stand-in for the installed proxy below, all in
network namespaces of this machine: no traffic leaves them and nothing stays behind. Runs as root, or without where
user namespaces are allowed. Needs the programs `ip` and `nft`. Takes about 100 seconds.

Exit code 3: a promise did not hold; the last lines say which.

Examples:
  plimsoll demo
  plimsoll demo --json > result.json
  plimsoll demo --report /tmp/demo.html --seed 7")]
pub(crate) struct Options {
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Where to write the report with its plots
    #[arg(long, value_name = "FILE", default_value = "plimsoll-demo.html")]
    report: PathBuf,
    /// The seed of the clients' arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the agents' configuration and logs in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Draw no live bars
    #[arg(long)]
    quiet: bool,
}

/// The exit code where a promise did not hold.
const BROKEN: u8 = 3;

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    plimsoll_lab::namespace::enter_rootless()
        .context("the demo needs root or user namespaces; try `sudo plimsoll demo`")?;
    // At once: nobody wants to hear of it after the demo.
    let mut report = std::fs::File::create(&options.report).with_context(|| {
        format!("cannot write the report {}; name another file with --report", options.report.display())
    })?;
    let stop = stop_flag()?;
    let directory = Directory::new(options.keep.clone())?;
    let mut bars = bars::Bars::new(options.quiet);
    bars.say("building three nodes and ten endpoints in namespaces");
    let world = world::World::build(&directory.path, options.seed)
        .context("cannot build the cluster; `plimsoll doctor` says what this host lacks")?;
    let results = script::play(world, &directory.path, &mut bars, &stop)?;
    if options.json {
        output::json(&results.summary())?;
    } else {
        print(&results)?;
    }
    report.write_all(report::html(&results)?.as_bytes())?;
    bars.say(&format!("the report with plots is in {}", options.report.display()));
    Ok(if results.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

fn print(results: &Results) -> anyhow::Result<()> {
    let number = |number: Option<f64>, digits: usize| number.map_or("-".into(), |n| format!("{n:.digits$}"));
    let row = |phase: &Phase| {
        vec![
            phase.name.to_owned(),
            number(phase.max_over_mean, 2),
            number(phase.static_max_over_mean, 2),
            number(phase.seconds_to_fair, 1),
            number(phase.static_seconds_to_fair, 1),
            phase.opened_connections.to_string(),
            phase.failed_connections.to_string(),
            phase.remark.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = results.phases.iter().map(row).collect();
    output::columns(
        &["PHASE", ">MAX/MEAN", ">STATIC'S", ">S TO FAIR", ">STATIC'S", ">OPENED", ">FAILED", "REMARK"],
        &rows,
    )?;
    let mut out = std::io::stdout();
    writeln!(out)?;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for endpoint in &results.endpoints {
        let levels = results.phases.iter().map(|phase| number(phase.levels.get(&endpoint.name).copied(), 2));
        rows.push([endpoint.name.clone(), endpoint.size.to_string()].into_iter().chain(levels).collect());
    }
    let names = results.phases.iter().map(|phase| format!(">{}", phase.name.to_uppercase()));
    let names: Vec<String> = ["ENDPOINT".to_owned(), ">SIZE".to_owned()].into_iter().chain(names).collect();
    writeln!(out, "{}", report::ABOUT_STATIC)?;
    writeln!(out)?;
    writeln!(out, "Open connections per size, relative to the mean, at the end of each phase:")?;
    output::columns(&names.iter().map(String::as_str).collect::<Vec<_>>(), &rows)?;
    writeln!(out)?;
    if results.broken.is_empty() {
        writeln!(out, "Every promise held.")?;
    }
    for broken in &results.broken {
        writeln!(out, "BROKEN: {broken}")?;
    }
    Ok(())
}

/// A flag that Ctrl-C and SIGTERM raise, so that the demo cleans up before it ends.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            raised.store(true, Ordering::SeqCst);
            std::io::Result::Ok(())
        })
    })?;
    Ok(stop)
}

/// A place for the agents' files, removed at the end unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn new(keep: Option<PathBuf>) -> anyhow::Result<Directory> {
        let scratch = || std::env::temp_dir().join(format!("plimsoll-demo-{}", std::process::id()));
        let directory = Directory { keep: keep.is_some(), path: keep.unwrap_or_else(scratch) };
        std::fs::create_dir_all(&directory.path)
            .with_context(|| format!("cannot make the directory {}", directory.path.display()))?;
        Ok(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
