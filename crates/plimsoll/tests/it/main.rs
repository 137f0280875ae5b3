//! The command as people run it, and what must hold on the real kernel: agents as processes of their own, nodes in
//! network namespaces.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod agent;
mod stage;

mod api;
mod bad_input;
mod chart;
mod check_config;
mod counts;
mod doctor;
mod dry_run;
mod ends;
mod foreign;
mod in_cluster;
mod kubectl;
mod kubernetes;
mod partition;
mod record;
mod removal;

/// The program under test.
fn plimsoll() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    for variable in ["PLIMSOLL_CONFIG", "PLIMSOLL_NODE", "PLIMSOLL_LOG", "PLIMSOLL_AGENT"] {
        command.env_remove(variable);
    }
    command
}
