//! Endpoints whose connections end at once, as one node sees it by its own.
//!
//! Who fails fast never has a young connection open, and an order that goes by those would prefer it to all others. For
//! such an endpoint those count that were opened, ended or not. It gets fewer at once, before any report can tell, and
//! about one a second from each node to find out whether it still does.

/// So many of an endpoint's connections in a row end at once before it is taken for one that does this: of
/// exponential lives one in eight is so short, and eight in a row are one in sixteen million.
const IN_A_ROW: u32 = 8;
/// At once is sooner than this part of what is usual.
const AT_ONCE: f64 = 1.0 / 8.0;
/// The weight of the last life in the mean of an endpoint.
const LAST: f64 = 0.25;
/// Lives are not told apart below this, in seconds.
const SHORTEST: f64 = 1e-4;

/// How long one node's own connections lasted, by the number of the endpoint.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    endpoints: Vec<Lived>,
    /// What is sooner than this, in seconds, is at once. 0: nothing is.
    at_once: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lived {
    /// The mean of the lives' logarithms, which a few long connections do not move.
    mean: f64,
    ended: u32,
    /// How many ended at once since the last one that did not.
    in_a_row: u32,
}

impl Lives {
    /// A connection ended after so many seconds; 0 if it was refused.
    pub fn ended(&mut self, endpoint: usize, seconds: f64) {
        if self.endpoints.len() <= endpoint {
            self.endpoints.resize(endpoint + 1, Lived::default());
        }
        let lived = &mut self.endpoints[endpoint];
        lived.in_a_row = if seconds < self.at_once { lived.in_a_row.saturating_add(1) } else { 0 };
        lived.ended = lived.ended.saturating_add(1);
        let weight = LAST.max(1.0 / f64::from(lived.ended));
        lived.mean += weight * (libm::log(seconds.max(SHORTEST)) - lived.mean);
    }

    /// Finds out what is usual at these endpoints, now and then: the upper median, so that a half of them that ends
    /// connections at once does not become the measure.
    pub fn compare(&mut self, endpoints: &[usize]) {
        let lived = endpoints.iter().filter_map(|endpoint| self.endpoints.get(*endpoint));
        let mut means: Vec<f64> = lived.filter(|lived| lived.ended > 0).map(|lived| lived.mean).collect();
        means.sort_unstable_by(f64::total_cmp);
        self.at_once = means.get(means.len() / 2).map_or(0.0, |usual| AT_ONCE * libm::exp(*usual));
    }

    /// Whether an endpoint ends connections at once, of late and unlike the others.
    pub fn end_at_once(&self, endpoint: usize) -> bool {
        self.endpoints.get(endpoint).is_some_and(|lived| lived.in_a_row >= IN_A_ROW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three endpoints that serve for as long as `lives` says, in turn.
    fn served(lives: [f64; 3], turns: usize) -> Lives {
        let mut served = Lives::default();
        for _ in 0..turns {
            for (endpoint, seconds) in lives.into_iter().enumerate() {
                served.ended(endpoint, seconds);
            }
            served.compare(&[0, 1, 2]);
        }
        served
    }

    #[test]
    fn who_ends_connections_at_once_is_found_and_forgiven() {
        let mut lives = served([0.02; 3], 10);
        let all = |lives: &Lives| [0, 1, 2].map(|endpoint| lives.end_at_once(endpoint));
        (0..7).for_each(|_| lives.ended(1, 0.001));
        assert_eq!(all(&lives), [false; 3]);
        lives.ended(1, 0.0);
        assert_eq!(all(&lives), [false, true, false]);
        lives.ended(1, 0.02);
        assert_eq!(all(&lives), [false; 3]);
    }

    #[test]
    fn half_that_fail_are_not_the_measure_and_what_all_do_is_usual() {
        let mut lives = Lives::default();
        for turn in 0..40 {
            let failing = if turn < 10 { 0.05 } else { 0.001 };
            for (endpoint, seconds) in [failing, 0.05, failing, 0.05].into_iter().enumerate() {
                lives.ended(endpoint, seconds);
            }
            lives.compare(&[0, 1, 2, 3]);
        }
        assert_eq!([0, 1, 2, 3].map(|endpoint| lives.end_at_once(endpoint)), [true, false, true, false]);
        let together = served([0.001; 3], 100);
        assert!((0..3).all(|endpoint| !together.end_at_once(endpoint)));
    }

    #[test]
    fn long_connections_that_end_do_not_make_short_ones_look_brief() {
        let mut lives = Lives::default();
        for turn in 0..200 {
            for endpoint in 0..3 {
                lives.ended(endpoint, if turn % 10 == 0 { 600.0 } else { 0.02 });
            }
            lives.compare(&[0, 1, 2]);
            assert!((0..3).all(|endpoint| !lives.end_at_once(endpoint)), "turn {turn}");
        }
        assert!(!Lives::default().end_at_once(7));
    }
}
