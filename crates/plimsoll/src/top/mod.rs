//! `plimsoll top`: the endpoints' load and weights, live. One model, one update, one pure view.

mod model;
mod view;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use plimsoll_api::{Explanation, Status};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::client::{Agent, query};
use model::{Message, Model};

/// Options of `plimsoll top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys: up and down choose a Service, Enter shows its endpoints, Esc goes back, ? tells what the columns mean, q quits.

A terminal of 80 columns is enough. Where there is not room for all columns, some go: of the Services first MODE, then
ENDPOINTS, HELD BACK and OPEN; of the endpoints first FAIR, then NODE, OPEN, LIMIT and SHARE. Names are cut last.

Examples:
  plimsoll top
  kubectl plimsoll top --node worker-3
  plimsoll top shop/web --every 0.2
  plimsoll status -o json            the same figures once, for programs")]
pub(crate) struct Options {
    /// Begin with the endpoints of this Service
    service: Option<String>,
    #[command(flatten)]
    agent: Agent,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    every: f64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; `plimsoll status -o json` has the same figures for programs");
    }
    if !(0.05..=3600.0).contains(&options.every) {
        bail!("--every {} is not between 0.05 and 3600 seconds", options.every);
    }
    let mut model = Model::new(options.service.clone());
    look(&options.agent, &mut model);
    if let Some(problem) = model.problem() {
        bail!("{problem}");
    }
    let mut terminal = ratatui::init();
    let outcome = show(&mut terminal, &options.agent, Duration::from_secs_f64(options.every), &mut model);
    ratatui::restore();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    agent: &Agent,
    every: Duration,
    model: &mut Model,
) -> anyhow::Result<()> {
    let mut next = Instant::now() + every;
    while !model.is_done() {
        terminal.draw(|frame| view::draw(frame, model))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    if let Some(message) = meaning(key) {
                        model.update(message);
                        if model.wants_endpoints() {
                            next = Instant::now();
                        }
                    }
                }
                _ => {}
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + every;
            look(agent, model);
        }
    }
    Ok(())
}

fn meaning(key: KeyEvent) -> Option<Message> {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Message::Quit),
        KeyCode::Char('q') => Some(Message::Quit),
        KeyCode::Up | KeyCode::Char('k') => Some(Message::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Message::Down),
        KeyCode::Enter | KeyCode::Right => Some(Message::Enter),
        KeyCode::Esc | KeyCode::Left => Some(Message::Back),
        KeyCode::Char('?' | 'h') => Some(Message::Help),
        _ => None,
    }
}

/// Asks the agent for what the model shows.
fn look(agent: &Agent, model: &mut Model) {
    let message = match model.service() {
        None => agent.get::<Status>("/v1/status").map(|status| Message::Status(Box::new(status))),
        Some(service) => {
            let path = format!("/v1/explain?service={}", query(service));
            agent.get::<Vec<Explanation>>(&path).map(Message::Endpoints)
        }
    };
    model.update(message.unwrap_or_else(|error| Message::Problem(format!("{error:#}"))));
}

#[cfg(test)]
mod tests;
