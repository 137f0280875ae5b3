//! Time since the beginning of a recording, by the clock that the kernel tells times by, should it be set meanwhile.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plimsoll_dataplane::conntrack::{End, Life};

/// So many nanoseconds at once are a clock that is set; less are one that is made faster or slower.
const STEP: i64 = 1_000_000_000;

/// Time since the beginning.
pub(super) struct Clock {
    start: Instant,
    /// The beginning, in nanoseconds since 1970.
    pub(super) nanos: u64,
    /// How much faster than the monotonic clock it went, in nanoseconds.
    drift: i64,
    /// By how many nanoseconds it was set.
    step: i64,
}

impl Clock {
    pub(super) fn start() -> Clock {
        // No kernel ran before 1970.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Clock { start: Instant::now(), nanos, drift: 0, step: 0 }
    }

    /// By the monotonic clock.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Looks at the clock; milliseconds since the beginning, as if it had not been set.
    pub(super) fn millis(&mut self) -> u64 {
        let elapsed = self.start.elapsed().as_nanos() as i64;
        let real = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        self.follow(elapsed, real);
        (elapsed + self.drift).max(0) as u64 / 1_000_000
    }

    /// So many nanoseconds after the beginning, the clock showed this.
    fn follow(&mut self, elapsed: i64, real: i64) {
        let ahead = real - self.nanos as i64 - elapsed;
        let change = ahead - self.drift - self.step;
        if change.abs() > STEP {
            self.step += change;
        } else {
            self.drift += change;
        }
    }

    /// By how many milliseconds it was set since.
    pub(super) fn step(&self) -> i64 {
        self.step / 1_000_000
    }

    /// What the kernel tells, as if the clock had not been set: what was told after that is not comparable with what
    /// was told before.
    pub(super) fn corrected(&mut self, life: &Life) -> Life {
        let now = self.millis();
        if self.step == 0 {
            return *life;
        }
        let back = |at: u64| at.saturating_add_signed(-self.step);
        // When it began may have been noted before or after; what would be in the future was noted after.
        let latest = self.nanos + now * 1_000_000 + STEP as u64;
        let began = life.began.map(|began| if began > latest { back(began) } else { began });
        Life { began, end: life.end.map(|end| End { at: back(end.at), ..end }), ..*life }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_dataplane::conntrack::How;

    use super::*;
    use crate::record::notebook::tests::entry;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_clock_that_goes_fast_or_slow_is_followed() {
        let mut clock = Clock::start();
        let began = clock.nanos as i64;
        for second in 0..100 {
            // One that is slewed as fast as daemons do.
            clock.follow(second * SECOND, began + second * SECOND * 11 / 10);
        }
        assert_eq!((clock.step(), clock.drift), (0, 99 * SECOND / 10));
    }

    #[test]
    fn times_told_after_a_clock_was_set_fit_those_told_before() {
        for seconds in [-3600, 864_000] {
            let mut clock = Clock::start();
            clock.nanos -= 100 * SECOND as u64;
            clock.start -= Duration::from_secs(100);
            let began = clock.nanos;
            let at = |seconds: i64| (began as i64 + seconds * SECOND) as u64;
            assert!((100_000..101_000).contains(&clock.millis()) && clock.step() == 0);
            // As if it showed so much more now.
            clock.nanos = at(-seconds);
            let millis = clock.millis();
            assert!((100_000..101_000).contains(&millis), "{millis}");
            assert!((clock.step() - seconds * 1000).abs() < 500, "{}", clock.step());
            // All that it showed before was less by as much.
            let life = |began, ended| Life {
                entry: entry(1, 11),
                began: Some(at(began - seconds)),
                end: Some(End { at: at(ended), how: How::Finished }),
            };
            let Life { began, end, .. } = clock.corrected(&life(40, 99));
            let ended = end.unwrap().at as i64 - at(99 - seconds) as i64;
            assert_eq!(began, Some(at(40 - seconds)));
            assert!(ended.abs() < SECOND / 2, "{ended}");
        }
    }

    #[test]
    fn what_began_after_the_clock_was_set_forwards_is_not_in_the_future() {
        let mut clock = Clock::start();
        let began = clock.nanos;
        clock.nanos -= 3600 * SECOND as u64;
        let life = Life { entry: entry(1, 11), began: Some(began), end: None };
        let corrected = clock.corrected(&life);
        assert!(corrected.began.unwrap().abs_diff(clock.nanos) < SECOND as u64 / 2);
    }
}
