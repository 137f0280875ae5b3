//! `plimsoll explain`: why each endpoint of a Service has its weight.

use std::io::Write as _;
use std::process::ExitCode;

use plimsoll_api::{Endpoint, Explanation};

use crate::client::{Agent, query};
use crate::output::{self, Form, percent, seconds};

/// Options of `plimsoll explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SHARE is the endpoint's part of this node's new connections, FAIR the part of the load that is its due, LEVEL its
open connections per capacity relative to the Service's mean: 1.00 is the waterline.

All Services that fit what was asked are explained, one by one:
  web              of every namespace that has a `web`, with all its ports, in both families
  shop/web         the one in `shop`
  shop/web:http    the port of that name alone
  shop/web:80      the port that clients reach on 80 (or on node port 80), unless a port is named `80`
  shop/web/ipv4    one family alone; after a port too: `shop/web:http/ipv4`

Examples:
  plimsoll explain shop/web
  kubectl plimsoll explain shop/web --node worker-3
  plimsoll explain web:80 -o json")]
pub(crate) struct Options {
    /// The Service: `web`, `shop/web`, `shop/web:http`, `shop/web:80`, `shop/web:http/ipv4`
    service: String,
    #[command(flatten)]
    agent: Agent,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/explain?service={}", query(&options.service));
    let explanations: Vec<Explanation> = options.agent.get(&path)?;
    if options.output == Form::Json {
        output::json(&explanations)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (i, explanation) in explanations.iter().enumerate() {
        if i > 0 {
            writeln!(std::io::stdout())?;
        }
        show(explanation)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(explanation: &Explanation) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} on {}: {}, policy {}",
        explanation.service, explanation.node, explanation.mode, explanation.policy
    )?;
    for key in &explanation.keys {
        let word = match (key.taken, explanation.dry_run) {
            (true, false) => "balanced",
            (true, true) => "would be balanced (dry run)",
            (false, _) => "left to the proxy below",
        };
        writeln!(out, "  {}: {word}: {}", key.key, key.because)?;
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = explanation.endpoints.iter().map(row).collect();
    output::columns(
        &[
            "ENDPOINT",
            "NODE",
            ">SHARE",
            ">FAIR",
            ">OPEN",
            ">OURS",
            ">LEVEL",
            "REPORTED BY",
            ">AGE",
            "BECAUSE",
        ],
        &rows,
    )
}

fn row(endpoint: &Endpoint) -> Vec<String> {
    vec![
        endpoint.endpoint.clone(),
        endpoint.node.clone().unwrap_or_else(|| "-".into()),
        percent(endpoint.share),
        percent(Some(endpoint.fair_share)),
        format!("{:.0}", endpoint.open),
        format!("{:.0}", endpoint.sent),
        endpoint.level.map_or("-".into(), |level| format!("{level:.2}")),
        endpoint.reported_by.clone(),
        seconds(endpoint.age_seconds),
        endpoint.because.clone(),
    ]
}
