//! The one task that owns the balancer: events in, commands out, questions answered in between.

use std::sync::Arc;

use plimsoll_api::{Explanation, Node, ServiceSummary, Status};
use plimsoll_core::balancer::{Balancer, Command, Event, Notice};
use plimsoll_core::plan::Plan;
use plimsoll_core::report::Report;
use plimsoll_core::service::{NodeName, ServiceId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::error::Error;
use crate::metrics::{Kind, Metrics};
use crate::ready::{Awaited, Readiness};

/// How many events may wait for the balancer. At the busiest a report of each of a thousand nodes.
pub(crate) const EVENTS: usize = 1024;
/// How many questions may wait.
pub(crate) const QUESTIONS: usize = 64;
/// How many events are taken in before questions get their turn.
const BATCH: usize = 256;

/// A question from outside, with where to send the answer.
#[derive(Debug)]
pub(crate) enum Question {
    /// Are you there?
    Ping(oneshot::Sender<()>),
    /// How are you?
    Status(oneshot::Sender<Status>),
    /// Why do the endpoints of these Services have their weights? Answers for all ports and families that the
    /// name fits; `Err` has the names there are.
    Explain(String, oneshot::Sender<Result<Vec<Explanation>, Vec<String>>>),
}

impl Question {
    /// Whether nobody waits for the answer any more.
    fn is_moot(&self) -> bool {
        match self {
            Question::Ping(to) => to.is_closed(),
            Question::Status(to) => to.is_closed(),
            Question::Explain(_, to) => to.is_closed(),
        }
    }
}

/// The owner of the balancer.
pub(crate) struct Owner {
    pub(crate) node: NodeName,
    pub(crate) balancer: Balancer,
    pub(crate) clock: Clock,
    pub(crate) reports: mpsc::Sender<Arc<Report>>,
    pub(crate) plans: mpsc::Sender<Plan>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// Dropped when the first plan was applied.
    pub(crate) first_plan: Option<Awaited>,
    /// Dropped when the first counts came in.
    pub(crate) first_counts: Option<Awaited>,
    /// The kinds of dataplane and store, for the status.
    pub(crate) dataplane: &'static str,
    pub(crate) store: &'static str,
}

impl Owner {
    /// Runs until `stop`, or until nobody can send events any more.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut questions: mpsc::Receiver<Question>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake = self.clock.instant(self.balancer.next_wake());
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // In no fixed order: whoever asks without end must not keep events waiting, nor the other way round.
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(question) = questions.recv() => self.answer(question),
                received = events.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return Ok(());
                    }
                    for event in batch.drain(..) {
                        self.take_in(event);
                    }
                }
                () = sleep => self.take_in(Event::Wake),
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        self.metrics.events.get_or_create(&Kind { kind: kind(&event) }).inc();
        match &event {
            Event::Applied(Ok(())) => drop(self.first_plan.take()),
            Event::Counts(_) => drop(self.first_counts.take()),
            _ => {}
        }
        for command in self.balancer.on(self.clock.now(), event) {
            match command {
                Command::Publish(report) => {
                    let sent = self.reports.try_send(report).is_ok();
                    self.count_lost("report", sent);
                }
                Command::Apply(plan) => {
                    let sent = self.plans.try_send(plan).is_ok();
                    self.count_lost("plan", sent);
                }
                Command::Tell(notice) => self.tell(&notice),
            }
        }
    }

    /// A report that finds no room is replaced by the next one. A plan always finds room: one is under way at most.
    fn count_lost(&self, kind: &'static str, sent: bool) {
        if !sent {
            self.metrics.dropped.get_or_create(&Kind { kind }).inc();
        }
    }

    fn tell(&self, notice: &Notice) {
        self.metrics.notices.get_or_create(&Kind { kind: notice.kind() }).inc();
        match notice {
            Notice::Refused(_) | Notice::Limited { .. } | Notice::NodeLeft(_) => warn!("{notice}"),
            _ => info!("{notice}"),
        }
    }

    fn answer(&self, question: Question) {
        // Whoever asked may be gone by now: there is no answer to make then.
        if question.is_moot() {
            return;
        }
        match question {
            Question::Ping(to) => drop(to.send(())),
            Question::Status(to) => drop(to.send(self.status())),
            Question::Explain(name, to) => drop(to.send(self.explain(&name))),
        }
    }

    fn status(&self) -> Status {
        let now = self.clock.now();
        let waiting_for: Vec<String> = self.readiness.awaited().into_iter().map(str::to_owned).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.node.to_string(),
            uptime_seconds: self.clock.uptime().as_secs_f64(),
            ready: waiting_for.is_empty(),
            waiting_for,
            troubles: Vec::new(),
            dataplane: self.dataplane.into(),
            store: self.store.into(),
            services: self
                .balancer
                .services()
                .filter_map(|id| self.balancer.explain(now, id))
                .map(|explanation| ServiceSummary::new(&Explanation::new(&self.node, &explanation)))
                .collect(),
            nodes: self.balancer.nodes(now).iter().map(Node::new).collect(),
        }
    }

    fn explain(&self, name: &str) -> Result<Vec<Explanation>, Vec<String>> {
        let now = self.clock.now();
        let fitting: Vec<Explanation> = self
            .balancer
            .services()
            .filter(|id| fits(name, id))
            .filter_map(|id| self.balancer.explain(now, id))
            .map(|explanation| Explanation::new(&self.node, &explanation))
            .collect();
        if fitting.is_empty() {
            return Err(self.balancer.services().map(ServiceId::to_string).collect());
        }
        Ok(fitting)
    }
}

