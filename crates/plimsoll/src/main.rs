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
            eprintln!("plimsoll: {error:#}");
            ExitCode::FAILURE
        }
    }
}
