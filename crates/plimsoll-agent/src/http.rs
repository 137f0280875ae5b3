//! The HTTP API: health, metrics, status, explanations, the effective configuration. Reads only.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use plimsoll_api::{Problem, Status};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::callers;
use crate::error::Error;
use crate::metrics::{EdgeHealth, Metrics};
use crate::owner::Question;
use crate::pulse::Pulse;
use crate::ready::Readiness;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) readiness: Readiness,
    pub(crate) pulse: Pulse,
    pub(crate) metrics: Metrics,
    pub(crate) discovery: watch::Receiver<plimsoll_discovery::Health>,
    pub(crate) store: watch::Receiver<plimsoll_store::Health>,
    pub(crate) config: Arc<serde_json::Value>,
}

/// A page of the API. The router, the answer to an unknown path and the reference are made from these.
pub struct Page {
    /// Where it is.
    pub path: &'static str,
    /// What has to be said in the query; empty: nothing.
    pub query: &'static str,
    /// What it answers when all is well, with status 200.
    pub answer: &'static str,
    /// The other status codes, and when.
    pub others: &'static [(u16, &'static str)],
    route: fn() -> MethodRouter<Shared>,
}

/// Why most pages cannot be answered.
const ASLEEP: (u16, &str) = (503, "the agent is starting, stopping or stuck");

/// All pages.
pub const PAGES: [Page; 7] = [
    Page {
        path: "/livez",
        query: "",
        answer: "`ok` or `starting`, as text: a restart would not help",
        others: &[(
            503,
            "the owner of the balancer, or the dataplane's thread, does not answer any more: restart the agent",
        )],
        route: || get(livez),
    },
    Page {
        path: "/healthz",
        query: "",
        answer: "the same as `/livez`, under its older name",
        others: &[(503, "as for `/livez`")],
        route: || get(livez),
    },
    Page {
        path: "/readyz",
        query: "",
        answer: "`ok`, as text: this node counts, and the kernel has its plan",
        others: &[(
            503,
            "what it waits for, as text: a start that is under way, or a dataplane that hangs; and what is wrong \
             meanwhile",
        )],
        route: || get(readyz),
    },
    Page {
        path: "/metrics",
        query: "",
        answer: "[metrics](metrics.md), as OpenMetrics text",
        others: &[ASLEEP],
        route: || get(metrics),
    },
    Page {
        path: "/v1/status",
        query: "",
        answer: "this agent, its Services and the other nodes: a [Status](#status)",
        others: &[ASLEEP],
        route: || get(status),
    },
    Page {
        path: "/v1/explain",
        query: "service=NAME",
        answer: "why each endpoint has its share: a list of [Explanations](#explanation), one for each port and \
                 family that the name fits",
        others: &[
            (400, "not one Service was named"),
            (404, "no Service has that name; the answer has the names there are"),
            ASLEEP,
        ],
        route: || get(explain),
    },
    Page {
        path: "/v1/config",
        query: "",
        answer: "the [configuration](configuration.md) in force, with every default; keys stay in their files",
        others: &[],
        route: || get(config),
    },
];

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Shared,
    stop: CancellationToken,
) -> Result<(), Error> {
    let router = PAGES.iter().fold(Router::new(), |router, page| router.route(page.path, (page.route)()));
    let metrics = shared.metrics.clone();
    let router = router.fallback(unknown).with_state(shared);
    callers::answer(listener, router, metrics, stop).await;
    Ok(())
}

/// Alive is an agent whose owner and dataplane answer, or that is still starting. What is not alive is worth a
/// restart.
async fn livez(State(shared): State<Shared>) -> Response {
    if let Some(silence) = shared.pulse.silence() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {silence}\n")).into_response();
    }
    if !shared.readiness.awaited().is_empty() {
        return "starting\n".into_response();
    }
    match ask(&shared, Question::Ping).await {
        Ok(()) => "ok\n".into_response(),
        Err(problem) => problem,
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let awaited = shared.readiness.awaited().into_iter().map(str::to_owned);
    let awaited: Vec<String> =
        awaited.chain(shared.pulse.silence().map(|silence| silence.to_string())).collect();
    if awaited.is_empty() {
        return "ok\n".into_response();
    }
    let first = format!("waiting for {}\n", awaited.join(", "));
    let waits = troubles(&shared).iter().fold(first, |told, what| told + "trouble: " + what + "\n");
    (StatusCode::SERVICE_UNAVAILABLE, waits).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let status: Status = match ask(&shared, Question::Status).await {
        Ok(status) => status,
        Err(problem) => return problem,
    };
    let health =
        EdgeHealth { discovery: shared.discovery.borrow().clone(), store: shared.store.borrow().clone() };
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, shared.metrics.render(&status, &health)).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    match ask(&shared, Question::Status).await {
        Ok(status) => Json(Status { troubles: troubles(&shared), ..status }).into_response(),
        Err(problem) => problem,
    }
}

