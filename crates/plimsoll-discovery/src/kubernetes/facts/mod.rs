//! What kube-proxy says of itself, read from its `/configz` and `/proxyMode`, and what follows from it on this node.
//! Pure. The shape of `/configz` is that of kube-proxy's own `KubeProxyConfiguration`, by the names of its fields in
//! the source (seen from 1.33 to 1.35).

use std::net::IpAddr;

use ipnet::IpNet;
use plimsoll_core::service::Family;
use serde_json::Value;

use super::config::Assumed;
use super::object::Node;
use crate::below::{LocalSources, NodePorts, Proxy, ProxyMode};

/// What kube-proxy says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    mode: ProxyMode,
    detects: Detects,
    masquerade_all: bool,
    /// Ranges, or the word `primary`; empty where it does not say.
    node_ports: Vec<Box<str>>,
}

/// How kube-proxy tells clients inside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Detects {
    Ranges(Vec<IpNet>),
    RangesOfNode,
    Interface(Box<str>),
}

impl Facts {
    /// Reads both answers; an error says what is not understood.
    pub(super) fn read(mode: &str, configuration: &str) -> Result<Facts, String> {
        let mode = match mode.trim() {
            "iptables" => ProxyMode::Iptables,
            "ipvs" => ProxyMode::Ipvs,
            "nftables" => ProxyMode::Nftables,
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(format!(
                    "its /proxyMode is `{other}`, which is none of iptables, ipvs and nftables"
                ));
            }
        };
        let all: Value = serde_json::from_str(configuration)
            .map_err(|error| format!("its /configz is not JSON: {error}"))?;
        let config = &all["kubeproxy.config.k8s.io"];
        if !config.is_object() {
            return Err("its /configz has no section `kubeproxy.config.k8s.io`".into());
        }
        let section = match mode {
            ProxyMode::Iptables => "IPTables",
            ProxyMode::Ipvs => "IPVS",
            ProxyMode::Nftables => "NFTables",
        };
        // Where it is kept changed from release to release.
        let masquerade_all = [&config["Linux"], &config[section], config]
            .into_iter()
            .find_map(|section| section["MasqueradeAll"].as_bool())
            .ok_or("its /configz does not tell MasqueradeAll")?;
        Ok(Facts {
            mode,
            detects: detects(config)?,
            masquerade_all,
            node_ports: texts(&config["NodePortAddresses"])?,
        })
    }

    /// What follows for this node, which drops what is forwarded of these families unless a rule accepts it; an error
    /// says what is missing for that.
    pub(super) fn on(
        &self,
        node: Option<&Node>,
        assumed: Option<&Assumed>,
        drops: &[Family],
    ) -> Result<Proxy, String> {
        let local = match &self.detects {
            Detects::Ranges(ranges) => LocalSources::Ranges(ranges.clone()),
            Detects::RangesOfNode => match node {
                Some(node) if !node.pod_ranges.is_empty() => LocalSources::Ranges(node.pod_ranges.clone()),
                _ => {
                    return Err("it tells clients inside the cluster by the pod ranges of its Node (detectLocalMode: \
                                NodeCIDR), and those are not known; does the Node have spec.podCIDRs?"
                        .into());
                }
            },
            Detects::Interface(name) => match assumed {
                Some(assumed) => LocalSources::Ranges(assumed.local_sources.clone()),
                None => LocalSources::Interface(name.clone()),
            },
        };
        Ok(Proxy {
            mode: self.mode,
            local,
            masquerade_all: self.masquerade_all,
            node_ports: self.node_ports(node.map(|node| &*node.addresses).unwrap_or_default()),
            accepts_marked: self.mode.accepts_marked(drops),
        })
    }

    fn node_ports(&self, of_node: &[IpAddr]) -> NodePorts {
        let is = |word: &str| self.node_ports.iter().any(|range| **range == *word);
        let everywhere = is("0.0.0.0/0") && is("::/0");
        if everywhere || (self.node_ports.is_empty() && self.mode != ProxyMode::Nftables) {
            return NodePorts::All;
        }
        // In nftables mode that is the default.
        let primary = is("primary") || self.node_ports.is_empty();
        let first = |family| of_node.iter().find(|address| Family::of(**address) == family);
        let first = [first(Family::V4), first(Family::V6)];
        let ranges: Vec<IpNet> = self.node_ports.iter().filter_map(|range| range.parse().ok()).collect();
        // Addresses that are not known to be this node's are none of ours, and stay with kube-proxy.
        let served = |address: &&IpAddr| {
            (primary && first.contains(&Some(*address)))
                || ranges.iter().any(|range| range.contains(*address))
        };
        NodePorts::At(of_node.iter().filter(served).copied().collect())
    }
}

impl ProxyMode {
    /// With nftables kube-proxy has nothing accepted, with iptables and IPVS what it is going to masquerade.
    fn accepts_marked(self, drops: &[Family]) -> Vec<Family> {
        if self == ProxyMode::Nftables { Vec::new() } else { drops.to_vec() }
    }
}

impl Assumed {
    /// What follows for this node, which drops what is forwarded of these families unless a rule accepts it.
    pub(super) fn on(&self, node: Option<&Node>, drops: &[Family]) -> Proxy {
        let of_node = node.map(|node| &*node.addresses).unwrap_or_default();
        let ranges = &self.node_port_addresses;
        let served = |address: &&IpAddr| ranges.iter().any(|range| range.contains(*address));
        let mode = ProxyMode::from(self.mode);
        Proxy {
            mode,
            local: LocalSources::Ranges(self.local_sources.clone()),
            masquerade_all: self.masquerade_all,
            node_ports: if ranges.is_empty() {
                NodePorts::All
            } else {
                NodePorts::At(of_node.iter().filter(served).copied().collect())
            },
            accepts_marked: mode.accepts_marked(drops),
        }
    }
}

fn detects(config: &Value) -> Result<Detects, String> {
    let detect = &config["DetectLocal"];
    let interface = |field: &str, suffix: &str| match detect[field].as_str() {
        Some(name) if !name.is_empty() => Ok(Detects::Interface(format!("{name}{suffix}").into())),
        _ => Err(format!("its /configz tells local clients by an interface but not {field}")),
    };
    match config["DetectLocalMode"].as_str() {
        Some("" | "ClusterCIDR") => {
            // Releases before 1.32 wrote one text, separated by commas.
            let listed = texts(&detect["ClusterCIDRs"])?;
            let one = config["ClusterCIDR"].as_str().unwrap_or_default();
            let texts = listed.iter().map(|text| &**text).chain(one.split(','));
            let ranges = texts.map(str::trim).filter(|text| !text.is_empty()).map(|text| {
                text.parse().map_err(|_| format!("its /configz has a cluster range `{text}`, which is none"))
            });
            ranges.collect::<Result<_, _>>().map(Detects::Ranges)
        }
        Some("NodeCIDR") => Ok(Detects::RangesOfNode),
        Some("BridgeInterface") => interface("BridgeInterface", ""),
        Some("InterfaceNamePrefix") => interface("InterfaceNamePrefix", "*"),
        other => Err(format!("its /configz has the DetectLocalMode {other:?}, which is not known")),
    }
}

/// A list of texts, which is `null` where it is empty.
fn texts(value: &Value) -> Result<Vec<Box<str>>, String> {
    let all = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(all) => all,
        other => return Err(format!("its /configz has {other} where a list belongs")),
    };
    all.iter()
        .map(|one| {
            one.as_str().map(Into::into).ok_or_else(|| format!("its /configz has {one} where a text belongs"))
        })
        .collect()
}

#[cfg(test)]
mod tests;
