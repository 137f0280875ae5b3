//! Servers that count exactly what they accept, and misbehave on request.
//!
//! The protocol, over TCP: the server greets with its name (one byte length, then the name). A client may then send
//! requests of four bytes, a service time in microseconds (big endian); each is answered by one byte once that time,
//! multiplied by the server's current factor, has passed. `u32::MAX` is never answered. Over UDP each datagram is
//! answered by the name. A server that tells its clients' addresses adds the client's address, as it sees it, to its
//! name, after a space.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use crate::namespace::Namespace;
use crate::poll::{Poll, WOKEN, Waker, raise_descriptor_limit};

/// What a server does with connections it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Behaviour {
    /// Greets and answers.
    Serve,
    /// Closes at once (FIN).
    CloseAtOnce,
    /// Resets at once (RST).
    ResetAtOnce,
    /// Accepts and says nothing.
    Silent,
    /// Does not listen: the kernel answers with RST. Open connections stay.
    Refuse,
}

/// How a connection is ended from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// By FIN.
    Finish,
    /// By RST.
    Reset,
}

impl Close {
    /// Ends the connection.
    pub fn close(self, stream: TcpStream) {
        if self == Close::Reset {
            // Lingering for no time means RST; a socket that is dead already does not linger.
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
        drop(stream);
    }
}

#[derive(Debug)]
struct Shared {
    accepted: AtomicU64,
    open: AtomicU64,
    datagrams: AtomicU64,
    factor: AtomicU64,
    behaviour: AtomicU8,
    orders: Mutex<Vec<Order>>,
}

#[derive(Debug)]
enum Order {
    Stop,
    Behave,
    End { at_most: usize, how: Close },
}

/// A server on a thread of its own; it ends, with its connections, when this is dropped.
pub struct Server {
    name: String,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens inside the namespace at all these addresses, by TCP and by UDP.
    pub fn start(namespace: &Namespace, name: &str, addresses: &[SocketAddr]) -> io::Result<Server> {
        Server::start_with(namespace, Greeting { name: name.into(), tells_address: false }, addresses)
    }

    /// The same, for a server that tells each client the address that it sees it at.
    pub fn start_telling(namespace: &Namespace, name: &str, addresses: &[SocketAddr]) -> io::Result<Server> {
        Server::start_with(namespace, Greeting { name: name.into(), tells_address: true }, addresses)
    }

    fn start_with(namespace: &Namespace, greeting: Greeting, addresses: &[SocketAddr]) -> io::Result<Server> {
        raise_descriptor_limit();
        let name = greeting.name.clone();
        let shared = Arc::new(Shared {
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            factor: AtomicU64::new(1.0_f64.to_bits()),
            behaviour: AtomicU8::new(Behaviour::Serve as u8),
            orders: Mutex::default(),
        });
        let (poll, waker) = Poll::new()?;
        let (started, start) = mpsc::channel();
        let thread = {
            let (shared, addresses) = (Arc::clone(&shared), addresses.to_vec());
            namespace.spawn(&name, move || match Serving::new(poll, shared, greeting, addresses) {
                Ok(mut serving) => {
                    let _ = started.send(Ok(()));
                    serving.run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })?
        };
        start.recv().unwrap_or_else(|_| Err(io::Error::other("the server's thread ended at once")))?;
        Ok(Server { name, shared, waker, thread: Some(thread) })
    }

    /// The name it greets with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// TCP connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// TCP connections of which neither side has closed its half.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Datagrams received so far; each is answered.
    pub fn datagrams(&self) -> u64 {
        self.shared.datagrams.load(Ordering::SeqCst)
    }

    /// From now on service takes this many times as long as asked for; requests already in service as well.
    pub fn slow(&self, factor: f64) {
        self.shared.factor.store(factor.to_bits(), Ordering::SeqCst);
    }

    /// From now on behaves like this towards new connections.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.behaviour.store(behaviour as u8, Ordering::SeqCst);
        self.order(Order::Behave);
    }

