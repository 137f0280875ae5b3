//! `plimsoll status`: what the agent of this node does.

use std::io::Write as _;
use std::process::ExitCode;

use plimsoll_api::Status;

use crate::client::Agent;
use crate::output::{self, Form, seconds};

/// Options of `plimsoll status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  plimsoll status
  kubectl plimsoll status --node worker-3
  plimsoll status -o json | jq '.services[] | select(.max_over_mean > 1.2)'")]
pub(crate) struct Options {
    #[command(flatten)]
    agent: Agent,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let status: Status = options.agent.get("/v1/status")?;
    if options.output == Form::Json {
        output::json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = vec![vec![
        status.node.clone(),
        if status.ready { "ready" } else { "not ready" }.into(),
        seconds(Some(status.uptime_seconds)),
        status.dataplane.clone(),
        status.store.clone(),
        status.version.clone(),
    ]];
    output::columns(&["NODE", "STATE", ">UP", "DATAPLANE", "STORE", "VERSION"], &head)?;
    if status.dataplane == "dry_run" {
        writeln!(std::io::stdout(), "DRY RUN: it counts and decides, and nothing of it is in the kernel.")?;
    }
    for what in &status.waiting_for {
        writeln!(std::io::stdout(), "WAITS FOR: {what}")?;
    }
    for trouble in &status.troubles {
        writeln!(std::io::stdout(), "TROUBLE: {trouble}")?;
    }
    if status.nodes.is_empty() && status.store != "local" {
        writeln!(std::io::stdout(), "\nNo other node was heard yet.")?;
    }
    if !status.nodes.is_empty() {
        let rows: Vec<Vec<String>> = status
            .nodes
            .iter()
            .map(|node| {
                vec![
                    node.node.clone(),
                    seconds(Some(node.age_seconds)),
                    format!("{:.1}", node.opens_per_second),
                ]
            })
            .collect();
        blank()?;
        output::columns(&["OTHER NODE", ">LAST REPORT", ">OPENS/S"], &rows)?;
    }
    let rows: Vec<Vec<String>> = status
        .services
        .iter()
        .map(|service| {
            vec![
                service.service.clone(),
                service.mode.clone(),
                service.policy.clone(),
                format!("{}/{}", service.keys_taken, service.keys_taken + service.keys_left),
                format!("{}/{}", service.eligible, service.endpoints),
                format!("{:.0}", service.open),
                service.max_over_mean.map_or("-".into(), |ratio| format!("{ratio:.2}")),
                service.held_back.to_string(),
            ]
        })
        .collect();
    blank()?;
    output::columns(
        &["SERVICE", "MODE", "POLICY", ">KEYS", ">ENDPOINTS", ">OPEN", ">MAX/MEAN", ">HELD BACK"],
        &rows,
    )?;
    Ok(ExitCode::SUCCESS)
}

fn blank() -> std::io::Result<()> {
    writeln!(std::io::stdout())
}
