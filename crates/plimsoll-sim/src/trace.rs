//! How a run went over time, for pictures: bounded, whatever the scenario's length.

use plimsoll_core::time::Timestamp;

use crate::cluster::{Cluster, Standing};
use crate::steering::Steering;

/// Beyond this many points every other one is dropped.
const MOST_POINTS: usize = 400;

/// A moment of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Seconds since the beginning.
    pub seconds: f64,
    /// By endpoint: open connections per capacity, relative to the mean; `None` when it does not serve.
    pub levels: Vec<Option<f32>>,
    /// By endpoint: the share that the first node, which sends most, gives it; `None` where there are no shares.
    pub shares: Vec<Option<f32>>,
    /// Weights written so far, all nodes together.
    pub written: u64,
}

/// How a run went over time.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    points: Vec<Point>,
    /// One in so many samples is kept.
    stride: usize,
    samples: usize,
}

impl Trace {
    /// What was kept.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Takes a sample.
    pub fn sample(&mut self, now: Timestamp, cluster: &Cluster, steering: &dyn Steering) {
        self.samples += 1;
        if !self.samples.is_multiple_of(self.stride.max(1)) {
            return;
        }
        let serving = cluster.serving.iter().map(|e| &cluster.endpoints[*e]);
        let (open, capacity) = serving.fold((0.0, 0.0), |(n, c), e| (n + f64::from(e.open), c + e.capacity));
        let levels = cluster.endpoints.iter().map(|endpoint| {
            let level = f64::from(endpoint.open) / endpoint.capacity / (open / capacity);
            (endpoint.standing == Standing::Serving && open > 0.0).then_some(level as f32)
        });
        let share = |endpoint| steering.share(0, endpoint).map(|share| share as f32);
        self.points.push(Point {
            seconds: now.seconds_since(Timestamp::ZERO),
            levels: levels.collect(),
            shares: (0..cluster.endpoints.len()).map(share).collect(),
            written: steering.weight_changes(),
        });
        if self.points.len() > MOST_POINTS {
            self.stride = 2 * self.stride.max(1);
            let mut number = 0;
            self.points.retain(|_| {
                number += 1;
                number % 2 == 0
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baselines::blind::Uniform;
    use crate::cluster::Endpoint;
    use crate::dice::Dice;

    #[test]
    fn a_long_run_has_as_many_points_as_a_short_one() {
        let mut cluster = Cluster::new(vec![Endpoint::new(1.0, 1.0), Endpoint::new(3.0, 1.0)], 1, false);
        for endpoint in [0, 0, 1, 1] {
            cluster.open(0, endpoint);
        }
        cluster.set_standing(1, Standing::Serving);
        let steering = Uniform::new(Dice::new(1, 0));
        let mut trace = Trace::default();
        for second in 1..=10_000_u64 {
            trace.sample(Timestamp::from_nanos(second * 1_000_000_000), &cluster, &steering);
        }
        let points = trace.points();
        assert!((MOST_POINTS / 2..=MOST_POINTS).contains(&points.len()), "{}", points.len());
        let gap = |pair: &[Point]| pair[1].seconds - pair[0].seconds;
        assert!(points.windows(2).all(|pair| (gap(pair) - gap(points)).abs() < 1e-6));
        assert!(points[points.len() - 1].seconds > 9900.0);
        assert_eq!(points[0].levels[0], Some(2.0));
        assert_eq!(points[0].shares, [None, None]);
    }
}
