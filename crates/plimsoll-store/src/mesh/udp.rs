//! The mesh's socket, clock and timers: the only place with I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use plimsoll_core::report::Report;
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;
use rand::TryRng;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use super::machine::{Input, Machine, Me, Output};
use super::membership::MAX_NAME;
use super::seal::{KeyRing, MAX_DATAGRAM};
use super::{Config, key, with_port};
use crate::{Error, Found, Health, Heard, Store};

/// How often the key file is looked at and the health is renewed.
const LOOK: Duration = Duration::from_secs(1);
/// How often peers are resolved, when all did and when some did not.
const RESOLVE: Duration = Duration::from_secs(10);
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
/// Room for the datagrams of a few hundred nodes that report at the same moment.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How many datagrams are taken before timers run.
const DRAIN: usize = 1024;
/// After this many errors in a row the socket is given up.
const MAX_ERRORS: u32 = 16;

/// A node's place in the mesh.
#[derive(Debug)]
pub struct Mesh {
    report: watch::Sender<Option<(Instant, Arc<Report>)>>,
    inbox: Arc<Inbox>,
    health: watch::Receiver<(Instant, Health)>,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
    address: SocketAddr,
    left: bool,
}

/// News that the agent has not fetched yet. Bounded by the number of nodes: of each there is one report, and a
/// coming or going cancels the one before.
#[derive(Debug, Default)]
struct Inbox {
    news: Mutex<News>,
    some: Notify,
}

#[derive(Debug, Default)]
struct News {
    order: VecDeque<(NodeName, Kind)>,
    queued: BTreeSet<(NodeName, Kind)>,
    alive: BTreeMap<NodeName, bool>,
    reports: BTreeMap<NodeName, (Instant, Arc<Report>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Liveness,
    Report,
}

impl Inbox {
    fn put(&self, now: Instant, heard: Heard) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match heard {
            Heard::Report(report) => {
                let node = report.node.clone();
                news.reports.insert(node.clone(), (now, report));
                (node, Kind::Report)
            }
            Heard::Joined(node) => {
                news.alive.insert(node.clone(), true);
                (node, Kind::Liveness)
            }
            Heard::Left(node) => {
                news.alive.insert(node.clone(), false);
                (node, Kind::Liveness)
            }
        };
        if news.queued.insert(entry.clone()) {
            news.order.push_back(entry);
        }
        drop(news);
        self.some.notify_one();
    }

    fn take(&self) -> Option<Heard> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = news.order.pop_front()?;
        news.queued.remove(&entry);
        match entry {
            (node, Kind::Liveness) => {
                let alive = news.alive.remove(&node)?;
                Some(if alive { Heard::Joined(node) } else { Heard::Left(node) })
            }
            (node, Kind::Report) => {
                let (at, mut report) = news.reports.remove(&node)?;
                Arc::make_mut(&mut report).age += at.elapsed();
                Some(Heard::Report(report))
            }
        }
    }
}

impl Mesh {
    /// Binds the socket and starts the mesh's task.
    pub async fn open(config: Config, node: NodeName, found: Found) -> Result<Mesh, Error> {
        config.check()?;
        if node.as_str().is_empty() || node.as_str().len() > MAX_NAME {
            let reason = format!("`{node}` must have 1 to {MAX_NAME} bytes");
            return Err(Error::Setting { setting: "the node's name", reason });
        }
        let keys = Keys::open(config.key_file.clone())?;
        let socket = bind(config.bind)?;
        let bound = socket.local_addr()?;
        let peers: Vec<String> = config.peers.iter().filter_map(|peer| with_port(peer)).collect();
        let address = match config.advertise {
            Some(address) if address.port() != 0 => address,
            Some(address) => SocketAddr::new(address.ip(), bound.port()),
            None if !bound.ip().is_unspecified() => bound,
            None => match found.own.iter().find(|own| bound.is_ipv6() || own.is_ipv4()) {
                Some(own) => SocketAddr::new(*own, bound.port()),
                None => SocketAddr::new(own_address(bound, &peers).await?, bound.port()),
            },
        };
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let me = Me { name: node, address, generation: since_epoch.as_millis() as u64 };
        let mut seed = [0; 32];
        rand::rngs::SysRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
        let origin = Instant::now();
        let machine = Machine::new(Timestamp::ZERO, me, keys.ring(), seed);
        let (report, report_receiver) = watch::channel(None);
        let (health, health_receiver) = watch::channel((origin, machine.health(Timestamp::ZERO)));
        let (leave, leave_receiver) = oneshot::channel();
        let (resolved, resolved_receiver) = watch::channel(Resolved::default());
        let inbox = Arc::new(Inbox::default());
        let task = Task {
            machine,
            origin,
            socket,
            dual: bound.is_ipv6(),
            address,
            inbox: Arc::clone(&inbox),
            health,
            keys,
            send_failures: 0,
            errors: 0,
            out: Vec::new(),
        };
        let resolver = AbortOnDrop(tokio::spawn(resolve(peers, resolved)));
        let task = tokio::spawn(async move {
            let _resolver = resolver;
            task.run(report_receiver, leave_receiver, resolved_receiver, found.nodes).await
        });
        tracing::info!(%bound, advertised = %address, "the mesh listens");
        Ok(Mesh { report, inbox, health: health_receiver, leave: Some(leave), task, address, left: false })
    }

