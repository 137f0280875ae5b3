//! What a new connection costs through our table, or while it is recorded, against the proxy's equal table alone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::conntrack::Lives;
use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::eventually;
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::proxy;
use plimsoll_lab::random::Random;

use crate::core::on_cpu;
use crate::dataplane::open;
use crate::row::{Bound, Row, Unit, quantile};
use crate::scene::{ENDPOINTS, PORT};

const ROUNDS: usize = 14;
/// Connections of a round, in parts small enough for both sides to see the same of what else the machine does.
const PARTS: usize = 40;
const PART: usize = 50;

/// A node with endpoints and a client, and the proxy's table.
struct Side {
    node: Namespace,
    client: Namespace,
    endpoints: Vec<Host>,
    listeners: Vec<TcpListener>,
}

impl Side {
    fn new(cluster: &mut Cluster, node: usize, address: SocketAddr) -> Result<Side> {
        let endpoints: Vec<Host> =
            (0..ENDPOINTS).map(|_| cluster.add_endpoint(node)).collect::<Result<_, _>>()?;
        let client = cluster.add_endpoint(node)?.namespace;
        let at = |host: &Host| SocketAddr::new(host.v4.into(), PORT);
        let listen = |host: &Host| {
            let listener = host.namespace.tcp_listen(at(host))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners = endpoints.iter().map(listen).collect::<Result<_>>()?;
        let proxy = proxy::Service {
            name: "web".into(),
            protocol: "tcp",
            keys: vec![address],
            node_port: None,
            endpoints: endpoints.iter().map(at).collect(),
        };
        let node = cluster.nodes[node].host.namespace.clone();
        node.nft(&proxy::equal_random(&[proxy]))?;
        Ok(Side { node, client, endpoints, listeners })
    }

    /// Connections that the proxy's table has served.
    fn proxied(&self) -> Result<u64> {
        Ok(proxy::seen(&self.node, "web")?)
    }

    /// Microseconds of the calling thread that a connection takes, without what its server does with it.
    fn part(&self, to: SocketAddr) -> Result<f64> {
        self.client.enter()?;
        let start = on_cpu();
        for _ in 0..PART {
            let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            // Closed by a reset, so that no port waits.
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        let time = on_cpu().saturating_sub(start);
        for listener in &self.listeners {
            while listener.accept().is_ok() {}
        }
        Ok(time.as_secs_f64() * 1e6 / PART as f64)
    }
}

/// One connection after the other, each opened and reset, on a node with our table and on one without.
///
/// Clients, node and endpoints share a kernel, and whoever sends a packet carries it all the way: connecting never
/// waits. So the client thread's own time on the processor is what a connection costs, whatever else the machine does.
pub(crate) fn new_connection() -> Result<Vec<Row>> {
    let address: SocketAddr = "10.96.0.1:80".parse()?;
    let mut cluster = Cluster::new(2)?;
    let sides = [Side::new(&mut cluster, 0, address)?, Side::new(&mut cluster, 1, address)?];
    let mut table = open(&sides[0].node, &plan(address, &sides[0].endpoints))?;
    let times = rounds(&sides, address, || Ok(table.apply(&Plan { renew: true, ..Plan::default() })?))?;
    let proxied = [sides[0].proxied()?, sides[1].proxied()?];
    let expected = [0, (ROUNDS * PARTS * PART) as u64];
    ensure!(proxied == expected, "the proxy served {proxied:?} connections, not {expected:?}");
    Ok(vec![row("new-connection", times)])
}

/// The same with the proxy's table on both nodes, of which one hears of its connections' lives, as `plimsoll record`
/// does.
pub(crate) fn recorded_connection() -> Result<Vec<Row>> {
    let address: SocketAddr = "10.96.0.1:80".parse()?;
    let mut cluster = Cluster::new(2)?;
    let sides = [Side::new(&mut cluster, 0, address)?, Side::new(&mut cluster, 1, address)?];
    let mut lives = sides[0].node.run(Lives::open)?;
    let mut heard = 0;
    let times = rounds(&sides, address, || {
        let told = lives.hear(Duration::ZERO, |_| heard += 1)?;
        ensure!(!told.lost, "the kernel had more to tell than could be heard");
        Ok(())
    })?;
    // The time of a connection that was reset is over in the kernel after ten seconds.
    let all = (ROUNDS * PARTS * PART) as u64;
    let told = eventually(Duration::from_mins(1), || {
        let heard_all = lives.look(|_| {}).and_then(|()| lives.hear(Duration::ZERO, |_| heard += 1));
        heard_all.is_ok() && heard >= all
    });
    ensure!(told && heard == all, "{heard} connections were heard of, not {all}");
    Ok(vec![row("recorded-connection", times)])
}

/// By side, the median of the parts of each round. `before` is called before each of them.
fn rounds(
    sides: &[Side; 2],
    address: SocketAddr,
    mut before: impl FnMut() -> Result<()>,
) -> Result<[Vec<f64>; 2]> {
    let mut random = Random::new(14);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        before()?;
        let round = sides[0].client.run(|| round(sides, address, &mut random))?;
        for (times, mut parts) in times.iter_mut().zip(round) {
            times.push(quantile(&mut parts, 0.5));
        }
    }
    Ok(times)
}

fn row(name: &'static str, [mut ours, mut alone]: [Vec<f64>; 2]) -> Row {
    let note = format!("medians {:.1} and {:.1} us", quantile(&mut ours, 0.5), quantile(&mut alone, 0.5));
    let (ours, alone) = (quantile(&mut ours, 0.0), quantile(&mut alone, 0.0));
    Row::against(name, ours, alone, Unit::Microseconds, Bound::AtMost(1.15)).noting(note)
}

/// What a connection took in each part of a round, on each side; parts come in random order.
fn round(sides: &[Side; 2], address: SocketAddr, random: &mut Random) -> Result<[Vec<f64>; 2]> {
    let mut order: Vec<usize> = (0..2 * PARTS).map(|part| part % 2).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i + 1));
    }
    let mut times = [Vec::new(), Vec::new()];
    for side in order {
        times[side].push(sides[side].part(address)?);
    }
    Ok(times)
}

fn plan(address: SocketAddr, hosts: &[Host]) -> Plan {
    let protocol = Protocol::Tcp;
    let endpoints: Vec<EndpointId> =
        hosts.iter().map(|host| EndpointId { address: host.v4.into(), port: PORT, protocol }).collect();
    let key = Key { place: Place::Internal(address.ip()), port: address.port(), protocol };
    let mut cluster: Vec<Weighted> =
        endpoints.iter().map(|endpoint| Weighted { endpoint: *endpoint, weight: 100 }).collect();
    cluster.sort_by_key(|weighted| weighted.endpoint);
    let table = ServiceTable {
        protocol,
        keys: vec![KeyEntry { key, choose: Choose::Cluster, masquerade: Masquerade::FromOutside }],
        affinity: None,
        cluster,
        local: Vec::new(),
    };
    let id = ServiceId { name: "web".into(), port: "".into(), family: Family::V4 };
    Plan {
        fresh: true,
        changes: vec![Change::Replace(id, table)],
        host: endpoints.iter().copied().collect(),
        know: endpoints.into_iter().collect(),
        ..Plan::default()
    }
}
