//! What came out: medians over seeds, as a table for people and as records for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::batch::{Named, Run};
use crate::catalogue::Contender;
use crate::measure::{Measured, Outcome};

/// A contender's figures in a scenario: medians over the seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which scenario.
    pub scenario: String,
    /// Which policy.
    pub policy: &'static str,
    /// How nodes chose by its weights; `None` where the policy itself chose.
    pub selection: Option<&'static str>,
    /// How many seeds.
    pub seeds: usize,
    /// The time average of the highest level (open connections per capacity) over the mean level.
    pub max_over_mean: Option<f64>,
    /// The time average of the levels' standard deviation over their mean.
    pub deviation: Option<f64>,
    /// Half of the requests were faster, in milliseconds; `None` where there are no requests.
    pub p50_ms: Option<f64>,
    /// 99 of 100 were.
    pub p99_ms: Option<f64>,
    /// 999 of 1,000 were.
    pub p999_ms: Option<f64>,
    /// The part of the connections and requests that failed.
    pub failed_share: f64,
    /// How long added endpoints took to hold 80 % of what the others held.
    pub seconds_to_fair: Option<f64>,
    /// Weights written per node and second.
    pub weight_changes_per_second: f64,
    /// The same within the scenario's windows.
    pub windows: Vec<WindowRow>,
}

/// What is told of a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowRow {
    /// Its name.
    pub window: String,
    /// 99 of 100 requests were faster, in milliseconds.
    pub p99_ms: Option<f64>,
    /// The part of the connections and requests that failed.
    pub failed_share: f64,
}

impl Row {
    /// The medians of the runs with different seeds; `None` of none.
    pub fn new(scenario: &str, contender: Contender, runs: &[Run]) -> Option<Row> {
        let runs: Vec<&Measured> = runs.iter().map(|run| &run.measured).collect();
        let first = runs.first()?;
        let quantile = |part: f64| {
            median(runs.iter().map(|run| run.outcome.latency.quantile(part).map(|seconds| seconds * 1e3)))
        };
        let windows = first.windows.iter().enumerate().map(|(number, (name, _))| {
            let outcomes = || runs.iter().map(|run| &run.windows[number].1);
            let p99 = outcomes().map(|outcome| outcome.latency.quantile(0.99).map(|seconds| seconds * 1e3));
            WindowRow {
                window: name.clone(),
                p99_ms: median(p99),
                failed_share: known(outcomes().map(Outcome::failed_share)),
            }
        });
        Some(Row {
            scenario: scenario.to_owned(),
            policy: contender.policy.name(),
            selection: contender.selection.map(crate::selection::Kind::name),
            seeds: runs.len(),
            max_over_mean: median(runs.iter().map(|run| run.max_over_mean)),
            deviation: median(runs.iter().map(|run| run.deviation)),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            failed_share: known(runs.iter().map(|run| run.outcome.failed_share())),
            seconds_to_fair: median(runs.iter().map(|run| run.seconds_to_fair)),
            weight_changes_per_second: known(runs.iter().map(|run| run.weight_changes_per_second)),
            windows: windows.collect(),
        })
    }
}

/// The rows of a batch, in the order of scenarios, then contenders.
pub fn rows(scenarios: &[Named], contenders: &[Contender], runs: &[Vec<Vec<Run>>]) -> Vec<Row> {
    let of_scenario = |(named, runs): (&Named, &Vec<Vec<Run>>)| -> Vec<Row> {
        let rows = contenders
            .iter()
            .zip(runs)
            .filter_map(|(contender, runs)| Row::new(&named.name, *contender, runs));
        rows.collect()
    };
    scenarios.iter().zip(runs).flat_map(of_scenario).collect()
}

/// The middle of the values, of two the mean; `None` unless more than half of them are known.
fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    // What is unknown never came, or came never: it is the worst.
    let mut values: Vec<f64> = values.map(|value| value.unwrap_or(f64::INFINITY)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = f64::midpoint(*values.get(values.len() / 2)?, values[(values.len() - 1) / 2]);
    middle.is_finite().then_some(middle)
}

fn known(values: impl Iterator<Item = f64>) -> f64 {
    median(values.map(Some)).unwrap_or(0.0)
}

/// How a contender compares with the oracle over many scenarios.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Which policy.
    pub policy: &'static str,
    /// How nodes chose by its weights.
    pub selection: Option<&'static str>,
    /// The geometric mean, over scenarios without requests, of `max/mean - 1` relative to the oracle's.
    pub imbalance: Option<f64>,
    /// The same of the p99, over scenarios with requests.
    pub p99: Option<f64>,
    /// The same of the p999.
    pub p999: Option<f64>,
}

/// What every contender is measured by.
const ORACLE: &str = "jsq-work";

