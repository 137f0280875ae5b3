//! Asks a running agent through its HTTP API: at an address, or in a cluster through the API server.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use plimsoll_api::Problem;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use crate::forward::{Found, Place};

/// The agent of this host.
const HERE: &str = "127.0.0.1:9653";

/// Where the agent answers.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Agent {
    /// Address and port of the agent's HTTP API. Default: 127.0.0.1:9653; with `kubectl plimsoll`, or with an option below,
    /// an agent of the cluster
    #[arg(long, value_name = "HOST:PORT", env = "PLIMSOLL_AGENT")]
    agent: Option<String>,
    #[command(flatten)]
    place: Place,
    #[arg(skip)]
    line: Line,
}

/// What is kept from one question to the next: whoever looks again and again does not look for the agent again.
#[derive(Clone, Default)]
struct Line(Rc<RefCell<Option<Kept>>>);

struct Kept {
    runtime: Runtime,
    found: Option<Found>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

/// An answer longer than this is not an agent's.
const LONGEST_ANSWER: usize = 64 << 20;
/// An agent answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// An API server far away takes longer, and may have to ask others.
const PATIENCE_WITH_CLUSTER: Duration = Duration::from_secs(30);

/// Whether kubectl started this, or somebody in the same way.
pub(crate) fn is_plugin() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl-plimsoll"))
}

impl Agent {
    /// The one of this host.
    pub(crate) fn here() -> Agent {
        Agent { agent: Some(HERE.to_owned()), ..Agent::default() }
    }

    /// The one at this address.
    pub(crate) fn at(address: SocketAddr) -> Agent {
        Agent { agent: Some(address.to_string()), ..Agent::default() }
    }

    /// Gets `path` and reads the answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let mut line = self.line.0.borrow_mut();
        let Kept { runtime, found } = match &mut *line {
            Some(kept) => kept,
            none => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                none.insert(Kept { runtime, found: None })
            }
        };
        if self.is_here() {
            let address = self.agent.as_deref().unwrap_or(HERE);
            return runtime.block_on(within(PATIENCE, address, fetch_here(address, path)));
        }
        let answer =
            runtime.block_on(within(PATIENCE_WITH_CLUSTER, "the cluster", self.fetch_there(found, path)));
        if answer.is_err() {
            // Its Pod may be another one by now.
            *found = None;
        }
        answer
    }

    /// Whether an address is asked, and not a cluster.
    fn is_here(&self) -> bool {
        self.agent.is_some() || !(is_plugin() || self.place.is_given())
    }

    async fn fetch_there<T: DeserializeOwned>(
        &self,
        known: &mut Option<Found>,
        path: &str,
    ) -> anyhow::Result<T> {
        let found = match known {
            Some(found) => found,
            None => known.insert(self.place.find().await?),
        };
        let name = found.shown();
        let (stream, error) = found.connect().await?;
        let answer = fetch(stream, "localhost", &name, path).await;
        let Err(failed) = answer else { return answer };
        // What the kubelet says of it, if it says anything.
        match tokio::time::timeout(Duration::from_millis(500), error).await {
            Ok(Some(why)) => Err(failed.context(format!("{name} cannot be asked: {}", why.trim()))),
            _ => Err(failed),
        }
    }
}

async fn within<T>(
    patience: Duration,
    whom: &str,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(patience, answer).await.with_context(|| {
        format!("{whom} did not answer within {} s; see the agent's log", patience.as_secs())
    })?
}

async fn fetch_here<T: DeserializeOwned>(address: &str, path: &str) -> anyhow::Result<T> {
    let stream = tokio::net::TcpStream::connect(address).await.with_context(|| {
        format!(
            "no agent answers at {address}; is it running? name another address with --agent, or ask one in a cluster \
             with `kubectl plimsoll` or --node"
        )
    })?;
    fetch(stream, address, address, path).await
}

/// Asks over a connection; `whom` is for people.
async fn fetch<T: DeserializeOwned>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    whom: &str,
    path: &str,
) -> anyhow::Result<T> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path).header(HOST, host).body(Empty::<Bytes>::new())?;
    let response =
        sender.send_request(request).await.with_context(|| format!("{whom} ended the connection"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer of {whom} broke off: {error}"))?.to_bytes();
    connection.abort();
    if !status.is_success() {
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!("{}", problem.error),
            Err(_) => bail!("{whom} answered {status}; is it a Plimsoll agent?"),
        }
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("{whom} answered something else than an agent would"))
}

/// Writes a word so that it can stand in a query.
pub(crate) fn query(word: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    word.bytes()
        .map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
