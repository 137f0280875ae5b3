//! The demo's report: one self-contained HTML page with plots.

use std::fmt::Write as _;

use anyhow::anyhow;
use plotters::prelude::{
    ChartBuilder, IntoDrawingArea as _, IntoFont as _, LineSeries, Palette as _, Palette99, PathElement,
    Rectangle, SVGBackend, SeriesLabelPosition, ShapeStyle, Text,
};
use plotters::style::{BLACK, Color as _, RGBColor, WHITE};

use super::measure::{Phase, Results};

/// Width and height of a plot in pixels.
const SIZE: (u32, u32) = (960, 300);
/// Room for the legend to the right of the lines.
const LEGEND: f64 = 1.16;
/// The highest level that is drawn.
const HIGHEST_LEVEL: f64 = 3.0;

/// The whole page.
pub(super) fn html(results: &Results) -> anyhow::Result<String> {
    let ours = levels(results, 0)?;
    let fixed = levels(results, 1)?;
    let weights = weights(results)?;
    let verdict = if results.broken.is_empty() {
        "<p class=\"kept\">Every promise held.</p>".to_owned()
    } else {
        let lines: Vec<String> =
            results.broken.iter().map(|broken| format!("<li>{}</li>", escape(broken))).collect();
        format!("<p class=\"broken\">Promises that did not hold:</p><ul>{}</ul>", lines.concat())
    };
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Plimsoll demo</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Plimsoll demo</h1>\n{INTRODUCTION}\n{verdict}\n{table}\n\
         <h2>Balanced by Plimsoll</h2>\n<p>Open connections of each endpoint per size, relative to the mean. \
         1 is the waterline.</p>\n{ours}\n\
         <h2>The same load through static weights</h2>\n<p>{ABOUT_STATIC}</p>\n\
         {fixed}\n<h2>What node0 did</h2>\n<p>Each endpoint's part of the new connections that node0 sends. They \
         swing on purpose: whoever is emptiest gets the most, and nobody gets less than a floor. Gaps: its agent does \
         not run or is frozen.</p>\n{weights}\n</body></html>\n",
        table = table(results) + &endpoints(results),
    ))
}

const INTRODUCTION: &str = "<p>Three nodes and ten endpoints of unequal size in network namespaces of one machine. \
Clients on all nodes open connections at 60 : 30 : 10; three in ten live for 10 to 15 seconds, the others for a \
tenth of a second. The same arrivals go to two Services with the same endpoints: one balanced by Plimsoll, one by \
static weights. Counts are those of the servers. The bands are the phases of the table.</p>";

