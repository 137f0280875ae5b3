//! What a new connection costs through our table, against the proxy's equal table alone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::proxy;
use plimsoll_lab::random::Random;

use crate::core::on_cpu;
use crate::dataplane::open;
use crate::row::{Bound, Row, Unit, quantile};
use crate::scene::{ENDPOINTS, PORT};

const ROUNDS: usize = 14;
/// Connections of a round, in parts small enough for the listeners' queues.
const PARTS: usize = 10;
const PART: usize = 200;

/// One connection after the other, each opened and reset, in rounds with and without our table in random order.
///
/// Clients, node and endpoints share a kernel, and whoever sends a packet carries it all the way: connecting never
/// waits. So the client thread's own time on the processor is what a connection costs, whatever else the machine does.
pub(crate) fn new_connection() -> Result<Vec<Row>> {
    let address: SocketAddr = "10.96.0.1:80".parse()?;
    let mut cluster = Cluster::new(1)?;
    let hosts: Vec<Host> = (0..ENDPOINTS).map(|_| cluster.add_endpoint(0)).collect::<Result<_, _>>()?;
    let client = cluster.add_endpoint(0)?;
    let at = |host: &Host| SocketAddr::new(host.v4.into(), PORT);
    let listeners: Vec<TcpListener> = hosts
        .iter()
        .map(|host| {
            let listener = host.namespace.tcp_listen(at(host))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect::<Result<_>>()?;
    let below = proxy::Service {
        name: "web".into(),
        protocol: "tcp",
        keys: vec![address],
        node_port: None,
        endpoints: hosts.iter().map(at).collect(),
    };
    let node = &cluster.nodes[0].host.namespace;
    node.nft(&proxy::equal_random(&[below]))?;
    let plan = plan(address, &hosts);
    let mut order: Vec<bool> = (0..2 * ROUNDS).map(|round| round % 2 == 0).collect();
    let mut random = Random::new(14);
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i + 1));
    }
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for with_ours in order {
        let table = if with_ours { Some(open(node, &plan)?) } else { None };
        let before = proxy::seen(node, "web")?;
        let time = client.namespace.run(|| round(address, &listeners))?;
        let fell_through = proxy::seen(node, "web")? - before;
        let expected = if with_ours { 0 } else { (PARTS * PART) as u64 };
        ensure!(fell_through == expected, "{fell_through} connections were the proxy's, not {expected}");
        if with_ours {
            ours.push(time);
        } else {
            alone.push(time);
        }
        drop(table);
    }
    let note = format!("medians {:.1} and {:.1} us", quantile(&mut ours, 0.5), quantile(&mut alone, 0.5));
    let (ours, alone) = (quantile(&mut ours, 0.0), quantile(&mut alone, 0.0));
    let bound = Bound::AtMost(1.15);
    Ok(vec![Row::against("new-connection", ours, alone, Unit::Microseconds, bound).noting(note)])
}

/// Microseconds of the calling thread that a connection takes, without what its server does with it.
fn round(to: SocketAddr, listeners: &[TcpListener]) -> Result<f64> {
    let mut time = Duration::ZERO;
    for _ in 0..PARTS {
        let start = on_cpu();
        for _ in 0..PART {
            let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            // Closed by a reset, so that no port waits.
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        time += on_cpu().saturating_sub(start);
        for listener in listeners {
            while listener.accept().is_ok() {}
        }
    }
    Ok(time.as_secs_f64() * 1e6 / (PARTS * PART) as f64)
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
