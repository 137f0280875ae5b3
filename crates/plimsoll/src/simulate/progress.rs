//! How far a simulation is, on a terminal.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use plimsoll_sim::batch::Progress;

use crate::output;

/// How often it is shown.
const EVERY: Duration = Duration::from_millis(200);

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) runs: usize,
    /// Of virtual time.
    pub(super) seconds: f64,
}

/// Does `work` and shows how far it is, if the standard error is a terminal.
pub(super) fn shown<T>(progress: &Progress, all: Work, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, is_done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let began = Instant::now();
            while is_done.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                output::progress(&line(progress.runs(), progress.seconds(), all, began.elapsed()));
            }
            output::progress("");
        });
        let result = work();
        drop(done);
        result
    })
}

fn line(runs: usize, seconds: f64, all: Work, elapsed: Duration) -> String {
    let part = (seconds / all.seconds).min(1.0);
    let left = elapsed.as_secs_f64() * (1.0 - part) / part;
    let is_told = part > 0.02 && elapsed > Duration::from_secs(1);
    let guess = if is_told { format!(", about {left:.0} s left") } else { String::new() };
    format!("simulated {runs} of {} runs, {:.0} %{guess}", all.runs, part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_it_is_and_guesses_the_rest() {
        let all = Work { runs: 6, seconds: 600.0 };
        assert_eq!(line(0, 3.0, all, Duration::from_millis(200)), "simulated 0 of 6 runs, 0 %");
        assert_eq!(
            line(1, 150.0, all, Duration::from_secs(3)),
            "simulated 1 of 6 runs, 25 %, about 9 s left"
        );
    }
}
