//! The results as one self-contained HTML page: the tables, and what went on behind them.

use std::fmt::Write as _;
use std::path::Path;

use plimsoll_core::time::Timestamp;
use plimsoll_sim::batch::{Named, Run};
use plimsoll_sim::catalogue::Contender;
use plimsoll_sim::results::{self, Row};
use plimsoll_sim::trace::{Point, Trace};

use crate::part::Part;

use super::svg::{Axis, Plot, Scale, colour, escape};

/// Width and height of a plot: of one policy, and of all together.
const SMALL: (f64, f64) = (420.0, 200.0);
const WIDE: (f64, f64) = (860.0, 260.0);
/// The highest level and share that are drawn, relative to the mean and of the whole.
const HIGHEST_LEVEL: f64 = 4.0;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:58rem;margin:2rem auto;padding:0 1rem;color:#1c2733}\
pre{font-size:13px;overflow-x:auto;background:#f4f6f8;padding:.7rem}svg{width:100%;height:auto}\
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:.5rem}\
.l{fill:none;stroke-width:1.2}.g{stroke:#e3e8ed;fill:none}.b{fill:#fdf0d5}.t{font:600 13px system-ui}\
.m,.e{font:11px system-ui;fill:#5b6875}.m{text-anchor:middle}.e{text-anchor:end}\
.key span{display:inline-block;margin-right:1rem}.key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.3rem}";

/// Writes the page, whole or not at all.
pub(super) fn write(
    path: &Path,
    scenarios: &[Named],
    contenders: &[Contender],
    runs: &[Vec<Vec<Run>>],
    rows: &[Row],
) -> anyhow::Result<()> {
    let mut part = Part::begin_over(path)?;
    part.write(html(scenarios, contenders, runs, rows).as_bytes())?;
    part.finish()?;
    Ok(())
}

fn html(scenarios: &[Named], contenders: &[Contender], runs: &[Vec<Vec<Run>>], rows: &[Row]) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>plimsoll simulate</title>\
         <style>{STYLE}</style></head><body>\n<h1>plimsoll simulate</h1>\n<p>All policies of a scenario meet the same \
         clients. Figures are medians over the seeds; pictures are of the first seed. How to read the tables: \
         docs/simulator.md.</p>\n"
    );
    for (named, runs) in scenarios.iter().zip(runs) {
        let rows: Vec<Row> = rows.iter().filter(|row| row.scenario == named.name).cloned().collect();
        let _ = write!(
            text,
            "<h2>{}</h2>\n<p>{}.</p>\n<pre>{}</pre>\n",
            escape(&named.name),
            escape(&named.scenario.about),
            escape(&results::table(&rows))
        );
        let traced: Vec<(String, &Run, &Trace)> = contenders
            .iter()
            .zip(runs)
            .filter_map(|(contender, runs)| {
                let run = runs.first()?;
                Some((contender.to_string(), run, run.trace.as_ref()?))
            })
            .collect();
        text += &scenario(named, &traced);
    }
    text + "</body></html>\n"
}

fn scenario(named: &Named, traced: &[(String, &Run, &Trace)]) -> String {
    let x = Axis::seconds(named.scenario.until.0.as_secs_f64());
    let mut text = String::from(
        "<h3>Load</h3><p>Open connections of each endpoint per capacity, relative to the mean of all: 1 is the \
         waterline. What is above 4 is drawn at 4. Bands are the scenario's windows.</p><div class=\"grid\">",
    );
    let levels = Axis { least: 0.0, most: HIGHEST_LEVEL, scale: Scale::Linear, unit: "" };
    for (name, _, trace) in traced {
        text += &of_endpoints(named, name, trace, x, levels, |point, endpoint| {
            point.levels.get(endpoint).copied()?
        });
    }
    text += "</div>\n";
    let with_shares: Vec<_> = traced
        .iter()
        .filter(|(.., trace)| trace.points().iter().any(|point| point.shares.iter().any(Option::is_some)))
        .collect();
    if !with_shares.is_empty() {
        text += "<h3>Weights</h3><p>Each endpoint's part of the new connections of the node that sends most. The law's \
                 swing on purpose: whoever is emptiest gets most.</p><div class=\"grid\">";
        let highest =
            with_shares.iter().flat_map(|(.., trace)| trace.points()).flat_map(|point| &point.shares);
        let most = highest.flatten().fold(0.0_f32, |most, share| most.max(*share));
        let shares = Axis::up_to(f64::from(most), "");
        for (name, _, trace) in with_shares {
            text += &of_endpoints(named, name, trace, x, shares, |point, endpoint| {
                point.shares.get(endpoint).copied()?
            });
        }
        text += "</div>\n<h3>Churn</h3><p>Weights written per second, all nodes together.</p>";
        text += &churn(named, traced, x);
    }
    if traced.iter().any(|(_, run, _)| run.measured.outcome.latency.count() > 0) {
        text += "<h3>Latency</h3><p>The part of the requests that took longer, from where the measurement begins. Both \
                 axes go by decades; where a line crosses 0.01 is its p99.</p>";
        text += &latency(traced);
    }
    text + &key(traced)
}

