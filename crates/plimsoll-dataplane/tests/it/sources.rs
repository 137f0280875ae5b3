//! Which endpoint a connection comes to and which source address it sees, by where the client is.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Place, Protocol};
use plimsoll_core::table::{Choose, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::nftables::{Config, Nftables, Setup};
use plimsoll_lab::cluster::{Cluster, Host, POD_NETWORK_V4, POD_NETWORK_V6};
use plimsoll_lab::{available, eventually};

use crate::nftables::{id, key};
use crate::stage::SOON;

/// What the endpoint sees.
#[derive(Debug, PartialEq)]
enum Source {
    Client,
    Node,
}

struct Scene {
    family: Family,
    cluster: Cluster,
    outside: Host,
    pod: Host,
    /// One on this node, one on the other.
    endpoints: [(Host, TcpListener); 2],
}

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30080;

impl Scene {
    fn new(family: Family) -> Scene {
        let mut cluster = Cluster::new(2).unwrap();
        let mut endpoint = |node| {
            let host = cluster.add_endpoint(node).unwrap();
            let listener = host.namespace.tcp_listen(SocketAddr::new(address(family, &host), PORT)).unwrap();
            listener.set_nonblocking(true).unwrap();
            (host, listener)
        };
        let endpoints = [endpoint(0), endpoint(1)];
        let pod = cluster.add_endpoint(0).unwrap();
        let outside = cluster.add_outside(0).unwrap();
        Scene { family, cluster, outside, pod, endpoints }
    }

    fn node(&self) -> &Host {
        &self.cluster.nodes[0].host
    }

    fn ip(&self, v4: &str, v6: &str) -> IpAddr {
        if self.family == Family::V4 { v4 } else { v6 }.parse().unwrap()
    }

    fn internal(&self) -> SocketAddr {
        SocketAddr::new(self.ip("10.96.0.1", "fd96::1"), 80)
    }

    fn external(&self) -> SocketAddr {
        SocketAddr::new(self.ip("192.0.2.1", "2001:db8::1"), 80)
    }

    fn node_port(&self) -> SocketAddr {
        SocketAddr::new(address(self.family, self.node()), NODE_PORT)
    }

    fn itself(&self) -> SocketAddr {
        SocketAddr::new(self.ip("10.96.0.2", "fd96::2"), 80)
    }

    /// The cluster's list is the other node's endpoint, the local one this node's; `self` has this node's only.
    fn plan(&self) -> Plan {
        let protocol = Protocol::Tcp;
        let list = |at: usize| {
            let address = address(self.family, &self.endpoints[at].0);
            vec![Weighted { endpoint: EndpointId { address, port: PORT, protocol }, weight: 1 }]
        };
        let key = |place, port, choose, masquerade| key(protocol, place, port, choose, masquerade);
        let web = ServiceTable {
            protocol,
            keys: vec![
                key(Place::Internal(self.internal().ip()), 80, Choose::Cluster, Masquerade::FromOutside),
                key(Place::External(self.external().ip()), 80, Choose::LocalForOutside, Masquerade::FromNode),
                key(Place::AnyLocal(self.family), NODE_PORT, Choose::Cluster, Masquerade::Always),
            ],
            affinity: None,
            cluster: list(1),
            local: list(0),
        };
        let own = Place::Internal(self.itself().ip());
        let itself = ServiceTable {
            keys: vec![key(own, 80, Choose::Cluster, Masquerade::FromOutside)],
            cluster: list(0),
            local: Vec::new(),
            ..web.clone()
        };
        let changes = vec![
            Change::Replace(id("self", self.family), itself),
            Change::Replace(id("web", self.family), web),
        ];
        Plan { fresh: true, changes, ..Plan::default() }
    }

    /// Connects and says which endpoint was reached (0: this node's) and what it saw; `None`: nothing was reached.
    fn connect(&self, from: &Host, to: SocketAddr) -> Option<(usize, Source)> {
        let _stream = from.namespace.tcp_connect(to).ok()?;
        let mut seen = None;
        assert!(eventually(SOON, || {
            let mut listeners = self.endpoints.iter().enumerate();
            seen = listeners.find_map(|(at, (_, listener))| Some((at, listener.accept().ok()?.1.ip())));
            seen.is_some()
        }));
        let (endpoint, source) = seen.unwrap();
        let inside = [POD_NETWORK_V4, POD_NETWORK_V6].map(|net| net.parse::<ipnet::IpNet>().unwrap());
        // On its own node an endpoint sees the address of its link, which is of the pod network in IPv4.
        let of_pods = inside.iter().any(|net| net.contains(&source)) && source != self.ip("10.1.0.1", "::");
        let source = if source == address(self.family, from)
            && from.namespace.name() != self.node().namespace.name()
        {
            Source::Client
        } else {
            assert!(!of_pods, "{source} is neither the client nor a node");
            Source::Node
        };
        Some((endpoint, source))
    }
}

fn address(family: Family, host: &Host) -> IpAddr {
    if family == Family::V4 { host.v4.into() } else { host.v6.into() }
}

#[test]
fn every_client_comes_to_the_right_endpoint_with_the_right_source() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let by_address = Config {
        local_sources: [POD_NETWORK_V4, POD_NETWORK_V6].map(|net| net.parse().unwrap()).to_vec(),
        ..Config::default()
    };
    let by_interface = |name: &str| Config { local_interface: Some(name.into()), ..Config::default() };
    // The pod's is `ep12` on its node.
    let configs = [by_address, by_interface("ep*"), by_interface("ep12")];
    for (family, config) in configs.iter().flat_map(|config| [(Family::V4, config), (Family::V6, config)]) {
        let scene = Scene::new(family);
        let namespace = &scene.node().namespace;
        let mut nftables = namespace.run(|| Nftables::open(config.clone(), Setup::default())).unwrap();
        nftables.apply(&scene.plan()).unwrap();
        let cases = [
            ("pod -> internal", &scene.pod, scene.internal(), (1, Source::Client)),
            ("pod -> external", &scene.pod, scene.external(), (1, Source::Client)),
            ("pod -> node port", &scene.pod, scene.node_port(), (1, Source::Node)),
            ("node -> internal", scene.node(), scene.internal(), (1, Source::Node)),
            ("node -> external", scene.node(), scene.external(), (1, Source::Node)),
            ("node -> node port", scene.node(), scene.node_port(), (1, Source::Node)),
            ("outside -> internal", &scene.outside, scene.internal(), (1, Source::Node)),
            ("outside -> external", &scene.outside, scene.external(), (0, Source::Client)),
            ("outside -> node port", &scene.outside, scene.node_port(), (1, Source::Node)),
            ("endpoint -> itself", &scene.endpoints[0].0, scene.itself(), (0, Source::Node)),
            ("pod -> this node's endpoint", &scene.pod, scene.itself(), (0, Source::Client)),
        ];
        for (what, from, to, expected) in cases {
            assert_eq!(scene.connect(from, to), Some(expected), "{what}, {family}, {config:?}");
        }
        let loopback = SocketAddr::new(scene.ip("127.0.0.1", "::1"), NODE_PORT);
        assert_eq!(scene.connect(scene.node(), loopback), None, "loopback is no node port, {family}");
        // Replies to what is sent to another node come back only if they are masqueraded: what is not known to be this
        // node's own is left to the proxy below, of which there is none here.
        let routed = SocketAddr::new(scene.ip("203.0.113.9", "2001:db8:9::9"), NODE_PORT);
        namespace.ip(&format!("route add local {} dev lo", routed.ip())).unwrap();
        let refused = |to| {
            let answer = scene.outside.namespace.tcp_connect(to);
            answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        assert!(refused(routed), "only routed to the node itself, {family}");
        // An address that the node gets later is a node port's too, once the agent has renewed.
        let later = SocketAddr::new(scene.ip("192.168.50.201", "fd00::201"), NODE_PORT);
        let add = match family {
            Family::V4 => "addr add 192.168.50.201/24 dev eth0",
            Family::V6 => "addr add fd00::201/64 dev eth0 nodad",
        };
        namespace.ip(add).unwrap();
        assert!(refused(later), "not known yet, {family}");
        nftables.apply(&Plan { renew: true, ..Plan::default() }).unwrap();
        assert_eq!(scene.connect(&scene.outside, later), Some((1, Source::Node)), "new address, {family}");
    }
}
