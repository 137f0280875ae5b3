//! `plimsoll doctor`: whether this host can run an agent, what stands in the way, and what to do about it.
//!
//! Nothing of this host is changed. What has to be tried is tried in a network namespace made for it, or asked of the
//! kernel in a way that it undoes.

mod finding;
mod files;
mod ruleset;
mod probe;
mod host;
mod forwarding;
mod rivals;
mod reach;
mod peers;
mod configured;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use plimsoll_dataplane::{Config as Dataplane, nftables};
use serde::Serialize;

use self::finding::{Finding, Verdict};
use self::ruleset::Ruleset;
use crate::output::{self, Form};

/// Options of `plimsoll doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at the kernel, rights, conntrack, forwarding, the rules of others, routes, ports, the configuration with the files
it names, and the peers: each is sent one empty datagram, which an agent drops. Changes nothing: what has to be tried
is tried in a network namespace that goes away. To be run as root, with the rights and in the network namespace the
agent will have.

A note is worth knowing, or could not be found out. A warning means that it works, but not for everything. A problem
keeps Plimsoll from working; exit code 3 says that there is one.

Examples:
  sudo plimsoll doctor
  sudo plimsoll doctor --config /etc/plimsoll/agent.yaml
  sudo plimsoll doctor -o json | jq '.findings[] | select(.verdict != \"ok\")'")]
pub(crate) struct Options {
    /// The agent's configuration; without it /etc/plimsoll/agent.yaml if there is one, else the defaults
    #[arg(long, value_name = "FILE", env = "PLIMSOLL_CONFIG")]
    config: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Try the table in a namespace and print what came of it: what doctor asks another process of itself
    #[arg(long, hide = true)]
    try_table: bool,
}

/// The exit code where there is a problem.
const PROBLEM: u8 = 3;

/// What `-o json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    findings: &'a [Finding],
    /// Whether there is no problem.
    ok: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.try_table {
        probe::answer()?;
        return Ok(ExitCode::SUCCESS);
    }
    let findings = examine(options);
    let ok = findings.iter().all(|finding| finding.verdict < Verdict::Problem);
    match options.output {
        Form::Json => output::json(&Answer { findings: &findings, ok })?,
        Form::Text => std::io::stdout().write_all(text(&findings).as_bytes())?,
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(PROBLEM) })
}

fn examine(options: &Options) -> Vec<Finding> {
    let configured = configured::check(options.config.as_ref());
    let table = match configured.config.as_ref().map(|config| &config.dataplane) {
        Some(Dataplane::Nftables(config)) => config.clone(),
        Some(Dataplane::DryRun(_)) | None => nftables::Config::default(),
    };
    // First, for it may load the modules that the others look for.
    let tried = probe::judge(&probe::tried());
    let mut findings = host::check();
    findings.extend(tried);
    findings.extend(forwarding::check());
    match Ruleset::read() {
        Ok(ruleset) => {
            findings.extend(forwarding::drops(&ruleset, &legacy_tables()));
            findings.extend(rivals::check(&ruleset, &table));
        }
        Err(error) => findings.push(Finding::note(
            "rules",
            format!("the rules that are in the kernel cannot be read: {error}"),
            "run doctor as root; until then it is not known what others decide before us or drop after us",
        )),
    }
    findings.push(reach::routes(&configured.services));
    if let Some(config) = &configured.config {
        let agent = reach::agent(config.api.listen);
        findings.extend(reach::ports(config, agent.as_ref()));
        findings.extend(peers::check(config));
        findings.extend(agent.as_ref().and_then(reach::silent));
        let status = agent.and_then(|agent| agent.status.ok());
        findings.extend(status.and_then(|status| peers::heard(&status, &configured.nodes)));
    }
    findings.extend(configured.findings);
    findings
}

/// The tables of iptables-legacy that are loaded.
fn legacy_tables() -> Vec<String> {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn text(findings: &[Finding]) -> String {
    let wide = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for Finding { check, verdict, what, todo } in findings {
        lines.push(format!("{:<7}  {check:<wide$}  {what}", verdict.word()));
        lines.extend(todo.as_ref().map(|todo| format!("{:<7}  {:<wide$}  -> {todo}", "", "")));
    }
    let count =
        |verdict, one: &str| match findings.iter().filter(|finding| finding.verdict == verdict).count() {
            1 => format!("1 {one}"),
            number => format!("{number} {one}s"),
        };
    let counts = [
        count(Verdict::Problem, "problem"),
        count(Verdict::Warning, "warning"),
        count(Verdict::Note, "note"),
    ];
    lines.push(format!("\n{}\n", counts.join(", ")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_to_do() {
        let findings =
            [Finding::ok("kernel", "Linux 6"), Finding::problem("rights", "none", "run it as root")];
        let expected = "\
ok       kernel  Linux 6
PROBLEM  rights  none
                 -> run it as root

1 problem, 0 warnings, 0 notes
";
        assert_eq!(text(&findings), expected);
    }
}
