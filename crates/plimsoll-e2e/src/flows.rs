//! What no single look shows: flows that live through a change, affinity that ends, the label under load.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use plimsoll_lab::client::{Client, Limits, held, poisson};
use plimsoll_lab::control_plane::Mode;

use crate::dial::{Sight, Sights, dial, probe};
use crate::differential::publish;
use crate::judge::{noted, show};
use crate::objects::{self, LABEL, NAMESPACE, PORTS};
use crate::report::Outcome;
use crate::table::{self, At, Place, Served, Service};
use crate::witness;
use crate::world::World;

/// How long a change may take until it is seen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon Plimsoll serves, or serves no more, after the label changed.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The seconds of the affinity that is waited out.
const AFFINITY: u64 = 5;

const SERVICES: &str = "
service udp-flow-of-a-removed-endpoint | udp single-v4 | p1a p2a
service udp-flow-of-a-terminating-endpoint | udp single-v4 | p1a p2a
service affinity-that-ends | affinity=5 take-over single-v4 | p1a p2a
service the-label-under-load | node-port single-v4 | p1a p2a
";

type Watch = fn(&World, &Service, bool) -> Result<Told>;

/// In the order of the Services above.
const WATCHES: [Watch; 4] = [removed, terminating, affinity_ends, label_under_load];

/// A Service and how it is watched.
#[derive(Clone, Debug)]
pub struct Flow {
    pub(crate) service: Service,
    watch: Watch,
}

impl Flow {
    /// All of them, with numbers from `first` on.
    pub fn all(first: usize) -> Result<Vec<Flow>> {
        let services = table::read(SERVICES, first)?;
        Ok(services.into_iter().zip(WATCHES).map(|(service, watch)| Flow { service, watch }).collect())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.service.name
    }
}

/// What came of it: in a line, and what is wrong.
pub(crate) struct Told {
    line: String,
    problems: Vec<String>,
}

/// Watches all, each on a thread of its own, and leaves the Services as they were.
pub(crate) fn run(world: &World, flows: &[Flow], with_plimsoll: bool) -> Result<Vec<Told>> {
    let told = std::thread::scope(|scope| {
        let watch = |flow: &'_ Flow| (flow.watch)(world, &flow.service, with_plimsoll);
        let running: Vec<_> = flows.iter().map(|flow| scope.spawn(move || watch(flow))).collect();
        let told = running.into_iter().map(|thread| thread.join().expect("watching does not panic"));
        told.collect::<Result<Vec<_>>>()
    })?;
    let services: Vec<Service> = flows.iter().map(|flow| flow.service.clone()).collect();
    publish(world, &services)?;
    Ok(told)
}

/// What came of each, with kube-proxy alone and with Plimsoll.
pub(crate) fn judge(flows: &[Flow], mode: Mode, alone: Vec<Told>, with: Vec<Told>) -> Vec<Outcome> {
    let outcome = |(flow, (alone, with)): (&Flow, (Told, Told))| {
        let mut problems: Vec<String> = Vec::new();
        problems.extend(alone.problems.into_iter().map(|what| format!("with kube-proxy alone, {what}")));
        problems.extend(with.problems.into_iter().map(|what| format!("with Plimsoll, {what}")));
        Outcome {
            mode: mode.name(),
            case: flow.service.name.clone(),
            alone: alone.line,
            with_plimsoll: with.line,
            served: Served::Taken.word(),
            problems,
        }
    };
    flows.iter().zip(alone.into_iter().zip(with)).map(outcome).collect()
}

fn at(place: Place) -> At {
    At { place, port: PORTS[0], protocol: None, only_v6: None }
}

/// Asks over a flow who answers.
fn ask(socket: &UdpSocket) -> Option<String> {
    socket.send(b"?").ok()?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.split(' ').next().map(str::to_owned)
}

