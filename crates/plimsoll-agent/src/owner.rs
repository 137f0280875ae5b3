//! The one task that owns the balancer: events in, commands out, questions answered in between.

use std::fmt;
use std::sync::Arc;

use plimsoll_api::{Explanation, Node, ServiceSummary, Status};
use plimsoll_core::balancer::{Balancer, Command, Event, Notice};
use plimsoll_core::explain;
use plimsoll_core::plan::Plan;
use plimsoll_core::report::Report;
use plimsoll_core::service::{NodeName, ServiceId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::error::Error;
use crate::metrics::{Kind, Metrics};
use crate::pulse::Pulse;
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

/// More of one kind at once are told by their number.
const MANY: usize = 10;

/// The owner of the balancer.
pub(crate) struct Owner {
    pub(crate) node: NodeName,
    pub(crate) balancer: Balancer,
    pub(crate) clock: Clock,
    pub(crate) reports: mpsc::Sender<Arc<Report>>,
    pub(crate) plans: mpsc::Sender<Plan>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) pulse: Pulse,
    /// Dropped when the first plan was applied.
    pub(crate) first_plan: Option<Awaited>,
    /// Dropped when the first counts came in.
    pub(crate) first_counts: Option<Awaited>,
    /// The kinds of dataplane and store, for the status.
    pub(crate) dataplane: &'static str,
    pub(crate) store: &'static str,
    /// Whether the dataplane changes nothing.
    pub(crate) dry_run: bool,
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
        self.pulse.begin();
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
            Event::Applied(outcome) => {
                self.pulse.plan_ended(outcome.is_ok());
                if outcome.is_ok() {
                    drop(self.first_plan.take());
                }
            }
            Event::Counts(_) => {
                self.pulse.counted();
                drop(self.first_counts.take());
            }
            _ => {}
        }
        let mut notices = Vec::new();
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
                Command::Tell(notice) => notices.push(notice),
            }
        }
        self.tell(&notices);
    }

    /// A report that finds no room is replaced by the next one. A plan always finds room: one is under way at most.
    fn count_lost(&self, kind: &'static str, sent: bool) {
        if !sent {
            self.metrics.dropped.get_or_create(&Kind { kind }).inc();
        }
    }

    /// What came of one event. What concerns all Services at once, as at the start, is a line with their number.
    fn tell(&self, notices: &[Notice]) {
        let of_kind = |is: fn(&Notice) -> bool| notices.iter().filter(|notice| is(notice)).count();
        let taken = of_kind(|notice| matches!(notice, Notice::Taken { .. }));
        let left = of_kind(|notice| matches!(notice, Notice::Left { .. }));
        let is = if self.dry_run { "would be" } else { "are" };
        if taken > MANY {
            info!("{taken} addresses of Services {is} balanced; level debug names them");
        }
        if left > MANY {
            info!(
                "{left} addresses of Services are left to the proxy below; level debug says which, and why"
            );
        }
        for notice in notices {
            self.metrics.notices.get_or_create(&Kind { kind: notice.kind() }).inc();
            match notice {
                Notice::Refused(_) | Notice::Limited { .. } | Notice::NodeLeft(_) => warn!("{notice}"),
                Notice::Taken { service, key } if self.dry_run => {
                    tell_one(taken, format_args!("{service}: {key} would be balanced"));
                }
                Notice::Taken { .. } => tell_one(taken, format_args!("{notice}")),
                Notice::Left { .. } => tell_one(left, format_args!("{notice}")),
                _ => info!("{notice}"),
            }
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
        let awaited = self.readiness.awaited().into_iter().map(str::to_owned);
        let waiting_for: Vec<String> =
            awaited.chain(self.pulse.silence().map(|silence| silence.to_string())).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.node.to_string(),
            uptime_seconds: self.clock.uptime().as_secs_f64(),
            ready: waiting_for.is_empty(),
            waiting_for,
            troubles: Vec::new(),
            plan_age_seconds: self.pulse.plan_age().map(|age| age.as_secs_f64()),
            counts_age_seconds: self.pulse.counts_age().map(|age| age.as_secs_f64()),
            dataplane: self.dataplane.into(),
            store: self.store.into(),
            services: self
                .balancer
                .services()
                .filter_map(|id| self.balancer.explain(now, id))
                .map(|explanation| ServiceSummary::new(&self.told(&explanation)))
                .collect(),
            nodes: self.balancer.nodes(now).iter().map(Node::new).collect(),
        }
    }

    fn explain(&self, name: &str) -> Result<Vec<Explanation>, Vec<String>> {
        let now = self.clock.now();
        let explained = |fits: &dyn Fn(&ServiceId) -> bool| {
            let fitting = self.balancer.services().filter(|id| fits(id));
            fitting.filter_map(|id| self.balancer.explain(now, id)).collect::<Vec<_>>()
        };
        let mut fitting = explained(&|id| fits(name, id));
        // A port may be told by its number too; a name that looks like a number comes first.
        if let Some((name, number)) = apart_from_number(name).filter(|_| fitting.is_empty()) {
            fitting = explained(&|id| fits(&name, id));
            fitting.retain(|explanation| is_reached_on(number, explanation));
        }
        if fitting.is_empty() {
            return Err(self.balancer.services().map(ServiceId::to_string).collect());
        }
        Ok(fitting.iter().map(|explanation| self.told(explanation)).collect())
    }

    fn told(&self, explanation: &explain::Explanation) -> Explanation {
        Explanation { dry_run: self.dry_run, ..Explanation::new(&self.node, explanation) }
    }
}

