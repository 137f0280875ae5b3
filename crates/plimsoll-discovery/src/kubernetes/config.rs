//! The configuration of the discovery from a Kubernetes cluster.

use std::path::PathBuf;

use ipnet::IpNet;
use plimsoll_core::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::below::ProxyMode;

/// The headless Service of the agents, where the configuration has none and a mesh asks for it.
pub const AGENTS: &str = "plimsoll-agents";

/// The section `discovery.kubernetes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kubeconfig file. Default: the service account of the Pod that the agent runs in; outside a cluster the
    /// file that `KUBECONFIG` names, or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The context in that file. Default: its current one.
    pub context: Option<String>,
    /// The headless Service of the agents, as `name` in the agent's own namespace, or as `namespace/name`: its endpoints
    /// are the nodes that a mesh meets. Default: `plimsoll-agents` where the store is a mesh without `peers`, else none.
    pub agents: Option<String>,
    /// Whether annotations of a Namespace are the defaults of its Services. The agent then needs to list and watch
    /// `namespaces`.
    pub namespace_defaults: bool,
    /// Whether what is not understood of a Service, or left to kube-proxy, is told as an Event on it, by one of the
    /// agents. They then need to create and patch `events` of the API group `events.k8s.io`.
    pub events: bool,
    /// Where kube-proxy tells what it does. As long as that is not known, Services are only observed. How it
    /// tells clients inside the cluster, and its masqueradeAll, hold for the nftables dataplane too, unless that has
    /// `local_sources` or `local_interface`.
    pub kube_proxy: KubeProxy,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            kubeconfig: None,
            context: None,
            agents: None,
            namespace_defaults: false,
            events: true,
            kube_proxy: KubeProxy::default(),
        }
    }
}

/// Where kube-proxy tells what it does. As long as that is not known, Services are only observed. How it tells
/// clients inside the cluster, and its masqueradeAll, hold for the nftables dataplane too, unless that has
/// `local_sources` or `local_interface`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubeProxy {
    /// Its `metricsBindAddress`, as seen from the agent.
    pub url: String,
    /// How often it is asked, 1s to 10m.
    pub poll: Span,
    /// What is taken to hold as long as kube-proxy does not answer, where another proxy takes its place. Nothing
    /// checks it: what does not hold changes which clients can connect, and what servers see of them.
    pub assume: Option<Assumed>,
}

impl Default for KubeProxy {
    fn default() -> KubeProxy {
        KubeProxy { url: "http://127.0.0.1:10249".to_owned(), poll: Span::from_secs(10), assume: None }
    }
}

/// What is taken to hold of the proxy below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assumed {
    /// How it works.
    pub mode: AssumedMode,
    /// The addresses of clients inside the cluster (the pod ranges).
    #[schemars(with = "Vec<String>")]
    pub local_sources: Vec<IpNet>,
    /// Whether connections to addresses inside the cluster get the node's address as their source, whoever opened
    /// them.
    #[serde(default)]
    pub masquerade_all: bool,
    /// The ranges of addresses of nodes at which node ports are served. None: at all addresses of a node but
    /// loopback.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub node_port_addresses: Vec<IpNet>,
}

/// How a proxy below works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssumedMode {
    /// With iptables, as kube-proxy does it.
    Iptables,
    /// With IPVS, as kube-proxy or kube-router do it.
    Ipvs,
    /// With nftables, as kube-proxy does it.
    Nftables,
}

impl From<AssumedMode> for ProxyMode {
    fn from(mode: AssumedMode) -> ProxyMode {
        match mode {
            AssumedMode::Iptables => ProxyMode::Iptables,
            AssumedMode::Ipvs => ProxyMode::Ipvs,
            AssumedMode::Nftables => ProxyMode::Nftables,
        }
    }
}

impl Config {
    /// Checks each field, without asking anybody.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |field, problem: String| Err(Error::Config { field, problem });
        let KubeProxy { url, poll, .. } = &self.kube_proxy;
        if super::kube_proxy::place(url).is_none() {
            return wrong(
                "kubernetes.kube_proxy.url",
                format!("`{url}` is not of the form http://ADDRESS:PORT, as in http://127.0.0.1:10249"),
            );
        }
        if *poll < Span::from_secs(1) || *poll > Span::from_secs(600) {
            return wrong("kubernetes.kube_proxy.poll", format!("{poll} is not between 1s and 10m"));
        }
        if let Some(agents) = &self.agents
            && agents.split('/').any(str::is_empty) | (agents.split('/').count() > 2)
        {
            return wrong(
                "kubernetes.agents",
                format!("`{agents}` is neither the name of a Service nor namespace/name"),
            );
        }
        match &self.kubeconfig {
            Some(path) if !path.is_file() => wrong(
                "kubernetes.kubeconfig",
                format!(
                    "there is no file {}; correct the path, or leave it out inside a Pod",
                    path.display()
                ),
            ),
            _ => Ok(()),
        }
    }
}
