//! Small plots as SVG: lines over an axis with a few ticks.

use std::fmt::Write as _;

/// Room around the lines, in pixels: left, top, right, bottom.
const ROOM: (f64, f64, f64, f64) = (46.0, 24.0, 24.0, 22.0);

/// Lines are told apart by these.
const COLOURS: [&str; 10] = [
    "#2563a8", "#d9691e", "#2f8f4e", "#b3262e", "#7a55b5", "#8a5a44", "#c957a4", "#6b7280", "#a3a021",
    "#1fa6b8",
];

/// The colour of the line with this number.
pub(super) fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// An axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) scale: Scale,
    /// Written behind the numbers.
    pub(super) unit: &'static str,
}

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// By decades.
    Logarithmic,
}

impl Axis {
    /// From nothing to a round number that is at least `most`.
    pub(super) fn up_to(most: f64, unit: &'static str) -> Axis {
        Axis { least: 0.0, most: round_up(most.max(1e-9)), scale: Scale::Linear, unit }
    }

    /// Seconds from the beginning to the end.
    pub(super) fn seconds(end: f64) -> Axis {
        Axis { least: 0.0, most: end, scale: Scale::Linear, unit: " s" }
    }

    /// Where a value lies, 0 to 1.
    fn place(self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => (value / self.least).ln() / (self.most / self.least).ln(),
        };
        part.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        if self.scale == Scale::Logarithmic {
            let decades = (-9..=9).map(|power| 10_f64.powi(power));
            return decades.filter(|tick| (self.least..=self.most).contains(tick)).collect();
        }
        (0..=4).map(|quarter| self.least + (self.most - self.least) * f64::from(quarter) / 4.0).collect()
    }

    fn label(self, tick: f64) -> String {
        format!("{}{}", (tick * 1e6).round() / 1e6, self.unit)
    }
}

/// The next of 1, 2, 4, 5, 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|round| *round >= value)
        .unwrap_or(value)
}

/// A plot.
pub(super) struct Plot {
    size: (f64, f64),
    x: Axis,
    y: Axis,
    body: String,
}

impl Plot {
    /// An empty one with a title.
    pub(super) fn new(title: &str, size: (f64, f64), x: Axis, y: Axis) -> Plot {
        let mut plot = Plot { size, x, y, body: String::new() };
        let (left, top, right, bottom) = plot.frame();
        let _ = write!(plot.body, "<text x=\"{left}\" y=\"14\" class=\"t\">{}</text>", escape(title));
        for tick in x.ticks() {
            let at = plot.at_x(tick);
            let _ = write!(
                plot.body,
                "<path d=\"M{at:.1} {top}V{bottom}\" class=\"g\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" class=\"m\">{}</text>",
                bottom + 14.0,
                x.label(tick)
            );
        }
        for tick in y.ticks() {
            let at = plot.at_y(tick);
            let _ = write!(
                plot.body,
                "<path d=\"M{left} {at:.1}H{right}\" class=\"g\"/>\
                 <text x=\"{}\" y=\"{:.1}\" class=\"e\">{}</text>",
                left - 4.0,
                at + 4.0,
                y.label(tick)
            );
        }
        plot
    }

    /// Left, top, right and bottom of where lines go.
    fn frame(&self) -> (f64, f64, f64, f64) {
        (ROOM.0, ROOM.1, self.size.0 - ROOM.2, self.size.1 - ROOM.3)
    }

    fn at_x(&self, value: f64) -> f64 {
        let (left, _, right, _) = self.frame();
        left + (right - left) * self.x.place(value)
    }

    fn at_y(&self, value: f64) -> f64 {
        let (_, top, _, bottom) = self.frame();
        bottom - (bottom - top) * self.y.place(value)
    }

    /// Shades a part of the width.
    pub(super) fn band(&mut self, from: f64, until: f64) {
        let (_, top, _, bottom) = self.frame();
        let (from, until) = (self.at_x(from), self.at_x(until));
        let _ = write!(
            self.body,
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\" class=\"b\"/>",
            until - from,
            bottom - top
        );
    }

    /// Draws a line; it is broken where there is no value.
    pub(super) fn line(&mut self, points: impl Iterator<Item = (f64, Option<f64>)>, colour: &str) {
        let mut path = String::new();
        let mut is_down = false;
        for (x, y) in points {
            if let Some(y) = y {
                let step = if is_down { 'L' } else { 'M' };
                let _ = write!(path, "{step}{:.1} {:.1}", self.at_x(x), self.at_y(y));
            }
            is_down = y.is_some();
        }
        if !path.is_empty() {
            let _ = write!(self.body, "<path d=\"{path}\" class=\"l\" stroke=\"{colour}\"/>");
        }
    }

    /// The plot as an element.
    pub(super) fn finish(self) -> String {
        let (width, height) = self.size;
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">{}</svg>", self.body)
    }
}

/// Text as it may stand in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([0.07, 1.0, 1.3, 37.0, 900.0].map(round_up), [0.08, 1.0, 2.0, 40.0, 1000.0]);
        assert_eq!(Axis::up_to(3.3, "").ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
        let decades = Axis { least: 0.5, most: 200.0, scale: Scale::Logarithmic, unit: " ms" };
        assert_eq!(decades.ticks(), [1.0, 10.0, 100.0]);
        assert_eq!(decades.label(10.0), "10 ms");
        assert!((decades.place(10.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn lines_break_where_nothing_is_known() {
        let axis = Axis::up_to(1.0, "");
        let mut plot = Plot::new("a < b", (100.0, 80.0), axis, axis);
        plot.line([(0.0, Some(0.0)), (0.5, None), (1.0, Some(9.0))].into_iter(), colour(11));
        let text = plot.finish();
        assert!(text.contains("a &lt; b") && text.contains("d=\"M46.0 58.0M76.0 24.0\""), "{text}");
    }
}
