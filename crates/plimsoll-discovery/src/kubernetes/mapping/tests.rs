//! The rows of kube-proxy's case table that are decided while objects are mapped: each object as the API writes it,
//! and what comes of it in a few words.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use plimsoll_core::service::Place;
use serde_json::{Value, json};

use super::super::object::{Names, Slice};
use super::super::wire;
use super::*;
use crate::below::{LocalSources, NodePorts, ProxyMode};

fn proxy(mode: ProxyMode) -> Proxy {
    Proxy {
        mode,
        local: LocalSources::Ranges(vec!["10.1.0.0/16".parse().unwrap()]),
        masquerade_all: false,
        node_ports: NodePorts::All,
        accepts_marked: Vec::new(),
    }
}

fn nftables() -> Proxy {
    proxy(ProxyMode::Nftables)
}

/// Puts what differs over what is usual.
fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (name, value) in over {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over.clone(),
    }
}

/// A Service with a cluster address and a port, but for what differs.
fn service(differs: &Value) -> object::Service {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"plimsoll.dev/balance": "enabled"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"}],
        },
        "status": {"loadBalancer": {}},
    });
    merge(&mut object, differs);
    let object: wire::Service = serde_json::from_value(object).unwrap();
    object::Service::read(&object)
}

/// A slice with this name, ports and endpoints.
fn slice(name: &str, family: &str, ports: &Value, endpoints: &Value) -> object::Slice {
    let object: wire::EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family, "ports": ports, "endpoints": endpoints,
    }))
    .unwrap();
    Slice::read(&object, &mut Names::default()).unwrap()
}

fn http() -> Value {
    json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
}

fn usual() -> Vec<object::Slice> {
    vec![slice(
        "web-1",
        "IPv4",
        &http(),
        &json!([{"addresses": ["10.1.0.11"]}, {"addresses": ["10.1.1.11"]}]),
    )]
}

/// What comes of it: a line for each Service, then one for each remark.
fn told(mapped: &Mapped) -> String {
    let mut text = String::new();
    for service in &mapped.services {
        let keys: Vec<String> = service
            .keys
            .iter()
            .map(|key| {
                let kind = match key.place {
                    Place::Internal(_) => "in",
                    Place::External(_) => "ex",
                    Place::AnyLocal(_) => "any",
                };
                format!("{kind} {key}")
            })
            .collect();
        let endpoints: Vec<String> = service.endpoints.iter().map(endpoint).collect();
        let _ = writeln!(
            text,
            "{} {:?} [{}] -> {}{}",
            service.id,
            service.mode,
            keys.join(", "),
            endpoints.join(" "),
            service.affinity.map_or(String::new(), |time| format!(" sticky {time:?}"))
        );
    }
    for remark in mapped.remarks.iter() {
        let _ = writeln!(text, "- {remark}");
    }
    text
}

fn endpoint(endpoint: &plimsoll_core::service::Endpoint) -> String {
    let said = endpoint.conditions;
    let flag = |flag: bool, letter: &'static str| if flag { letter } else { "" };
    let mut text = format!(
        "{}{}{}{}",
        endpoint.id,
        flag(!said.ready, "!r"),
        flag(!said.serving, "!s"),
        flag(said.terminating, "t")
    );
    if let Some(node) = &endpoint.node {
        let _ = write!(text, "@{node}");
    }
    for zone in &endpoint.for_zones {
        let _ = write!(text, "~{zone}");
    }
    for node in &endpoint.for_nodes {
        let _ = write!(text, "^{node}");
    }
    text
}

fn check_below(differs: &Value, slices: &[object::Slice], proxy: Option<&Proxy>, expected: &Expect) {
    let setting = Setting { proxy, ..Setting::default() };
    expected.assert_eq(&told(&map(&service(differs), slices, setting)));
}

fn check(differs: &Value, slices: &[object::Slice], expected: &Expect) {
    check_below(differs, slices, Some(&nftables()), expected);
}

#[test]
fn a_cluster_address() {
    check(
        &json!({}),
        &usual(),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
    "]],
    );
}

