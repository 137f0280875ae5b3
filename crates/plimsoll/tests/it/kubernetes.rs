//! Beside a real control plane and real kube-proxies: what they do stays the same with agents in front, and the agents
//! really serve. A part of the tables; `cargo xtask e2e kubernetes` runs all of them.

use std::path::Path;

use plimsoll_e2e::Cases;
use plimsoll_lab::control_plane::{Mode, available};

/// Services of the tables that between them have all kinds of addresses, protocols, policies and what is left alone.
const PART: [&str; 15] = [
    "cluster-ip",
    "udp",
    "sctp",
    "node-port",
    "node-port-local",
    "external-ip",
    "load-balancer-local",
    "source-ranges",
    "internal-local",
    "no-endpoints",
    "terminating-only",
    "zone-hints",
    "affinity",
    "unlabelled",
    "the-label",
];

#[test]
fn only_the_choice_differs_from_kube_proxy_alone() {
    if !available(&["kube-proxy"], &["nft", "iptables", "conntrack"]) {
        return;
    }
    let mut cases = Cases::of_repository().unwrap();
    cases.retain(|name| PART.iter().any(|service| name.split(':').next() == Some(service)));
    assert_eq!(cases.services.len() + cases.changing.len(), PART.len(), "a Service has another name now");
    let program = Path::new(env!("CARGO_BIN_EXE_plimsoll"));
    let (mut count, mut failed) = (0, Vec::new());
    let tell = |what: &str| eprintln!("{what}");
    plimsoll_e2e::differential(program, &cases, &[Mode::Nftables, Mode::Iptables], &tell, &mut |outcome| {
        count += 1;
        if !outcome.passed() {
            failed.push(outcome.to_string());
        }
    })
    .unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(count >= 100, "{count} cases");
}
