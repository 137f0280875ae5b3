//! One node: its balancer, its clock and its dataplane, and what has to hold after each event it takes in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balancer::{Command, Event, Parameters};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{Here, NodeName, Service, ServiceChange};
use plimsoll_core::time::Timestamp;

use crate::agents::ledger::Ledger;

use super::checks::{self, Broken, Circumstances, Rule, Told};
use super::clock::Clock;
use super::kernel::{Holding, Kernel};
use super::population::{node_name, zone};
use super::{Make, Subject};

/// How long the balancer may wait after a refusal before it sends a fresh plan.
const RETRY_WITHIN: Duration = Duration::from_secs(1);

/// One node.
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) zone: Arc<str>,
    parameters: Parameters,
    /// While its agent is running.
    agent: Option<Agent>,
    /// What the twin's clock is ahead, where the agent has one.
    twin_ahead: Option<Duration>,
    pub(super) clock: Clock,
    pub(super) kernel: Kernel,
    pub(super) ledger: Ledger,
    /// How often its agent was started.
    pub(super) incarnation: u32,
    /// How many reports this agent has sent.
    pub(super) sequence: u64,
    /// Until when, in the world's time, its process does nothing.
    pub(super) frozen_until: Timestamp,
    /// What waits for a frozen agent.
    pub(super) inbox: VecDeque<Event>,
    /// What the discovery has told it, by number.
    pub(super) heard_of: Vec<Option<Arc<Service>>>,
    /// When it is to be woken, in the world's time.
    pub(super) wakes_at: Timestamp,
    /// Whether its dataplane has begun to count.
    pub(super) counts: bool,
}

/// A running agent, and what it has to keep to. Times are those of its clock.
struct Agent {
    subject: Box<dyn Subject>,
    /// Another that is told the very same.
    twin: Option<Box<dyn Subject>>,
    told: Told,
    /// What the dataplane holds if it does as it says.
    believed: Holding,
    under_way: Option<(Timestamp, Plan)>,
    /// When a plan was refused, until a fresh one follows.
    refused: Option<Timestamp>,
    /// Whether `believed` is still to be held against what it was told.
    unchecked: bool,
    stepped: Timestamp,
    counted: Option<Timestamp>,
    /// Since when nothing keeps it from renewing its leases.
    steady: Timestamp,
    /// When each other node was heard of last.
    heard: BTreeMap<NodeName, Timestamp>,
    /// The most notices that an event may have.
    most_notices: usize,
    /// Whether a plan that comes now holds what was decided now, and nothing that had to wait.
    is_prompt: bool,
}