    /// Ends that many of the open connections from its side.
    pub fn end(&self, at_most: usize, how: Close) {
        self.order(Order::End { at_most, how });
    }

    fn order(&self, order: Order) {
        self.shared.orders.lock().expect("nobody panics while giving orders").push(order);
        self.waker.wake();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a client is told first.
struct Greeting {
    name: String,
    tells_address: bool,
}

impl Greeting {
    fn to(&self, client: SocketAddr) -> String {
        if self.tells_address { format!("{} {}", self.name, client.ip()) } else { self.name.clone() }
    }
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
}

enum Socket {
    Listener(TcpListener),
    Datagrams(UdpSocket),
}

struct Serving {
    poll: Poll,
    shared: Arc<Shared>,
    greeting: Greeting,
    addresses: Vec<SocketAddr>,
    sockets: HashMap<u64, Socket>,
    connections: HashMap<u64, Connection>,
    next_token: u64,
    /// When which request was to be answered if the factor were 1, counted in service time.
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    /// Service time passed so far: runs slower than the clock by the factor.
    served: Duration,
    clock: Instant,
}

impl Serving {
    fn new(
        poll: Poll,
        shared: Arc<Shared>,
        greeting: Greeting,
        addresses: Vec<SocketAddr>,
    ) -> io::Result<Serving> {
        if greeting.name.len() > 200 {
            return Err(io::Error::other("a name has at most 200 bytes"));
        }
        let mut serving = Serving {
            poll,
            shared,
            greeting,
            addresses,
            sockets: HashMap::new(),
            connections: HashMap::new(),
            next_token: 0,
            due: BinaryHeap::new(),
            served: Duration::ZERO,
            clock: Instant::now(),
        };
        for address in serving.addresses.clone() {
            let datagrams = UdpSocket::bind(address)?;
            datagrams.set_nonblocking(true)?;
            let token = serving.token();
            serving.poll.add(&datagrams, token, EventFlags::IN)?;
            serving.sockets.insert(token, Socket::Datagrams(datagrams));
        }
        serving.listen()?;
        Ok(serving)
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn listen(&mut self) -> io::Result<()> {
        for address in self.addresses.clone() {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            // The standard library's backlog of 128 would drop bursts; listening again only changes it.
            rustix::net::listen(&listener, 4096)?;
            let token = self.token();
            self.poll.add(&listener, token, EventFlags::IN)?;
            self.sockets.insert(token, Socket::Listener(listener));
        }
        Ok(())
    }

    fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            let wait = self.time_to_next_answer();
            if self.poll.wait(wait, &mut ready).is_err() {
                return;
            }
            for token in &ready {
                if *token == WOKEN {
                    if !self.follow_orders() {
                        return;
                    }
                } else if self.connections.contains_key(token) {
                    self.read(*token);
                } else {
                    self.take(*token);
                }
            }
            self.answer();
        }
    }

    fn follow_orders(&mut self) -> bool {
        let orders =
            std::mem::take(&mut *self.shared.orders.lock().expect("nobody panics while giving orders"));
        for order in orders {
            match order {
                Order::Stop => return false,
                Order::Behave => {
                    let listening = self.sockets.values().any(|s| matches!(s, Socket::Listener(_)));
                    let refuse = self.behaviour() == Behaviour::Refuse as u8;
                    if refuse && listening {
                        self.sockets.retain(|_, socket| !matches!(socket, Socket::Listener(_)));
                    } else if !refuse && !listening && self.listen().is_err() {
                        return false;
                    }
                }
                Order::End { at_most, how } => {
                    let mut tokens: Vec<u64> = self.connections.keys().copied().collect();
                    tokens.sort_unstable();
                    for token in tokens.into_iter().take(at_most) {
                        self.end(token, how);
                    }
                }
            }
        }
        true
    }

    fn behaviour(&self) -> u8 {
        self.shared.behaviour.load(Ordering::SeqCst)
    }

    fn take(&mut self, token: u64) {
        match self.sockets.get(&token) {
            Some(Socket::Listener(listener)) => {
                let mut accepted = Vec::new();
                // Bounded, so that answers are not late while connections pour in.
                while accepted.len() < 256 {
                    let Ok(connection) = listener.accept() else { break };
                    accepted.push(connection);
                }
                for (stream, client) in accepted {
                    self.accept(stream, client);
                }
            }
            Some(Socket::Datagrams(socket)) => {
                let mut buffer = [0_u8; 1500];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    // Counted first: whoever has the answer finds it counted.
                    self.shared.datagrams.fetch_add(1, Ordering::SeqCst);
                    let _ = socket.send_to(self.greeting.to(from).as_bytes(), from);
                }
            }
            None => {}
        }
    }

