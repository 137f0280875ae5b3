//! The command as people run it.
#![allow(clippy::unwrap_used)]

mod doctor;
mod check_config;

/// The program under test.
fn plimsoll() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    for variable in ["PLIMSOLL_CONFIG", "PLIMSOLL_NODE", "PLIMSOLL_LOG", "PLIMSOLL_AGENT"] {
        command.env_remove(variable);
    }
    command
}