/// Whether a name as people write it means this Service: with or without namespace, port and family.
fn fits(name: &str, id: &ServiceId) -> bool {
    let bare = id.name.rsplit('/').next().unwrap_or(&id.name);
    let full = id.to_string();
    let with_port = |name: &str| format!("{name}:{}", id.port);
    name == full
        || name == &*id.name
        || name == bare
        || name == with_port(&id.name)
        || name == with_port(bare)
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Services(_) => "services",
        Event::Counts(_) => "counts",
        Event::Sample(_) => "sample",
        Event::Report(_) => "report",
        Event::Joined(_) => "joined",
        Event::Left(_) => "left",
        Event::Applied(_) => "applied",
        Event::Wake => "wake",
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::service::Family;

    use plimsoll_core::service::{Here, ServiceChange};
    use plimsoll_core::{balancer, guard, policy, view};

    use super::*;

    /// An owner of a balancer that knows nothing; the far ends of its queues stay open with the second.
    fn owner() -> (Owner, impl Sized) {
        let node = NodeName::new("n1");
        let parameters = balancer::Parameters {
            tick: std::time::Duration::from_millis(500),
            report_interval: std::time::Duration::from_millis(200),
            lease: std::time::Duration::from_secs(10),
            policy: plimsoll_core::service::PolicyKind::default(),
            policies: policy::Parameters::default(),
            guard: guard::Parameters::default(),
            view: view::Parameters::default(),
        };
        let (reports, published) = mpsc::channel(2);
        let (plans, to_apply) = mpsc::channel(2);
        let readiness = Readiness::default();
        let owner = Owner {
            balancer: Balancer::new(Here { node: node.clone(), zone: None }, parameters),
            node,
            clock: Clock::start(),
            reports,
            plans,
            metrics: Metrics::default(),
            first_plan: None,
            first_counts: Some(readiness.await_for("counts")),
            readiness,
            dataplane: "none",
            store: "none",
        };
        (owner, (published, to_apply))
    }

    #[tokio::test]
    async fn events_do_not_wait_until_nobody_asks_any_more() {
        let (owner, _ends) = owner();
        let (events, received) = mpsc::channel(2);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        events.send(Event::Services(ServiceChange::All(Vec::new()))).await.unwrap();
        events.send(Event::Counts(plimsoll_core::load::Counts::default())).await.unwrap();
        let mut answers = Vec::new();
        for _ in 0..QUESTIONS {
            let (to, answer) = oneshot::channel();
            questions.send(Question::Status(to)).await.unwrap();
            answers.push(answer);
        }
        let stop = CancellationToken::new();
        let running = tokio::spawn(owner.run(received, asked, stop.clone()));
        let mut ready = 0;
        for answer in answers {
            ready += usize::from(answer.await.unwrap().ready);
        }
        stop.cancel();
        running.await.unwrap().unwrap();
        assert!(ready > 0, "all of {QUESTIONS} questions were answered before the counts were looked at");
    }

    #[test]
    fn a_service_is_found_by_any_way_to_write_it() {
        let id = ServiceId { name: "shop/web".into(), port: "http".into(), family: Family::V4 };
        for name in ["shop/web", "web", "shop/web:http", "web:http", "shop/web:http/ipv4"] {
            assert!(fits(name, &id), "{name}");
        }
        for name in ["", "shop", "we", "web:https", "shop/web:http/ipv6"] {
            assert!(!fits(name, &id), "{name}");
        }
    }
}
