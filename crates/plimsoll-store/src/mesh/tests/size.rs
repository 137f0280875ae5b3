//! What the mesh costs on the wire.

use plimsoll_core::report::EndpointReport;
use rand::RngExt;

use super::cluster::{Cluster, busy, endpoint, report_of, seconds};

const NODES: usize = 50;
const ENDPOINTS: usize = 200;

/// Bytes per endpoint, peer and report of everything that is sent in ten intervals of a mesh that has settled:
/// reports, membership, UDP and IP headers.
fn cost(mut cluster: Cluster) -> f64 {
    cluster.run(seconds(2.0));
    let published =
        |cluster: &Cluster| -> u64 { cluster.nodes.iter().map(|node| node.log.len() as u64).sum() };
    let (bytes, datagrams, before) = (cluster.bytes, cluster.datagrams, published(&cluster));
    cluster.run(seconds(5.0));
    let reports = published(&cluster) - before;
    assert!(reports > (NODES * (NODES - 1) * 8) as u64, "{reports} reports were heard");
    let cost = (cluster.bytes - bytes) as f64 / (reports * ENDPOINTS as u64) as f64;
    eprintln!(
        "{cost:.2} bytes per endpoint, peer and report; {:.2} datagrams per report",
        (cluster.datagrams - datagrams) as f64 / reports as f64
    );
    cost
}

#[test]
fn fifty_nodes_with_all_endpoints_changing() {
    let cost = cost(Cluster::running(NODES, 31, busy(ENDPOINTS)));
    assert!(cost <= 16.0, "{cost} bytes");
}

/// The most a record of an IPv4 pod usually has: failures on a tenth of the endpoints, CPU and pressure on all,
/// addresses with gaps.
#[test]
fn fifty_nodes_with_all_signals() {
    let generator = Box::new(|index: usize, rng: &mut rand::rngs::StdRng| {
        let mut loads = Vec::new();
        for last in 1..=254u8 {
            if loads.len() == ENDPOINTS {
                break;
            }
            if rng.random_bool(0.2) && 254 - usize::from(last) > ENDPOINTS - loads.len() {
                continue;
            }
            let open = rng.random_range(0..5000);
            let young = rng.random_range(0..=open / 4);
            loads.push(EndpointReport {
                endpoint: endpoint([10, 1, index as u8, last], 8080),
                open,
                young,
                middle: young / 2,
                opens_per_second: rng.random_range(0.0..300.0),
                failures_per_second: if rng.random_bool(0.1) { 0.5 } else { 0.0 },
                cpu: Some(rng.random_range(0.0..4.0)),
                pressure: Some(rng.random_range(0.0..1.0)),
            });
        }
        report_of(loads)
    });
    let cost = cost(Cluster::running(NODES, 32, generator));
    assert!(cost <= 16.0, "{cost} bytes");
}
