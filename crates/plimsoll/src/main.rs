//! Load-driven balancing for every Service: the one command.

mod client;
mod output;
mod agent;
mod status;
mod explain;
mod top;
mod doctor;
mod demo;
mod reference;
mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("plimsoll: {}", words(&error));
            ExitCode::FAILURE
        }
    }
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
