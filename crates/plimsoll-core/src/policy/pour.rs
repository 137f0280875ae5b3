//! Pouring: shares that rise with one common level, each within its own bounds, until they sum to 1.

/// One endpoint's share as a function of the level: `clamp(start + level * slope, least, most)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) start: f64,
    /// Above 0.
    pub(crate) slope: f64,
    pub(crate) least: f64,
    /// At least `least`.
    pub(crate) most: f64,
}

impl Line {
    pub(crate) fn at(&self, level: f64) -> f64 {
        (self.start + level * self.slope).clamp(self.least, self.most)
    }
}

/// More steps than any group needs: every fourth halves what is left.
const MOST_STEPS: usize = 200;

/// The level at which the shares sum to 1; where they cannot, the level at which all are at the bound that is
/// nearer to it. Newton's method, which is exact once it knows which lines are within their bounds, kept inside
/// a shrinking bracket.
pub(crate) fn pour(lines: &[Line]) -> f64 {
    let mut low = f64::INFINITY;
    let mut high = f64::NEG_INFINITY;
    let (mut start, mut slope) = (0.0, 0.0);
    for line in lines {
        low = low.min((line.least - line.start) / line.slope);
        high = high.max((line.most - line.start) / line.slope);
        start += line.start;
        slope += line.slope;
    }
    let mut level = ((1.0 - start) / slope).clamp(low, high.max(low));
    for step in 0..MOST_STEPS {
        let (mut sum, mut slope) = (0.0, 0.0);
        for line in lines {
            let share = line.start + level * line.slope;
            sum += share.clamp(line.least, line.most);
            if share > line.least && share < line.most {
                slope += line.slope;
            }
        }
        let missing = 1.0 - sum;
        if missing.abs() <= 1e-13 {
            break;
        }
        if missing > 0.0 {
            low = level;
        } else {
            high = level;
        }
        let next = level + missing / slope;
        let halved = f64::midpoint(low, high);
        level = if step % 4 < 3 && next > low && next < high { next } else { halved };
        if level <= low || level >= high {
            break;
        }
    }
    level
}
