//! Who calls the HTTP API, within bounds: whoever reaches the port may be anybody, and the probes share it.
//!
//! A connection is for one request and has one deadline for all of it: to send the request, to be answered, to read the
//! answer. So nothing idle stays, and there is one rule instead of three. Only so many are open at a time; when one
//! more comes, the longest open makes room. An honest caller is done within milliseconds and rarely the longest open;
//! whoever holds connections open loses them to the next caller instead of keeping it out.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Kind, Metrics};

/// Connections at a time. Each holds its answer until it is read: with thousands of Services some 2 MB.
pub const MOST: usize = 64;
/// For one request and its answer: as long as Prometheus waits.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// What a connection buffers of a request's head, and of an answer that is under way.
const BUFFER: usize = 16 << 10;

/// Answers until `stop`; then nobody is let in any more, and those who are in are answered.
pub(crate) async fn answer(
    mut listener: TcpListener,
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let cut = |kind| metrics.cut_connections.get_or_create(&Kind { kind }).inc();
    let note = |ended: Result<bool, JoinError>| {
        if ended.is_ok_and(|in_time| !in_time) {
            cut("late");
        }
    };
    let mut open = JoinSet::new();
    let mut longest_open_first = VecDeque::new();
    loop {
        let caller = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = open.join_next() => {
                note(ended);
                continue;
            }
            (caller, _) = Listener::accept(&mut listener) => caller,
        };
        while let Some(ended) = open.try_join_next() {
            note(ended);
        }
        longest_open_first.retain(|connection: &AbortHandle| !connection.is_finished());
        if open.len() == MOST
            && let Some(longest_open) = longest_open_first.pop_front()
        {
            longest_open.abort();
            cut("crowded");
            // Now one ends at once, so that there are never more.
            open.join_next().await.map(note);
        }
        longest_open_first.push_back(open.spawn(one(caller, router.clone())));
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Answers one request; whether that came about in time.
async fn one(caller: TcpStream, router: Router) -> bool {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(BUFFER);
    let answered = http.serve_connection(TokioIo::new(caller), TowerToHyperService::new(router));
    // What else may go wrong is the caller's affair: it went away, or does not speak HTTP.
    tokio::time::timeout(DEADLINE, answered).await.is_ok()
}

#[cfg(test)]
mod tests;
