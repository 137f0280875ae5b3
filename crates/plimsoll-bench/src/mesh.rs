//! The mesh of 50 nodes: real stores over loopback in one process, each with a balancer of its own.

use std::fmt::Write as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use plimsoll_core::balancer::{Balancer, Command, Event};
use plimsoll_core::load::{AGE_SLOTS, Count, Counts};
use plimsoll_core::report::{EndpointReport, Report};
use plimsoll_core::service::{EndpointId, Here, Protocol, Service, ServiceChange, ServiceId};
use plimsoll_core::time::Timestamp;
use plimsoll_discovery::file;
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::random::Random;
use plimsoll_store::mesh::{Config, Mesh};
use plimsoll_store::{Found, Health, Heard, Store as _};
use tokio::task::JoinSet;

use crate::core::parameters;
use crate::row::{Bound, Row, Unit, milliseconds, quantile};
use crate::scene::{PORT, node};

const NODES: usize = 50;
/// What nodes do by default in a cluster of that size.
const INTERVAL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
/// UDP and IPv4 headers.
const HEADERS: u64 = 28;

/// Runs something asynchronous in a network namespace of its own, with a loopback.
pub(crate) fn in_namespace<T: Send>(
    namespace: &Namespace,
    inside: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    namespace.run(|| {
        // Its threads are in the namespace of the one that makes them.
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(inside)
    })
}

/// Stores on loopback that join by the first address.
pub(crate) async fn open(first: usize, count: usize, peer: Option<SocketAddr>) -> Result<Vec<Mesh>> {
    let mut stores: Vec<Mesh> = Vec::new();
    for index in first..first + count {
        let peer = peer.or_else(|| stores.first().map(Mesh::address));
        let config = Config {
            bind: "127.0.0.1:0".parse()?,
            peers: peer.iter().map(SocketAddr::to_string).collect(),
            ..Config::default()
        };
        stores.push(Mesh::open(config, node(index), Found::nothing()).await?);
    }
    Ok(stores)
}

/// A node that reports and listens; its health goes to its place.
pub(crate) async fn reporting(
    mut store: Mesh,
    place: usize,
    interval: Duration,
    health: Arc<Mutex<Vec<Health>>>,
    report: impl Fn(&mut Random) -> Report,
) -> Result<()> {
    let mut random = Random::new(place as u64);
    let mut next = Instant::now() + interval.mul_f64(random.unit());
    loop {
        if let Ok(heard) = tokio::time::timeout_at(next.into(), store.next()).await {
            drop(heard?);
            continue;
        }
        next = Instant::now() + jittered(interval, &mut random);
        store.publish(Arc::new(report(&mut random))).await?;
        health.lock().unwrap_or_else(PoisonError::into_inner)[place] = store.health();
    }
}

/// A bit more or less than an interval, as agents wait.
fn jittered(interval: Duration, random: &mut Random) -> Duration {
    interval.mul_f64(0.95 + 0.1 * random.unit())
}

fn endpoint(host: usize, number: usize) -> EndpointId {
    let address = [10, 1, host as u8, number as u8 + 1].into();
    EndpointId { address, port: PORT, protocol: Protocol::Tcp }
}

// ---- bytes ----

/// What 50 nodes with 200 endpoints each, all of them changing, send: with the mesh's own overhead, membership,
/// UDP and IP headers.
pub(crate) fn bytes() -> Result<Vec<Row>> {
    const ENDPOINTS: usize = 200;
    const MEASURED: Duration = Duration::from_secs(10);
    let health: Arc<Mutex<Vec<Health>>> = Arc::new(Mutex::new(vec![Health::default(); NODES]));
    let (begin, end) = in_namespace(&Namespace::new("mesh")?, async {
        let mut tasks = JoinSet::new();
        for (index, store) in open(0, NODES, None).await?.into_iter().enumerate() {
            let figures = move |random: &mut Random| ever_new(index, ENDPOINTS, random);
            tasks.spawn(reporting(store, index, INTERVAL, Arc::clone(&health), figures));
        }
        settled(&health, NODES - 1).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let begin = sums(&health);
        tokio::time::sleep(MEASURED).await;
        let end = sums(&health);
        tasks.abort_all();
        Ok((begin, end))
    })?;
    let [bytes, datagrams, reports] = [0, 1, 2].map(|i| (end[i] - begin[i]) as f64);
    let expected = (NODES * (NODES - 1)) as f64 * MEASURED.as_secs_f64() / INTERVAL.as_secs_f64();
    ensure!(reports > 0.8 * expected, "only {reports} of {expected} reports were heard: too busy a machine?");
    let each = (bytes + HEADERS as f64 * datagrams) / (reports * ENDPOINTS as f64);
    let note = format!(
        "real stores on loopback; {reports} of {expected} reports heard, {:.2} datagrams each",
        datagrams / reports
    );
    Ok(vec![Row::gating("mesh-bytes", each, Unit::Bytes, Bound::AtMost(16.0)).noting(note)])
}