/// What is wrong at the edges and being retried.
fn troubles(shared: &Shared) -> Vec<String> {
    let discovery = shared.discovery.borrow().last_error.as_deref().map(str::to_owned);
    let store = shared.store.borrow();
    let superseded = store.superseded_by.map(|address| {
        format!("a newer agent at {address} has this node's name, and this one is out of the mesh: stop one of them")
    });
    discovery.into_iter().chain(superseded).chain(store.troubles.iter().cloned()).collect()
}

#[derive(Deserialize)]
struct Which {
    service: Option<String>,
}

async fn explain(State(shared): State<Shared>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let Some(name) = which.ok().and_then(|Query(which)| which.service) else {
        return problem(StatusCode::BAD_REQUEST, "which Service? ask for /v1/explain?service=NAME".into());
    };
    match ask(&shared, |to| Question::Explain(name.clone(), to)).await {
        Ok(Ok(explanations)) => Json(explanations).into_response(),
        Ok(Err(names)) => {
            let known = names.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
            let what = match names.len() {
                0 => format!("there is no Service {name}: none is known at all; check the discovery"),
                n => format!("there is no Service {name}; there are {n}: {known}"),
            };
            problem(StatusCode::NOT_FOUND, what)
        }
        Err(problem) => problem,
    }
}

async fn config(State(shared): State<Shared>) -> Response {
    Json(&*shared.config).into_response()
}

async fn unknown() -> Response {
    let pages: Vec<String> = PAGES
        .iter()
        .map(|page| match page.query {
            "" => page.path.to_owned(),
            query => format!("{}?{query}", page.path),
        })
        .collect();
    problem(StatusCode::NOT_FOUND, format!("no such page; there are {}", pages.join(" ")))
}

