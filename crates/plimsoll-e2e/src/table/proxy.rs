//! How the kube-proxies are, and what else differs on their nodes, while Services are dialled.

use std::fmt::Write as _;

use anyhow::{Result, bail};

/// As the laboratory's own; or another configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Lines of `KubeProxyConfiguration`.
    pub configuration: String,
    /// Whether the nodes' FORWARD chains drop what is neither from a pod nor to one.
    pub forward_drops: bool,
}

impl Proxy {
    /// From words of the table.
    pub(super) fn read(words: &str) -> Result<Proxy> {
        let mut proxy = Proxy::default();
        for word in words.split_whitespace() {
            let mut line = |line: String| writeln!(proxy.configuration, "{line}");
            match word.split_once('=').unwrap_or((word, "")) {
                ("masquerade-all", "") => {
                    line("iptables: {masqueradeAll: true}\nnftables: {masqueradeAll: true}".into())
                }
                ("no-cluster-cidr", "") => line("clusterCIDR: ''".into()),
                ("node-cidr", "") => line("detectLocalMode: NodeCIDR".into()),
                ("bridge-interface", name) => line(format!(
                    "detectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: {name}}}"
                )),
                ("interface-prefix", name) => line(format!(
                    "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {{interfaceNamePrefix: {name}}}"
                )),
                ("node-ports", at) => {
                    let ranges: Vec<String> = at.split(',').map(|range| format!("'{range}'")).collect();
                    line(format!("nodePortAddresses: [{}]", ranges.join(", ")))
                }
                ("forward-drop", "") => {
                    proxy.forward_drops = true;
                    Ok(())
                }
                _ => bail!("`{word}` is no word for a proxy; docs/e2e.md lists them"),
            }?;
        }
        Ok(proxy)
    }
}
