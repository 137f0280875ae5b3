//! The rows of kube-proxy's case table that concern eligibility.

use std::time::Duration;

use super::*;
use crate::service::{Conditions, EndpointId, Family, Mode, NodeName, Protocol, ServiceId, TrafficPolicy};

/// An endpoint in a line: `r` ready, `s` serving, `t` terminating, `@node`, `~zone hint`, `^node hint`.
fn endpoint(i: usize, text: &str) -> Endpoint {
    let words: Vec<&str> = text.split_whitespace().collect();
    let with = |prefix: char| words.iter().filter_map(move |word| word.strip_prefix(prefix));
    let flags = words.first().copied().unwrap_or("");
    Endpoint {
        id: EndpointId { address: [10, 0, 0, i as u8].into(), port: 80, protocol: Protocol::Tcp },
        node: with('@').next().map(NodeName::new),
        capacity: None,
        conditions: Conditions {
            ready: flags.contains('r'),
            serving: flags.contains('s'),
            terminating: flags.contains('t'),
        },
        for_zones: with('~').map(Into::into).collect(),
        for_nodes: with('^').map(NodeName::new).collect(),
    }
}

fn check(endpoints: &[&str], expect_cluster: &[usize], expect_local: &[usize]) {
    let service = Service {
        id: ServiceId { name: "web".into(), port: "".into(), family: Family::V4 },
        protocol: Protocol::Tcp,
        keys: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        mode: Mode::Enabled,
        policy: None,
        slow_start: Duration::ZERO,
        floor: None,
        endpoints: endpoints.iter().enumerate().map(|(i, text)| endpoint(i, text)).collect(),
    };
    let here = Here { node: NodeName::new("n1"), zone: Some("a".into()) };
    assert_eq!(cluster(&service, &here), expect_cluster, "cluster of {endpoints:?}");
    assert_eq!(local(&service, &here), expect_local, "local of {endpoints:?}");
}

#[test]
fn only_the_ready_ones_serve_while_there_are_any() {
    check(&["rs @n1", "s @n1", "st @n1", "rs @n2"], &[0, 3], &[0]);
}

#[test]
fn without_a_ready_one_those_that_terminate_and_serve_do() {
    check(&["- @n1", "st @n1", "t @n1", "st @n2"], &[1, 3], &[1]);
}

#[test]
fn nobody_serves_when_all_are_merely_not_ready() {
    check(&["- @n1", "s @n1", "t @n2"], &[], &[]);
}

#[test]
fn ready_decides_even_while_terminating() {
    check(&["rst @n1", "st @n1"], &[0], &[0]);
}

#[test]
fn the_local_list_falls_back_by_itself() {
    check(&["st @n1", "rs @n2"], &[1], &[0]);
}

#[test]
fn zone_hints_narrow_the_cluster_list_only() {
    check(&["rs @n1 ~a", "rs @n2 ~b", "rs @n1 ~b"], &[0], &[0, 2]);
}

#[test]
fn zone_hints_need_all_ready_endpoints_and_one_for_this_zone() {
    check(&["rs ~a", "rs"], &[0, 1], &[]);
    check(&["rs ~b", "rs ~c"], &[0, 1], &[]);
    check(&["- ~a", "rs ~b", "rs ~b"], &[1, 2], &[]);
}

#[test]
fn node_hints_come_before_zone_hints() {
    check(&["rs ^n1 ~b", "rs ^n2 ~a"], &[0], &[]);
    check(&["rs ^n2 ~a", "rs ^n3 ~b"], &[0], &[]);
}

#[test]
fn terminating_ones_are_used_without_regard_to_hints() {
    check(&["st ~b", "st ~a"], &[0, 1], &[]);
}
