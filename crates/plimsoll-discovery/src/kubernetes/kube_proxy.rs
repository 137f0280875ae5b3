//! Asks kube-proxy on this node what it does.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::facts::Facts;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any configuration has.
const MOST_BYTES: usize = 1 << 20;

/// Host and port of a URL, if it is one that can be asked.
pub(super) fn place(url: &str) -> Option<(String, u16)> {
    let url: Uri = url.parse().ok()?;
    let is_plain =
        url.scheme_str() == Some("http") && matches!(url.path(), "" | "/") && url.query().is_none();
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    is_plain.then_some((host, url.port_u16()?))
}

/// Asks once. An error says what failed.
pub(super) async fn ask(url: &str) -> Result<Facts, String> {
    let (host, port) = place(url).ok_or_else(|| format!("{url} is no place that can be asked"))?;
    let get = async |path: &str| {
        let asked = tokio::time::timeout(PATIENCE, get(&host, port, path)).await;
        let answer = asked.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs())).flatten();
        answer.map_err(|error| format!("{}{path}: {error}", url.trim_end_matches('/')))
    };
    let mode = get("/proxyMode").await?;
    let configuration = get("/configz").await?;
    Facts::read(&mode, &configuration).map_err(|what| format!("{url}: {what}"))
}

async fn get(host: &str, port: u16, path: &str) -> Result<String, String> {
    let socket = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = connected.map_err(|error| error.to_string())?;
    let request = Request::get(path).header(HOST, format!("{host}:{port}")).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        // The end of the exchange ends the connection.
        drop(sender);
        match status {
            StatusCode::OK => Ok(String::from_utf8_lossy(&body).into_owned()),
            other => Err(format!("it answers {other}")),
        }
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
