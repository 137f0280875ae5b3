//! The command that `cargo xtask e2e` runs.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use plimsoll_e2e::report::Outcome;
use plimsoll_e2e::{Cases, apart, chaos, evenness, kubelet, old_etcd, scale};
use plimsoll_lab::control_plane::{Mode, Network};
use serde::Serialize;

/// End to end tests on this machine, in network namespaces.
#[derive(Parser)]
#[command(bin_name = "cargo xtask e2e")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The plimsoll program
    #[arg(long, global = true, value_name = "FILE", default_value = "plimsoll")]
    program: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    Kubernetes(Kubernetes),
    Kubelet(Kubelet),
}

/// Compares kube-proxy alone with Plimsoll in front of it, beside a real control plane.
///
/// Every case of the table (crates/plimsoll-e2e/src/cases.txt) is dialled with kube-proxy alone and with Plimsoll in
/// front: the same must answer, and see the same client. Needs root.
#[derive(clap::Args)]
#[command(after_help = "Exit code 1: a case failed, or could not run.

Examples:
  cargo xtask e2e kubernetes
  cargo xtask e2e kubernetes --mode iptables source-ranges 'affinity: from a pod'
  cargo xtask e2e kubernetes --only cases -o json > e2e.json
  cargo xtask e2e kubernetes --only evenness
  cargo xtask e2e kubernetes --only scale
  cargo xtask e2e kubernetes --only old-etcd
  cargo xtask e2e kubernetes --list")]
struct Kubernetes {
    /// Only cases whose name (`SERVICE: CASE`) has one of these texts in it
    #[arg(value_name = "TEXT")]
    filters: Vec<String>,
    /// kube-proxy's mode; without it, one after the other
    #[arg(long)]
    mode: Option<ProxyMode>,
    /// How to tell
    #[arg(short, long, default_value = "text")]
    output: Form,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
    /// The etcd of `--only old-etcd`
    #[arg(long, value_name = "FILE", default_value = "etcd")]
    etcd: PathBuf,
    /// Name the cases and run none
    #[arg(long)]
    list: bool,
}

/// Installs the image and the manifests on a node with a real kubelet and containerd, beside a real kube-proxy, and lets
/// happen what happens to Pods.
///
/// A Deployment is rolled, a Pod becomes unready, Pods are evicted, the agents are rolled and asked, and all is taken away
/// again, under load. Needs root, containerd, runc and the CNI plugins; leaves nothing behind.
#[derive(clap::Args)]
#[command(after_help = "Exit code 1: a step failed, or could not be taken.

Examples:
  cargo xtask e2e kubelet
  cargo xtask e2e kubelet --mode iptables -o json > kubelet.json
  cargo xtask e2e kubelet --network bridge
  cargo xtask e2e kubelet --list")]
struct Kubelet {
    /// kube-proxy's mode
    #[arg(long, default_value = "nftables")]
    mode: ProxyMode,
    /// How Pods are connected
    #[arg(long, default_value = "routed")]
    network: PodNetwork,
    /// How to tell
    #[arg(short, long, default_value = "text")]
    output: Form,
    /// Name the steps and take none
    #[arg(long)]
    list: bool,
    /// The agent's image, an OCI archive
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The image of what Pods run, an OCI archive
    #[arg(long, value_name = "FILE")]
    pod_image: Option<PathBuf>,
}

/// What came of the steps with a kubelet.
#[derive(Serialize)]
struct Steps {
    passed: usize,
    failed: usize,
    seconds: f64,
    steps: Vec<kubelet::Row>,
}

/// A part of the run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The differential: every case of the tables
    Cases,
    /// How even connections are, beside kube-proxy alone: four minutes
    Evenness,
    /// Everything goes wrong once, under load: four minutes
    Chaos,
    /// An agent in a cluster of 5,000 Services and 500 nodes: five minutes, and only when asked for
    Scale,
    /// A part of the cases beside Debian's etcd 3.4, whose API server cannot stream lists: only when asked for
    OldEtcd,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProxyMode {
    Nftables,
    Iptables,
}

