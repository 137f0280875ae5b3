//! The command line: every command, its options and its examples.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{agent, client, demo, doctor, explain, record, reference, simulate, status, top};

/// Every connection goes to the endpoint with room for it.
///
/// Plimsoll balances the connections of Services by the load of their endpoints, on every node, in the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "plimsoll",
    version,
    after_help = "\
Exit codes: 0 fine; 1 it failed, the message says why; 2 wrong usage; \
3 doctor found something that keeps Plimsoll from working, or the demo saw a promise broken.

Examples:
  plimsoll demo                      watch a cluster of three nodes become even, in namespaces of its own
  plimsoll simulate c-mix            the same in virtual time, beside what people run today
  plimsoll record web.plr --for 1h   this node's own connections, to be simulated under each policy
  plimsoll agent --config FILE       run the agent of this node
  plimsoll explain shop/web          why does each endpoint have its weight?
  kubectl plimsoll status            the same commands with an agent in a cluster (as a program named kubectl-plimsoll)
  plimsoll doctor                    can this host run it, and what stands in the way?"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node
    Agent(agent::Options),
    /// Show what the agent of this node does: its Services, the other nodes
    Status(status::Options),
    /// Explain why each endpoint of a Service has its weight
    Explain(explain::Options),
    /// Watch the endpoints' load and weights live
    Top(top::Options),
    /// Check whether this host can run Plimsoll, and say what to do where it cannot
    Doctor(doctor::Options),
    /// Build a cluster in network namespaces and watch it become even, fail and recover
    Demo(demo::Options),
    /// Record the connections that this node sends, to be simulated under other policies
    Record(record::Options),
    /// Simulate a cluster under the policies people use and under ours, and show the difference
    Simulate(simulate::Options),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  source <(plimsoll completion bash)")]
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print a page of the reference, as Markdown
    #[command(hide = true)]
    Reference {
        /// Which page
        page: reference::Page,
    },
}

impl Cli {
    /// Reads the command line, under the name by which it was called.
    pub(crate) fn read() -> Cli {
        let name = if client::is_plugin() { "kubectl plimsoll" } else { "plimsoll" };
        let matches = Cli::command().bin_name(name).get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Carries out the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Agent(options) => agent::run(&options),
            Command::Status(options) => status::run(&options),
            Command::Explain(options) => explain::run(&options),
            Command::Top(options) => top::run(&options),
            Command::Doctor(options) => doctor::run(&options),
            Command::Demo(options) => demo::run(&options),
            Command::Record(options) => record::run(&options),
            Command::Simulate(options) => simulate::run(&options),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "plimsoll", &mut script);
                std::io::stdout().write_all(&script)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Reference { page } => reference::run(page, &Cli::command()),
        }
    }
}