/// One of so many of its kind.
fn tell_one(of: usize, text: fmt::Arguments<'_>) {
    if of > MANY { debug!("{text}") } else { info!("{text}") }
}

/// Whether a name as people write it means this Service: with or without namespace, port name and family.
fn fits(name: &str, id: &ServiceId) -> bool {
    let bare = id.name.rsplit('/').next().unwrap_or(&id.name);
    let is_named = |name: &str| {
        let (service, port) = name.split_once(':').unwrap_or((name, &id.port));
        (service == &*id.name || service == bare) && port == &*id.port
    };
    is_named(name) || name.strip_suffix(&format!("/{}", id.family)).is_some_and(is_named)
}

/// A name without the number of a port in it (`web:80`, `web:80/ipv4`), and the number.
fn apart_from_number(name: &str) -> Option<(String, u16)> {
    let (service, rest) = name.split_once(':')?;
    let (number, family) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    Some((format!("{service}{family}"), number.parse().ok()?))
}

/// Whether clients reach a Service on this port: its own, or its node port.
fn is_reached_on(port: u16, explanation: &explain::Explanation) -> bool {
    let taken = explanation.taken.iter().map(|entry| entry.key);
    taken.chain(explanation.left.iter().map(|(key, _)| *key)).any(|key| key.port == port)
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Services(_) => "services",
        Event::Zone(_) => "zone",
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
    use plimsoll_core::service::{
        Family, Here, Key, Mode, Place, Protocol, Service, ServiceChange, TrafficPolicy,
    };
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
            pulse: Pulse::new(std::time::Duration::from_secs(10)),
            dataplane: "none",
            store: "none",
            dry_run: false,
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

    /// A Service with a port of this name and number, and a node port.
    fn service(name: &str, port: &str, number: u16) -> Arc<Service> {
        let address = [10, 96, 0, 1].into();
        let key = |place, port| Key { place, port, protocol: Protocol::Tcp };
        Arc::new(Service {
            id: ServiceId { name: name.into(), port: port.into(), family: Family::V4 },
            protocol: Protocol::Tcp,
            keys: vec![
                key(Place::Internal(address), number),
                key(Place::AnyLocal(Family::V4), number + 30_000),
            ],
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            mode: Mode::Enabled,
            policy: None,
            slow_start: std::time::Duration::ZERO,
            floor: None,
            endpoints: Vec::new(),
        })
    }

    #[test]
    fn a_service_is_found_by_any_way_to_write_it() {
        let (mut owner, _ends) = owner();
        let services = vec![
            service("blog/web", "http", 80),
            service("shop/ipv4", "", 5),
            service("shop/web", "443", 444),
            service("shop/web", "http", 80),
            service("shop/web", "https", 443),
        ];
        owner.take_in(Event::Services(ServiceChange::All(services)));
        let found = |name: &str| -> String {
            let found = owner.explain(name).unwrap_or_default();
            let names: Vec<&str> = found.iter().map(|one| one.service.trim_end_matches("/ipv4")).collect();
            names.join(" ")
        };
        for (name, expected) in [
            ("shop/web", "shop/web:443 shop/web:http shop/web:https"),
            ("shop/web/ipv4", "shop/web:443 shop/web:http shop/web:https"),
            ("web:http", "blog/web:http shop/web:http"),
            ("shop/web:http", "shop/web:http"),
            ("shop/web:http/ipv4", "shop/web:http"),
            // By number, by node port, and of several Services.
            ("shop/web:80", "shop/web:http"),
            ("shop/web:80/ipv4", "shop/web:http"),
            ("shop/web:30080", "shop/web:http"),
            ("web:80", "blog/web:http shop/web:http"),
            // A port that is called 443 comes before the one with that number.
            ("shop/web:443", "shop/web:443"),
            ("shop/web:30443", "shop/web:https"),
            ("ipv4", "shop"),
            ("shop/ipv4:5", "shop"),
        ] {
            assert_eq!(found(name), expected, "{name}");
        }
        for name in ["", "shop", "we", "web:httpx", "web:81", "web:", "web:80/ipv6", "web:http/ipv6", ":80"] {
            assert_eq!(found(name), "", "{name}");
        }
    }
}
