//! What is learnt, and what changes with it: no more than it touches.

use std::fmt::Write as _;

use plimsoll_core::service::Mode;
use serde_json::json;

use super::super::object::Names;
use super::super::wire;
use super::*;
use crate::below::{LocalSources, NodePorts, ProxyMode};

fn service(name: &str, selector: bool, balance: &str) -> object::Service {
    let object: wire::Service = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"plimsoll.dev/balance": balance}},
        "spec": {
            "clusterIPs": [format!("10.96.0.{}", name.len())], "ports": [{"port": 80}],
            "selector": if selector { json!({"app": name}) } else { json!(null) },
        },
    }))
    .unwrap();
    object::Service::read(&object)
}

fn slice(name: &str, of: &str, addresses: &[&str]) -> Slice {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    let object: wire::EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints,
    }))
    .unwrap();
    Slice::read(&object, &mut Names::default()).unwrap()
}

fn proxy() -> Proxy {
    Proxy {
        mode: ProxyMode::Nftables,
        local: LocalSources::Ranges(Vec::new()),
        masquerade_all: false,
        node_ports: NodePorts::All,
        accepts_marked: Vec::new(),
    }
}

/// One Service with a slice, told of.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.proxy(Some(proxy()));
    for step in [Step::Begin, Step::Set(service("web", true, "enabled")), Step::Listed] {
        cluster.services(step);
    }
    assert!(!cluster.is_listed(), "slices are not listed");
    for step in [Step::Begin, Step::Set(slice("web-1", "web", &["10.1.0.1"])), Step::Listed] {
        cluster.slices(step);
    }
    assert!(cluster.is_listed());
    let (services, remarks) = cluster.all();
    assert_eq!((services.len(), services[0].endpoints.len(), remarks.len()), (1, 1, 0));
    assert!(!cluster.is_due());
    cluster
}

/// All that is due, a line for each change.
fn told(cluster: &mut Cluster) -> String {
    let mut text = String::new();
    while let Some(news) = cluster.next() {
        for change in news.changes {
            match change {
                ServiceChange::Set(service) => {
                    let endpoints: Vec<String> =
                        service.endpoints.iter().map(|e| e.id.address.to_string()).collect();
                    writeln!(text, "set {} {:?} {}", service.id, service.mode, endpoints.join(" ")).unwrap();
                }
                ServiceChange::Remove(id) => writeln!(text, "remove {id}").unwrap(),
                ServiceChange::All(_) => text.push_str("all\n"),
            }
        }
        if let Some(remarks) = news.remarks {
            writeln!(text, "{} has {} remarks", news.service, remarks.len()).unwrap();
        }
    }
    text
}

#[test]
fn a_burst_of_slices_is_one_change_and_what_says_the_same_is_none() {
    let mut cluster = cluster();
    for i in 2..=4 {
        cluster.slices(Step::Set(slice(&format!("web-{i}"), "web", &[&format!("10.1.0.{i}")])));
    }
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Enabled 10.1.0.1 10.1.0.2 10.1.0.3 10.1.0.4\n");
    cluster.slices(Step::Set(slice("web-2", "web", &["10.1.0.2"])));
    cluster.services(Step::Set(service("web", true, "enabled")));
    assert!(!cluster.is_due());
    // The same endpoints in other slices.
    cluster.slices(Step::Set(slice("web-2", "web", &["10.1.0.2", "10.1.0.3"])));
    cluster.slices(Step::Gone("shop/web-3".into()));
    assert_eq!(told(&mut cluster), "");
}

/// The same, once nothing more has come for long enough.
fn told_later(cluster: &mut Cluster) -> String {
    while cluster.waits() {
        assert!(!cluster.is_due(), "what waits is not due");
        cluster.round();
    }
    told(cluster)
}

#[test]
fn a_new_service_is_told_of_with_all_its_slices() {
    let mut cluster = cluster();
    cluster.services(Step::Set(service("shop", true, "enabled")));
    cluster.slices(Step::Set(slice("shop-1", "shop", &["10.1.0.1"])));
    cluster.round();
    cluster.slices(Step::Set(slice("shop-2", "shop", &["10.1.0.2"])));
    cluster.round();
    assert_eq!((cluster.is_due(), cluster.waits()), (false, true), "one came in the last round");
    assert_eq!(told_later(&mut cluster), "set shop/shop/ipv4 Enabled 10.1.0.1 10.1.0.2\n");
    // From then on what comes is told at once.
    cluster.slices(Step::Set(slice("shop-3", "shop", &["10.1.0.3"])));
    assert_eq!(told(&mut cluster), "set shop/shop/ipv4 Enabled 10.1.0.1 10.1.0.2 10.1.0.3\n");
    // One without slices is told of, and its first ones are waited for.
    cluster.services(Step::Set(service("late", true, "enabled")));
    assert_eq!(told_later(&mut cluster), "set shop/late/ipv4 Enabled \n");
    cluster.services(Step::Set(service("late", true, "observe")));
    assert_eq!(told(&mut cluster), "set shop/late/ipv4 Observe \n");
    cluster.slices(Step::Set(slice("late-1", "late", &["10.1.0.4"])));
    assert_eq!(told(&mut cluster), "");
    assert_eq!(told_later(&mut cluster), "set shop/late/ipv4 Observe 10.1.0.4\n");
    // One that goes meanwhile leaves nothing.
    cluster.services(Step::Set(service("gone", true, "enabled")));
    cluster.services(Step::Gone("shop/gone".into()));
    assert_eq!((told(&mut cluster).as_str(), cluster.waits()), ("", false));
}

