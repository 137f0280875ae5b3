//! Hostile runs from the command line: `hostile --seeds N` looks for seeds that break a rule, `hostile --seed S` runs
//! one and tells what led up to it. `cargo xtask sim` builds and starts it.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use plimsoll_sim::hostile::{Progress, Trial, balancer, run, run_all};

/// How often progress is shown.
const EVERY: Duration = Duration::from_millis(200);
/// How many of the last events are told when a seed fails.
const JOURNAL: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = words.get(1).and_then(|word| word.parse::<u64>().ok());
    match (&words[..], number) {
        (["--seeds", _], Some(seeds)) => many(seeds),
        (["--seed", _], Some(seed)) => one(seed),
        _ => {
            eprintln!("usage: hostile --seeds N | --seed S");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64) -> ExitCode {
    let trial = run(seed, JOURNAL, &balancer);
    let mut out = std::io::stdout().lock();
    for line in &trial.journal {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "seed {seed}: {}", trial.about);
    if trial.breach.is_some() {
        let _ = writeln!(out, "{}", verdict(&trial));
        return ExitCode::FAILURE;
    }
    let _ = writeln!(out, "seed {seed} passed: {} steps", trial.steps);
    ExitCode::SUCCESS
}

fn verdict(trial: &Trial) -> String {
    let Some(breach) = &trial.breach else { return String::new() };
    format!(
        "seed {} failed at step {} ({:.4} s) on {}\n  rule: {}\n  found: {}\n  again: cargo xtask sim --seed {}",
        trial.seed,
        breach.step,
        breach.at.as_nanos() as f64 * 1e-9,
        breach.node,
        breach.rule,
        breach.found,
        trial.seed
    )
}

fn many(seeds: u64) -> ExitCode {
    let progress = Progress::default();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let is_terminal = std::io::stderr().is_terminal();
    let began = Instant::now();
    // A line at a time, from any thread.
    let mouth = Mutex::new(());
    let clear = if is_terminal { "\r\x1b[K" } else { "" };
    let failed = |trial: &Trial| {
        let _turn = mouth.lock();
        let _ = writeln!(std::io::stderr(), "{clear}{}", verdict(trial));
    };
    std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let (progress, mouth) = (&progress, &mouth);
        scope.spawn(move || {
            while is_done.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if is_terminal {
                    let _turn = mouth.lock();
                    let line = line(progress, seeds, began.elapsed());
                    let _ = write!(std::io::stderr(), "{clear}{line}");
                }
            }
        });
        run_all(1..seeds.saturating_add(1), threads, progress, &balancer, &failed);
        drop(done);
    });
    let took = began.elapsed().as_secs_f64();
    let (passed, failed) = (progress.passed(), progress.failed());
    let _ = write!(std::io::stderr(), "{clear}");
    let _ = writeln!(
        std::io::stdout(),
        "{passed} seeds passed, {failed} failed; {:.1} million steps in {took:.1} s, {:.0} seeds a second",
        progress.steps() as f64 * 1e-6,
        seeds as f64 / took.max(1e-3)
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(progress: &Progress, seeds: u64, elapsed: Duration) -> String {
    let done = progress.passed() + progress.failed();
    let left = elapsed.as_secs_f64() * (seeds - done) as f64 / done.max(1) as f64;
    format!("{done} of {seeds} seeds, {} failed, about {left:.0} s left", progress.failed())
}
