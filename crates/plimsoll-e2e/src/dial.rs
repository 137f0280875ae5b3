//! Dialling a Service, and what is seen.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_lab::client::{Arrival, Client, End, Limits};
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::sctp;

use crate::agent;
use crate::objects;
use crate::table::{At, Place, Protocol, Service};
use crate::world::{Kind, World, node_name};

/// How long an answer may take. Longer than the second after which a connection is tried again: some refusals are only
/// noticed then.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// How long a connection stays, so that it looks like one.
const STAY: Duration = Duration::from_millis(200);

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    /// An endpoint answered, and saw this source (by the name of whose address it is).
    Answer { endpoint: String, source: String },
    /// Refused.
    Refused,
    /// Nothing came.
    Silence,
    /// An HTTP status.
    Status(u16),
    /// Something else.
    Broken(String),
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sight::Answer { endpoint, source } => write!(f, "{endpoint}<{source}"),
            Sight::Refused => f.write_str("refused"),
            Sight::Silence => f.write_str("silence"),
            Sight::Status(status) => write!(f, "{status}"),
            Sight::Broken(what) => write!(f, "broken ({what})"),
        }
    }
}

/// What came of several attempts, and how often.
pub(crate) type Sights = BTreeMap<Sight, usize>;

/// A name, a place and how often: one client's part of a case.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Who dials.
    pub(crate) by: String,
    /// Where.
    pub(crate) to: SocketAddr,
    /// How.
    pub(crate) protocol: Protocol,
    /// How often, at once.
    pub(crate) count: usize,
    /// Whether it asks for a page instead.
    pub(crate) is_health: bool,
}

/// What a place of a Service stands for, for who dials in a family; nothing where the Service has no such address.
pub(crate) fn probe(world: &World, service: &Service, at: &At, by: &str, v6: bool) -> Result<Option<Probe>> {
    let host = world.host(by)?;
    if at.only_v6.is_some_and(|only| only != v6) || !service.families().any(|family| family == v6) {
        return Ok(None);
    }
    let of_node = |node: &str| Ok::<IpAddr, anyhow::Error>(world.host(node)?.addresses()[usize::from(v6)]);
    let (address, port) = match &at.place {
        Place::Cluster => (objects::cluster_ip(service, v6), at.port),
        Place::External => (objects::external_ip(service, v6), at.port),
        Place::LoadBalancer => (objects::load_balancer_ip(service, v6), at.port),
        Place::Unallocated => (objects::unallocated_ip(v6), at.port),
        Place::NodePort(node) => {
            let own = node_name(host.node);
            (of_node(node.as_ref().unwrap_or(&own))?, objects::node_port(service, at.port))
        }
        // Nobody serves the first by IPv6, the second says the same, and the third has only the address of the link.
        Place::Loopback | Place::Health(_) | Place::Gateway(_) if v6 => return Ok(None),
        Place::Loopback => (Ipv4Addr::LOCALHOST.into(), objects::node_port(service, at.port)),
        Place::Gateway(node) => {
            let node = world.host(node)?.node as u8;
            (Ipv4Addr::new(10, 1, node, 1).into(), objects::node_port(service, at.port))
        }
        Place::Endpoint => {
            let first = service.endpoints.first().context("`endpoint` of a Service without endpoints")?;
            (of_node(&first.name)?, objects::at_endpoint(service)[0])
        }
        Place::Health(node) => (of_node(node)?, objects::health_port(service)),
    };
    let is_health = matches!(at.place, Place::Health(_));
    // Enough that a random choice leaves nobody out: once in ten million for two endpoints.
    let count = if is_health { 1 } else { 24 * service.endpoints.len().saturating_sub(1).max(1) };
    let protocol = at.protocol.unwrap_or(service.protocols[0]);
    Ok(Some(Probe { by: by.to_owned(), to: SocketAddr::new(address, port), protocol, count, is_health }))
}

/// The node that decides where a packet of a probe goes: the first one it meets, or the one whose address it bears.
pub(crate) fn deciding_node(world: &World, probe: &Probe) -> Result<usize> {
    let own = world.host(&probe.by)?.node;
    let holds = |node: &usize| world.who(probe.to.ip()) == node_name(*node);
    Ok((0..crate::world::NODES).find(holds).unwrap_or(own))
}