    /// Where the others reach this node.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why the task ended.
    async fn ended(&mut self) -> Error {
        if self.left {
            return Error::Left;
        }
        self.left = true;
        match (&mut self.task).await {
            Ok(Ok(())) => Error::Left,
            Ok(Err(error)) => error,
            Err(panicked) => Error::Socket(io::Error::other(panicked)),
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Store for Mesh {
    async fn publish(&mut self, report: Arc<Report>) -> Result<(), Error> {
        match self.report.send(Some((Instant::now(), report))) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.ended().await),
        }
    }

    async fn next(&mut self) -> Result<Heard, Error> {
        loop {
            if let Some(heard) = self.inbox.take() {
                return Ok(heard);
            }
            if self.left || self.report.is_closed() {
                return Err(self.ended().await);
            }
            tokio::select! {
                () = self.inbox.some.notified() => {}
                () = self.report.closed() => {}
            }
        }
    }

    async fn leave(&mut self) -> Result<(), Error> {
        let Some(leave) = self.leave.take() else { return Ok(()) };
        if leave.send(()).is_err() {
            return Err(self.ended().await);
        }
        match self.ended().await {
            Error::Left => Ok(()),
            error => Err(error),
        }
    }

    fn health(&self) -> Health {
        let (at, mut health) = self.health.borrow().clone();
        for member in &mut health.members {
            member.heard = member.heard.map(|age| age + at.elapsed());
        }
        health
    }
}

/// What the task owns.
struct Task {
    machine: Machine,
    origin: Instant,
    socket: UdpSocket,
    /// Whether the socket is an IPv6 one, which takes IPv4 addresses only as mapped ones.
    dual: bool,
    /// Where the others reach this node.
    address: SocketAddr,
    inbox: Arc<Inbox>,
    health: watch::Sender<(Instant, Health)>,
    keys: Keys,
    send_failures: u64,
    errors: u32,
    out: Vec<Output>,
}

impl Task {
    async fn run(
        mut self,
        mut report: watch::Receiver<Option<(Instant, Arc<Report>)>>,
        mut leave: oneshot::Receiver<()>,
        mut resolved: watch::Receiver<Resolved>,
        mut found: watch::Receiver<Arc<[IpAddr]>>,
    ) -> Result<(), Error> {
        found.mark_changed();
        // One byte more than a datagram may have, to notice those that are longer.
        let mut buffer = [0; MAX_DATAGRAM + 1];
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.origin + Duration::from_nanos(self.machine.next_wake().as_nanos());
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => self.received(received, &buffer)?,
                _ = &mut leave => {
                    self.step(Input::Leave);
                    self.flush().await;
                    return Ok(());
                }
                Ok(()) = report.changed() => {
                    let newest = report.borrow_and_update().clone();
                    if let Some((at, mut report)) = newest {
                        Arc::make_mut(&mut report).age += at.elapsed();
                        self.step(Input::Publish(report));
                    }
                }
                Ok(()) = resolved.changed() => {
                    let peers = self.peers(&resolved.borrow_and_update(), &found.borrow());
                    self.step(Input::Peers(peers));
                }
                Ok(()) = found.changed() => {
                    let peers = self.peers(&resolved.borrow(), &found.borrow_and_update());
                    self.step(Input::Peers(peers));
                }
                _ = look.tick() => {
                    if let Some(ring) = self.keys.look() {
                        self.step(Input::Keys(ring));
                    }
                    self.tell_health(&resolved.borrow().troubles);
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    // What arrived while the process stood still counts before the timers that ran out then.
                    for _ in 0..DRAIN {
                        match self.socket.try_recv_from(&mut buffer) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            received => self.received(received, &buffer)?,
                        }
                    }
                    self.step(Input::Wake);
                }
            }
            self.flush().await;
        }
    }

    /// Those that are configured, and those that were found: in the family and at the port that this node has itself,
    /// since one configuration serves all of them.
    fn peers(&self, resolved: &Resolved, found: &[IpAddr]) -> Vec<SocketAddr> {
        let alike = found.iter().filter(|found| found.is_ipv4() == self.address.is_ipv4());
        let found = alike.map(|found| SocketAddr::new(*found, self.address.port()));
        let peers: BTreeSet<SocketAddr> = resolved.addresses.iter().copied().chain(found).collect();
        peers.into_iter().collect()
    }

    fn step(&mut self, input: Input<'_>) {
        let now = Timestamp::from_duration(self.origin.elapsed());
        self.machine.on(now, input, &mut self.out);
    }

    fn received(&mut self, received: io::Result<(usize, SocketAddr)>, buffer: &[u8]) -> Result<(), Error> {
        match received {
            Ok((length, from)) => {
                self.errors = 0;
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                self.step(Input::Datagram { from, bytes: &buffer[..length] });
            }
            Err(error) => {
                // Some errors speak of an earlier datagram that could not be delivered, and pass.
                self.errors += 1;
                if self.errors >= MAX_ERRORS {
                    return Err(Error::Socket(error));
                }
            }
        }
        Ok(())
    }

    /// Carries out what the machine wants done.
    async fn flush(&mut self) {
        let now = Instant::now();
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Heard(heard) => self.inbox.put(now, heard),
                Output::Send { to, bytes } => {
                    let to = match to.ip() {
                        IpAddr::V4(ip) if self.dual => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
                        _ => to,
                    };
                    if self.socket.send_to(&bytes, to).await.is_err() {
                        self.send_failures += 1;
                    }
                }
            }
        }
    }

    fn tell_health(&mut self, troubles: &[String]) {
        let now = Instant::now();
        let mut health = self.machine.health(Timestamp::from_duration(now - self.origin));
        health.send_failures = self.send_failures;
        health.troubles = self.keys.trouble.iter().chain(troubles).cloned().collect();
        let was = self.health.borrow().1.superseded_by;
        if let Some(by) = health.superseded_by.filter(|by| was != Some(*by)) {
            tracing::warn!(%by, "a newer process has this node's name: this one is no member; stop one of them");
        }
        self.health.send_replace((now, health));
    }
}

