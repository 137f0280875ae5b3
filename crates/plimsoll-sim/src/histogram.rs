//! Latencies in bounded memory: how many fell into which of many narrow classes.

/// Classes per doubling: each is at most 0.8 % wide.
const CLASSES_PER_DOUBLING: usize = 1 << SHIFT;
const SHIFT: u32 = 7;
/// Below this, in seconds, all are one.
const LEAST_EXPONENT: i32 = -20;
/// Above `2^17` seconds, more than a day, all are one.
const DOUBLINGS: usize = 37;

/// How many values fell into which class.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    classes: Vec<u64>,
    count: u64,
}

impl Histogram {
    /// Adds a value in seconds.
    pub fn add(&mut self, seconds: f64) {
        if self.classes.is_empty() {
            self.classes = vec![0; DOUBLINGS * CLASSES_PER_DOUBLING];
        }
        self.classes[class(seconds)] += 1;
        self.count += 1;
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value below which this part of all values lies, in seconds; `None` of none.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = part * self.count as f64;
        let mut below = 0.0;
        for (class, count) in self.classes.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= wanted {
                let inside = ((wanted - below) / count).clamp(0.0, 1.0);
                return Some(start(class) + inside * (start(class + 1) - start(class)));
            }
            below += count;
        }
        None
    }

    /// Where each class that is not empty begins and ends, and the part of all values in it.
    pub fn parts(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let used = self.classes.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(|(class, count)| (start(class), start(class + 1), *count as f64 / self.count as f64))
    }
}

/// Classes are read off the number's exponent and the first bits of its fraction.
fn class(seconds: f64) -> usize {
    let least = i64::from(1023 + LEAST_EXPONENT) << SHIFT;
    let place = (seconds.max(0.0).to_bits() >> (52 - SHIFT)) as i64 - least;
    place.clamp(0, (DOUBLINGS * CLASSES_PER_DOUBLING) as i64 - 1) as usize
}

/// Where a class begins.
fn start(class: usize) -> f64 {
    let least = (1023 + LEAST_EXPONENT) as u64 * CLASSES_PER_DOUBLING as u64;
    f64::from_bits((class as u64 + least) << (52 - SHIFT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_percent() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for i in 1..=100_000 {
            histogram.add(f64::from(i) * 1e-5);
        }
        for part in [0.1, 0.5, 0.99, 0.999] {
            let value = histogram.quantile(part).unwrap();
            assert!((value / part - 1.0).abs() < 0.005, "{part}: {value}");
        }
        assert!((histogram.parts().map(|(.., part)| part).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn extremes_have_a_class() {
        let mut histogram = Histogram::default();
        for value in [0.0, 1e-30, 1e30, f64::INFINITY] {
            histogram.add(value);
        }
        assert_eq!(histogram.count(), 4);
        assert!(histogram.quantile(1.0).unwrap() > 86_400.0);
    }
}