impl Node {
    pub(super) fn new(
        number: usize,
        parameters: &Parameters,
        grain: Duration,
        twin_ahead: Option<Duration>,
    ) -> Node {
        Node {
            name: node_name(number),
            zone: zone(number),
            parameters: parameters.clone(),
            agent: None,
            twin_ahead,
            clock: Clock::new(grain),
            kernel: Kernel::default(),
            ledger: Ledger::new(parameters.horizon()),
            incarnation: 0,
            sequence: 0,
            frozen_until: Timestamp::ZERO,
            inbox: VecDeque::new(),
            heard_of: Vec::new(),
            wakes_at: Timestamp::NEVER,
            counts: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.agent.is_some()
    }

    /// Starts an agent that knows nothing.
    pub(super) fn start(&mut self, world: Timestamp, first: Duration, make: &Make<'_>) {
        self.clock.restart(world, first);
        let now = self.clock.read(world);
        let subject = |node| make(Here { node, zone: Some(self.zone.clone()) }, self.parameters.clone());
        self.agent = Some(Agent {
            subject: subject(self.name.clone()),
            twin: self.twin_ahead.map(|_| subject(NodeName::new("twin"))),
            told: Told::new(),
            believed: Holding::default(),
            under_way: None,
            refused: None,
            unchecked: false,
            stepped: now,
            counted: None,
            steady: now,
            heard: BTreeMap::new(),
            most_notices: 2,
            is_prompt: false,
        });
        self.heard_of.clear();
    }

    /// Its agent is killed. An owned table goes with it, one that is not stays as long as its leases.
    pub(super) fn kill(&mut self, is_owned: bool) {
        self.agent = None;
        self.incarnation += 1;
        self.sequence = 0;
        self.inbox.clear();
        self.frozen_until = Timestamp::ZERO;
        self.wakes_at = Timestamp::NEVER;
        self.counts = false;
        self.ledger = Ledger::new(self.parameters.horizon());
        if is_owned {
            self.kernel = Kernel::default();
        }
    }

    /// The plan that its dataplane is to carry out.
    pub(super) fn plan(&self) -> Option<&Plan> {
        Some(&self.agent.as_ref()?.under_way.as_ref()?.1)
    }

    pub(super) fn subject(&self) -> Option<&dyn Subject> {
        self.agent.as_ref().map(|agent| &*agent.subject)
    }

    /// When the balancer wants to be woken, by the node's clock.
    pub(super) fn next_wake(&self) -> Timestamp {
        self.agent.as_ref().map_or(Timestamp::NEVER, |agent| agent.subject.next_wake())
    }

    /// Tells the agent what happens, and checks all that has to hold then.
    pub(super) fn take(&mut self, now: Timestamp, event: Event) -> Result<Vec<Command>, Broken> {
        let Some(agent) = &mut self.agent else { return Ok(Vec::new()) };
        let takes_counts = matches!(event, Event::Counts(_));
        agent.prepare(now, &event, &self.parameters)?;
        let twin_event = agent.twin.is_some().then(|| event.clone());
        let commands = agent.subject.on(now, event);
        if let (Some(twin), Some(event), Some(ahead)) = (&mut agent.twin, twin_event, self.twin_ahead) {
            let others = twin.on(now + ahead, event);
            if !checks::alike(&commands, &others) {
                return Err((Rule::Twins, checks::difference(&commands, &others)));
            }
        }
        agent.check_commands(now, &commands, takes_counts, &self.parameters)?;
        if let Some(Command::Apply(plan)) = commands.iter().find(|one| matches!(one, Command::Apply(_))) {
            let mut soon = agent.believed.clone();
            soon.apply(plan).map_err(|why| (Rule::Fitting, why))?;
            checks::holding(&soon, &agent.told, &self.name, &self.zone)?;
            agent.check_bounds(now, plan, &self.parameters)?;
            agent.unchecked = false;
        } else if agent.under_way.is_none() {
            if let Some(refused) = agent.refused.filter(|refused| now >= *refused + RETRY_WITHIN) {
                return Err((Rule::OnePlan, format!("no plan since one was refused at {refused:?}")));
            }
            if agent.refused.is_none() && std::mem::take(&mut agent.unchecked) {
                checks::holding(&agent.believed, &agent.told, &self.name, &self.zone)?;
            }
        }
        agent.check_time(now, &self.kernel, &self.parameters)?;
        if takes_counts {
            agent.check_memory(now, &self.parameters)?;
        }
        Ok(commands)
    }
}

impl Agent {
    /// Takes note of what it is about to be told.
    fn prepare(&mut self, now: Timestamp, event: &Event, parameters: &Parameters) -> Result<(), Broken> {
        if now.since(self.stepped) > 2 * parameters.tick {
            self.steady = now;
        }
        self.stepped = now;
        self.is_prompt = self.under_way.is_none() && self.refused.is_none();
        match event {
            Event::Services(change) => {
                let size = |told: &Told| -> usize {
                    told.values().map(|service| service.keys.len() + service.endpoints.len()).sum()
                };
                let before = size(&self.told);
                match change {
                    ServiceChange::All(services) => {
                        self.told =
                            services.iter().map(|service| (service.id.clone(), service.clone())).collect();
                    }
                    ServiceChange::Set(service) => {
                        self.told.insert(service.id.clone(), service.clone());
                    }
                    ServiceChange::Remove(id) => {
                        self.told.remove(id);
                    }
                }
                // A key is taken or left, an endpoint limited or not limited any more, in either list.
                self.most_notices = 2 * before.max(size(&self.told)) + 2;
                self.unchecked = true;
            }
            Event::Counts(_) => self.counted = Some(now),
            Event::Report(report) => {
                self.heard.insert(report.node.clone(), now);
            }
            Event::Applied(outcome) => {
                let Some((begun, plan)) = self.under_way.take() else { return Ok(()) };
                self.unchecked = true;
                if outcome.is_ok() {
                    self.believed.apply(&plan).map_err(|why| (Rule::Fitting, why))?;
                } else {
                    self.refused = Some(now);
                }
                if outcome.is_err() || now.since(begun) > parameters.lease / 12 {
                    self.steady = now;
                }
            }
            _ => {}
        }
        // A dataplane that is slow renews late.
        if self.under_way.as_ref().is_some_and(|(begun, _)| now.since(*begun) > parameters.lease / 12) {
            self.steady = now;
        }
        let counts_since = self.counted.map(|counted| now.since(counted));
        if counts_since.is_none_or(|since| since > parameters.lease / 3) {
            self.steady = now;
        }
        Ok(())
    }