#[test]
fn only_the_service_that_is_touched_is_looked_at() {
    let mut cluster = cluster();
    cluster.services(Step::Set(service("shop", true, "enabled")));
    assert_eq!(told_later(&mut cluster), "set shop/shop/ipv4 Enabled \n");
    // Slices may come before their Service, or belong to none.
    cluster.slices(Step::Set(slice("later-1", "later", &["10.1.0.9"])));
    assert_eq!(told(&mut cluster), "");
    cluster.services(Step::Set(service("later", true, "observe")));
    assert_eq!(told_later(&mut cluster), "set shop/later/ipv4 Observe 10.1.0.9\n");
    // A slice may pass from one to another.
    cluster.slices(Step::Set(slice("later-1", "web", &["10.1.0.9"])));
    assert_eq!(
        told(&mut cluster),
        "set shop/later/ipv4 Observe \nset shop/web/ipv4 Enabled 10.1.0.1 10.1.0.9\n"
    );
}

#[test]
fn what_a_new_list_does_not_have_is_gone_and_until_it_ends_nothing_is() {
    let mut cluster = cluster();
    cluster.services(Step::Begin);
    cluster.slices(Step::Begin);
    cluster.slices(Step::Set(slice("web-2", "web", &["10.1.0.2"])));
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Enabled 10.1.0.1 10.1.0.2\n");
    cluster.slices(Step::Listed);
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Enabled 10.1.0.2\n");
    // A list that was cut short is begun again.
    cluster.services(Step::Begin);
    assert_eq!(told(&mut cluster), "");
    cluster.services(Step::Listed);
    assert_eq!(told(&mut cluster), "remove shop/web/ipv4\n");
    assert!(cluster.is_listed());
}

#[test]
fn the_slices_of_a_service_without_a_selector_are_its_own() {
    let mut cluster = cluster();
    let name: Arc<str> = "shop/hand".into();
    cluster.services(Step::Set(service("hand", false, "enabled")));
    assert!(cluster.alone().eq([&name]));
    // Some who make slices by hand copy the label too; those come twice.
    cluster.slices(Step::Set(slice("hand-1", "hand", &["10.1.0.5"])));
    assert_eq!(told(&mut cluster), "", "not before all of them are known");
    cluster.slices_of(&name, Step::Begin);
    cluster.slices_of(&name, Step::Set(slice("hand-1", "hand", &["10.1.0.5"])));
    cluster.slices_of(&name, Step::Set(slice("hand-2", "hand", &["10.1.0.6"])));
    assert_eq!(told(&mut cluster), "");
    cluster.slices_of(&name, Step::Listed);
    assert_eq!(told(&mut cluster), "set shop/hand/ipv4 Enabled 10.1.0.5 10.1.0.6\n");
    cluster.services(Step::Gone(name.as_ref().into()));
    assert_eq!(told(&mut cluster), "remove shop/hand/ipv4\n");
    assert_eq!(cluster.alone().count(), 0);
    cluster.slices_of(&name, Step::Set(slice("hand-2", "hand", &["10.1.0.7"])));
    assert_eq!(told(&mut cluster), "", "a straggler");
}

#[test]
fn a_namespace_and_kube_proxy_touch_their_services() {
    let mut cluster = cluster();
    let namespace = |annotations: &[(&str, &str)]| {
        let annotations = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Step::Set(Namespace { name: "shop".into(), annotations })
    };
    cluster.namespaces(namespace(&[]));
    assert!(!cluster.is_due());
    cluster.namespaces(namespace(&[("plimsoll.dev/policy", "equal")]));
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Enabled 10.1.0.1\n");
    cluster.namespaces(namespace(&[("plimsoll.dev/policy", "?")]));
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Enabled 10.1.0.1\nshop/web has 1 remarks\n");
    cluster.namespaces(Step::Gone("shop".into()));
    assert_eq!(told(&mut cluster), "shop/web has 0 remarks\n");

    cluster.proxy(None);
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Observe 10.1.0.1\nshop/web has 1 remarks\n");
    assert_eq!(cluster.all().0[0].mode, Mode::Observe);
    cluster.proxy(Some(proxy()));
    assert_eq!(told(&mut cluster), "set shop/web/ipv4 Enabled 10.1.0.1\nshop/web has 0 remarks\n");
}
