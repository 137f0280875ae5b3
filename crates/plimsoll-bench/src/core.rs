//! What a decision costs, and whether the balancer grows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use plimsoll_core::balancer::{Balancer, Command, Event, Parameters};
use plimsoll_core::load::{AGE_SLOTS, Count, Counts, Sample};
use plimsoll_core::service::{Here, PolicyKind, ServiceChange};
use plimsoll_core::time::Timestamp;
use plimsoll_core::{guard, policy, view};
use rustix::time::{ClockId, clock_gettime};

use crate::memory;
use crate::row::{Bound, Row, Unit, milliseconds, quantile};
use crate::scene::{self, ENDPOINTS, NODES, SERVICES, Scene, host, node};

const TICK: Duration = Duration::from_millis(500);
const ROUNDS: u64 = 200;
const TICKS: u64 = 10_000;

/// Parameters as the agent has them by default.
pub(crate) fn parameters(report_interval: Duration) -> Parameters {
    Parameters {
        tick: TICK,
        report_interval,
        lease: Duration::from_secs(10),
        policy: PolicyKind::Waterline,
        policies: policy::Parameters::default(),
        guard: guard::Parameters::default(),
        view: view::Parameters::default(),
    }
}

/// A balancer with everybody's reports, and a clock.
struct Driven {
    balancer: Balancer,
    scene: Scene,
    with_load: bool,
    now: Timestamp,
    round: u32,
    /// How many Services were changed by plans.
    changed: usize,
}

impl Driven {
    fn new(with_load: bool) -> Result<Driven> {
        let here = Here { node: node(0), zone: None };
        let mut driven = Driven {
            balancer: Balancer::new(here, parameters(Duration::from_secs(1))),
            scene: Scene::new(),
            with_load,
            now: Timestamp::from_duration(Duration::from_secs(100)),
            round: 0,
            changed: 0,
        };
        let services = driven.scene.services()?;
        driven.on(Event::Services(ServiceChange::All(services)));
        Ok(driven)
    }

    /// Tells it what happened; its plans are carried out at once.
    fn on(&mut self, event: Event) {
        for command in self.balancer.on(self.now, event) {
            if let Command::Apply(plan) = command {
                self.changed += plan.changes.len();
                self.on(Event::Applied(Ok(())));
            }
        }
    }

    fn figure(&self, endpoint: usize) -> u32 {
        20 + (endpoint as u32).wrapping_mul(2_654_435_761).wrapping_add(self.round * 40_503) % 60
    }

    /// New counts of this node's own, and new reports of all others: every figure is another.
    fn refresh(&mut self) {
        self.round += 1;
        let count = |endpoint: usize| {
            let open = self.figure(endpoint);
            let mut count = Count::none(self.scene.endpoint(endpoint));
            count.open = open;
            count.opened = u64::from(self.round) * 10 + u64::from(open);
            count.opened_by_age = [open / 16; AGE_SLOTS];
            count.open_by_age = count.opened_by_age;
            count
        };
        let all = 0..SERVICES * ENDPOINTS;
        let mut counts = Counts { slots: std::array::from_fn(|age| age as f32 * 0.75), ..Counts::default() };
        counts.hosted = all.filter(|endpoint| host(*endpoint) == 0).map(count).collect();
        counts.hosted.sort_by_key(|count| count.endpoint);
        // This node sends to a third of them.
        counts.sent = (0..SERVICES * ENDPOINTS).step_by(3).map(count).collect();
        counts.sent.sort_by_key(|count| count.endpoint);
        let local: Vec<_> = counts.hosted.iter().map(|count| (count.endpoint, count.open)).collect();
        self.on(Event::Counts(counts));
        if self.with_load {
            for (endpoint, open) in local {
                let (cpu, pressure) = scene::load(open);
                let sample = Sample { endpoint, at: self.now, cpu: Some(cpu), pressure: Some(pressure) };
                self.on(Event::Sample(sample));
            }
        }
        for of in 1..NODES {
            let report = self.scene.report(of, self.with_load, |endpoint| self.figure(endpoint));
            self.on(Event::Report(Arc::new(report)));
        }
    }

    /// Goes on to the next tick, at which every Service is decided; how long it took.
    fn tick(&mut self) -> Duration {
        self.now = self.now + TICK;
        let start = on_cpu();
        self.on(Event::Wake);
        on_cpu().saturating_sub(start)
    }
}

/// This thread's time on a CPU so far: what others do on the machine is not counted.
pub(crate) fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn decide(name: &'static str, with_load: bool, bound: f64) -> Result<Row> {
    let mut driven = Driven::new(with_load)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        driven.refresh();
        driven.changed = 0;
        times.push(milliseconds(driven.tick()));
        ensure!(driven.changed > 0, "a tick after new figures changed no weight at all");
    }
    let note =
        format!("least {:.2} ms; {} Services changed by the last", quantile(&mut times, 0.0), driven.changed);
    let median = quantile(&mut times, 0.5);
    Ok(Row::recorded(name, median, Unit::Milliseconds, Bound::AtMost(bound)).noting(note))
}

/// One tick that decides all weights: from the view to the plan.
pub(crate) fn decide_all() -> Result<Vec<Row>> {
    Ok(vec![decide("decide:counts", false, 5.0)?, decide("decide:load", true, 15.0)?])
}

/// Whether memory grows over many ticks, with new reports now and then.
pub(crate) fn growth() -> Result<Vec<Row>> {
    let mut driven = Driven::new(true)?;
    let mut run = |ticks: u64| {
        for tick in 0..ticks {
            if tick % 10 == 0 {
                driven.refresh();
            }
            driven.tick();
        }
        memory::live()
    };
    // Until histories and buffers have the length that they keep.
    let before = run(700);
    let after = run(TICKS);
    let grown = (after - before) as f64;
    // A buffer may end a little longer than it began; a leak of a byte per endpoint and tick would be 100 MB.
    Ok(vec![
        Row::gating("growth", grown / 1e6, Unit::Megabytes, Bound::AtMost(0.1))
            .noting(format!("{:.1} MB at the end, {TICKS} ticks", after as f64 / 1e6)),
    ])
}