/// A flow with a source port of its own, and who answers it.
fn flow(world: &World, service: &Service) -> Result<(UdpSocket, String)> {
    let socket = world.host("c1")?.at.namespace.udp("0.0.0.0:0".parse()?)?;
    socket.connect(SocketAddr::new(objects::cluster_ip(service, false), PORTS[0]))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut first = None;
    plimsoll_lab::eventually(PATIENCE, || {
        first = ask(&socket);
        first.is_some()
    });
    Ok((socket, first.context("nobody answers the flow")?))
}

/// The endpoint of a flow is removed: the flow moves, although the client goes on sending.
fn removed(world: &World, service: &Service, _: bool) -> Result<Told> {
    let (socket, first) = flow(world, service)?;
    let mut without = service.clone();
    without.endpoints.retain(|endpoint| endpoint.name != first);
    publish(world, &[without])?;
    let other = |socket: &UdpSocket| ask(socket).is_some_and(|name| name != first);
    let mut problems = Vec::new();
    if plimsoll_lab::eventually(PATIENCE, || other(&socket)) {
        let back = (0..20).filter(|_| !other(&socket)).count();
        if back > 0 {
            problems.push(format!("{back} of 20 datagrams after the move were not answered by the other"));
        }
    } else {
        problems.push(format!("the flow did not move within {} s", PATIENCE.as_secs()));
    }
    Ok(Told { line: "moves to the other endpoint".into(), problems })
}

/// The endpoint of a flow terminates and still serves: new flows go elsewhere, this one stays.
fn terminating(world: &World, service: &Service, _: bool) -> Result<Told> {
    let (socket, first) = flow(world, service)?;
    let mut next = service.clone();
    for endpoint in next.endpoints.iter_mut().filter(|endpoint| endpoint.name == first) {
        endpoint.conditions = Some([false, true, true]);
    }
    publish(world, &[next])?;
    let probe = probe(world, service, &at(Place::Cluster), "c1", false)?.context("it has IPv4")?;
    let mut seen = Sights::new();
    let elsewhere = plimsoll_lab::eventually(PATIENCE, || {
        seen = dial(world, &probe).unwrap_or_default();
        let is_other = |sight: &Sight| matches!(sight, Sight::Answer { endpoint, .. } if *endpoint != first);
        !seen.is_empty() && seen.keys().all(is_other)
    });
    let mut problems = Vec::new();
    if !elsewhere {
        problems.push(format!("new flows still go to {first}: {}", show(&seen)));
    }
    let stayed = (0..10).filter(|_| ask(&socket).as_ref() == Some(&first)).count();
    if stayed < 10 {
        problems.push(format!("only {stayed} of 10 datagrams of the old flow were answered by {first}"));
    }
    Ok(Told { line: "stays at its endpoint".into(), problems })
}

/// Each client keeps its endpoint while it comes often enough, and is free afterwards.
fn affinity_ends(world: &World, service: &Service, _: bool) -> Result<Told> {
    // An odd number on each node, so that a choice in turn gives clients another one each time.
    let clients = ["c1", "p1b", "o1", "c2", "p2b", "o2", "c3", "p3b", "o3"];
    let choices = || -> Result<Vec<String>> {
        let choose = |by: &&'static str| {
            let mut probe = probe(world, service, &at(Place::Cluster), by, false)?.context("it has IPv4")?;
            probe.count = 1;
            match dial(world, &probe)?.into_keys().next() {
                Some(Sight::Answer { endpoint, .. }) => Ok(endpoint),
                other => bail!("{by} saw {other:?}"),
            }
        };
        // All at once: what each takes must not add up to the time that is watched.
        std::thread::scope(|scope| {
            let asked: Vec<_> = clients.iter().map(|by| scope.spawn(move || choose(by))).collect();
            asked.into_iter().map(|thread| thread.join().expect("asking does not panic")).collect()
        })
    };
    let mut problems = Vec::new();
    let mut last = choices()?;
    for _ in 0..6 {
        let next = choices()?;
        if next != last {
            problems.push(format!("clients changed within the time: {last:?}, {next:?}"));
            last = next;
        }
    }
    let mut changed = 0;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(AFFINITY + 1));
        let next = choices()?;
        changed += next.iter().zip(&last).filter(|(next, last)| next != last).count();
        last = next;
    }
    if changed == 0 {
        problems.push("no client ever got another endpoint after the time".into());
    }
    Ok(Told { line: "sticks, and ends after its time".into(), problems })
}