/// A report in which all figures are new.
fn ever_new(index: usize, endpoints: usize, random: &mut Random) -> Report {
    let hosted = (0..endpoints).map(|number| some_load(endpoint(index, number), random)).collect();
    Report { node: node(index), age: Duration::ZERO, opens_per_second: 100.0, hosted, sent: Vec::new() }
}

fn some_load(endpoint: EndpointId, random: &mut Random) -> EndpointReport {
    let open = random.below(2000) as u32;
    let young = random.below(open as usize / 4 + 1) as u32;
    EndpointReport {
        endpoint,
        open,
        young,
        middle: young / 2,
        opens_per_second: 100.0 * random.unit() as f32,
        failures_per_second: 0.0,
        cpu: None,
        pressure: None,
    }
}

/// Waits until each has all others as members.
pub(crate) async fn settled(health: &Mutex<Vec<Health>>, others: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let least = {
            let health = health.lock().unwrap_or_else(PoisonError::into_inner);
            health.iter().map(|health| health.members.len()).min().unwrap_or_default()
        };
        if least >= others {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a node has only {least} of {others} others after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Bytes, datagrams and heard reports of all nodes so far.
fn sums(health: &Mutex<Vec<Health>>) -> [u64; 3] {
    let health = health.lock().unwrap_or_else(PoisonError::into_inner);
    health.iter().fold([0; 3], |[bytes, datagrams, reports], health| {
        [bytes + health.bytes_out, datagrams + health.datagrams_out, reports + health.reports]
    })
}

// ---- delay ----

/// One change of an endpoint's connections, and when each other node had decided by it.
#[derive(Clone, Default)]
struct Trial {
    /// The connections after it.
    open: u32,
    at: Option<Instant>,
    followed: Vec<Option<Duration>>,
}

/// What the nodes of a trial share.
struct Stage {
    /// The connections of the endpoint that node `i` hosts of Service `i`.
    open: Vec<AtomicU32>,
    trials: Vec<Mutex<Trial>>,
    members: Vec<AtomicU32>,
    over: AtomicBool,
}

const FEW: u32 = 20;
const MANY: u32 = 200;
const TRIALS: usize = 5;
/// All changes of a round are spread over this time, and then given this much to arrive.
const SPREAD: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(2);

/// The time from a change at one node to the decided weights of the last of all others: 50 Services with an
/// endpoint on each node; connections change at random moments, which the node finds when it next reads its counts.
pub(crate) fn delay() -> Result<Vec<Row>> {
    let services = services()?;
    let stage = Arc::new(Stage {
        open: (0..NODES).map(|_| AtomicU32::new(FEW)).collect(),
        trials: (0..NODES).map(|_| Mutex::default()).collect(),
        members: (0..NODES).map(|_| AtomicU32::new(0)).collect(),
        over: AtomicBool::new(false),
    });
    let (mut last, mut each) = (Vec::new(), Vec::new());
    let mut lost = 0;
    let shared = Arc::clone(&stage);
    let namespace = Namespace::new("mesh")?;
    let trials = in_namespace(&namespace, async move {
        let mut tasks = JoinSet::new();
        for (index, store) in open(0, NODES, None).await?.into_iter().enumerate() {
            let balancer = Balancer::new(Here { node: node(index), zone: None }, parameters(INTERVAL));
            let seat = Seat::new(index, store, balancer, Arc::clone(&shared));
            tasks.spawn(seat.run(services.clone()));
        }
        let trials = shared.run().await;
        shared.over.store(true, Ordering::Relaxed);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        trials
    })?;
    for trial in trials {
        // The node's own decision is not among them.
        let times: Vec<Duration> = trial.followed.iter().flatten().copied().collect();
        lost += NODES - 1 - times.len();
        last.extend(times.iter().max().copied().map(milliseconds));
        each.extend(times.into_iter().map(milliseconds));
    }
    ensure!(lost == 0, "{lost} of {} decisions did not follow", TRIALS * NODES * (NODES - 1));
    let note = format!(
        "real stores on loopback; the last of {} others, {} changes, median {:.0} ms; single others: median {:.0}, \
         p99 {:.0} ms; {} datagrams found a full buffer; the kernel adds reweight-one",
        NODES - 1,
        last.len(),
        quantile(&mut last, 0.5),
        quantile(&mut each, 0.5),
        quantile(&mut each, 0.99),
        full_buffers(&namespace)?
    );
    let p99 = quantile(&mut last, 0.99);
    let bound = Bound::AtMost(1.3);
    Ok(vec![Row::against("mesh-delay", p99, milliseconds(INTERVAL), Unit::Milliseconds, bound).noting(note)])
}

/// How many datagrams the namespace dropped because their receiver had not read those before.
fn full_buffers(namespace: &Namespace) -> Result<u64> {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut udp = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
    let at = names.split(' ').position(|name| name == "RcvbufErrors");
    let value = at.and_then(|at| values.split(' ').nth(at)?.parse().ok());
    value.ok_or_else(|| anyhow!("the kernel does not count full buffers in /proc/net/snmp"))
}

/// 50 Services with one endpoint on each node.
fn services() -> Result<Vec<Arc<Service>>> {
    let mut text = String::from("services:\n");
    for service in 0..NODES {
        let _ = writeln!(text, "- name: s{service:02}\n  addresses: [10.96.0.{}]", service + 1);
        let _ = writeln!(text, "  ports: [{{port: 80, endpoint_port: {PORT}}}]\n  endpoints:");
        for host in 0..NODES {
            let address = endpoint(host, service).address;
            let _ = writeln!(text, "  - {{address: {address}, node: {}, capacity: 2}}", node(host));
        }
    }
    Ok(file::parse(&text).map_err(|problems| anyhow!("the Services: {problems}"))?.services)
}

impl Stage {
    /// Lets connections come and go, and gathers who followed when.
    async fn run(&self) -> Result<Vec<Trial>> {
        let deadline = Instant::now() + PATIENCE;
        while self.members.iter().any(|members| members.load(Ordering::Relaxed) < NODES as u32 - 1) {
            ensure!(Instant::now() < deadline, "the nodes did not find each other in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Until the first weights stand still.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut random = Random::new(50);
        let mut all = Vec::new();
        for round in 1..=TRIALS {
            let start = Instant::now();
            let mut moments: Vec<(Duration, usize)> =
                (0..NODES).map(|index| (SPREAD.mul_f64(random.unit()), index)).collect();
            moments.sort_unstable();
            for (moment, index) in moments {
                tokio::time::sleep_until((start + moment).into()).await;
                let mut trial = self.trials[index].lock().unwrap_or_else(PoisonError::into_inner);
                let open = if round % 2 == 1 { MANY } else { FEW };
                *trial = Trial { open, at: Some(Instant::now()), followed: vec![None; NODES] };
                self.open[index].store(open, Ordering::Relaxed);
            }
            tokio::time::sleep(AFTER).await;
            for trial in &self.trials {
                all.push(trial.lock().unwrap_or_else(PoisonError::into_inner).clone());
            }
        }
        Ok(all)
    }
}

/// A node: what its agent does, without a kernel.
struct Seat {
    index: usize,
    store: Mesh,
    balancer: Balancer,
    stage: Arc<Stage>,
    origin: Instant,
    random: Random,
    ids: Vec<ServiceId>,
    /// The Services of which a changed report is there and a decision is not.
    awaited: Vec<usize>,
}

impl Seat {
    fn new(index: usize, store: Mesh, balancer: Balancer, stage: Arc<Stage>) -> Seat {
        let random = Random::new(100 + index as u64);
        let (ids, awaited) = (Vec::new(), Vec::new());
        Seat { index, store, balancer, stage, origin: Instant::now(), random, ids, awaited }
    }

    async fn run(mut self, services: Vec<Arc<Service>>) -> Result<()> {
        self.ids = services.iter().map(|service| service.id.clone()).collect();
        self.take_in(Event::Services(ServiceChange::All(services))).await?;
        let mut next_read = Instant::now() + INTERVAL.mul_f64(self.random.unit());
        while !self.stage.over.load(Ordering::Relaxed) {
            let wake =
                self.origin + Duration::from_nanos(self.balancer.next_wake().as_nanos()).min(PATIENCE * 60);
            match tokio::time::timeout_at(wake.min(next_read).into(), self.store.next()).await {
                Ok(Ok(Heard::Report(report))) => {
                    self.expect(&report);
                    self.take_in(Event::Report(report)).await?;
                }
                Ok(Ok(Heard::Joined(node))) => self.take_in(Event::Joined(node)).await?,
                Ok(Ok(Heard::Left(node))) => self.take_in(Event::Left(node)).await?,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if Instant::now() >= next_read => {
                    next_read = Instant::now() + jittered(INTERVAL, &mut self.random);
                    let members = self.store.health().members.len() as u32;
                    self.stage.members[self.index].store(members, Ordering::Relaxed);
                    let counts = self.counts();
                    self.take_in(Event::Counts(counts)).await?;
                }
                Err(_) => self.take_in(Event::Wake).await?,
            }
        }
        Ok(())
    }

    /// What the kernel would say: only the endpoint of the node's own Service ever changes.
    fn counts(&self) -> Counts {
        let count = |service: usize| {
            let own = service == self.index;
            let open = if own { self.stage.open[self.index].load(Ordering::Relaxed) } else { FEW };
            // Two a second, which all last.
            let opened = 10_000 + 2 * self.origin.elapsed().as_secs();
            let by_age = [1; AGE_SLOTS];
            let none = Count::none(endpoint(self.index, service));
            Count { open, opened, opened_by_age: by_age, open_by_age: by_age, ..none }
        };
        let slots = std::array::from_fn(|slot| (slot + 1) as f32 * 0.5);
        Counts { slots, hosted: (0..NODES).map(count).collect(), sent: Vec::new() }
    }

    async fn take_in(&mut self, event: Event) -> Result<()> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for command in self.balancer.on(Timestamp::from_duration(self.origin.elapsed()), event) {
                match command {
                    Command::Publish(report) => self.store.publish(report).await?,
                    // The kernel is measured elsewhere.
                    Command::Apply(_) => events.push(Event::Applied(Ok(()))),
                    Command::Tell(_) => {}
                }
            }
        }
        self.follow();
        Ok(())
    }

    /// Notes that the report of a change is there.
    fn expect(&mut self, report: &Report) {
        let Some(service) = (0..NODES).find(|index| node(*index) == report.node) else { return };
        let trial = self.stage.trials[service].lock().unwrap_or_else(PoisonError::into_inner);
        let entry = report.hosted.iter().find(|entry| entry.endpoint == endpoint(service, service));
        if entry.is_some_and(|entry| is_about(f64::from(entry.open), trial.open))
            && trial.followed.get(self.index).is_some_and(Option::is_none)
            && !self.awaited.contains(&service)
        {
            self.awaited.push(service);
        }
    }

    /// Notes which awaited decisions were taken: those whose explanation has the changed figure.
    fn follow(&mut self) {
        let now = Timestamp::from_duration(self.origin.elapsed());
        let (balancer, stage, ids, index) = (&self.balancer, &self.stage, &self.ids, self.index);
        self.awaited.retain(|&service| {
            let Some(explanation) = balancer.explain(now, &ids[service]) else { return false };
            let changed = endpoint(service, service);
            let decided = explanation.endpoints.iter().find(|entry| entry.endpoint == changed);
            let mut trial = stage.trials[service].lock().unwrap_or_else(PoisonError::into_inner);
            let follows = decided.is_some_and(|decided| is_about(decided.open, trial.open));
            if follows {
                trial.followed[index] = trial.at.map(|at| at.elapsed());
            }
            !follows
        });
    }
}

/// Reports round large counts.
fn is_about(open: f64, expected: u32) -> bool {
    (open - f64::from(expected)).abs() < 0.05 * f64::from(expected)
}