/// Dials.
pub(crate) fn dial(world: &World, probe: &Probe) -> Result<Sights> {
    let namespace = &world.host(&probe.by)?.at.namespace;
    let told = if probe.is_health {
        vec![health(namespace, probe.to)]
    } else {
        match probe.protocol {
            Protocol::Tcp => tcp(namespace, probe)?,
            Protocol::Udp => udp(namespace, probe)?,
            Protocol::Sctp => sctp(namespace, probe)?,
        }
    };
    let mut sights = Sights::new();
    for sight in told {
        *sights.entry(named(world, sight)).or_default() += 1;
    }
    Ok(sights)
}

/// Servers tell addresses; people have names.
fn named(world: &World, sight: Sight) -> Sight {
    match sight {
        Sight::Answer { endpoint, source } => match source.parse() {
            Ok(address) => Sight::Answer {
                // The second port of a pod is the same endpoint to a reader.
                endpoint: endpoint.trim_end_matches(".second").to_owned(),
                source: world.who(address),
            },
            Err(_) => Sight::Broken(format!("{endpoint} {source}")),
        },
        other => other,
    }
}

fn answer(text: &str) -> Sight {
    let (endpoint, source) = text.split_once(' ').unwrap_or((text, ""));
    Sight::Answer { endpoint: endpoint.to_owned(), source: source.to_owned() }
}

fn tcp(namespace: &Namespace, probe: &Probe) -> Result<Vec<Sight>> {
    let service = Some(STAY);
    let arrivals = std::iter::repeat_n(Arrival { at: Duration::ZERO, to: probe.to, service }, probe.count);
    let limits = Limits { connect: PATIENCE, length: 2 * PATIENCE, ..Limits::default() };
    let outcomes = Client::start(namespace, arrivals, limits)?.join();
    let sight = |outcome: plimsoll_lab::client::Outcome| match (outcome.end, outcome.endpoint) {
        (End::Served, Some(endpoint)) => answer(&endpoint),
        (End::Refused, _) => Sight::Refused,
        (End::Unanswered, _) => Sight::Silence,
        (end, _) => Sight::Broken(format!("{end:?}")),
    };
    Ok(outcomes.into_iter().map(sight).collect())
}

fn udp(namespace: &Namespace, probe: &Probe) -> Result<Vec<Sight>> {
    let any: SocketAddr = if probe.to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse()?;
    let mut sockets = Vec::new();
    for _ in 0..probe.count {
        let socket = namespace.udp(any)?;
        let sent = socket.connect(probe.to).and_then(|()| socket.send(b"?"));
        sockets.push((socket, sent));
    }
    let deadline = Instant::now() + PATIENCE;
    let sight =
        |(socket, sent): (UdpSocket, io::Result<usize>)| match sent.and_then(|_| hear(&socket, deadline)) {
            Ok(text) => answer(&text),
            Err(error) => refusal(&error),
        };
    Ok(sockets.into_iter().map(sight).collect())
}

fn hear(socket: &UdpSocket, deadline: Instant) -> io::Result<String> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    socket.set_read_timeout(Some(left))?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn refusal(error: &io::Error) -> Sight {
    match error.kind() {
        // On the node itself the rule that refuses is met while sending.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied => Sight::Refused,
        io::ErrorKind::WouldBlock
        | io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Sight::Silence,
        _ => Sight::Broken(error.to_string()),
    }
}

fn sctp(namespace: &Namespace, probe: &Probe) -> Result<Vec<Sight>> {
    // Other ports each time, so that no attempt continues an earlier one.
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let count = u16::try_from(probe.count)?;
    let first = NEXT.fetch_add(count, Ordering::SeqCst);
    let answers = sctp::dial(namespace, probe.to, first, count, PATIENCE)?;
    let sight = |told| match told {
        sctp::Answer::Cookie(text) => answer(&text),
        sctp::Answer::Refused => Sight::Refused,
        sctp::Answer::Silence => Sight::Silence,
    };
    Ok(answers.into_iter().map(sight).collect())
}

fn health(namespace: &Namespace, to: SocketAddr) -> Sight {
    match namespace.run(|| agent::get(to, "/")) {
        Ok((status, _)) => Sight::Status(status),
        Err(error) => Sight::Broken(format!("{error:#}")),
    }
}

/// Whether an endpoint saw the node's address rather than the client's.
pub(crate) fn is_node(world: &World, name: &str) -> bool {
    world.host(name).is_ok_and(|host| host.kind == Kind::Node)
}