fn of_endpoints(
    named: &Named,
    name: &str,
    trace: &Trace,
    x: Axis,
    y: Axis,
    value: impl Fn(&Point, usize) -> Option<f32>,
) -> String {
    let mut plot = Plot::new(name, SMALL, x, y);
    bands(&mut plot, named);
    let endpoints = trace.points().iter().map(|point| point.levels.len()).max().unwrap_or(0);
    for endpoint in 0..endpoints {
        let points = trace.points().iter();
        plot.line(
            points.map(|point| (point.seconds, value(point, endpoint).map(f64::from))),
            colour(endpoint),
        );
    }
    plot.finish()
}

fn bands(plot: &mut Plot, named: &Named) {
    let seconds = |at: Timestamp| at.seconds_since(Timestamp::ZERO);
    for (from, until) in named.scenario.windows.iter().flat_map(plimsoll_sim::scenario::Window::spans) {
        plot.band(seconds(from), seconds(until));
    }
}

fn churn(named: &Named, traced: &[(String, &Run, &Trace)], x: Axis) -> String {
    let rates = |trace: &Trace| -> Vec<(f64, f64)> {
        let pairs = trace.points().windows(2);
        pairs
            .map(|pair| {
                let written = (pair[1].written - pair[0].written) as f64;
                (pair[1].seconds, written / (pair[1].seconds - pair[0].seconds))
            })
            .collect()
    };
    let all: Vec<Vec<(f64, f64)>> = traced.iter().map(|(.., trace)| rates(trace)).collect();
    let most = all.iter().flatten().fold(1.0_f64, |most, (_, rate)| most.max(*rate));
    let mut plot = Plot::new("", WIDE, x, Axis::up_to(most, ""));
    bands(&mut plot, named);
    for (number, rates) in all.iter().enumerate() {
        plot.line(rates.iter().map(|(at, rate)| (*at, Some(*rate))), colour(number));
    }
    plot.finish()
}

fn latency(traced: &[(String, &Run, &Trace)]) -> String {
    let slowest = traced.iter().filter_map(|(_, run, _)| run.measured.outcome.latency.quantile(0.9999));
    let most = slowest.fold(0.1, f64::max) * 1e3;
    let x = Axis { least: 1.0, most, scale: Scale::Logarithmic, unit: " ms" };
    let y = Axis { least: 1e-4, most: 1.0, scale: Scale::Logarithmic, unit: "" };
    let mut plot = Plot::new("", WIDE, x, y);
    for (number, (_, run, _)) in traced.iter().enumerate() {
        let mut longer = 1.0;
        let points: Vec<(f64, Option<f64>)> = run
            .measured
            .outcome
            .latency
            .parts()
            .map(|(_, until, part)| {
                longer -= part;
                (until * 1e3, (longer > 1e-4).then_some(longer))
            })
            .collect();
        // A tenth of the classes is as fine as the picture.
        plot.line(points.into_iter().step_by(8), colour(number));
    }
    plot.finish()
}

fn key(traced: &[(String, &Run, &Trace)]) -> String {
    let entries = traced.iter().enumerate().map(|(number, (name, ..))| {
        format!("<span><i style=\"background:{}\"></i>{}</span>", colour(number), escape(name))
    });
    format!("<p class=\"key\">{}</p>\n", entries.collect::<String>())
}

#[cfg(test)]
mod tests {
    use plimsoll_sim::batch::{Progress, Traced, run_all};
    use plimsoll_sim::scenario::Scenario;

    use super::*;

    fn page() -> String {
        let text = "about = \"one & two\"\nuntil = \"20s\"\nmeasured_from = \"5s\"\n\
                    windows = [{ name = \"w\", from = \"6s\", until = \"9s\" }]\n[[endpoints]]\ncount = 3\n\
                    [clients]\nload = 0.5\nlong_work = 0.5\n[work]\n";
        let scenarios = [Named { name: "mine".into(), scenario: Scenario::parse("mine", text).unwrap() }];
        let contenders = ["random", "waterline"].map(|name| Contender::named(name).unwrap());
        let runs = run_all(&scenarios, &contenders, 1, 1, Traced::First, &Progress::default());
        let rows = results::rows(&scenarios, &contenders, &runs);
        html(&scenarios, &contenders, &runs, &rows)
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page();
        assert!(page.contains("one &amp; two") && page.contains("waterline:counter"));
        // Load for both, weights for one, churn and latency for all together.
        assert_eq!(page.matches("<svg").count(), 2 + 1 + 1 + 1);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn it_is_written_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page.html");
        write(&path, &[], &[], &[], &[]).unwrap();
        write(&path, &[], &[], &[], &[]).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let error = write(&directory.path().join("no/page.html"), &[], &[], &[], &[]).unwrap_err();
        assert!(format!("{error:#}").contains("does its directory exist"));
    }
}