impl ProxyMode {
    const fn mode(self) -> Mode {
        match self {
            ProxyMode::Nftables => Mode::Nftables,
            ProxyMode::Iptables => Mode::Iptables,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum PodNetwork {
    /// Each by a route of its own
    Routed,
    /// By a bridge
    Bridge,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// A whole run.
#[derive(Default, Serialize)]
struct Run {
    passed: usize,
    failed: usize,
    seconds: f64,
    cases: Vec<Outcome>,
    evenness: Vec<evenness::Row>,
    chaos: Vec<chaos::Row>,
    scale: Vec<scale::Row>,
}

impl Run {
    fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let passed = match &arguments.command {
        Command::Kubernetes(asked) => kubernetes(&arguments, asked),
        Command::Kubelet(asked) => with_kubelet(&arguments, asked),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all passed.
fn kubernetes(arguments: &Arguments, asked: &Kubernetes) -> Result<bool> {
    let mut cases = Cases::of_repository()?;
    cases.retain(|name| asked.filters.is_empty() || asked.filters.iter().any(|text| name.contains(text)));
    if cases.is_empty() {
        bail!("no case has {} in its name; `--list` names them", asked.filters.join(" or "));
    }
    let mut out = std::io::stdout();
    if asked.list {
        for name in cases.names() {
            writeln!(out, "{name}")?;
        }
        return Ok(true);
    }
    let modes = match asked.mode {
        None => vec![Mode::Nftables, Mode::Iptables],
        Some(mode) => vec![mode.mode()],
    };
    let began = Instant::now();
    let tell = |what: &str| progress(began, what);
    let mut run = Run::default();
    let text = asked.output == Form::Text;
    let case = |run: &mut Run, outcome: Outcome| {
        run.count(outcome.passed());
        if text {
            let _ = writeln!(std::io::stdout(), "{outcome}");
        }
        run.cases.push(outcome);
    };
    let wants = |part: Part| asked.only.map_or(asked.filters.is_empty(), |only| only == part);
    if wants(Part::Cases) || !asked.filters.is_empty() {
        plimsoll_e2e::differential(&arguments.program, &cases, &modes, &tell, &mut |outcome| {
            case(&mut run, outcome);
        })?;
    }
    if asked.only == Some(Part::OldEtcd) {
        old_etcd::old_etcd(&arguments.program, &asked.etcd, &tell, &mut |outcome| {
            case(&mut run, outcome);
        })?;
    }
    if wants(Part::Evenness) {
        run.evenness = evenness::evenness(&arguments.program, modes[0], &tell)?;
        for row in run.evenness.clone() {
            run.count(row.problems.is_empty());
            if text {
                writeln!(out, "{row}")?;
            }
        }
    }
    if wants(Part::Chaos) {
        chaos::chaos(&arguments.program, modes[0], &tell, &mut |row| {
            run.count(row.problems.is_empty());
            if text {
                let _ = writeln!(std::io::stdout(), "{row}");
            }
            run.chaos.push(row);
        })?;
    }
    if asked.only == Some(Part::Scale) {
        scale::scale(&arguments.program, &tell, &mut |row| {
            run.count(row.holds());
            if text {
                let _ = writeln!(std::io::stdout(), "{row}");
            }
            run.scale.push(row);
        })?;
    }
    run.seconds = began.elapsed().as_secs_f64();
    if asked.output == Form::Json {
        serde_json::to_writer_pretty(&mut out, &run)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{} passed, {} failed", run.passed, run.failed)?;
    }
    Ok(run.failed == 0)
}

/// Whether all passed.
fn with_kubelet(arguments: &Arguments, asked: &Kubelet) -> Result<bool> {
    let mut out = std::io::stdout();
    if asked.list {
        for name in kubelet::names() {
            writeln!(out, "{name}")?;
        }
        return Ok(true);
    }
    let (Some(image), Some(pod)) = (&asked.image, &asked.pod_image) else {
        bail!("--image and --pod-image are needed: `cargo xtask e2e kubelet` makes both");
    };
    if !apart::is_inside()? {
        return Ok(apart::again()?.success());
    }
    let began = Instant::now();
    let text = asked.output == Form::Text;
    let mut steps = Vec::new();
    let tell = |what: &str| progress(began, what);
    let network = match asked.network {
        PodNetwork::Routed => Network::Routed,
        PodNetwork::Bridge => Network::Bridge,
    };
    kubelet::kubelet(&arguments.program, [image, pod], asked.mode.mode(), network, &tell, &mut |row| {
        if text {
            let _ = writeln!(std::io::stdout(), "{row}");
        }
        steps.push(row);
    })?;
    let passed = steps.iter().filter(|row| row.problems.is_empty()).count();
    let failed = steps.len() - passed;
    if text {
        writeln!(out, "{passed} passed, {failed} failed")?;
    } else {
        let all = Steps { passed, failed, seconds: began.elapsed().as_secs_f64(), steps };
        serde_json::to_writer_pretty(&mut out, &all)?;
        writeln!(out)?;
    }
    Ok(failed == 0)
}

/// Tells how far it is, on stderr.
fn progress(began: Instant, what: &str) {
    let mut err = std::io::stderr();
    let dim = err.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (on, off) = if dim { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(err, "{on}{:>6.1} s  {what}{off}", began.elapsed().as_secs_f64());
}
