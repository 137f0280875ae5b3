//! Load-driven balancing for every Service: the one command.

mod forward;
mod client;
mod output;
mod part;
mod agent;
mod status;
mod explain;
mod top;
mod doctor;
mod demo;
mod record;
mod simulate;
mod reference;
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::read().run() {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plimsoll: {}", words(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// An error and its causes, without those that are told already.
fn words(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut told, cause| {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
        told
    })
}
