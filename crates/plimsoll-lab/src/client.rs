//! Clients with an arrival process of their own: they open connections when those are due, whether or not earlier
//! ones have ended, and count exactly what became of each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::namespace::Namespace;
use crate::poll::{Poll, Waker, raise_descriptor_limit};
use crate::random::Random;
use crate::server::Close;

/// One connection to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When, after the start.
    pub at: Duration,
    /// Where to.
    pub to: SocketAddr,
    /// For how long the server is asked to keep it; `None`: until the client is told to stop.
    pub service: Option<Duration>,
}

/// Poisson arrivals at this rate for so long, each with a service time drawn by `service`. The same seed gives the
/// same arrivals.
pub fn poisson(
    seed: u64,
    per_second: f64,
    length: Duration,
    to: SocketAddr,
    mut service: impl FnMut(&mut Random) -> Duration + Send + 'static,
) -> impl Iterator<Item = Arrival> + Send + 'static {
    let mut random = Random::new(seed);
    let mut at = Duration::ZERO;
    std::iter::from_fn(move || {
        at += random.exponential(Duration::from_secs_f64(1.0 / per_second.max(1e-6)));
        let service = service(&mut random);
        (at < length).then_some(Arrival { at, to, service: Some(service) })
    })
}

/// This many connections at once, held until the client is told to stop.
pub fn held(count: usize, to: SocketAddr) -> impl Iterator<Item = Arrival> + Send + 'static {
    std::iter::repeat_n(Arrival { at: Duration::ZERO, to, service: None }, count)
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Served as asked, or held until the client stopped.
    Served,
    /// RST, or the word that nobody listens, instead of a connection.
    Refused,
    /// No connection in time, or no way there.
    Unanswered,
    /// RST while it was open.
    Reset,
    /// The server closed before it had answered.
    Cut,
    /// The kernel had no socket, route or port for it.
    Impossible,
}

/// What became of one connection.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which endpoint greeted, if any did.
    pub endpoint: Option<Arc<str>>,
    /// When it was begun, after the start.
    pub begun: Duration,
    /// When it had ended, after the start.
    pub ended: Duration,
    /// How.
    pub end: End,
}

/// What bounds a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arrivals beyond this many open connections fail as [`End::Impossible`].
    pub open: usize,
    /// How long to wait for a connection.
    pub connect: Duration,
    /// When everything ends, after the start.
    pub length: Duration,
    /// How the client closes.
    pub close: Close,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            open: 5_000,
            connect: Duration::from_secs(5),
            length: Duration::from_mins(2),
            close: Close::Finish,
        }
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    connecting: AtomicU64,
    opened: AtomicU64,
    open: AtomicU64,
    failed: AtomicU64,
    by_endpoint: Mutex<BTreeMap<Arc<str>, u64>>,
}

/// A client on a thread of its own.
pub struct Client {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<Vec<Outcome>>>,
}

impl Client {
    /// Opens these connections, in order of their times, from inside the namespace.
    pub fn start(
        namespace: &Namespace,
        arrivals: impl Iterator<Item = Arrival> + Send + 'static,
        limits: Limits,
    ) -> io::Result<Client> {
        raise_descriptor_limit();
        let shared = Arc::new(Shared::default());
        let (poll, waker) = Poll::new()?;
        let thread = {
            let shared = Arc::clone(&shared);
            namespace.spawn("client", move || {
                Calling {
                    poll,
                    shared,
                    limits,
                    start: Instant::now(),
                    calls: HashMap::new(),
                    timeouts: BinaryHeap::new(),
                    outcomes: Vec::new(),
                    next_token: 0,
                }
                .run(arrivals)
            })?
        };
        Ok(Client { shared, waker, thread: Some(thread) })
    }

    /// Connections established so far.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Connections that did not end as [`End::Served`].
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// Connections on their way.
    pub fn connecting(&self) -> u64 {
        self.shared.connecting.load(Ordering::SeqCst)
    }

    /// Connections greeted so far, by the endpoint's name.
    pub fn by_endpoint(&self) -> BTreeMap<Arc<str>, u64> {
        self.shared.by_endpoint.lock().expect("nobody panics while counting").clone()
    }

    /// Waits until all arrivals have come and gone, or the time is up.
    pub fn join(mut self) -> Vec<Outcome> {
        self.thread.take().map(|thread| thread.join().expect("a client does not panic")).unwrap_or_default()
    }

    /// Ends what is open and takes no more arrivals.
    pub fn stop(self) -> Vec<Outcome> {
        self.signal();
        self.join()
    }

