//! The world of a hostile run: nodes, what exists, connections, reports, and the order in which things happen.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balancer::{Command, Event, Parameters};
use plimsoll_core::service::{PolicyKind, Service, ServiceChange};
use plimsoll_core::time::Timestamp;
use plimsoll_core::{guard, policy, view};

use crate::dice::Dice;
use crate::places::Places;
use crate::queue::Queue;

use super::agenda::Due;
use super::checks::{Broken, Rule};
use super::faults::Trouble;
use super::mesh::Mesh;
use super::node::Node;
use super::population::Population;
use super::traffic::Connection;
use super::{Breach, Make, Trial, lies, settled, shown};

/// How many events may wait for a frozen agent; reports and samples beyond that are lost, as in the agent.
const INBOX: usize = 256;
/// How long what happens in quiet may take: reports, and counts that were read before.
const SETTLE: Duration = Duration::from_secs(5);
/// The longest time that the discovery of a node is late.
const DISCOVERY: Duration = Duration::from_millis(400);

/// What the weather is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everything goes wrong.
    Storm,
    /// Nothing does; clients come and go.
    Calm,
    /// Connections neither open nor close.
    Quiet,
    /// All Services went and came again: nobody has a past with them.
    Anew,
    /// All nodes but the last are dead.
    Alone,
    /// That was long ago.
    Later,
}

/// The streams of random numbers: one more draw in one of them leaves the others as they were.
pub(super) struct Streams {
    pub(super) faults: Dice,
    pub(super) population: Dice,
    pub(super) mesh: Dice,
    pub(super) traffic: Dice,
    pub(super) timing: Dice,
    pub(super) lies: Dice,
}

