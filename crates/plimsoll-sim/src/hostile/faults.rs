//! What goes wrong, drawn at random: one thing after the other, many of them at the same time.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balancer::Event;
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;

use crate::dice::Dice;

use super::agenda::Due;
use super::checks::Broken;
use super::lies;
use super::population::Failing;
use super::world::{Phase, World};

/// What a node's kernel has against it, until when.
#[derive(Clone, Copy, Debug, Default)]
struct Grudges {
    /// Plans take up to this long.
    late: (Duration, Timestamp),
    /// This part of the plans is refused.
    refuses: (f64, Timestamp),
    /// Plans that are refused are carried out all the same.
    is_lying: bool,
    /// Nothing is counted.
    is_silent: Timestamp,
    /// Counts are wrong.
    miscounts: Timestamp,
    /// What the node reports is wrong.
    misreports: Timestamp,
}

/// What a node's kernel does wrong now.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelTrouble {
    pub(super) late: Option<Duration>,
    pub(super) refuses: f64,
    pub(super) is_lying: bool,
    pub(super) is_silent: bool,
    pub(super) miscounts: bool,
}

/// What goes wrong on the nodes.
#[derive(Debug)]
pub(super) struct Trouble {
    grudges: Vec<Grudges>,
    /// The mean time from one fault to the next, and how long they last on average, in seconds.
    pause: f64,
    length: f64,
    ghosts: u32,
}

impl Trouble {
    pub(super) fn new(nodes: usize, dice: &mut Dice) -> Trouble {
        Trouble {
            grudges: vec![Grudges::default(); nodes],
            pause: libm::exp(dice.between(-2.5, 1.0)),
            length: libm::exp(dice.between(-1.0, 2.5)),
            ghosts: 0,
        }
    }

    pub(super) fn of_kernel(&self, now: Timestamp, node: usize) -> KernelTrouble {
        let Grudges { late, refuses, is_lying, is_silent, miscounts, .. } = self.grudges[node];
        KernelTrouble {
            late: (now < late.1).then_some(late.0),
            refuses: if now < refuses.1 { refuses.0 } else { 0.0 },
            is_lying,
            is_silent: now < is_silent,
            miscounts: now < miscounts,
        }
    }

    pub(super) fn lies(&self, now: Timestamp, node: usize) -> bool {
        now < self.grudges[node].misreports
    }
}

