//! `plimsoll reference`: the reference pages, made from the doc comments, the options and the metrics themselves.
//!
//! Hidden: `cargo xtask docs` writes the pages to `docs/`.

mod fields;
mod commands;
mod metrics;
mod api;

use std::io::Write as _;
use std::process::ExitCode;

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Page {
    /// The fields of the agent's configuration.
    Configuration,
    /// The fields of a Services file.
    ServicesFile,
    /// The commands with their options.
    Commands,
    /// The agent's metrics.
    Metrics,
    /// The agent's HTTP API.
    Api,
}

/// How a page says that it must not be edited.
const GENERATED: &str = "<!-- Made by `cargo xtask docs` from the code; edit the comments there. -->\n";
/// A configuration that uses the most usual fields.
const CONFIGURATION: &str = include_str!("agent.yaml");
/// A Services file that uses most fields.
const SERVICES: &str = include_str!("services.yaml");

/// Prints a page; `command` is the whole command line.
pub(crate) fn run(page: Page, command: &clap::Command) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text(page, command).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn text(page: Page, command: &clap::Command) -> String {
    let body = match page {
        Page::Configuration => configuration(),
        Page::ServicesFile => services_file(),
        Page::Commands => commands::page(command),
        Page::Metrics => metrics::page(&plimsoll_agent::sample_metrics()),
        Page::Api => api::page(),
    };
    format!("{GENERATED}\n{}\n", body.trim_end())
}

fn configuration() -> String {
    let schema = schemars::schema_for!(plimsoll_agent::Config);
    format!(
        "# Configuration\n\n\
         The agent reads one YAML file, `/etc/plimsoll/agent.yaml` unless `--config` or `PLIMSOLL_CONFIG` names \
         another. It is read at the start only. A field that is not known is an error. \
         `plimsoll agent --check-config` checks it, with the files it names, and prints what would be in force; \
         `GET /v1/config` shows what is.\n\n\
         Lengths of time are whole numbers with units: `250ms`, `10s`, `1m30s`, `3h`.\n\n\
         ## Example\n\n```yaml\n{CONFIGURATION}```\n\n{}",
        fields::page(schema.as_value(), "All fields")
    )
}

fn services_file() -> String {
    let schema = schemars::schema_for!(plimsoll_discovery::file::format::File);
    format!(
        "# The Services file\n\n\
         The configuration names it: `discovery: {{file: {{path: FILE}}}}`. It is YAML, and read again whenever it \
         changes. An agent does not start with an invalid file; a running one refuses it, keeps what it knew, logs \
         why and counts it (`plimsoll_discovery_refusals_total`). `plimsoll agent --check-config` checks it.\n\n\
         ## Example\n\n```yaml\n{SERVICES}```\n\n{}",
        fields::page(schema.as_value(), "All fields")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_valid() {
        let config = plimsoll_agent::Config::parse(CONFIGURATION).unwrap();
        config.check().unwrap();
        let contents = plimsoll_discovery::file::parse(SERVICES).unwrap();
        assert!(contents.services.len() > 2);
    }
}
