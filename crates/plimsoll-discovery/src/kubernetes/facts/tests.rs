//! What real kube-proxies say of themselves, and what follows.

use serde_json::json;

use super::super::config::AssumedMode;
use super::*;

/// As kube-proxy 1.35.4 answered; the file's name is left out.
const NFTABLES: &str = include_str!("1.35/configz-nftables.json");
const IPTABLES: &str = include_str!("1.35/configz-iptables.json");

fn node() -> Node {
    Node {
        zone: None,
        pod_ranges: vec!["10.1.3.0/24".parse().unwrap()],
        addresses: ["192.168.50.1", "192.168.60.1", "fd00::1"].map(|address| address.parse().unwrap()).into(),
    }
}

/// The answer in nftables mode, with some fields changed.
fn changed(mode: &str, fields: &Value) -> Result<Proxy, String> {
    let mut all: Value = serde_json::from_str(NFTABLES).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        all["kubeproxy.config.k8s.io"][name] = value.clone();
    }
    Facts::read(mode, &all.to_string())?.on(Some(&node()), None, &[])
}

fn addresses(addresses: &[&str]) -> NodePorts {
    NodePorts::At(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

#[test]
fn real_answers() {
    let ranges = LocalSources::Ranges(vec!["10.1.0.0/16".parse().unwrap(), "fd01::/48".parse().unwrap()]);
    let proxy = Facts::read("nftables", NFTABLES).unwrap().on(Some(&node()), None, &[]).unwrap();
    let expected = Proxy {
        mode: ProxyMode::Nftables,
        local: ranges,
        masquerade_all: false,
        node_ports: addresses(&["192.168.50.1"]),
        accepts_marked: Vec::new(),
    };
    assert_eq!(proxy, expected);
    let proxy = Facts::read("iptables\n", IPTABLES).unwrap().on(Some(&node()), None, &[]).unwrap();
    assert_eq!(proxy, Proxy { mode: ProxyMode::Iptables, node_ports: NodePorts::All, ..expected });
}

#[test]
fn who_is_inside_the_cluster() {
    let local = |fields: Value| changed("iptables", &fields).map(|proxy| proxy.local);
    let ranges = |ranges: &[&str]| {
        Ok(LocalSources::Ranges(ranges.iter().map(|range| range.parse().unwrap()).collect()))
    };
    let none = json!({"ClusterCIDRs": null});
    assert_eq!(local(json!({"DetectLocalMode": "", "DetectLocal": none})), ranges(&[]));
    let old = json!({"DetectLocal": none, "ClusterCIDR": "10.1.0.0/16, fd01::/48"});
    assert_eq!(local(old), ranges(&["10.1.0.0/16", "fd01::/48"]));
    assert_eq!(local(json!({"DetectLocalMode": "NodeCIDR"})), ranges(&["10.1.3.0/24"]));
    let bridge = json!({"DetectLocalMode": "BridgeInterface", "DetectLocal": {"BridgeInterface": "cni0"}});
    assert_eq!(local(bridge), Ok(LocalSources::Interface("cni0".into())));
    let prefix =
        json!({"DetectLocalMode": "InterfaceNamePrefix", "DetectLocal": {"InterfaceNamePrefix": "cali"}});
    assert_eq!(local(prefix.clone()), Ok(LocalSources::Interface("cali*".into())));

    // Where it is said what stands for the interface, that is taken.
    let assumed = Assumed {
        mode: AssumedMode::Iptables,
        local_sources: vec!["10.9.0.0/16".parse().unwrap()],
        masquerade_all: true,
        node_port_addresses: vec!["192.168.60.0/24".parse().unwrap()],
    };
    let mut all: Value = serde_json::from_str(IPTABLES).unwrap();
    for (name, value) in prefix.as_object().unwrap() {
        all["kubeproxy.config.k8s.io"][name] = value.clone();
    }
    let proxy =
        Facts::read("iptables", &all.to_string()).unwrap().on(Some(&node()), Some(&assumed), &[]).unwrap();
    assert_eq!((Ok(proxy.local), proxy.masquerade_all), (ranges(&["10.9.0.0/16"]), false));
    let proxy = assumed.on(Some(&node()), &[]);
    assert_eq!((proxy.masquerade_all, proxy.node_ports), (true, addresses(&["192.168.60.1"])));

    // Never a guess.
    for wrong in [
        json!({"DetectLocalMode": "BridgeInterface", "DetectLocal": {"BridgeInterface": ""}}),
        json!({"DetectLocalMode": "Telepathy"}),
        json!({"DetectLocalMode": null}),
        json!({"DetectLocal": {"ClusterCIDRs": ["10.1.0.0"]}}),
        json!({"DetectLocal": {"ClusterCIDRs": "10.1.0.0/16"}}),
        json!({"DetectLocal": {"ClusterCIDRs": [7]}}),
    ] {
        assert!(local(wrong.clone()).is_err(), "{wrong}");
    }
    let facts = Facts::read("iptables", &NFTABLES.replace("\"ClusterCIDR\"", "\"NodeCIDR\"")).unwrap();
    assert!(facts.on(None, None, &[]).unwrap_err().contains("podCIDRs"));
}

#[test]
fn where_node_ports_are_served() {
    let node_ports = |mode: &str, said: Value| {
        changed(mode, &json!({"NodePortAddresses": said})).map(|proxy| proxy.node_ports).unwrap()
    };
    assert_eq!(node_ports("ipvs", Value::Null), NodePorts::All);
    assert_eq!(node_ports("iptables", json!(["0.0.0.0/0", "::/0"])), NodePorts::All);
    // The default there.
    assert_eq!(node_ports("nftables", Value::Null), addresses(&["192.168.50.1", "fd00::1"]));
    assert_eq!(node_ports("iptables", json!(["primary"])), addresses(&["192.168.50.1", "fd00::1"]));
    // Of a range only what is this node's.
    assert_eq!(
        node_ports("iptables", json!(["192.168.0.0/16"])),
        addresses(&["192.168.50.1", "192.168.60.1"])
    );
    assert_eq!(node_ports("iptables", json!(["192.0.2.1/32"])), addresses(&[]));
}

#[test]
fn what_it_has_accepted() {
    let accepted = |mode: &str| {
        let facts = Facts::read(mode, IPTABLES).unwrap();
        facts.on(Some(&node()), None, &[Family::V6]).unwrap().accepts_marked
    };
    assert_eq!(accepted("iptables"), [Family::V6]);
    assert_eq!(accepted("nftables"), []);
}

#[test]
fn whether_all_is_masqueraded() {
    let all = |fields: Value| changed("nftables", &fields).map(|proxy| proxy.masquerade_all);
    assert_eq!(all(json!({"Linux": {"MasqueradeAll": true}})), Ok(true));
    assert_eq!(all(json!({"Linux": null, "NFTables": {"MasqueradeAll": true}})), Ok(true));
    assert!(all(json!({"Linux": null, "IPTables": {"MasqueradeAll": true}})).is_err());
}

#[test]
fn what_is_not_kube_proxys_is_refused() {
    for (mode, configuration) in [
        ("", NFTABLES),
        ("kernelspace", NFTABLES),
        ("<html>", NFTABLES),
        ("iptables", "{}"),
        ("iptables", ""),
    ] {
        assert!(Facts::read(mode, configuration).is_err(), "{mode}: {configuration}");
    }
}