impl World<'_> {
    /// Something goes wrong, and later something else.
    pub(super) fn strike(&mut self) -> Result<(), (usize, Broken)> {
        if self.phase != Phase::Storm {
            return Ok(());
        }
        let ends = self.storm_ends();
        let dice = &mut self.dice.faults;
        let next = self.now + Duration::from_secs_f64(dice.exponential(self.trouble.pause));
        let lasts = Duration::from_secs_f64(dice.exponential(self.trouble.length));
        let until = (self.now + lasts).min(ends);
        let kind = dice.below(20);
        self.add(next, Due::Fault);
        let text = match kind {
            0..=3 => self.strike_mesh(kind, until),
            4..=7 => self.strike_agent(kind, until),
            8..=12 => self.strike_kernel(kind, until),
            13 | 14 => self.strike_endpoint(kind, until),
            15 => self.strike_with_a_ghost()?,
            _ => {
                let text = self.population.change(&mut self.dice.population);
                self.population_changed();
                text
            }
        };
        self.note(|_| format!("FAULT until {:.4} s: {text}", until.as_nanos() as f64 * 1e-9));
        Ok(())
    }

    fn strike_mesh(&mut self, kind: usize, until: Timestamp) -> String {
        let dice = &mut self.dice.faults;
        let part = [0.1, 0.5, 1.0][dice.below(3)];
        match kind {
            0 => {
                self.mesh.lose(part, until);
                format!("{part} of the reports are lost")
            }
            1 => {
                self.mesh.double(part, until);
                format!("{part} of the reports come twice")
            }
            2 => {
                let most = Duration::from_secs_f64(dice.between(0.1, 4.0));
                self.mesh.delay(most, until);
                format!("reports take up to {most:?}")
            }
            _ => {
                let is_one_way = self.mesh.cut(until, dice);
                format!("the nodes are cut in two{}", if is_one_way { ", one way" } else { "" })
            }
        }
    }

    fn strike_agent(&mut self, kind: usize, until: Timestamp) -> String {
        let dice = &mut self.dice.faults;
        let node = dice.below(self.nodes.len());
        let name = self.nodes[node].name.clone();
        match kind {
            4 => {
                let down = Duration::from_secs_f64(dice.exponential(0.5));
                self.kill(node);
                self.add(self.now + down, Due::Start(node));
                format!("{name} restarts after {down:?}")
            }
            5 => {
                self.nodes[node].frozen_until = self.nodes[node].frozen_until.max(until);
                self.add(until, Due::Thaw(node));
                format!("{name} is frozen")
            }
            6 => {
                let by = Duration::from_secs_f64(libm::exp(dice.between(-3.0, 12.0)));
                self.nodes[node].clock.jump(by);
                self.rewake(node);
                format!("the clock of {name} jumps by {by:?}")
            }
            _ => {
                self.nodes[node].clock.stand_still(until);
                self.rewake(node);
                format!("the clock of {name} stands still")
            }
        }
    }

    /// A clock shows another time than was expected: the wake-up comes at another one too.
    pub(super) fn rewake(&mut self, node: usize) {
        if self.nodes[node].is_running() {
            let wake = self.nodes[node].next_wake();
            let at = self.nodes[node].clock.when(self.now, wake).max(self.nodes[node].frozen_until);
            self.nodes[node].wakes_at = at;
            self.add(at, Due::Wake(node));
        }
    }

    fn strike_kernel(&mut self, kind: usize, until: Timestamp) -> String {
        let dice = &mut self.dice.faults;
        let node = dice.below(self.nodes.len());
        let name = self.nodes[node].name.clone();
        let grudges = &mut self.trouble.grudges[node];
        match kind {
            8 => {
                let most = Duration::from_secs_f64(dice.between(0.1, 5.0));
                grudges.late = (most, until);
                format!("plans take {name} up to {most:?}")
            }
            9 => {
                let part = [0.3, 1.0][dice.below(2)];
                grudges.refuses = (part, until);
                grudges.is_lying = dice.below(3) == 0;
                let lie = if grudges.is_lying { ", and carries them out" } else { "" };
                format!("{name} refuses {part} of its plans{lie}")
            }
            10 => {
                grudges.is_silent = until;
                format!("{name} does not count")
            }
            11 => {
                grudges.miscounts = until;
                format!("{name} miscounts")
            }
            _ => {
                grudges.misreports = until;
                format!("{name} reports nonsense")
            }
        }
    }

    fn strike_endpoint(&mut self, kind: usize, until: Timestamp) -> String {
        let dice = &mut self.dice.faults;
        let index = dice.below(self.population.endpoints.len());
        let endpoint = &mut self.population.endpoints[index];
        if kind == 13 {
            let how = [Failing::Refuses, Failing::Closes][dice.below(2)];
            endpoint.failing = Some((how, until));
            format!("endpoint {index}: {how:?} connections")
        } else {
            let how = lies::misreading(dice);
            endpoint.misreading = Some((how, until));
            format!("endpoint {index}: its readings are {how:?}")
        }
    }

    /// A node that nobody knows reports to somebody.
    fn strike_with_a_ghost(&mut self) -> Result<String, (usize, Broken)> {
        self.trouble.ghosts += 1;
        let name = format!("ghost{}", self.trouble.ghosts);
        let report = Arc::new(lies::ghost(&name, &self.population, &mut self.dice.faults));
        let node = self.dice.faults.below(self.nodes.len());
        let node_name = NodeName::new(&name);
        for event in [Event::Joined(node_name.clone()), Event::Report(report), Event::Left(node_name)] {
            self.tell(node, event)?;
        }
        Ok(format!("{name} reports"))
    }
}
