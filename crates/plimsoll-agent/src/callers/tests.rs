//! Real sockets: callers that hold their connections open, and what it does to others.

use std::net::SocketAddr;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;

/// Half of a request, and what is missing of it.
const HALF: &[u8] = b"GET /livez HTTP/1.1\r\nHost: agent\r\n";
const REST: &[u8] = b"\r\n";
/// More than the sockets' buffers take.
const LARGE: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
    answering: JoinHandle<()>,
}

impl Scene {
    async fn begin() -> Scene {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, metrics, stop) =
            (listener.local_addr().unwrap(), Metrics::default(), CancellationToken::new());
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/large", get(async || vec![b'-'; LARGE]));
        let answering = tokio::spawn(answer(listener, router, metrics.clone(), stop.clone()));
        Scene { address, metrics, stop, answering }
    }

    async fn send(&self, what: &[u8]) -> TcpStream {
        let mut caller = TcpStream::connect(self.address).await.unwrap();
        caller.write_all(what).await.unwrap();
        caller
    }

    fn cut(&self, kind: &'static str) -> u64 {
        self.metrics.cut_connections.get_or_create(&Kind { kind }).get()
    }
}

/// Everything until the connection ends, however it ends.
async fn read(mut caller: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, caller.read_to_end(&mut all)).await;
    let _ = ended.expect("the connection ends");
    all
}

/// Looks again and again, and fails if `what` does not come about in time.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect(what);
}

/// Whether the agent has not ended the connection.
fn is_open(caller: &TcpStream) -> bool {
    caller.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn a_crowd_of_half_sent_requests_keeps_no_probe_out() {
    let scene = Scene::begin().await;
    let mut held = Vec::new();
    for _ in 0..5 * MOST {
        held.push(scene.send(HALF).await);
    }
    let probe = scene.send(&[HALF, REST].concat()).await;
    let answer = String::from_utf8(read(probe).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"), "{answer}");
    let open = || held.iter().filter(|caller| is_open(caller)).count();
    eventually("the others are cut", async || open() <= MOST).await;
    let open = open();
    let cut = scene.cut("crowded") + scene.cut("late");
    assert!(cut >= (held.len() - open) as u64, "{cut} were counted, and {open} are open");
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_is_cut() {
    let scene = Scene::begin().await;
    assert_eq!(read(scene.send(HALF).await).await, b"");
    assert_eq!(scene.cut("late"), 1);
    // This one is answered, and does not read.
    let reads_nothing = scene.send(b"GET /large HTTP/1.1\r\nHost: agent\r\n\r\n").await;
    eventually("it is cut", async || scene.cut("late") >= 2).await;
    assert!(read(reads_nothing).await.len() < LARGE);
    assert_eq!(scene.cut("crowded"), 0);
}

#[tokio::test]
async fn who_is_in_when_it_stops_is_answered() {
    let scene = Scene::begin().await;
    let mut in_time = scene.send(HALF).await;
    // Connections are taken in order: once this one is answered the first is in.
    assert!(read(scene.send(&[HALF, REST].concat()).await).await.ends_with(b"ok\n"));
    scene.stop.cancel();
    eventually("nobody is let in any more", async || TcpStream::connect(scene.address).await.is_err()).await;
    in_time.write_all(REST).await.unwrap();
    assert!(read(in_time).await.ends_with(b"ok\n"));
    tokio::time::timeout(PATIENCE, scene.answering).await.expect("it ends").unwrap();
}