/// The world.
pub(super) struct World<'a> {
    pub(super) seed: u64,
    pub(super) make: &'a Make<'a>,
    pub(super) now: Timestamp,
    pub(super) phase: Phase,
    pub(super) steps: u64,
    /// Shares held against others.
    compared: u64,
    pub(super) dice: Streams,
    pub(super) queue: Queue,
    pub(super) parameters: Parameters,
    pub(super) population: Population,
    pub(super) nodes: Vec<Node>,
    pub(super) mesh: Mesh,
    pub(super) trouble: Trouble,
    pub(super) with_load: bool,
    pub(super) is_owned: bool,
    /// Clocks begin at this when an agent starts.
    pub(super) first: Duration,
    /// Connections per second and node, and how long they live on average.
    pub(super) rate: f64,
    pub(super) life: f64,
    pub(super) connections: Places<Connection>,
    /// Open connections by sender and endpoint.
    pub(super) open: Vec<Vec<u32>>,
    /// How many of the last events are kept.
    pub(super) keep: usize,
    pub(super) journal: VecDeque<String>,
    /// When each phase ends.
    pub(super) ends: [Timestamp; 6],
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, journal: usize, make: &'a Make<'a>) -> World<'a> {
        let mut dice = Dice::new(seed, 0);
        let parameters = parameters(&mut dice);
        let population = Population::new(&mut dice);
        let observer = population.nodes;
        // A clock that began long ago can be set against one that began longer ago.
        let first = Duration::from_secs([0, 3600][dice.below(2)]);
        let nodes = (0..=observer).map(|number| {
            let grain = Duration::from_nanos([1, 1_000_000, 10_000_000, 100_000_000][dice.below(4)]);
            let twin = (number == observer).then_some(first);
            Node::new(number, &parameters, grain, twin)
        });
        let nodes: Vec<Node> = nodes.collect();
        let endpoints = population.endpoints.len();
        let storm = Duration::from_secs_f64(dice.between(4.0, 20.0));
        let calm = Duration::from_secs_f64(dice.between(8.0, 16.0));
        let mut ends = [Timestamp::ZERO + storm; 6];
        ends[1] = ends[0] + calm;
        // Nothing is young any more then: evidence that some saw begin and others did not lasts.
        ends[2] = ends[1] + SETTLE + 2 * parameters.horizon();
        ends[3] = ends[2] + 2 * SETTLE;
        ends[4] = ends[3] + SETTLE;
        ends[5] = ends[4] + 3 * SETTLE;
        let mesh = Mesh::new(nodes.len(), &mut dice);
        let mut world = World {
            seed,
            make,
            now: Timestamp::ZERO,
            phase: Phase::Storm,
            steps: 0,
            compared: 0,
            parameters,
            nodes,
            mesh,
            trouble: Trouble::new(observer + 1, &mut dice),
            with_load: dice.below(2) == 0,
            is_owned: dice.below(2) == 0,
            first,
            rate: libm::exp(dice.between(-2.0, 3.0)),
            life: libm::exp(dice.between(-2.0, 3.0)),
            connections: Places::default(),
            open: vec![vec![0; endpoints]; observer + 1],
            keep: journal,
            journal: VecDeque::new(),
            ends,
            population,
            queue: Queue::default(),
            dice: Streams {
                faults: Dice::new(seed, 1),
                population: Dice::new(seed, 2),
                mesh: Dice::new(seed, 3),
                traffic: Dice::new(seed, 4),
                timing: Dice::new(seed, 5),
                lies: Dice::new(seed, 6),
            },
        };
        for end in world.ends {
            world.add(end, Due::Turn);
        }
        world.add(Timestamp::ZERO, Due::Fault);
        for node in 0..world.nodes.len() {
            let late = Duration::from_secs_f64(world.dice.timing.unit());
            world.add(Timestamp::ZERO + late, Due::Start(node));
            world.add(Timestamp::ZERO, Due::Open(node));
        }
        world
    }

    fn about(&self) -> String {
        format!(
            "{} nodes and an observer, {} endpoints, {} Services, policy {:?}, {}, reports every {:?}, {:.1} connections \
             per second and node that last {:.1} s",
            self.nodes.len() - 1,
            self.population.endpoints.len(),
            self.population.len(),
            self.parameters.policy,
            if self.with_load { "CPU is read" } else { "counts only" },
            self.parameters.report_interval,
            self.rate,
            self.life
        )
    }

    /// Runs to the end, or until a rule is broken.
    pub(super) fn run(mut self) -> Trial {
        let mut breach = None;
        while let Some((at, entry)) = self.queue.take() {
            self.now = at;
            let happened = catch_unwind(AssertUnwindSafe(|| self.happen(Due::unpack(entry))));
            let broken = match happened {
                Ok(happened) => {
                    happened.err().map(|(node, broken)| (self.nodes[node].name.to_string(), broken))
                }
                // The journal tells on which.
                Err(panic) => Some(("a node".to_owned(), (Rule::NoPanic, words(&*panic)))),
            };
            if let Some((node, (rule, found))) = broken {
                breach = Some(Breach { rule, node, step: self.steps, at, found });
                break;
            }
            if at >= self.ends[5] {
                break;
            }
        }
        Trial {
            seed: self.seed,
            about: self.about(),
            steps: self.steps,
            compared: self.compared,
            breach,
            journal: self.journal.into(),
        }
    }

    pub(super) fn storm_ends(&self) -> Timestamp {
        self.ends[0]
    }

    pub(super) fn add(&mut self, at: Timestamp, due: Due) {
        self.queue.add(at, due.pack());
    }

    /// Keeps a line of what happened, if lines are kept.
    pub(super) fn note(&mut self, line: impl FnOnce(&World<'_>) -> String) {
        if self.keep == 0 {
            return;
        }
        let text = format!("{:10.4} s  {}", self.now.as_nanos() as f64 * 1e-9, line(self));
        if self.journal.len() == self.keep {
            self.journal.pop_front();
        }
        self.journal.push_back(text);
    }

    fn happen(&mut self, due: Due) -> Result<(), (usize, Broken)> {
        match due {
            Due::Turn => self.turn(),
            Due::Fault => self.strike(),
            Due::Start(node) => {
                self.start(node);
                Ok(())
            }
            Due::Learn(node) => self.learn(node),
            Due::Thaw(node) => self.thaw(node),
            Due::Carry(node, incarnation) => self.carry(node, incarnation),
            Due::Count(node, incarnation) => self.count(node, incarnation),
            Due::Wake(node) => self.wake(node),
            Due::Datagram(datagram) => match self.mesh.deliver(self.now, datagram) {
                Some((to, report)) => self.tell(to, Event::Report(report)),
                None => Ok(()),
            },
            Due::Open(node) => {
                self.open(node);
                Ok(())
            }
            Due::Close(connection) => {
                if self.phase < Phase::Quiet {
                    self.close(connection);
                }
                Ok(())
            }
        }
    }

    /// Tells a node's agent something, once it is not frozen.
    pub(super) fn tell(&mut self, node: usize, event: Event) -> Result<(), (usize, Broken)> {
        let it = &mut self.nodes[node];
        if !it.is_running() {
            return Ok(());
        }
        if self.now < it.frozen_until {
            let can_be_lost = matches!(event, Event::Report(_) | Event::Sample(_) | Event::Wake);
            if !can_be_lost || it.inbox.len() < INBOX {
                it.inbox.push_back(event);
            }
            return Ok(());
        }
        self.steps += 1;
        let now = it.clock.read(self.now);
        if self.keep > 0 {
            let text = shown::event(&event);
            self.note(|world| format!("{} ({:.4} s) {text}", world.nodes[node].name, seconds(now)));
        }
        let commands = self.nodes[node].take(now, event).map_err(|broken| (node, broken))?;
        for command in commands {
            match command {
                Command::Publish(report) => self.publish(node, report),
                Command::Apply(plan) => {
                    self.note(|world| format!("{} plans {}", world.nodes[node].name, shown::plan(&plan)));
                    let slow = self.trouble.of_kernel(self.now, node).late;
                    let most = slow.unwrap_or(Duration::from_millis(20));
                    let at = self.now + most.mul_f64(self.dice.timing.unit());
                    self.add(at, Due::Carry(node, self.nodes[node].incarnation));
                }
                Command::Tell(notice) => {
                    self.note(|world| format!("{} tells: {notice}", world.nodes[node].name));
                }
            }
        }
        self.wake_in_time(node);
        Ok(())
    }

    fn publish(&mut self, node: usize, mut report: Arc<plimsoll_core::report::Report>) {
        if self.trouble.lies(self.now, node) {
            lies::misreport(Arc::make_mut(&mut report), &mut self.dice.lies);
        }
        let sender = &mut self.nodes[node];
        sender.sequence += 1;
        let number = (sender.incarnation + 1, sender.sequence);
        self.mesh.send(self.now, (node, number), &report, &mut self.dice.mesh, |at, datagram| {
            self.queue.add(at, Due::Datagram(datagram).pack());
        });
    }

    fn wake_in_time(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let at = it.clock.when(self.now, it.next_wake()).max(it.frozen_until);
        if at < it.wakes_at {
            it.wakes_at = at;
            self.add(at, Due::Wake(node));
        }
    }

    fn wake(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        let it = &mut self.nodes[node];
        // Otherwise it was meant to be woken earlier, and was.
        if it.wakes_at != self.now {
            return Ok(());
        }
        it.wakes_at = Timestamp::NEVER;
        if it.clock.read(self.now) >= it.next_wake() {
            return self.tell(node, Event::Wake);
        }
        self.wake_in_time(node);
        Ok(())
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_running() || self.phase >= Phase::Alone {
            return;
        }
        self.note(|world| format!("{} starts", world.nodes[node].name));
        self.nodes[node].start(self.now, self.first, self.make);
        self.wake_in_time(node);
        let late = DISCOVERY.mul_f64(self.dice.timing.unit());
        self.add(self.now + late, Due::Learn(node));
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.note(|world| format!("{} is killed", world.nodes[node].name));
        self.nodes[node].kill(self.is_owned);
        self.mesh.forget(node);
    }

    fn thaw(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        if self.now < self.nodes[node].frozen_until {
            return Ok(());
        }
        while let Some(event) = self.nodes[node].inbox.pop_front() {
            self.tell(node, event)?;
        }
        self.wake_in_time(node);
        Ok(())
    }

    /// What exists changed: the discoveries find out, each in its time.
    pub(super) fn population_changed(&mut self) {
        for node in 0..self.nodes.len() {
            let late = DISCOVERY.mul_f64(self.dice.timing.unit());
            self.add(self.now + late, Due::Learn(node));
        }
    }

    fn learn(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        if !self.nodes[node].is_running() {
            return Ok(());
        }
        let told: Vec<Option<Arc<Service>>> = self.population.told().map(Option::<&Arc<_>>::cloned).collect();
        let heard_of = std::mem::replace(&mut self.nodes[node].heard_of, told.clone());
        if heard_of.is_empty() || self.dice.timing.below(4) == 0 {
            let all = ServiceChange::All(told.into_iter().flatten().collect());
            return self.tell(node, Event::Services(all));
        }
        for (before, after) in heard_of.into_iter().zip(told) {
            let change = match (before, after) {
                (Some(before), Some(after)) if Arc::ptr_eq(&before, &after) => continue,
                (_, Some(after)) => ServiceChange::Set(after),
                (Some(before), None) => ServiceChange::Remove(before.id.clone()),
                (None, None) => continue,
            };
            self.tell(node, Event::Services(change))?;
        }
        Ok(())
    }

    /// Goes on to the next phase.
    fn turn(&mut self) -> Result<(), (usize, Broken)> {
        let observer = self.nodes.len() - 1;
        match self.phase {
            Phase::Storm => {
                self.phase = Phase::Calm;
                self.population.mend();
                self.population_changed();
                for node in 0..self.nodes.len() {
                    self.add(self.now, Due::Start(node));
                }
            }
            Phase::Calm => {
                self.phase = Phase::Quiet;
                // The one that stays has no connections of its own: they would be all it knows.
                for place in self.connections.find(|connection| connection.node == observer) {
                    self.close(place);
                }
            }
            Phase::Quiet => {
                self.phase = Phase::Anew;
                settled::counts(&mut self.nodes, self.now, &self.open, &self.population)?;
                for node in 0..self.nodes.len() {
                    self.nodes[node].heard_of.clear();
                    self.tell(node, Event::Services(ServiceChange::All(Vec::new())))?;
                    self.add(self.now + DISCOVERY, Due::Learn(node));
                }
            }
            Phase::Anew => {
                self.phase = Phase::Alone;
                self.compared += settled::alike(&mut self.nodes, self.now, &self.population, self.with_load)?;
                for node in 0..observer {
                    self.kill(node);
                }
            }
            Phase::Alone => {
                self.phase = Phase::Later;
                // A clock that jumps is as good as a long time without news.
                let view = self.parameters.view;
                let silence = Duration::from_secs_f64(view.trust_seconds + 20.0 * view.shrink_seconds);
                self.nodes[observer].clock.jump(silence);
                self.rewake(observer);
            }
            Phase::Later => {
                let fair =
                    settled::fair(&mut self.nodes[observer], self.now, &self.population, self.with_load);
                self.compared += fair.map_err(|broken| (observer, broken))?;
            }
        }
        self.note(|world| format!("now it is {:?}", world.phase));
        Ok(())
    }
}

/// What a panic says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

fn seconds(at: Timestamp) -> f64 {
    at.as_nanos() as f64 * 1e-9
}

fn parameters(dice: &mut Dice) -> Parameters {
    let policies = [PolicyKind::Waterline, PolicyKind::Waterline, PolicyKind::LvsFeedback, PolicyKind::Equal];
    Parameters {
        tick: Duration::from_millis([200, 500, 500, 2000][dice.below(4)]),
        report_interval: Duration::from_millis([200, 500, 500, 1000][dice.below(4)]),
        lease: Duration::from_secs([6, 10, 30][dice.below(3)]),
        policy: policies[dice.below(policies.len())],
        policies: policy::Parameters::default(),
        guard: guard::Parameters::default(),
        view: view::Parameters { trust_seconds: [2.0, 5.0][dice.below(2)], shrink_seconds: 10.0 },
    }
}