/// How each contender compares with the oracle over the scenarios in `rows`; nothing where the oracle was not run.
pub fn scores(rows: &[Row]) -> Vec<Score> {
    let oracle =
        |row: &Row| rows.iter().find(|other| other.policy == ORACLE && other.scenario == row.scenario);
    let mut scores: Vec<Score> = Vec::new();
    for first in rows {
        let is_scored = |score: &Score| (score.policy, score.selection) == (first.policy, first.selection);
        if scores.iter().any(is_scored) {
            continue;
        }
        let own = || rows.iter().filter(|row| (row.policy, row.selection) == (first.policy, first.selection));
        let over = |figure: fn(&Row) -> Option<f64>| {
            geometric_mean(own().filter_map(|row| Some(figure(row)? / figure(oracle(row)?)?)))
        };
        let imbalance =
            |row: &Row| row.max_over_mean.filter(|_| row.p99_ms.is_none()).map(|m| (m - 1.0).max(1e-6));
        scores.push(Score {
            policy: first.policy,
            selection: first.selection,
            imbalance: over(imbalance),
            p99: over(|row| row.p99_ms),
            p999: over(|row| row.p999_ms),
        });
    }
    scores.retain(|score| score.imbalance.is_some() || score.p99.is_some());
    scores
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + libm::log(value), count + 1));
    (count > 0).then(|| libm::exp(sum / f64::from(count)))
}

/// Scores as a table.
pub fn score_table(scores: &[Score]) -> String {
    let mut lines = vec![["policy", "imbalance", "p99", "p99.9"].map(str::to_owned).to_vec()];
    lines.extend(scores.iter().map(|score| {
        let mut cells = vec![full_name(score.policy, score.selection)];
        cells.extend([score.imbalance, score.p99, score.p999].map(|value| number(value, 2)));
        cells
    }));
    lay_out(&lines)
}

fn full_name(policy: &str, selection: Option<&str>) -> String {
    selection.map_or_else(|| policy.to_owned(), |selection| format!("{policy}:{selection}"))
}

/// The rows of one scenario as a table.
pub fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let mut names = vec!["policy".to_owned(), "max/mean".into(), "p50".into(), "p99".into(), "p99.9".into()];
    names.extend(["failed", "to fair", "writes/s"].map(str::to_owned));
    let has_latency = rows.iter().any(|row| row.p99_ms.is_some());
    let has_failures = rows.iter().any(|row| row.failed_share > 0.0);
    for window in &first.windows {
        if has_latency {
            names.push(format!("p99 {}", window.window));
        }
        if has_failures {
            names.push(format!("failed {}", window.window));
        }
    }
    let cells = |row: &Row| {
        let mut cells = vec![full_name(row.policy, row.selection), number(row.max_over_mean, 3)];
        cells.extend([row.p50_ms, row.p99_ms, row.p999_ms].map(time));
        cells.extend([percent(row.failed_share), time(row.seconds_to_fair.map(|s| s * 1e3))]);
        cells.push(number(Some(row.weight_changes_per_second), 2));
        for window in &row.windows {
            if has_latency {
                cells.push(time(window.p99_ms));
            }
            if has_failures {
                cells.push(percent(window.failed_share));
            }
        }
        cells
    };
    let mut lines = vec![names];
    lines.extend(rows.iter().map(cells));
    lay_out(&lines)
}

fn lay_out(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut laid = format!("{:<1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            let _ = write!(laid, "  {cell:>width$}");
        }
        text.push_str(laid.trim_end());
        text.push('\n');
    }
    text
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn percent(part: f64) -> String {
    if part == 0.0 { "-".into() } else { format!("{:.2} %", part * 100.0) }
}

/// Milliseconds as people read them.
fn time(millis: Option<f64>) -> String {
    match millis {
        None => "-".into(),
        Some(millis) if millis < 999.5 => format!("{millis:.0} ms"),
        Some(millis) if millis < 99_500.0 => format!("{:.1} s", millis / 1e3),
        Some(millis) => format!("{:.0} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_what_is_unknown_is_unknown() {
        assert_eq!(median([None, Some(2.0), Some(1.0)].into_iter()), Some(2.0));
        assert_eq!(median([None, Some(1.0)].into_iter()), None);
        assert_eq!(median([Some(3.0), Some(1.0)].into_iter()), Some(2.0));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn scores_are_relative_to_the_oracle() {
        let row = |scenario: &str, policy, max_over_mean, p99| Row {
            scenario: scenario.to_owned(),
            policy,
            selection: None,
            seeds: 1,
            max_over_mean: Some(max_over_mean),
            deviation: None,
            p50_ms: None,
            p99_ms: p99,
            p999_ms: p99,
            failed_share: 0.0,
            seconds_to_fair: None,
            weight_changes_per_second: 0.0,
            windows: Vec::new(),
        };
        let mut rows = vec![
            row("a", "wlc", 1.4, None),
            row("a", ORACLE, 1.1, None),
            row("b", "wlc", 1.3, None),
            row("b", ORACLE, 1.3, None),
            row("c", "wlc", 2.0, Some(300.0)),
            row("c", ORACLE, 1.5, Some(100.0)),
        ];
        let text = score_table(&scores(&rows));
        let expected = "policy    imbalance   p99  p99.9\nwlc            2.00  3.00   3.00\n\
                        jsq-work       1.00  1.00   1.00\n";
        assert_eq!(text, expected);
        rows.retain(|row| row.policy != ORACLE);
        assert!(scores(&rows).is_empty());
    }

    #[test]
    fn times_are_short() {
        let shown = [0.4, 12.3, 999.6, 30_000.0, 99_600.0].map(|millis| time(Some(millis)));
        assert_eq!(shown, ["0 ms", "12 ms", "1.0 s", "30.0 s", "100 s"]);
    }
}
