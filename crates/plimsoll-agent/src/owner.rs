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
            tokio::select! {
                biased;
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
        // Whoever asked may be gone by now; that is no concern of ours.
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

    use super::*;

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
