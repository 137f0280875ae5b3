//! How far a recording is, on a terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use crate::output::{bytes, progress, seconds};

/// How often it is shown.
const EVERY: Duration = Duration::from_millis(500);

/// Shows how far it is, if the standard error is a terminal.
pub(super) struct Progress {
    length: Duration,
    is_shown: bool,
    next: Instant,
}

impl Progress {
    pub(super) fn new(length: Duration) -> Progress {
        Progress { length, is_shown: std::io::stderr().is_terminal(), next: Instant::now() }
    }

    pub(super) fn show(&mut self, elapsed: Duration, connections: u64, size: u64) {
        if self.is_shown && Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            progress(&line(self.length.saturating_sub(elapsed), connections, size));
        }
    }

    pub(super) fn clear(&self) {
        if self.is_shown {
            progress("");
        }
    }
}

fn line(left: Duration, connections: u64, size: u64) -> String {
    let left = seconds(Some(left.as_secs_f64()));
    format!("recorded {connections} connections that ended, {}, {left} left", bytes(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_much_there_is_and_how_long_it_takes() {
        assert_eq!(
            line(Duration::from_mins(9), 1234, 12_345),
            "recorded 1234 connections that ended, 12 kB, 9 min left"
        );
    }
}
