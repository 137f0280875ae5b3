//! What happens to the cluster, and when: the scenario's events, with what undoes them, bursts and the swing.

use plimsoll_core::time::Timestamp;

use super::arrivals::nanos;
use crate::dice::Dice;
use crate::queue::Queue;
use crate::scenario::{Add, Bursts, Failure, Misreading, Redial, Scenario};

/// How often the rate of arrivals follows the swing.
const SWING_STEP: std::time::Duration = std::time::Duration::from_secs(1);
/// Clients of an endpoint that goes dial again within this time.
const AWAY: f64 = 1.0;

/// Something that happens to the cluster.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Add(Add),
    /// No new connections for it.
    Drain(usize),
    /// Its connections dial again.
    Expel(usize),
    /// Its speed changes by a factor.
    Speed(usize, f64),
    Fail(usize, Option<Failure>),
    Misread(usize, Option<Misreading>),
    Redial {
        node: usize,
        within: f64,
        part: f64,
    },
    CutOff(Vec<usize>, bool),
    Multiply(f64),
    /// A burst begins or ends at a node.
    Burst {
        node: usize,
        on: bool,
    },
    Swing,
}

/// What is still to happen.
pub(super) struct Script {
    actions: Vec<Action>,
    queue: Queue,
    bursts: Option<Bursts>,
    /// For bursts.
    dice: Dice,
    /// For clients that dial again: how many do depends on the policy.
    away: Dice,
}

impl Script {
    pub(super) fn new(scenario: &Scenario, dice: Dice, away: Dice) -> Script {
        let mut script = Script { actions: Vec::new(), queue: Queue::default(), bursts: None, dice, away };
        for event in &scenario.events {
            for (at, turn) in event.occurrences() {
                script.write(event, at, turn);
            }
        }
        if let Some(bursts) = &scenario.bursts {
            for node in 0..scenario.nodes.count {
                let first = Timestamp::ZERO + nanos(script.dice.exponential(bursts.off.0.as_secs_f64()));
                script.add(first, Action::Burst { node, on: true });
            }
            script.bursts = Some(bursts.clone());
        }
        if scenario.swing.is_some() {
            script.add(Timestamp::ZERO, Action::Swing);
        }
        script
    }

    fn write(&mut self, event: &crate::scenario::Event, at: Timestamp, turn: usize) {
        let shifted = |endpoints: &[usize]| endpoints.iter().map(|e| e + turn).collect::<Vec<_>>();
        if let Some(add) = &event.add {
            self.add(at, Action::Add(add.clone()));
        }
        if let Some(remove) = &event.remove {
            self.add(at, Action::Drain(remove.endpoint + turn));
            self.add(at + remove.grace.0, Action::Expel(remove.endpoint + turn));
        }
        if let Some(slow) = &event.slow {
            for endpoint in shifted(&slow.endpoints) {
                self.add(at, Action::Speed(endpoint, slow.speed));
                self.add(at + slow.lasting.0, Action::Speed(endpoint, 1.0 / slow.speed));
            }
        }
        if let Some(fail) = &event.fail {
            for endpoint in shifted(&fail.endpoints) {
                self.add(at, Action::Fail(endpoint, Some(fail.how)));
                self.add(at + fail.lasting.0, Action::Fail(endpoint, None));
            }
        }
        if let Some(misread) = &event.misread {
            for endpoint in shifted(&misread.endpoints) {
                self.add(at, Action::Misread(endpoint, Some(misread.how)));
                self.add(at + misread.lasting.0, Action::Misread(endpoint, None));
            }
        }
        if let Some(Redial { node, within, part }) = event.redial {
            self.add(at, Action::Redial { node, within: within.0.as_secs_f64(), part });
        }
        if let Some(cut_off) = &event.cut_off {
            self.add(at, Action::CutOff(cut_off.nodes.clone(), true));
            self.add(at + cut_off.lasting.0, Action::CutOff(cut_off.nodes.clone(), false));
        }
        if let Some(surge) = &event.surge {
            self.add(at, Action::Multiply(surge.factor));
            self.add(at + surge.lasting.0, Action::Multiply(1.0 / surge.factor));
        }
    }

    fn add(&mut self, at: Timestamp, action: Action) {
        self.queue.add(at, self.actions.len() as u64);
        self.actions.push(action);
    }

    /// An endpoint that was added cold is warm then.
    pub(super) fn warm(&mut self, at: Timestamp, endpoint: usize, factor: f64) {
        self.add(at, Action::Speed(endpoint, factor));
    }

    /// When the next happens.
    pub(super) fn next_at(&self) -> Timestamp {
        self.queue.next_at()
    }

    /// Takes the next. Bursts and the swing go on by themselves.
    pub(super) fn take(&mut self) -> Option<(Timestamp, Action)> {
        let (now, which) = self.queue.take()?;
        let action = self.actions[which as usize].clone();
        match (&action, &self.bursts) {
            (Action::Burst { node, on }, Some(bursts)) => {
                let lasting = if *on { bursts.on } else { bursts.off };
                let length = nanos(self.dice.exponential(lasting.0.as_secs_f64()));
                self.actions[which as usize] = Action::Burst { node: *node, on: !on };
                self.queue.add(now + length, which);
            }
            (Action::Swing, _) => self.queue.add(now + SWING_STEP, which),
            _ => {}
        }
        Some((now, action))
    }

    /// How long a client is away before it dials again, when its endpoint goes.
    pub(super) fn away(&mut self) -> f64 {
        self.away.between(0.0, AWAY)
    }

    /// Whether a client is among this part, and how long it is away before it dials again.
    pub(super) fn drops(&mut self, within: f64, part: f64) -> Option<f64> {
        let (chosen, away) = (self.away.unit() < part, self.away.between(0.0, within));
        chosen.then_some(away)
    }
}
