//! The HTTP API: health, metrics, status, explanations, the effective configuration. Reads only.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use plimsoll_api::{Problem, Status};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::metrics::{EdgeHealth, Metrics};
use crate::owner::Question;
use crate::ready::Readiness;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) discovery: watch::Receiver<plimsoll_discovery::Health>,
    pub(crate) store: watch::Receiver<plimsoll_store::Health>,
    pub(crate) config: Arc<serde_json::Value>,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Shared,
    stop: CancellationToken,
) -> Result<(), Error> {
    let router = Router::new()
        .route("/healthz", get(livez))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explain))
        .route("/v1/config", get(config))
        .fallback(unknown)
        .with_state(shared);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.map_err(Error::Api)
}

/// Alive is an agent whose owner answers, or that is still starting.
async fn livez(State(shared): State<Shared>) -> Response {
    if !shared.readiness.awaited().is_empty() {
        return "starting\n".into_response();
    }
    match ask(&shared, Question::Ping).await {
        Ok(()) => "ok\n".into_response(),
        Err(problem) => problem,
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let awaited = shared.readiness.awaited();
    if awaited.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", awaited.join(", "))).into_response()
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

async fn explain(State(shared): State<Shared>, Query(which): Query<Which>) -> Response {
    let Some(name) = which.service else {
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
    let what = "no such page; there are /healthz /livez /readyz /metrics /v1/status /v1/explain?service=NAME /v1/config";
    problem(StatusCode::NOT_FOUND, what.into())
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
            "the agent is stopping or stuck; see its log".into(),
        )),
    }
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}
