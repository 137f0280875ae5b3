//! kube-proxy on a node.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use super::error::{Error, trying};
use super::plane::ControlPlane;
use super::process::{Plan, Process, runs};
use super::programs::program;
use crate::cluster::{POD_NETWORK_V4, POD_NETWORK_V6};
use crate::namespace::Namespace;

/// How long the first rules may take; without a Node of its name kube-proxy alone waits 30 s.
const START: Duration = Duration::from_mins(1);
/// Where it tells its metrics, in its namespace: kube-proxy's own default.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 10249);
/// When it last wrote rules, seconds since 1970, of each family.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// What kube-proxy writes its rules with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables.
    Nftables,
    /// iptables.
    Iptables,
    /// IPVS, with a kernel that has it.
    Ipvs,
}

impl Mode {
    /// As in kube-proxy's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
        }
    }
}

/// A kube-proxy; it is killed when this is dropped. Its rules stay in the namespace, as those of any kube-proxy.
#[derive(Debug)]
pub struct KubeProxy {
    process: Option<Process>,
    plan: Plan,
}

impl KubeProxy {
    /// Starts one in a node's namespace and waits until it has written its first rules. The Node should exist, with
    /// an `InternalIP`. The laboratory's endpoints are local to the cluster for it; `more` are further lines for its
    /// configuration (`KubeProxyConfiguration`, YAML, a field in each), such as `nodePortAddresses: [primary]`; they
    /// take the place of the laboratory's own for the same fields.
    pub fn start(
        plane: &ControlPlane,
        namespace: &Namespace,
        node: &str,
        mode: Mode,
        more: &str,
    ) -> Result<KubeProxy, Error> {
        let kubeconfig = plane.kubeconfig_for("system:kube-proxy", &[])?;
        let config = plane.directory().join(format!("kube-proxy-{node}.yaml"));
        let own = format!(
            "clientConnection: {{kubeconfig: '{kubeconfig}'}}\n\
             hostnameOverride: {node}\n\
             mode: {mode}\n\
             detectLocalMode: ClusterCIDR\n\
             clusterCIDR: {POD_NETWORK_V4},{POD_NETWORK_V6}\n\
             healthzBindAddress: 127.0.0.1:10256\n\
             metricsBindAddress: 127.0.0.1:10249\n\
             # Nothing that would need rights over more than the namespace.\n\
             conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\n",
            kubeconfig = kubeconfig.display(),
            mode = mode.name(),
        );
        let field = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let mut text =
            String::from("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n");
        for line in own.lines().filter(|line| !more.lines().any(|other| field(other) == field(line))) {
            text = text + line + "\n";
        }
        text.push_str(more);
        fs::write(&config, text).map_err(trying(format!("writing {}", config.display())))?;
        let plan = Plan {
            name: "kube-proxy",
            namespace: namespace.clone(),
            program: program("kube-proxy")?,
            arguments: vec![format!("--config={}", config.display())],
            log: config.with_extension("log"),
        };
        let mut proxy = KubeProxy { process: None, plan };
        proxy.start_again()?;
        Ok(proxy)
    }

    /// Kills it; its rules stay.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it if it does not run, and waits until it has written its rules.
    pub fn start_again(&mut self) -> Result<(), Error> {
        if !runs(&mut self.process) {
            self.process = Some(self.plan.start()?);
        }
        self.wait_synced(SystemTime::UNIX_EPOCH)
    }

    /// Waits until it has written its rules after this moment, which it does when something changes.
    pub fn wait_synced(&mut self, after: SystemTime) -> Result<(), Error> {
        let Some(process) = &mut self.process else {
            return Err(Error::Missing("kube-proxy was killed and not started again".into()));
        };
        let after = after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        process.wait("done with its rules", START, || has_synced(&self.plan.namespace, after))
    }

    /// Halts it, or lets it go on.
    pub fn hang(&mut self, hangs: bool) -> Result<(), Error> {
        let signal = if hangs { Signal::STOP } else { Signal::CONT };
        match &mut self.process {
            Some(process) => process.signal(signal),
            None => Err(Error::Missing("kube-proxy was killed and not started again".into())),
        }
    }

    /// Its process number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.plan.log
    }
}

fn has_synced(namespace: &Namespace, after: f64) -> bool {
    let Ok(metrics) = metrics(namespace) else { return false };
    // One comes after the other.
    ["IPv4", "IPv6"].iter().all(|family| {
        let of_family = |line: &&str| line.starts_with(SYNCED) && line.contains(family);
        let line = metrics.lines().find(of_family);
        let time = line.and_then(|line| line.rsplit(' ').next()).and_then(|time| time.parse::<f64>().ok());
        time.is_some_and(|time| time > after)
    })
}

fn metrics(namespace: &Namespace) -> std::io::Result<String> {
    let mut stream = namespace.tcp_connect(SocketAddr::from(METRICS))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // By HTTP/1.0, so that the answer is neither in chunks nor followed by others.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