/// What to know about the Service beside ours.
pub(super) const ABOUT_STATIC: &str =
    "Static weights are told every size but h's, and nothing tells them when an endpoint is new or slow.";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2733}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{padding:.3rem .6rem;border-bottom:1px solid #d5dde5;text-align:right}\
th:first-child,td:first-child,th:last-child,td:last-child{text-align:left}\
.kept{color:#176639;font-weight:600}.broken{color:#a4262c;font-weight:600}svg{width:100%;height:auto}";

fn table(results: &Results) -> String {
    let number =
        |number: Option<f64>, digits: usize| number.map_or("–".into(), |n| format!("{n:.digits$}"));
    let mut text = String::from(
        "<table><tr><th>phase</th><th>seconds</th><th>max/mean</th><th>by static weights</th><th>seconds to fair</th>\
         <th>by static weights</th><th>opened</th><th>failed</th><th>remark</th></tr>",
    );
    for phase in &results.phases {
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{:.0}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            phase.name,
            phase.length,
            number(phase.max_over_mean, 2),
            number(phase.static_max_over_mean, 2),
            number(phase.seconds_to_fair, 1),
            number(phase.static_seconds_to_fair, 1),
            phase.opened_connections,
            phase.failed_connections,
            escape(&phase.remark),
        );
    }
    text + "</table>"
}

/// Each endpoint's level at the end of each phase.
fn endpoints(results: &Results) -> String {
    let mut text = String::from(
        "<h2>Each endpoint at the end of each phase</h2><p>Open connections per size, relative to the mean.</p>\
         <table><tr><th>endpoint</th><th>size</th>",
    );
    for phase in &results.phases {
        let _ = write!(text, "<th>{}</th>", phase.name);
    }
    text.push_str("</tr>");
    for endpoint in &results.endpoints {
        let _ = write!(text, "<tr><td>{} on {}</td><td>{}</td>", endpoint.name, endpoint.node, endpoint.size);
        for phase in &results.phases {
            let level = phase.levels.get(&endpoint.name).map_or("–".into(), |level| format!("{level:.2}"));
            let _ = write!(text, "<td>{level}</td>");
        }
        text.push_str("</tr>");
    }
    text + "</table>"
}

/// Each endpoint's level over time, for one of the Services.
fn levels(results: &Results, service: usize) -> anyhow::Result<String> {
    let series = results.endpoints.iter().enumerate().map(|(i, endpoint)| {
        let points = results
            .moments
            .iter()
            .filter_map(|moment| Some((moment.at, moment.levels[service].get(i)?.min(HIGHEST_LEVEL))))
            .collect();
        (format!("{} (size {})", endpoint.name, endpoint.size), vec![points])
    });
    plot(&results.phases, HIGHEST_LEVEL, Some(1.0), series.collect())
}

/// Each endpoint's share over time, as node 0 installed it; broken where its agent did not answer.
fn weights(results: &Results) -> anyhow::Result<String> {
    let series = results.endpoints.iter().enumerate().map(|(i, endpoint)| {
        let pieces = results
            .weights
            .split(|(_, shares)| shares.is_empty())
            .map(|piece| piece.iter().filter_map(|(at, shares)| Some((*at, *shares.get(i)?))).collect());
        (endpoint.name.clone(), pieces.collect())
    });
    plot(&results.phases, 0.6, None, series.collect())
}

/// A name, and the pieces of its line.
type Series = (String, Vec<Vec<(f64, f64)>>);

fn plot(phases: &[Phase], highest: f64, mark: Option<f64>, series: Vec<Series>) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(&mut svg, phases, highest, mark, series).map_err(|error| anyhow!("cannot draw a plot: {error}"))?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    phases: &[Phase],
    highest: f64,
    mark: Option<f64>,
    series: Vec<Series>,
) -> Result<(), Box<dyn std::error::Error>> {
    let end = phases.last().map_or(1.0, |phase| phase.began + phase.length);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(45)
        .build_cartesian_2d(0.0..end * LEGEND, 0.0..highest)?;
    chart.configure_mesh().disable_x_mesh().light_line_style(WHITE).x_desc("seconds").draw()?;
    let band = ShapeStyle::from(RGBColor(90, 120, 150).mix(0.08)).filled();
    let bands = phases
        .iter()
        .step_by(2)
        .map(|phase| Rectangle::new([(phase.began, 0.0), (phase.began + phase.length, highest)], band));
    chart.draw_series(bands)?;
    let titles = phases.iter().enumerate().map(|(i, phase)| {
        let style = ("sans-serif", 11).into_font().color(&BLACK.mix(0.6));
        // Short phases have names longer than themselves: every other one stands lower.
        let height = if i % 2 == 0 { 0.99 } else { 0.94 };
        Text::new(phase.name, (phase.began + 0.3, highest * height), style)
    });
    chart.draw_series(titles)?;
    if let Some(mark) = mark {
        chart.draw_series(LineSeries::new([(0.0, mark), (end, mark)], BLACK.stroke_width(1)))?;
    }
    for (i, (name, pieces)) in series.into_iter().enumerate() {
        let colour = Palette99::pick(i).to_rgba();
        for (n, piece) in pieces.into_iter().enumerate() {
            let line = chart.draw_series(LineSeries::new(piece, colour.stroke_width(2)))?;
            if n == 0 {
                line.label(name.clone())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
