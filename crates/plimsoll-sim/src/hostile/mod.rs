//! Hostile runs: the very balancer on every node of a random cluster in which everything goes wrong that can, held
//! to its rules after every step.
//!
//! A seed draws a cluster, then a storm: reports are lost, doubled, late, out of order and cut off; agents restart,
//! freeze, and have clocks that stand still or jump (never back: the operating system promises a monotonic clock);
//! kernels refuse plans and miscount, samples lie, nodes lie; endpoints flap, move and fail, Services come and go. After
//! the storm comes calm, in which every node must learn the truth again; then quiet, in which it must be exact; then
//! all nodes but one die, and that one must forget them.
//!
//! A run is the same on every machine. What broke a rule is told with its seed, and the same seed breaks it again.

mod clock;
mod kernel;
mod population;
mod checks;
mod node;
mod mesh;
mod lies;
mod settled;
mod agenda;
mod shown;
mod world;
mod faults;
mod dataplanes;
mod traffic;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_core::balancer::{Balancer, Command, Event, Parameters};
use plimsoll_core::explain::{Explanation, NodeStatus};
use plimsoll_core::service::{Here, ServiceId};
use plimsoll_core::time::Timestamp;

pub use checks::Rule;
use world::World;

#[cfg(test)]
mod tests;

/// What is put to the test: a balancer, or one that is broken on purpose.
pub trait Subject: Send {
    /// As [`Balancer::on`].
    fn on(&mut self, now: Timestamp, event: Event) -> Vec<Command>;
    /// As [`Balancer::next_wake`].
    fn next_wake(&self) -> Timestamp;
    /// As [`Balancer::explain`].
    fn explain(&self, now: Timestamp, id: &ServiceId) -> Option<Explanation>;
    /// As [`Balancer::nodes`].
    fn nodes(&self, now: Timestamp) -> Vec<NodeStatus>;
}

impl Subject for Balancer {
    fn on(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        self.on(now, event)
    }

    fn next_wake(&self) -> Timestamp {
        self.next_wake()
    }

    fn explain(&self, now: Timestamp, id: &ServiceId) -> Option<Explanation> {
        self.explain(now, id)
    }

    fn nodes(&self, now: Timestamp) -> Vec<NodeStatus> {
        self.nodes(now)
    }
}

/// Makes what is put to the test, for an agent that starts.
pub type Make<'a> = dyn Fn(Here, Parameters) -> Box<dyn Subject> + Sync + 'a;

/// The balancer of the agents.
pub fn balancer(here: Here, parameters: Parameters) -> Box<dyn Subject> {
    Box::new(Balancer::new(here, parameters))
}

/// How a rule was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    /// The rule.
    pub rule: Rule,
    /// On which node.
    pub node: String,
    /// After how many events that balancers took in.
    pub step: u64,
    /// When, in the world's time.
    pub at: Timestamp,
    /// What was found.
    pub found: String,
}

/// What became of a seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Which seed.
    pub seed: u64,
    /// What the seed drew, in a line.
    pub about: String,
    /// How many events balancers took in.
    pub steps: u64,
    /// How many shares were held against others or against what is fair, once all was quiet.
    pub compared: u64,
    /// The rule that was broken; the run ended there.
    pub breach: Option<Breach>,
    /// The last events, as many as were asked for.
    pub journal: Vec<String>,
}

/// Runs a seed with these balancers and keeps so many of the last events.
pub fn run(seed: u64, journal: usize, make: &Make<'_>) -> Trial {
    World::new(seed, journal, make).run()
}

/// How far many runs are. Others may look while they run.
#[derive(Debug, Default)]
pub struct Progress {
    passed: AtomicU64,
    failed: AtomicU64,
    steps: AtomicU64,
    compared: AtomicU64,
}

impl Progress {
    /// Seeds that kept all rules.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Seeds that did not.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Shares that were held against others or against what is fair, over all seeds.
    pub fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// Events that balancers took in, over all seeds.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}

/// Runs many seeds on so many threads; `failed` is told of each that broke a rule, in no fixed order.
pub fn run_all(
    seeds: Range<u64>,
    threads: usize,
    progress: &Progress,
    make: &Make<'_>,
    failed: &(dyn Fn(&Trial) + Sync),
) {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let trial = run(seed, 0, make);
            progress.steps.fetch_add(trial.steps, Ordering::Relaxed);
            progress.compared.fetch_add(trial.compared, Ordering::Relaxed);
            if trial.breach.is_some() {
                progress.failed.fetch_add(1, Ordering::Relaxed);
                failed(&trial);
            } else {
                progress.passed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
}
