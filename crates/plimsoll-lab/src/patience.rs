//! Waiting for a state, instead of for a time.

use std::time::{Duration, Instant};

/// Asks until the answer is yes or the time is up; returns the last answer.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
