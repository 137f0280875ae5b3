//! Nodes on one link, endpoints behind them as routed CNIs place them, clients outside.
//!
//! ```text
//!            link (a bridge in a namespace of its own): 192.168.50.0/24, fd00::/64
//!     ┌─────────────┴──────────────┬───────────────────────┐
//!   node 0  .1, fd00::1          node 1  .2, fd00::2     outside .101, fd00::101 (default route: a node)
//!    ├ 10.1.0.11, fd01::11        └ 10.1.1.11, fd01:0:0:1::11
//!    └ 10.1.0.12, fd01::12          each endpoint in its own namespace, a /32 and a /128
//! ```
//!
//! Nodes have a default route into nowhere (192.168.50.254), so that a Service's address is routable for processes
//! on the node, as on any real one.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::namespace::{Error, Namespace};

/// The nodes' network, for rules that tell inside from outside.
pub const POD_NETWORK_V4: &str = "10.1.0.0/16";
/// The same for IPv6.
pub const POD_NETWORK_V6: &str = "fd01::/48";

const TUNING: &[(&str, &str)] = &[
    // Thousands of short connections from one address: all ports, and reuse of those in TIME_WAIT.
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
];

const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// Somebody with an address in each family.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where its processes are.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// The address of the same family as another.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

/// A node and what it hosts.
#[derive(Debug)]
pub struct Node {
    /// The node itself.
    pub host: Host,
    /// Its endpoints (and other pods), in the order in which they were added.
    pub endpoints: Vec<Host>,
}

/// Nodes on one link. Nothing of it is left when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in order.
    pub nodes: Vec<Node>,
    link: Namespace,
    outside: usize,
}

impl Cluster {
    /// This many nodes (at most 90), each with a route to the others' endpoints.
    pub fn new(nodes: usize) -> Result<Cluster, Error> {
        assert!((1..=90).contains(&nodes), "1 to 90 nodes fit the address plan");
        let link = Namespace::new("link")?;
        link.ip("link add br0 type bridge\nlink set br0 up")?;
        let mut cluster = Cluster { nodes: Vec::new(), link, outside: 0 };
        for index in 0..nodes {
            let host = cluster.on_link(&format!("node{index}"), index + 1)?;
            host.namespace.sysctl(FORWARDING)?;
            let mut lines =
                String::from("route add default via 192.168.50.254\nroute add default via fd00::fe\n");
            for other in (0..nodes).filter(|other| *other != index) {
                let gateway = other + 1;
                let _ = writeln!(lines, "route add 10.1.{other}.0/24 via 192.168.50.{gateway}");
                let _ = writeln!(lines, "route add fd01:0:0:{other:x}::/64 via fd00::{gateway}");
            }
            host.namespace.ip(&lines)?;
            cluster.nodes.push(Node { host, endpoints: Vec::new() });
        }
        Ok(cluster)
    }

    /// Adds a place for an endpoint, or for a client inside the cluster, on a node.
    pub fn add_endpoint(&mut self, node: usize) -> Result<Host, Error> {
        let number = self.nodes[node].endpoints.len() + 11;
        assert!(number < 255, "one node has room for 244 endpoints");
        let host = Host {
            namespace: Namespace::new(&format!("endpoint{node}.{number}"))?,
            v4: Ipv4Addr::new(10, 1, node as u8, number as u8),
            v6: format!("fd01:0:0:{node:x}::{number}")
                .parse()
                .expect("the address plan gives valid addresses"),
        };
        let node = &mut self.nodes[node];
        let gateway = Ipv4Addr::new(10, 1, host.v4.octets()[2], 1);
        let device = format!("ep{number}");
        node.host.namespace.ip(&format!(
            "link add name {device} type veth peer name eth0 netns {path}\n\
             addr add {gateway}/32 dev {device}\n\
             addr add fe80::1/64 dev {device} nodad\n\
             link set {device} up",
            path = host.namespace.path().display(),
        ))?;
        host.namespace.sysctl(TUNING)?;
        host.namespace.ip(&format!(
            "addr add {v4}/32 dev eth0\n\
             addr add {v6}/128 dev eth0 nodad\n\
             link set eth0 up\n\
             route add {gateway} dev eth0 scope link\n\
             route add default via {gateway}\n\
             route add default via fe80::1 dev eth0",
            v4 = host.v4,
            v6 = host.v6,
        ))?;
        node.host
            .namespace
            .ip(&format!("route add {}/32 dev {device}\nroute add {}/128 dev {device}", host.v4, host.v6))?;
        node.endpoints.push(host.clone());
        Ok(host)
    }

    /// Adds a client that is not part of the cluster and reaches everything through one of the nodes.
    pub fn add_outside(&mut self, through: usize) -> Result<Host, Error> {
        self.outside += 1;
        let host = self.on_link(&format!("outside{}", self.outside), 100 + self.outside)?;
        let gateway = through + 1;
        host.namespace.ip(&format!(
            "route add default via 192.168.50.{gateway}\nroute add default via fd00::{gateway}"
        ))?;
        Ok(host)
    }

    /// Cuts a node off the link, or joins it again.
    pub fn connect(&self, node: usize, connected: bool) -> Result<(), Error> {
        self.link.ip(&format!("link set port{} {}", node + 1, if connected { "up" } else { "down" }))
    }

    fn on_link(&self, name: &str, number: usize) -> Result<Host, Error> {
        assert!(number < 254, "the link has room for 253 hosts");
        let namespace = Namespace::new(name)?;
        self.link.ip(&format!(
            "link add name port{number} type veth peer name eth0 netns {path}\n\
             link set port{number} master br0\n\
             link set port{number} up",
            path = namespace.path().display(),
        ))?;
        namespace.sysctl(TUNING)?;
        let v4 = Ipv4Addr::new(192, 168, 50, number as u8);
        let v6: Ipv6Addr = format!("fd00::{number}").parse().expect("the address plan gives valid addresses");
        namespace
            .ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up"))?;
        Ok(Host { namespace, v4, v6 })
    }
}
