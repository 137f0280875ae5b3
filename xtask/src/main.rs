//! The developer's commands: `cargo xtask <command>`.

mod run;
mod setup;
mod workspace;
mod tidy;
mod control_plane;
mod debian;
mod test;
mod demo;
mod bench;
mod image;
mod e2e;
mod figures;
mod sim;
mod licences;
mod fuzz;
mod docs;
mod chart;
mod ci;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The developer's commands.
///
/// `demo` and `test` are all that a newcomer needs; `ci` is what has to pass before a change is merged.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Test(test::Arguments),
    Ci(ci::Arguments),
    Tidy(tidy::Arguments),
    Licences(licences::Arguments),
    Bench(bench::Arguments),
    E2e(e2e::Arguments),
    Figures(figures::Arguments),
    Sim(sim::Arguments),
    Fuzz(fuzz::Arguments),
    Docs(docs::Arguments),
    Chart(chart::Arguments),
    Image(image::Arguments),
    ControlPlane(control_plane::Arguments),
    Setup(setup::Arguments),
}

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Result<()> {
    match Arguments::parse().command {
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Ci(arguments) => ci::ci(&arguments),
        Command::Tidy(arguments) => tidy::tidy(&arguments),
        Command::Licences(arguments) => licences::licences(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::E2e(arguments) => e2e::e2e(&arguments),
        Command::Figures(arguments) => figures::figures(&arguments),
        Command::Sim(arguments) => sim::sim(&arguments),
        Command::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Command::Docs(arguments) => docs::docs(&arguments),
        Command::Chart(arguments) => chart::chart(&arguments),
        Command::Image(arguments) => image::image(&arguments),
        Command::ControlPlane(arguments) => control_plane::control_plane(&arguments),
        Command::Setup(arguments) => setup::setup(&arguments),
    }
}
