//! A stand-in for the installed Service proxy: what kube-proxy's nftables mode installs, in short.
//!
//! Table `inet lower` at the usual priorities (-100 and 100), an equal random choice, masquerading by a packet mark.
//! Each Service has a counter in its chain: as long as it stands still, nothing fell through to this table.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::cluster::{POD_NETWORK_V4, POD_NETWORK_V6};
use crate::namespace::{Error, Namespace};

/// A Service as the stand-in knows it; endpoints of the other family than the key's are left out.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in the table: letters, digits and `_`.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The addresses and ports it is reached by.
    pub keys: Vec<SocketAddr>,
    /// The node port it is reached by, on all local addresses.
    pub node_port: Option<u16>,
    /// Its endpoints, all equal.
    pub endpoints: Vec<SocketAddr>,
}

/// An nft file that replaces the stand-in's table by one with these Services.
pub fn equal_random(services: &[Service]) -> String {
    let mut text = String::from("table inet lower\ndelete table inet lower\ntable inet lower {\n");
    let mut dispatch = String::new();
    for service in services {
        let Service { name, protocol, .. } = service;
        let _ = writeln!(text, "  counter {name} {{ }}");
        for v6 in [false, true] {
            let (family, ip, network) =
                if v6 { ("ipv6", "ip6", POD_NETWORK_V6) } else { ("ipv4", "ip", POD_NETWORK_V4) };
            let endpoints: Vec<_> = service.endpoints.iter().filter(|e| e.is_ipv6() == v6).collect();
            if endpoints.is_empty() {
                continue;
            }
            let mut choices = Vec::new();
            for (index, endpoint) in endpoints.iter().enumerate() {
                let chain = format!("{name}_{family}_{index}");
                let _ = writeln!(
                    text,
                    "  chain {chain} {{\n    {ip} saddr {} meta mark set meta mark | 0x4000\n    \
                     meta l4proto {protocol} dnat {ip} to {endpoint}\n  }}",
                    endpoint.ip()
                );
                choices.push(format!("{index} : goto {chain}"));
            }
            let _ = writeln!(
                text,
                "  chain {name}_{family} {{\n    counter name {name}\n    \
                 numgen random mod {} vmap {{ {} }}\n  }}",
                choices.len(),
                choices.join(", ")
            );
            for key in service.keys.iter().filter(|key| key.is_ipv6() == v6) {
                let (address, port) = (key.ip(), key.port());
                let _ = writeln!(
                    dispatch,
                    "    {ip} daddr {address} {protocol} dport {port} {ip} saddr != {network} \
                     meta mark set meta mark | 0x4000\n    \
                     {ip} daddr {address} {protocol} dport {port} goto {name}_{family}"
                );
            }
            if let Some(port) = service.node_port {
                let _ = writeln!(
                    dispatch,
                    "    meta nfproto {family} fib daddr type local {protocol} dport {port} \
                     meta mark set meta mark | 0x4000 goto {name}_{family}"
                );
            }
        }
    }
    let _ = write!(
        text,
        "  chain services {{\n{dispatch}  }}
  chain nat_prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain nat_output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat_postrouting {{
    type nat hook postrouting priority 100; policy accept;
    meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
  }}
}}
"
    );
    text
}

/// How many connections a Service's chain of the stand-in saw so far.
pub fn seen(node: &Namespace, service: &str) -> Result<u64, Error> {
    let text = node.text("nft", &["list", "counter", "inet", "lower", service])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|count| count.parse().ok()).ok_or_else(|| Error::Program {
        program: format!("nft list counter inet lower {service}"),
        namespace: node.name().to_string(),
        message: format!("no counter in its answer: {text}"),
    })
}
