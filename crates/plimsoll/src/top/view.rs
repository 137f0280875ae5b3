//! How `top` looks: a pure function of the model.

use plimsoll_api::{Endpoint, Explanation, ServiceSummary};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::model::Model;
use crate::output::percent;

/// The width of a bar at the waterline; a full bar is twice that.
const WATERLINE: usize = 10;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(title(model)), head);
    match model.service() {
        None => services(frame, body, model),
        Some(_) => endpoints(frame, body, model.endpoints()),
    }
    let keys = match model.service() {
        None => "up/down choose  Enter endpoints  q quit",
        Some(_) => "Esc back  q quit",
    };
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn title(model: &Model) -> Line<'static> {
    if let Some(problem) = model.problem() {
        return Line::styled(problem.to_owned(), Style::new().fg(Color::Red));
    }
    let what = match (model.service(), model.endpoints().first()) {
        (Some(service), Some(explanation)) => format!("{service} on {}", explanation.node),
        (Some(service), None) => service.to_owned(),
        (None, _) => format!("{}: {} Services", model.node(), model.services().len()),
    };
    Line::from(vec![Span::styled("plimsoll  ", Style::new().add_modifier(Modifier::BOLD)), Span::raw(what)])
}

fn services(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows = model.services().iter().map(service_row);
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(9),
    ];
    let table = Table::new(rows, widths)
        .header(header(&["SERVICE", "MODE", "ENDPOINTS", "OPEN", "MAX/MEAN", "HELD BACK"]))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(model.chosen()));
    frame.render_stateful_widget(table, area, &mut state);
}

fn service_row(service: &ServiceSummary) -> Row<'static> {
    let ratio = service.max_over_mean.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    Row::new([
        Cell::new(service.service.clone()),
        Cell::new(service.mode.clone()),
        Cell::new(format!("{}/{}", service.eligible, service.endpoints)),
        Cell::new(format!("{:.0}", service.open)),
        Cell::new(ratio),
        Cell::new(service.held_back.to_string()),
    ])
}

fn endpoints(frame: &mut Frame<'_>, area: Rect, explanations: &[Explanation]) {
    let rows = explanations.iter().flat_map(|explanation| explanation.endpoints.iter().map(endpoint_row));
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(2 * WATERLINE as u16 + 1),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(12),
    ];
    let table = Table::new(rows, widths).header(header(&[
        "ENDPOINT",
        "NODE",
        "OPEN",
        "LEVEL, | is the waterline",
        "SHARE",
        "FAIR",
        "LIMIT",
    ]));
    frame.render_widget(table, area);
}

fn endpoint_row(endpoint: &Endpoint) -> Row<'static> {
    Row::new([
        Cell::new(endpoint.endpoint.clone()),
        Cell::new(endpoint.node.clone().unwrap_or_else(|| "-".into())),
        Cell::new(format!("{:.0}", endpoint.open)),
        Cell::new(bar(endpoint.level)),
        Cell::new(percent(endpoint.share)),
        Cell::new(percent(Some(endpoint.fair_share))),
        Cell::new(endpoint.limit.clone().unwrap_or_default()),
    ])
}

/// A bar for a level, with a mark at the waterline. Meaning is in the length; colour only helps.
fn bar(level: Option<f64>) -> Line<'static> {
    let Some(level) = level else { return Line::raw("") };
    let filled = ((level * WATERLINE as f64).round() as usize).min(2 * WATERLINE);
    let text: String = (0..=2 * WATERLINE)
        .map(|i| match i {
            WATERLINE => '|',
            i if i < filled || (i == filled && i > WATERLINE) => '█',
            _ => ' ',
        })
        .collect();
    let colour = if level > 1.25 {
        Color::Red
    } else if level < 0.75 {
        Color::Blue
    } else {
        Color::Green
    };
    Line::styled(text.trim_end().to_owned(), Style::new().fg(colour))
}

fn header(names: &[&'static str]) -> Row<'static> {
    Row::new(names.iter().map(|name| Cell::new(*name))).style(Style::new().add_modifier(Modifier::BOLD))
}
