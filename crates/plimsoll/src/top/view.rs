//! How `top` looks: a pure function of the model and the size of the terminal.

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
        _ if model.wants_help() => frame.render_widget(Paragraph::new(help(model)), body),
        None => services(frame, body, model),
        Some(_) => endpoints(frame, body, model.endpoints()),
    }
    let keys = match model.service() {
        _ if model.wants_help() => "any key back",
        None => "up/down choose  Enter endpoints  ? help  q quit",
        Some(_) => "Esc back  ? help  q quit",
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

/// A column of a table of `T`s.
struct Column<T> {
    name: &'static str,
    /// What it shows, for the help.
    about: &'static str,
    /// How wide it is; 0: as wide as its widest cell.
    width: u16,
    /// When it goes, where there is not room for all: 1 is the first to go; 0 stays.
    goes: u8,
    cell: fn(&T) -> Line<'static>,
}

const fn column<T>(
    name: &'static str,
    about: &'static str,
    width: u16,
    goes: u8,
    cell: fn(&T) -> Line<'static>,
) -> Column<T> {
    Column { name, about, width, goes, cell }
}

const SERVICES: [Column<ServiceSummary>; 6] = [
    column("SERVICE", "name:port/family", 0, 0, |service| service.service.clone().into()),
    column("MODE", "enabled, or observe: counted only", 8, 1, |service| service.mode.clone().into()),
    column("ENDPOINTS", "those that get new connections / all", 11, 2, |service| {
        format!("{}/{}", service.eligible, service.endpoints).into()
    }),
    column("OPEN", "open connections, of all nodes", 8, 4, |service| format!("{:.0}", service.open).into()),
    column("MAX/MEAN", "the fullest endpoint against the mean; 1.00 is even", 8, 0, |service| {
        service.max_over_mean.map_or("-".into(), |ratio| format!("{ratio:.2}")).into()
    }),
    column("HELD BACK", "those held back, because connections to them fail", 9, 3, |service| {
        service.held_back.to_string().into()
    }),
];

const ENDPOINTS: [Column<Endpoint>; 7] = [
    column("ENDPOINT", "protocol, address and port", 0, 0, |endpoint| endpoint.endpoint.clone().into()),
    column("NODE", "the node that hosts it", 0, 2, |endpoint| {
        endpoint.node.clone().unwrap_or_else(|| "-".into()).into()
    }),
    column("OPEN", "open connections, of all nodes", 6, 3, |endpoint| format!("{:.0}", endpoint.open).into()),
    column(
        "LEVEL (| waterline)",
        "connections per capacity; | is the mean",
        2 * WATERLINE as u16 + 1,
        0,
        |endpoint| bar(endpoint.level),
    ),
    column("SHARE", "its part of this node's new connections", 8, 5, |endpoint| {
        percent(endpoint.share).into()
    }),
    column("FAIR", "the part of the load that is its due", 8, 1, |endpoint| {
        percent(Some(endpoint.fair_share)).into()
    }),
    column("LIMIT", "what its share ran into; `plimsoll explain` says more", 12, 4, |endpoint| {
        endpoint.limit.clone().unwrap_or_default().into()
    }),
];

fn services(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let table = table(&SERVICES, model.services(), area.width)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(model.chosen()));
    frame.render_stateful_widget(table, area, &mut state);
}

fn endpoints(frame: &mut Frame<'_>, area: Rect, explanations: &[Explanation]) {
    let endpoints = explanations.iter().flat_map(|explanation| &explanation.endpoints);
    frame.render_widget(table(&ENDPOINTS, endpoints, area.width), area);
}

/// The columns that there is room for.
fn table<'a, T: 'a>(
    columns: &[Column<T>],
    rows: impl IntoIterator<Item = &'a T>,
    room: u16,
) -> Table<'static> {
    let rows: Vec<Vec<Line<'static>>> =
        rows.into_iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
    let width = |i: usize, column: &Column<T>| match column.width {
        0 => {
            let cells = rows.iter().map(|row| row[i].width());
            cells.max().unwrap_or(0).max(column.name.len()) as u16
        }
        width => width,
    };
    let widths: Vec<u16> = columns.iter().enumerate().map(|(i, column)| width(i, column)).collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    while shown.iter().map(|i| widths[*i] + 1).sum::<u16>() > room + 1 {
        let goes = shown.iter().filter(|i| columns[**i].goes > 0).min_by_key(|i| columns[**i].goes).copied();
        let Some(goes) = goes else { break };
        shown.retain(|i| *i != goes);
    }
    // The first takes what is left, or what there is.
    let constraint = |i: &usize| if *i == 0 { Constraint::Fill(1) } else { Constraint::Length(widths[*i]) };
    let cells = rows.into_iter().map(|row| {
        let cells = row.into_iter().enumerate().filter(|(i, _)| shown.contains(i));
        Row::new(cells.map(|(_, line)| Cell::new(line)).collect::<Vec<_>>())
    });
    let names = shown.iter().map(|i| Cell::new(columns[*i].name));
    Table::new(cells.collect::<Vec<_>>(), shown.iter().map(constraint))
        .header(Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)))
}

/// What the keys do and the columns mean.
fn help(model: &Model) -> Vec<Line<'static>> {
    fn about<T>(columns: &[Column<T>]) -> Vec<Line<'static>> {
        let mut going: Vec<&Column<T>> = columns.iter().filter(|column| column.goes > 0).collect();
        going.sort_by_key(|column| column.goes);
        let going: Vec<&str> = going.iter().map(|column| column.name).collect();
        let mut lines: Vec<Line<'static>> =
            columns.iter().map(|column| format!("{:<20} {}", column.name, column.about).into()).collect();
        lines.push(format!("These go first where room is short: {}", going.join(", ")).into());
        lines
    }
    match model.service() {
        None => about(&SERVICES),
        Some(_) => about(&ENDPOINTS),
    }
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