/// Asks the owner; an owner that does not answer within two seconds is as good as dead.
async fn ask<T>(
    shared: &Shared,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, Response> {
    let (to, answer) = oneshot::channel();
    let asked = async {
        shared.questions.send(question(to)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(std::time::Duration::from_secs(2), asked).await {
        Ok(Some(answer)) => Ok(answer),
        _ => Err(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            match shared.readiness.awaited().as_slice() {
                [] => "the agent is stopping or stuck; see its log".into(),
                awaited => starting(awaited, &troubles(shared)),
            },
        )),
    }
}

/// Nothing but this tells what a start waits for, as long as there is no owner to ask.
fn starting(awaited: &[&str], troubles: &[String]) -> String {
    let why = if troubles.is_empty() { String::new() } else { format!(" ({})", troubles.join("; and ")) };
    format!("the agent is starting and waits for {}{why}; ask again", awaited.join(", "))
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;
    use std::time::Duration;

    use plimsoll_core::balancer::{self, Balancer, Event};
    use plimsoll_core::load::Counts;
    use plimsoll_core::plan::Plan;
    use plimsoll_core::service::{Here, NodeName, PolicyKind, ServiceChange};
    use plimsoll_core::{guard, policy, view};
    use plimsoll_dataplane::{Dataplane, Error as DataplaneError};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::adapters::dataplane::{self, Thread};
    use crate::clock::Clock;
    use crate::owner::{Owner, QUESTIONS};

    /// Where the dataplane's thread waits, as it would in the kernel.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Hangs {
        Applying,
        Counting,
    }

    /// Works until its gate closes, then hangs until the gate goes.
    struct Gated {
        hangs: Hangs,
        closed: blocking::Receiver<()>,
        gone: blocking::Receiver<()>,
    }

    impl Gated {
        fn pass(&self, at: Hangs) {
            if at == self.hangs && self.closed.try_recv().is_ok() {
                let _ = self.gone.recv();
            }
        }
    }

    impl Dataplane for Gated {
        fn read(&mut self) -> Result<Counts, DataplaneError> {
            self.pass(Hangs::Counting);
            Ok(Counts::default())
        }

        fn apply(&mut self, _: &Plan) -> Result<(), DataplaneError> {
            self.pass(Hangs::Applying);
            Ok(())
        }

        fn withdraw(&mut self) -> Result<(), DataplaneError> {
            Ok(())
        }
    }

    /// A running owner over a dataplane that can be made to hang.
    struct Scene {
        shared: Shared,
        close: blocking::Sender<()>,
        /// Lets a dataplane that hangs go on.
        gate: blocking::Sender<()>,
        stop: CancellationToken,
        owner: JoinHandle<Result<(), Error>>,
    }

    fn scene(hangs: Hangs) -> Scene {
        let interval = Duration::from_millis(20);
        let (node, lease) = (NodeName::new("n1"), 3 * interval);
        let parameters = balancer::Parameters {
            tick: interval,
            report_interval: interval,
            lease,
            policy: PolicyKind::default(),
            policies: policy::Parameters::default(),
            guard: guard::Parameters::default(),
            view: view::Parameters::default(),
        };
        let (close, closed) = blocking::channel();
        let (gate, gone) = blocking::channel();
        let (events, received) = mpsc::channel(64);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (plans, to_apply) = mpsc::channel(2);
        let metrics = Metrics::default();
        let thread =
            Thread { interval, lease, plans: to_apply, events: events.clone(), metrics: metrics.clone() };
        let build = move || Ok(Box::new(Gated { hangs, closed, gone }) as Box<dyn Dataplane>);
        let _ = dataplane::spawn(build, thread).unwrap();
        events.try_send(Event::Services(ServiceChange::All(Vec::new()))).unwrap();
        let readiness = Readiness::default();
        // Long enough that a busy machine does not look like one that hangs.
        let pulse = Pulse::with_patience(Duration::from_secs(2));
        let owner = Owner {
            balancer: Balancer::new(Here { node: node.clone(), zone: None }, parameters),
            node,
            clock: Clock::start(),
            // Nobody reads the reports: they find no room and are dropped.
            reports: mpsc::channel(1).0,
            plans,
            metrics: metrics.clone(),
            first_plan: Some(readiness.await_for("the first plan")),
            first_counts: Some(readiness.await_for("the first counts")),
            readiness: readiness.clone(),
            pulse: pulse.clone(),
            dataplane: "gated",
            store: "none",
            dry_run: false,
        };
        let shared = Shared {
            questions,
            readiness,
            pulse,
            metrics,
            discovery: watch::channel(plimsoll_discovery::Health::default()).1,
            store: watch::channel(plimsoll_store::Health::default()).1,
            config: Arc::default(),
        };
        let stop = CancellationToken::new();
        let owner = tokio::spawn(owner.run(received, asked, stop.clone()));
        Scene { shared, close, gate, stop, owner }
    }

    async fn text(response: Response) -> (StatusCode, String) {
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    impl Scene {
        async fn alive(&self) -> (StatusCode, String) {
            text(livez(State(self.shared.clone())).await).await
        }

        async fn ready(&self) -> (StatusCode, String) {
            text(readyz(State(self.shared.clone())).await).await
        }

        /// Asks until both probes say so.
        async fn until(&self, status: StatusCode) {
            let probed = async {
                while self.alive().await.0 != status || self.ready().await.0 != status {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), probed).await.expect("the probes follow");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_an_agent_from_starting_is_told() {
        let (questions, _asked) = mpsc::channel(QUESTIONS);
        let last_error = Some("Services: give its ClusterRole the verb `list`".into());
        let health = plimsoll_discovery::Health { last_error, ..plimsoll_discovery::Health::default() };
        let readiness = Readiness::default();
        let _first_look = readiness.await_for("discovery");
        let shared = Shared {
            questions,
            readiness,
            pulse: Pulse::with_patience(Duration::from_secs(2)),
            metrics: Metrics::default(),
            discovery: watch::channel(health).1,
            store: watch::channel(plimsoll_store::Health::default()).1,
            config: Arc::default(),
        };
        for answer in [status(State(shared.clone())).await, readyz(State(shared.clone())).await] {
            let (code, told) = text(answer).await;
            assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
            assert!(told.contains("waits for discovery") || told.contains("waiting for discovery"), "{told}");
            assert!(told.contains("give its ClusterRole the verb `list`"), "{told}");
        }
        let (code, told) = text(livez(State(shared)).await).await;
        assert_eq!((code, told.as_str()), (StatusCode::OK, "starting\n"));
    }

    #[tokio::test]
    async fn a_dataplane_that_hangs_is_not_alive_until_it_goes_on() {
        for hangs in [Hangs::Applying, Hangs::Counting] {
            let scene = scene(hangs);
            scene.until(StatusCode::OK).await;
            scene.close.send(()).unwrap();
            scene.until(StatusCode::SERVICE_UNAVAILABLE).await;
            let (told, waits) = (scene.alive().await.1, scene.ready().await.1);
            assert!(told.starts_with("stuck: the dataplane's thread") && told.contains("restart"), "{told}");
            assert!(waits.starts_with("waiting for the dataplane's thread"), "{waits}");
            // The owner still answers, and says the same.
            let told: Status = ask(&scene.shared, Question::Status).await.ok().unwrap();
            assert!(!told.ready && told.waiting_for[0].contains("dataplane's thread"), "{told:?}");
            assert!(told.counts_age_seconds > Some(2.0), "{told:?}");
            drop(scene.gate);
            let Scene { shared, stop, owner, .. } = scene;
            let again = async {
                while shared.pulse.silence().is_some() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), again).await.expect("it goes on");
            stop.cancel();
            owner.await.unwrap().unwrap();
        }
    }
}