/// The key file and what it last held.
#[derive(Debug)]
struct Keys {
    path: Option<PathBuf>,
    known: Vec<key::Key>,
    trouble: Option<String>,
}

impl Keys {
    fn open(path: Option<PathBuf>) -> Result<Keys, Error> {
        let known = path.as_deref().map(key::read).transpose()?.unwrap_or_default();
        Ok(Keys { path, known, trouble: None })
    }

    fn ring(&self) -> KeyRing {
        if self.known.is_empty() { KeyRing::insecure() } else { KeyRing::new(&self.known) }
    }

    /// Reads the file again; the ring if it changed. A file that became unreadable or wrong changes nothing.
    fn look(&mut self) -> Option<KeyRing> {
        match key::read(self.path.as_deref()?) {
            Ok(keys) => {
                self.trouble = None;
                if keys == self.known {
                    return None;
                }
                tracing::info!(keys = keys.len(), "the mesh's keys changed");
                self.known = keys;
                Some(self.ring())
            }
            Err(error) => {
                let trouble = format!("{error}; the keys from before stay in use");
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("{trouble}");
                    self.trouble = Some(trouble);
                }
                None
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<UdpSocket, Error> {
    let failed = |source| Error::Bind { address, source };
    let socket = std::net::UdpSocket::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    // The first needs CAP_NET_ADMIN and goes beyond the system's limit, the second ends at it.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)
            .map_err(|error| failed(error.into()))?;
    }
    UdpSocket::from_std(socket).map_err(failed)
}

/// The address that this node would send from: to its first peer that resolves, else to anywhere.
async fn own_address(bound: SocketAddr, peers: &[String]) -> Result<IpAddr, Error> {
    let mut towards = None;
    for peer in peers {
        if let Ok(Ok(mut addresses)) =
            tokio::time::timeout(RESOLVE_PATIENCE, tokio::net::lookup_host(peer)).await
        {
            towards = addresses.find(|address| bound.is_ipv6() || address.is_ipv4());
        }
        if towards.is_some() {
            break;
        }
    }
    // TEST-NET-1 (RFC 5737). Connecting a UDP socket sends nothing; it only asks the routing table.
    let towards = towards.unwrap_or_else(|| SocketAddr::from(([192, 0, 2, 1], 9)));
    let own = || {
        let any: IpAddr = if towards.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(towards)?;
        socket.local_addr()
    };
    own().map(|address| address.ip()).map_err(|source| Error::NoAddress { source })
}

/// What the peers resolve to.
#[derive(Clone, Debug, Default)]
struct Resolved {
    addresses: Vec<SocketAddr>,
    troubles: Vec<String>,
}

/// Resolves the peers, again and again. A peer that does not resolve keeps the addresses it had.
async fn resolve(peers: Vec<String>, resolved: watch::Sender<Resolved>) {
    let mut known: BTreeMap<&String, Vec<SocketAddr>> = BTreeMap::new();
    while !peers.is_empty() {
        let mut troubles = Vec::new();
        for peer in &peers {
            match tokio::time::timeout(RESOLVE_PATIENCE, tokio::net::lookup_host(peer)).await {
                Ok(Ok(addresses)) => drop(known.insert(peer, addresses.collect())),
                Ok(Err(error)) => troubles.push(format!("the mesh's peer {peer} does not resolve: {error}")),
                Err(_) => troubles.push(format!("the mesh's peer {peer} does not resolve: no answer")),
            }
        }
        let addresses: BTreeSet<SocketAddr> = known.values().flatten().copied().collect();
        let pause = if troubles.is_empty() { RESOLVE } else { RESOLVE_AGAIN };
        resolved.send_replace(Resolved { addresses: addresses.into_iter().collect(), troubles });
        tokio::time::sleep(pause).await;
    }
}

/// Ends a task with its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