#[test]
fn ports_go_by_the_name_in_the_slice() {
    let spec = json!({"spec": {"ports": [
        {"name": "http", "port": 80, "targetPort": "web"}, {"name": "other", "port": 81}, {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53}, {"name": "sig", "port": 9, "protocol": "SCTP"},
    ]}});
    let ports = json!([
        {"name": "http", "port": 8080}, {"name": "Other", "port": 81}, {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5353, "protocol": "UDP"}, {"name": "sig", "port": 9, "protocol": "SCTP"},
        {"name": "http", "port": null}, {"name": "http", "port": 8, "protocol": "QUIC"},
    ]);
    let slices = [slice("web-1", "IPv4", &ports, &json!([{"addresses": ["10.1.0.11"]}]))];
    check(
        &spec,
        &slices,
        &expect![[r"
        shop/web:dns/ipv4 Enabled [in udp/10.96.0.1:53] -> udp/10.1.0.11:5353
        shop/web:dns-tcp/ipv4 Enabled [in tcp/10.96.0.1:53] -> 
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080
        shop/web:other/ipv4 Enabled [in tcp/10.96.0.1:81] -> 
        shop/web:sig/ipv4 Enabled [in sctp/10.96.0.1:9] -> sctp/10.1.0.11:9
    "]],
    );
}

#[test]
fn the_empty_name_is_a_name() {
    let spec = json!({"spec": {"ports": [{"port": 80}]}});
    let of = |ports: Value| [slice("web-1", "IPv4", &ports, &json!([{"addresses": ["10.1.0.11"]}]))];
    check(
        &spec,
        &of(json!([{"port": 8080}, {"name": "http", "port": 8081}])),
        &expect![[r"
        shop/web/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080
    "]],
    );
    check(
        &spec,
        &of(json!([{"name": "", "port": 8080}])),
        &expect![[r"
        shop/web/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080
    "]],
    );
}

#[test]
fn one_port_may_have_different_numbers_in_different_slices() {
    let one = slice("web-1", "IPv4", &http(), &json!([{"addresses": ["10.1.0.11"]}]));
    let other = json!([{"name": "http", "port": 9090}]);
    let two = slice("web-2", "IPv4", &other, &json!([{"addresses": ["10.1.0.12"]}]));
    check(
        &json!({}),
        &[one, two],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.0.12:9090
    "]],
    );
}

#[test]
fn both_families_have_their_own() {
    let spec = json!({"spec": {"clusterIPs": ["10.96.0.1", "fd96::1"], "externalIPs": ["192.0.2.1", "2001:db8::1"]}});
    let six =
        slice("web-6", "IPv6", &http(), &json!([{"addresses": ["fd01::11"]}, {"addresses": ["10.1.0.12"]}]));
    let slices = [usual(), vec![six]].concat();
    check(
        &spec,
        &slices,
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80, ex tcp/192.0.2.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
        shop/web:http/ipv6 Enabled [in tcp/[fd96::1]:80, ex tcp/[2001:db8::1]:80] -> tcp/[fd01::11]:8080
        - EndpointSlice shop/web-6: endpoint address: `10.1.0.12` is no ipv6 address that an endpoint can have; such endpoints are ignored; correct the slice
    "]],
    );
    // Without a cluster address of a family nothing of it is served.
    let spec = json!({"spec": {"externalIPs": ["2001:db8::1"]}});
    check(
        &spec,
        &slices[1..],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> 
        - EndpointSlice shop/web-6: endpoint address: `10.1.0.12` is no ipv6 address that an endpoint can have; such endpoints are ignored; correct the slice
    "]],
    );
}

#[test]
fn only_the_first_address_of_an_endpoint_counts() {
    let endpoints = json!([{"addresses": ["10.1.0.11", "10.1.0.12"]}, {"addresses": []}]);
    check(
        &json!({}),
        &[slice("web-1", "IPv4", &http(), &endpoints)],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080
    "]],
    );
}

#[test]
fn addresses_that_no_endpoint_can_have_are_told() {
    let endpoints = json!([
        {"addresses": ["127.0.0.1"]}, {"addresses": ["0.0.0.0"]}, {"addresses": ["224.0.0.1"]}, {"addresses": ["web.example"]},
        {"addresses": ["10.1.0.11"]}, {"addresses": ["fd01::1"]}, {"addresses": ["169.254.1.1"]},
    ]);
    check(
        &json!({}),
        &[slice("web-1", "IPv4", &http(), &endpoints)],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080
        - EndpointSlice shop/web-1: endpoint address: `127.0.0.1` is no ipv4 address that an endpoint can have; such endpoints are ignored; correct the slice
    "]],
    );
}

#[test]
fn conditions_that_are_not_given_have_a_meaning() {
    let endpoints = json!([
        {"addresses": ["10.1.0.1"]},
        {"addresses": ["10.1.0.2"], "conditions": {"ready": false}},
        {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": false}},
        {"addresses": ["10.1.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        // publishNotReadyAddresses
        {"addresses": ["10.1.0.5"], "conditions": {"ready": true, "serving": true, "terminating": true}},
        {"addresses": ["10.1.0.6"], "conditions": null},
    ]);
    check(
        &json!({}),
        &[slice("web-1", "IPv4", &http(), &endpoints)],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.1:8080 tcp/10.1.0.2:8080!r tcp/10.1.0.3:8080!r!s tcp/10.1.0.4:8080!rt tcp/10.1.0.5:8080t tcp/10.1.0.6:8080
    "]],
    );
}

#[test]
fn nodes_and_hints_are_handed_on() {
    let endpoints = json!([
        {"addresses": ["10.1.0.1"], "nodeName": "n1", "zone": "a", "hints": {"forZones": [{"name": "a"}]}},
        {"addresses": ["10.1.0.2"], "nodeName": "n2", "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n2"}]}},
        {"addresses": ["10.1.0.3"], "hints": {}},
    ]);
    check(
        &json!({}),
        &[slice("web-1", "IPv4", &http(), &endpoints)],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.1:8080@n1~a tcp/10.1.0.2:8080@n2~a~b^n2 tcp/10.1.0.3:8080
    "]],
    );
}

#[test]
fn of_an_endpoint_in_two_slices_the_fittest_counts_in_any_order() {
    let of = |name: &str, ready: bool, node: &str| {
        let endpoint = json!([{"addresses": ["10.1.0.1"], "nodeName": node, "conditions": {"ready": ready}}]);
        slice(name, "IPv4", &http(), &endpoint)
    };
    let slices = [of("web-1", false, "n1"), of("web-2", true, "n2"), of("web-3", true, "n3")];
    let backwards: Vec<object::Slice> = slices.iter().rev().cloned().collect();
    let expected = expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.1:8080@n2
        - EndpointSlice shop/web-1: endpoint: `10.1.0.1` is in EndpointSlice shop/web-2 too, with other conditions; kube-proxy takes either, here the one that is the fitter to serve counts; remove it from one of the slices
    "]];
    check(&json!({}), &slices, &expected);
    check(&json!({}), &backwards, &expected);
}

#[test]
fn node_ports_are_served_where_kube_proxy_serves_them() {
    let spec =
        json!({"spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
    check(
        &spec,
        &usual(),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80, any tcp/ipv4-node-port:30080] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
    "]],
    );
    let at = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Proxy { node_ports: NodePorts::At(addresses), ..proxy(ProxyMode::Nftables) }
    };
    // Never on loopback.
    check_below(
        &spec,
        &usual(),
        Some(&at(&["192.0.2.11", "127.0.0.1", "fd00::11"])),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80, ex tcp/192.0.2.11:30080] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
    "]],
    );
    check_below(
        &spec,
        &usual(),
        Some(&at(&[])),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
        - tcp/ipv4-node-port:30080 is not taken over: kube-proxy's nodePortAddresses name no address of this node that is known
    "]],
    );
}

#[test]
fn what_would_end_in_a_chain_that_drops() {
    let spec = json!({"spec": {"type": "NodePort", "ports": [
        {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web", "nodePort": 30080}
    ]}});
    let nodes = ["192.0.2.2".parse().unwrap()].into();
    let of_pod = json!({"addresses": ["10.1.0.11"], "nodeName": "n1"});
    let on_host = json!({"addresses": ["192.0.2.2"], "nodeName": "n2"});
    let nobodys = json!({"addresses": ["203.0.113.5"]});
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let left = |endpoint: &Value, drops: &[Family], differs: Value, masquerade_all| {
        let slices = [slice("web-1", "IPv4", &ports, &json!([of_pod, endpoint]))];
        let proxy = Proxy { accepts_marked: drops.to_vec(), masquerade_all, ..proxy(ProxyMode::Iptables) };
        let mut spec = spec.clone();
        merge(&mut spec, &differs);
        let setting = Setting { proxy: Some(&proxy), nodes: Some(&nodes), namespace: None };
        let mapped = map(&service(&spec), &slices, setting);
        let forwarded =
            |remark: &&Remark| matches!(remark, Remark::Left(LeftAlone { reason: Reason::Forwarding, .. }));
        let left = mapped.remarks.iter().filter(forwarded).count();
        assert_eq!(left + mapped.services[0].keys.len(), 2);
        left
    };
    let drops = &[Family::V4];
    for (endpoint, keys) in [(&of_pod, 0), (&on_host, 1), (&nobodys, 1)] {
        assert_eq!(left(endpoint, drops, json!({}), false), keys, "{endpoint}");
    }
    assert_eq!(left(&on_host, &[], json!({}), false), 0, "nothing is dropped");
    assert_eq!(left(&on_host, &[Family::V6], json!({}), false), 0, "the other family is");
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    assert_eq!(left(&on_host, drops, local, false), 0, "not masqueraded");
    assert_eq!(left(&on_host, drops, json!({}), true), 2, "all is masqueraded");
}

#[test]
fn outside_addresses() {
    let spec = json!({
        "spec": {
            "type": "LoadBalancer", "externalIPs": ["198.51.100.1", "198.51.100.9", "10.96.0.1", "0.0.0.0"],
            "allocateLoadBalancerNodePorts": false, "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1", "ipMode": "VIP"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"ip": "198.51.100.9"},
            {"hostname": "lb.example"},
        ]}},
    });
    check(
        &spec,
        &usual(),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80, ex tcp/203.0.113.1:80, ex tcp/198.51.100.9:80, ex tcp/198.51.100.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
        - tcp/203.0.113.2:80 is not taken over: its ipMode is Proxy: the load balancer itself serves the address
        - Service shop/web: externalIPs: `0.0.0.0` is no address that a Service can have; it is ignored; correct or remove it
    "]],
    );
    let policies = service(&spec);
    assert_eq!(
        (policies.internal_policy, policies.external_policy),
        (plimsoll_core::service::TrafficPolicy::Local, plimsoll_core::service::TrafficPolicy::Local)
    );
}

#[test]
fn source_ranges_keep_the_load_balancers_address_but_in_nftables_mode() {
    let spec = json!({
        "spec": {
            "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "externalIPs": ["198.51.100.1", "203.0.113.1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
    });
    check(
        &spec,
        &usual(),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80, ex tcp/203.0.113.1:80, ex tcp/198.51.100.1:80, any tcp/ipv4-node-port:30080] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
    "]],
    );
    for mode in [ProxyMode::Iptables, ProxyMode::Ipvs] {
        check_below(
            &spec,
            &usual(),
            Some(&proxy(mode)),
            &expect![[r"
            shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80, ex tcp/198.51.100.1:80, any tcp/ipv4-node-port:30080] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
            - tcp/203.0.113.1:80 is not taken over: the Service has loadBalancerSourceRanges, which kube-proxy enforces only for what it translates itself in this mode; in its nftables mode the address can be taken
        "]],
        );
    }
}

#[test]
fn what_no_proxy_serves_is_left_alone() {
    for (differs, expected) in [
        (
            json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
            expect![[r"
            - it is not taken over: it is headless, so clients choose by themselves
        "]],
        ),
        (
            json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}),
            expect![[r"
            - it is not taken over: it is headless, so clients choose by themselves
        "]],
        ),
        (
            json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "mine"}}}),
            expect![[r"
            - it is not taken over: its label service.kubernetes.io/service-proxy-name gives it to `mine`
        "]],
        ),
        (
            json!({"spec": {"type": "ExternalName", "clusterIP": "", "clusterIPs": null}}),
            expect![[r"
            - it is not taken over: it is an ExternalName, which no proxy serves
        "]],
        ),
        (
            json!({"spec": {"clusterIP": "", "clusterIPs": []}}),
            expect![[r"
            - it is not taken over: it has no cluster address yet
        "]],
        ),
    ] {
        check(&differs, &usual(), &expected);
    }
}

#[test]
fn clients_that_stay_are_taken_over_only_if_asked() {
    let spec = json!({"spec": {"sessionAffinity": "ClientIP"}});
    check(
        &spec,
        &usual(),
        &expect![[r"
        shop/web:http/ipv4 Observe [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080 sticky 10800s
        - it is not taken over: its sessionAffinity is ClientIP, and clients may change their endpoint once when it is taken over; annotate it with plimsoll.dev/affinity: take-over if they may
    "]],
    );
    let spec = json!({
        "metadata": {"annotations": {"plimsoll.dev/affinity": "take-over"}},
        "spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}},
    });
    check(
        &spec,
        &usual(),
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080 sticky 60s
    "]],
    );
}

#[test]
fn nothing_is_steered_in_front_of_the_unknown() {
    check_below(
        &json!({}),
        &usual(),
        None,
        &expect![[r"
        shop/web:http/ipv4 Observe [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
        - it is not taken over: kube-proxy's configuration could not be read, so it is only observed; see the discovery's trouble in `plimsoll status`, or set `discovery.kubernetes.kube_proxy.assume`
    "]],
    );
    // Who only asked to observe is not told that it is only observed.
    check_below(
        &json!({"metadata": {"labels": {"plimsoll.dev/balance": "observe"}}}),
        &usual(),
        None,
        &expect![[r"
        shop/web:http/ipv4 Observe [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
    "]],
    );
}

#[test]
fn labels_and_annotations_tune() {
    let namespace = object::Namespace {
        name: "shop".into(),
        annotations: [("plimsoll.dev/slow-start", "30s"), ("plimsoll.dev/policy", "never")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
    };
    let setting = Setting { namespace: Some(&namespace), ..Setting::default() };
    let differs = json!({"metadata": {
        "labels": {"plimsoll.dev/balance": "observe", "plimsoll.dev/balanced": "yes"},
        "annotations": {"plimsoll.dev/policy": "equal", "example.com/other": "x"},
    }});
    let mapped = map(&service(&differs), &usual(), setting);
    expect![[r"
        shop/web:http/ipv4 Observe [in tcp/10.96.0.1:80] -> tcp/10.1.0.11:8080 tcp/10.1.1.11:8080
        - Namespace shop: annotation plimsoll.dev/policy: `never` is not one of the choices; write `waterline`, `lvs-feedback`, `equal` or `static`; until then the default is used
        - Service shop/web: label: `plimsoll.dev/balanced` is ignored: the one label is `plimsoll.dev/balance`; what tunes a Service is an annotation
    "]].assert_eq(&told(&mapped));
    assert_eq!(mapped.services[0].slow_start, Duration::from_secs(30));
    assert_eq!(mapped.services[0].policy, Some(plimsoll_core::service::PolicyKind::Equal));
    for word in ["on", "", "Enabled"] {
        let mapped = map(
            &service(&json!({"metadata": {"labels": {"plimsoll.dev/balance": word}}})),
            &usual(),
            setting,
        );
        assert!(mapped.services.is_empty(), "{word}");
        assert!(told(&mapped).contains("write `enabled`, `observe` or `disabled`"), "{word}");
    }
}

#[test]
fn ten_thousand_endpoints_and_empty_lists() {
    let endpoints: Vec<Value> =
        (0..10_000).map(|i| json!({"addresses": [format!("10.{}.{}.1", 1 + i / 250, i % 250)]})).collect();
    let slices: Vec<object::Slice> = endpoints
        .chunks(1000)
        .enumerate()
        .map(|(i, part)| slice(&format!("web-{i}"), "IPv4", &http(), &json!(part)))
        .rev()
        .collect();
    let proxy = nftables();
    let mapped = map(&service(&json!({})), &slices, Setting { proxy: Some(&proxy), ..Setting::default() });
    let endpoints = &mapped.services[0].endpoints;
    assert_eq!(endpoints.len(), 10_000);
    assert!(endpoints.is_sorted_by(|a, b| a.id < b.id), "sorted, each once");
    // As the API server writes what is empty.
    check(
        &json!({}),
        &[slice("web-1", "IPv4", &Value::Null, &Value::Null)],
        &expect![[r"
        shop/web:http/ipv4 Enabled [in tcp/10.96.0.1:80] -> 
    "]],
    );
}
