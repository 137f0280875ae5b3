//! Asks a running agent through its HTTP API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use plimsoll_api::Problem;
use serde::de::DeserializeOwned;

/// Where the agent answers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Agent {
    /// Address and port of the agent's HTTP API
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9653", env = "PLIMSOLL_AGENT")]
    pub(crate) agent: String,
}

/// An answer longer than this is not an agent's.
const LONGEST_ANSWER: usize = 64 << 20;
/// An agent answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

impl Agent {
    /// Gets `path` and reads the answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.fetch(path)).await.with_context(|| {
                format!("the agent at {} did not answer within 5 s; see its log", self.agent)
            })?
        })
    }

    async fn fetch<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let stream = tokio::net::TcpStream::connect(&self.agent).await.with_context(|| {
            format!("no agent answers at {}; is it running? name another address with --agent", self.agent)
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get(path).header(HOST, &self.agent).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!("the answer of {} broke off: {error}", self.agent))?
            .to_bytes();
        connection.abort();
        if !status.is_success() {
            match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => bail!("{}", problem.error),
                Err(_) => bail!("{} answered {status}; is it a Plimsoll agent?", self.agent),
            }
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("{} answered something else than an agent would", self.agent))
    }
}

/// Writes a word so that it can stand in a query.
pub(crate) fn query(word: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    word.bytes()
        .map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