/// The label is taken away and put back while connections come: none fails, and Plimsoll follows at once.
fn label_under_load(world: &World, service: &Service, with_plimsoll: bool) -> Result<Told> {
    let mut clients = Vec::new();
    let mut keys = Vec::new();
    for (by, place) in [("c1", Place::Cluster), ("o1", Place::NodePort(None))] {
        let probe = probe(world, service, &at(place), by, false)?.context("it has IPv4")?;
        keys.push(noted(world, &probe)?);
        let namespace = &world.host(by)?.at.namespace;
        let life = |_: &mut plimsoll_lab::random::Random| Duration::from_millis(20);
        let arrivals = poisson(7, 100.0, Duration::from_mins(2), probe.to, life);
        clients.push(Client::start(namespace, arrivals, Limits::default())?);
        clients.push(Client::start(namespace, held(10, probe.to), Limits::default())?);
    }
    let passed = || -> Result<Vec<u64>> {
        let count = |(node, key): &(usize, witness::Key)| {
            Ok(witness::passed(world.node(*node))?.get(key).copied().unwrap_or_default())
        };
        keys.iter().map(count).collect()
    };
    let kubectl = world.kubectl();
    let label = |value: &str| {
        kubectl.run(&["label", "service", "-n", NAMESPACE, "--overwrite", &service.name, value])
    };
    let (mut problems, mut slowest) = (Vec::new(), [Duration::ZERO; 2]);
    for off in [format!("{LABEL}-"), format!("{LABEL}=disabled"), format!("{LABEL}=observe")] {
        for (which, value) in [off, format!("{LABEL}=enabled")].iter().enumerate() {
            let before = passed()?;
            label(value)?;
            let took = if with_plimsoll { follows(&before, which == 0, &passed)? } else { Duration::ZERO };
            if took > AT_ONCE {
                problems.push(format!("{value} took {:.2} s to be followed", took.as_secs_f64()));
            }
            slowest[which] = slowest[which].max(took);
        }
    }
    let failed: u64 = clients.iter().map(Client::failed).sum();
    let opened: u64 = clients.iter().map(Client::opened).sum();
    if failed > 0 || opened < 100 {
        problems.push(format!("{failed} connections failed, {opened} were opened"));
    }
    let cut = clients.iter().skip(1).step_by(2).filter(|held| held.open() != 10).count();
    if cut > 0 {
        problems.push("connections that were held were cut".into());
    }
    let line = if with_plimsoll {
        let [off, on] = slowest.map(|took| took.as_secs_f64());
        format!("none of {opened} failed; off within {off:.2} s, on within {on:.2} s")
    } else {
        format!("none of {opened} failed")
    };
    Ok(Told { line, problems })
}

/// How long after now connections of all clients reach kube-proxy (off), or the last one of any did (on).
fn follows(before: &[u64], off: bool, passed: &dyn Fn() -> Result<Vec<u64>>) -> Result<Duration> {
    /// With a hundred connections per second nothing for so long means that none comes any more.
    const QUIET: Duration = Duration::from_millis(400);
    let began = Instant::now();
    let (mut last, mut last_growth) = (passed()?, Duration::ZERO);
    while began.elapsed() < PATIENCE {
        let now = passed()?;
        let at = began.elapsed();
        if off && now.iter().zip(before).all(|(now, before)| now > before) {
            return Ok(at);
        }
        if now != last {
            (last, last_growth) = (now, at);
        } else if !off && at > last_growth + QUIET {
            return Ok(last_growth);
        }
    }
    Ok(PATIENCE)
}