    fn accept(&mut self, mut stream: TcpStream, client: SocketAddr) {
        self.shared.accepted.fetch_add(1, Ordering::SeqCst);
        let behaviour = self.behaviour();
        if behaviour == Behaviour::CloseAtOnce as u8 {
            return Close::Finish.close(stream);
        }
        if behaviour == Behaviour::ResetAtOnce as u8 {
            return Close::Reset.close(stream);
        }
        // Counted first: whoever is greeted finds the connection counted.
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        let greeting = self.greeting.to(client);
        let mut bytes = vec![greeting.len() as u8];
        bytes.extend_from_slice(greeting.as_bytes());
        let ready = stream.set_nonblocking(true).is_ok()
            && (behaviour == Behaviour::Silent as u8 || stream.write_all(&bytes).is_ok());
        let token = self.token();
        if ready && self.poll.add(&stream, token, EventFlags::IN).is_ok() {
            self.connections.insert(token, Connection { stream, request: Vec::new() });
        } else {
            self.shared.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn read(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let mut buffer = [0_u8; 256];
        match connection.stream.read(&mut buffer) {
            Ok(0) => self.end(token, Close::Finish),
            Ok(length) => {
                connection.request.extend_from_slice(&buffer[..length]);
                let mut times = Vec::new();
                while connection.request.len() >= 4 {
                    let rest = connection.request.split_off(4);
                    let request = std::mem::replace(&mut connection.request, rest);
                    times.push(u32::from_be_bytes(request.try_into().expect("it was split at four bytes")));
                }
                self.tick();
                if self.behaviour() != Behaviour::Silent as u8 {
                    for time in times.into_iter().filter(|time| *time != u32::MAX) {
                        self.due.push(Reverse((self.served + Duration::from_micros(time.into()), token)));
                    }
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.end(token, Close::Finish),
        }
    }

    fn end(&mut self, token: u64, how: Close) {
        if let Some(connection) = self.connections.remove(&token) {
            how.close(connection.stream);
            self.shared.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn factor(&self) -> f64 {
        f64::from_bits(self.shared.factor.load(Ordering::SeqCst)).clamp(1e-3, 1e6)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.served += (now - self.clock).div_f64(self.factor());
        self.clock = now;
    }

    fn time_to_next_answer(&mut self) -> Duration {
        // A change of the factor is noticed within this time.
        let idle = Duration::from_millis(100);
        self.tick();
        match self.due.peek() {
            Some(Reverse((due, _))) => due.saturating_sub(self.served).mul_f64(self.factor()).min(idle),
            None => idle,
        }
    }

    fn answer(&mut self) {
        self.tick();
        while let Some(Reverse((due, token))) = self.due.peek().copied() {
            if due > self.served {
                break;
            }
            self.due.pop();
            if let Some(connection) = self.connections.get_mut(&token)
                && connection.stream.write_all(b".").is_err()
            {
                self.end(token, Close::Finish);
            }
        }
    }
}