    fn signal(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Call {
    stream: TcpStream,
    begun: Duration,
    service: Option<Duration>,
    connected: bool,
    received: Vec<u8>,
    endpoint: Option<Arc<str>>,
}

struct Calling {
    poll: Poll,
    shared: Arc<Shared>,
    limits: Limits,
    start: Instant,
    calls: HashMap<u64, Call>,
    timeouts: BinaryHeap<Reverse<(Duration, u64)>>,
    outcomes: Vec<Outcome>,
    next_token: u64,
}

impl Calling {
    fn run(mut self, arrivals: impl Iterator<Item = Arrival>) -> Vec<Outcome> {
        let mut arrivals = arrivals.peekable();
        let mut ready = Vec::new();
        loop {
            let now = self.start.elapsed();
            let stopped = self.shared.stop.load(Ordering::SeqCst) || now >= self.limits.length;
            if stopped || (arrivals.peek().is_none() && self.calls.is_empty()) {
                break;
            }
            // Bounded, so that established connections are served while late arrivals catch up.
            for _ in 0..64 {
                match arrivals.peek() {
                    Some(arrival) if arrival.at <= now => {
                        let arrival = *arrival;
                        arrivals.next();
                        self.call(arrival);
                    }
                    _ => break,
                }
            }
            let next_arrival = arrivals.peek().map(|arrival| arrival.at);
            let next_timeout = self.timeouts.peek().map(|Reverse((at, _))| *at);
            let next = next_arrival.into_iter().chain(next_timeout).min().unwrap_or(self.limits.length);
            let wait = next.min(self.limits.length).saturating_sub(self.start.elapsed());
            if self.poll.wait(wait, &mut ready).is_err() {
                break;
            }
            for token in &ready {
                self.serve(*token);
            }
            self.time_out();
        }
        let mut left: Vec<u64> = self.calls.keys().copied().collect();
        left.sort_unstable();
        for token in left {
            let end = if self.calls[&token].connected { End::Served } else { End::Unanswered };
            self.end(token, end);
        }
        self.outcomes
    }

    fn call(&mut self, arrival: Arrival) {
        let begun = self.start.elapsed();
        let stream = if self.calls.len() < self.limits.open {
            connect(arrival.to)
        } else {
            Err(io::ErrorKind::Other.into())
        };
        self.next_token += 1;
        let token = self.next_token;
        match stream {
            Ok(stream) if self.poll.add(&stream, token, EventFlags::OUT).is_ok() => {
                self.shared.connecting.fetch_add(1, Ordering::SeqCst);
                self.timeouts.push(Reverse((begun + self.limits.connect, token)));
                let (service, received) = (arrival.service, Vec::new());
                self.calls.insert(
                    token,
                    Call { stream, begun, service, connected: false, received, endpoint: None },
                );
            }
            stream => {
                self.shared.failed.fetch_add(1, Ordering::SeqCst);
                let refused = stream.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                let end = if refused { End::Refused } else { End::Impossible };
                self.outcomes.push(Outcome { endpoint: None, begun, ended: begun, end });
            }
        }
    }

    fn serve(&mut self, token: u64) {
        let Some(call) = self.calls.get_mut(&token) else { return };
        if !call.connected {
            match rustix::net::sockopt::socket_error(&call.stream) {
                Ok(Ok(())) => {}
                Ok(Err(Errno::CONNREFUSED)) => return self.end(token, End::Refused),
                _ => return self.end(token, End::Unanswered),
            }
            call.connected = true;
            self.shared.connecting.fetch_sub(1, Ordering::SeqCst);
            self.shared.opened.fetch_add(1, Ordering::SeqCst);
            self.shared.open.fetch_add(1, Ordering::SeqCst);
            if self.poll.change(&call.stream, token, EventFlags::IN).is_err() {
                return self.end(token, End::Impossible);
            }
        }
        let mut buffer = [0_u8; 512];
        match call.stream.read(&mut buffer) {
            Ok(0) => self.end(token, End::Cut),
            Ok(length) => {
                call.received.extend_from_slice(&buffer[..length]);
                self.listen(token);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.end(token, End::Reset),
        }
    }

    fn listen(&mut self, token: u64) {
        let Some(call) = self.calls.get_mut(&token) else { return };
        if call.endpoint.is_none() {
            let length = usize::from(call.received[0]);
            if call.received.len() <= length {
                return;
            }
            let name: Arc<str> = String::from_utf8_lossy(&call.received[1..=length]).into();
            call.received.drain(..=length);
            let mut by_endpoint = self.shared.by_endpoint.lock().expect("nobody panics while counting");
            *by_endpoint.entry(Arc::clone(&name)).or_default() += 1;
            drop(by_endpoint);
            call.endpoint = Some(name);
            if let Some(service) = call.service {
                let micros = u32::try_from(service.as_micros()).unwrap_or(u32::MAX - 1);
                if call.stream.write_all(&micros.to_be_bytes()).is_err() {
                    return self.end(token, End::Reset);
                }
            }
        }
        if !call.received.is_empty() {
            self.end(token, End::Served);
        }
    }

    fn end(&mut self, token: u64, end: End) {
        let Some(call) = self.calls.remove(&token) else { return };
        if call.connected {
            self.shared.open.fetch_sub(1, Ordering::SeqCst);
        } else {
            self.shared.connecting.fetch_sub(1, Ordering::SeqCst);
        }
        if end != End::Served {
            self.shared.failed.fetch_add(1, Ordering::SeqCst);
        }
        self.limits.close.close(call.stream);
        let ended = self.start.elapsed();
        self.outcomes.push(Outcome { endpoint: call.endpoint, begun: call.begun, ended, end });
    }

    fn time_out(&mut self) {
        let now = self.start.elapsed();
        while let Some(Reverse((at, token))) = self.timeouts.peek().copied() {
            if at > now {
                break;
            }
            self.timeouts.pop();
            if self.calls.get(&token).is_some_and(|call| !call.connected) {
                self.end(token, End::Unanswered);
            }
        }
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno.into()),
    }
}
