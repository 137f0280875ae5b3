//! `plimsoll agent`: runs the agent of this node until it is told to stop.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use plimsoll_agent::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::output;

/// Options of `plimsoll agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The reference of all fields is docs/configuration.md. Environment: PLIMSOLL_CONFIG, PLIMSOLL_NODE, PLIMSOLL_LOG.
SIGTERM and SIGINT stop the agent; new connections go to the proxy below at once, open ones live on.

Examples:
  plimsoll agent --config /etc/plimsoll/agent.yaml --check-config
  plimsoll agent --config /etc/plimsoll/agent.yaml --dry-run      count and explain, change nothing
  plimsoll agent --config /etc/plimsoll/agent.yaml --log plimsoll=debug")]
pub(crate) struct Options {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "PLIMSOLL_CONFIG", default_value = "/etc/plimsoll/agent.yaml")]
    config: PathBuf,
    /// This node's name, instead of the configured one or the host's
    #[arg(long, value_name = "NAME", env = "PLIMSOLL_NODE")]
    node: Option<String>,
    /// Count and explain, but change nothing in the kernel
    #[arg(long)]
    dry_run: bool,
    /// Check the configuration and the files it names, print what would be in force, and end
    #[arg(long)]
    check_config: bool,
    /// What to log: a level, or levels by module
    #[arg(long, value_name = "FILTER", env = "PLIMSOLL_LOG", default_value = "info")]
    log: String,
    /// Log as JSON, a line an event
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(&options.config)?;
    if options.node.is_some() {
        config.node.clone_from(&options.node);
    }
    if options.dry_run {
        config.dataplane = plimsoll_dataplane::Config::dry_run();
    }
    if options.check_config {
        for warning in plimsoll_agent::check(&config)? {
            eprintln!("plimsoll: {warning}");
        }
        let config = config.effective()?;
        let mut out = std::io::stdout().lock();
        out.write_all(config.to_yaml()?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    log(options)?;
    give_back_large_buffers();
    // One thread: the tasks wait for each other far more than they work, and what works long (the dataplane, the
    // Services file) has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        plimsoll_agent::run(config, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps large buffers out of the heap, so that what they took is given back when they are freed: a batch for the
/// kernel, the text of the Services file. By itself glibc learns from the first of them to keep such memory.
#[cfg(target_env = "gnu")]
fn give_back_large_buffers() {
    const LARGE: i32 = 256 << 10;
    for threshold in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number of the allocator, which it takes at any time and from any thread.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(threshold, LARGE);
        }
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_back_large_buffers() {}

fn log(options: &Options) -> anyhow::Result<()> {
    // What the Kubernetes client says of each failed attempt, the discovery tells once and with what to do.
    let filter = EnvFilter::try_new(format!("kube_client=off,kube_runtime=off,{}", options.log))
        .with_context(|| {
            format!("--log {:?} is not a filter; try `info` or `plimsoll=debug`", options.log)
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::wants_colour(&std::io::stderr()));
    if options.log_json {
        builder.json().init();
    } else {
        builder.init();
    }
    Ok(())
}

async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
    }
    stop.cancel();
}
