//! Many runs: every scenario with every contender and every seed, on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use plimsoll_core::time::Timestamp;

use crate::catalogue::Contender;
use crate::engine::Engine;
use crate::measure::Measured;
use crate::scenario::Scenario;
use crate::trace::Trace;

/// A scenario with its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What happens in it.
    pub scenario: Scenario,
}

/// How far a batch is. Others may look while it runs, and may stop it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Runs that are done.
    runs: AtomicUsize,
    /// Milliseconds of virtual time that are done.
    millis: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Runs that are done.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Seconds of virtual time that are done, over all runs.
    pub fn seconds(&self) -> f64 {
        self.millis.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// No further run is begun.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was measured.
    pub measured: Measured,
    /// How it went over time, if that was asked for.
    pub trace: Option<Trace>,
}

/// Which runs are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// None.
    None,
    /// The first seed of each contender.
    First,
}

/// Runs a contender in a scenario.
pub fn run(
    scenario: &Scenario,
    contender: Contender,
    seed: u64,
    mut trace: Option<Trace>,
    progress: &Progress,
) -> Run {
    let engine = Engine::new(scenario, seed, |cluster, dice| contender.build(scenario, cluster, dice));
    let mut told = Timestamp::ZERO;
    let mut tell = |now: Timestamp| {
        progress.millis.fetch_add(now.since(told).as_millis() as u64, Ordering::Relaxed);
        told = now;
    };
    let measured = engine.run(|now, engine| {
        tell(now);
        if let Some(trace) = &mut trace {
            trace.sample(now, engine.cluster(), engine.steering());
        }
    });
    tell(scenario.end());
    progress.runs.fetch_add(1, Ordering::Relaxed);
    Run { measured, trace }
}

/// Runs every contender in every scenario with the seeds 1 to `seeds`, on so many threads. What comes back is in the
/// order of scenarios, then contenders, then seeds, and does not depend on the number of threads; what was stopped is
/// missing at the end.
pub fn run_all(
    scenarios: &[Named],
    contenders: &[Contender],
    seeds: u64,
    threads: usize,
    traced: Traced,
    progress: &Progress,
) -> Vec<Vec<Vec<Run>>> {
    let per_scenario = contenders.len() * seeds as usize;
    let total = scenarios.len() * per_scenario;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while !progress.stop.load(Ordering::Relaxed) {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= total {
                break;
            }
            let scenario = &scenarios[job / per_scenario].scenario;
            let contender = contenders[job % per_scenario / seeds as usize];
            let seed = 1 + (job % seeds as usize) as u64;
            let trace = (traced == Traced::First && seed == 1).then(Trace::default);
            done.push((job, run(scenario, contender, seed, trace, progress)));
        }
        done
    };
    let mut done: Vec<(usize, Run)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, total.max(1))).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    });
    done.sort_by_key(|(job, _)| *job);
    let mut results = vec![vec![Vec::new(); contenders.len()]; scenarios.len()];
    for (job, run) in done {
        results[job / per_scenario][job % per_scenario / seeds as usize].push(run);
    }
    results
}