    /// Looks at what it wants done.
    fn check_commands(
        &mut self,
        now: Timestamp,
        commands: &[Command],
        takes_counts: bool,
        parameters: &Parameters,
    ) -> Result<(), Broken> {
        let (mut reports, mut notices) = (0, 0);
        for command in commands {
            match command {
                Command::Publish(_) => reports += 1,
                Command::Tell(_) => notices += 1,
                Command::Apply(plan) => {
                    if self.under_way.is_some() {
                        return Err((Rule::OnePlan, "another plan is under way".into()));
                    }
                    if self.refused.take().is_some() && !plan.fresh {
                        return Err((Rule::OnePlan, "the plan after a refused one is not fresh".into()));
                    }
                    let since = self.counted.map(|counted| now.since(counted));
                    if plan.renew && since.is_none_or(|since| since >= parameters.lease) {
                        let found = format!("leases are renewed, and it counted {since:?} ago");
                        return Err((Rule::FailsOpen, found));
                    }
                    self.under_way = Some((now, plan.clone()));
                }
            }
        }
        if reports != usize::from(takes_counts) || notices > self.most_notices {
            let most = self.most_notices;
            return Err((Rule::FewCommands, format!("{reports} reports and {notices} notices of {most}")));
        }
        Ok(())
    }

    /// Looks at the weights of a plan that leads to the right lists.
    fn check_bounds(&self, now: Timestamp, plan: &Plan, parameters: &Parameters) -> Result<(), Broken> {
        for change in &plan.changes {
            let (Change::Replace(id, table) | Change::Reweight(id, table)) = change else { continue };
            if let Some(explanation) = self.subject.explain(now, id).filter(|_| !table.keys.is_empty()) {
                let is_eased_in = self.told.get(id).is_some_and(|service| !service.slow_start.is_zero());
                let circumstances = Circumstances { is_eased_in, is_prompt: self.is_prompt };
                checks::bounds(table, &explanation, circumstances, parameters)?;
            }
        }
        Ok(())
    }

    /// Looks at when it wants to be woken, and at the leases.
    fn check_time(&self, now: Timestamp, kernel: &Kernel, parameters: &Parameters) -> Result<(), Broken> {
        let wake = self.subject.next_wake();
        if wake <= now || wake > now + parameters.tick {
            return Err((Rule::Wakes, format!("it is {now:?} and it wants to be woken at {wake:?}")));
        }
        let holds_keys = kernel.holding.services.values().any(|table| !table.keys.is_empty());
        let steady = now.since(self.steady);
        if holds_keys && steady > parameters.lease && kernel.leased_until < now + parameters.lease / 4 {
            let until = kernel.leased_until;
            return Err((
                Rule::Renewed,
                format!("it is {now:?}, all is well for {steady:?}, and leases end at {until:?}"),
            ));
        }
        Ok(())
    }

    /// Looks at how many nodes it remembers.
    fn check_memory(&mut self, now: Timestamp, parameters: &Parameters) -> Result<(), Broken> {
        let view = parameters.view;
        let limit = Duration::from_secs_f64(view.trust_seconds + 20.0 * view.shrink_seconds);
        self.heard.retain(|_, at| now.since(*at) <= limit + parameters.tick);
        let known = self.subject.nodes(now).len();
        if known > self.heard.len() {
            let heard = self.heard.len();
            return Err((
                Rule::Forgets,
                format!("it knows {known} nodes, and heard of {heard} in {limit:?}"),
            ));
        }
        Ok(())
    }
}
