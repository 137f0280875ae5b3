//! A row of the table: what was measured, against what, and whether it holds.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// The ratio, or the figure itself where there is no reference, is at most this.
    AtMost(f64),
    /// It is at least this.
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }
}

/// What a row's figures are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    Bytes,
    Megabytes,
    PercentOfACore,
    Connections,
    MillionsPerSecond,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Milliseconds => "ms",
            Unit::Microseconds => "us",
            Unit::Bytes => "B",
            Unit::Megabytes => "MB",
            Unit::PercentOfACore => "% core",
            Unit::Connections => "conn",
            Unit::MillionsPerSecond => "M/s",
        })
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// By this it is chosen; several rows of one measurement share what is before the colon.
    pub(crate) name: &'static str,
    /// The figure.
    pub(crate) measured: f64,
    /// What it is in.
    pub(crate) unit: Unit,
    /// What it is compared with, in the same unit.
    pub(crate) reference: Option<f64>,
    /// The figures' ratio: how many times faster than the reference where the bound is a least, how many times the
    /// reference where it is a most.
    pub(crate) ratio: Option<f64>,
    /// What must hold of the ratio, or of the figure itself where there is none.
    pub(crate) bound: Bound,
    /// Whether a miss fails the run. Figures that depend on the machine are only recorded.
    pub(crate) gates: bool,
    /// Whether it holds.
    pub(crate) holds: bool,
    /// What else was seen.
    pub(crate) note: String,
}

impl Row {
    /// A figure that depends on the machine: recorded.
    pub(crate) fn recorded(name: &'static str, measured: f64, unit: Unit, bound: Bound) -> Row {
        let holds = bound.holds(measured);
        Row {
            name,
            measured,
            unit,
            reference: None,
            ratio: None,
            bound,
            gates: false,
            holds,
            note: String::new(),
        }
    }

    /// A figure that is the same on every machine: gates.
    pub(crate) fn gating(name: &'static str, measured: f64, unit: Unit, bound: Bound) -> Row {
        Row { gates: true, ..Row::recorded(name, measured, unit, bound) }
    }

    /// A figure against a reference on the same machine: gates.
    pub(crate) fn against(
        name: &'static str,
        measured: f64,
        reference: f64,
        unit: Unit,
        bound: Bound,
    ) -> Row {
        let ratio = match bound {
            Bound::AtMost(_) => measured / reference,
            Bound::AtLeast(_) => reference / measured,
        };
        let holds = bound.holds(ratio);
        let row = Row::gating(name, measured, unit, bound);
        Row { reference: Some(reference), ratio: Some(ratio), holds, ..row }
    }

    /// The same row with a note.
    pub(crate) fn noting(self, note: String) -> Row {
        Row { note, ..self }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |value: f64| format!("{} {}", digits(value), self.unit);
        let reference = self.reference.map_or("-".into(), figure);
        let ratio = self.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x"));
        let times = if self.ratio.is_some() { "x".into() } else { format!(" {}", self.unit) };
        let bound = match self.bound {
            Bound::AtMost(most) => format!("<= {most}{times}"),
            Bound::AtLeast(least) => format!(">= {least}{times}"),
        };
        let verdict = match (self.holds, self.gates) {
            (true, _) => "ok",
            (false, true) => "MISSED",
            (false, false) => "MISSED (recorded)",
        };
        let Row { name, note, .. } = self;
        write!(
            f,
            "{name:<24} {:>12} {reference:>12} {ratio:>8} {bound:>14}  {verdict}",
            figure(self.measured)
        )?;
        if !note.is_empty() {
            write!(f, "  [{note}]")?;
        }
        Ok(())
    }
}

/// Three digits that mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A length of time in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which this part (0 to 1) of the values lies. There must be a value. Sorts them.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_says_how_many_times_faster_or_how_many_times_as_much() {
        let faster = Row::against("a", 10.0, 30.0, Unit::Milliseconds, Bound::AtLeast(2.5));
        assert!(faster.holds && faster.gates && faster.ratio == Some(3.0));
        let more = Row::against("a", 30.0, 10.0, Unit::Connections, Bound::AtMost(2.0));
        assert!(!more.holds && more.ratio == Some(3.0));
        assert!(more.to_string().contains("MISSED") && !more.to_string().contains("recorded"));
        let absolute = Row::recorded("a", 3.0, Unit::Milliseconds, Bound::AtMost(2.0));
        assert!(!absolute.gates && !absolute.holds);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values = [3.0, 1.0, 2.0];
        assert_eq!([0.0, 0.5, 1.0].map(|part| quantile(&mut values, part)), [1.0, 2.0, 3.0]);
    }
}
