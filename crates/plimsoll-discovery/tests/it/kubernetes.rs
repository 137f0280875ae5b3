//! A real API server and a real kube-proxy: what is switched on is found, and whatever fails is told and got over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::service::{Mode, NodeName, Service, ServiceChange, ServiceId};
use plimsoll_discovery::below::{NodePorts, Proxy, ProxyMode};
use plimsoll_discovery::{Config, Discovery, build, kubernetes};
use plimsoll_lab::cluster::Cluster;
use plimsoll_lab::control_plane::{self, ControlPlane, Kubectl, KubeProxy, Settings, available};
use plimsoll_lab::namespace::Namespace;
use tokio::runtime::Runtime;

const SOON: Duration = Duration::from_secs(60);

/// A discovery beside a control plane, and the Services as it told of them.
struct Found {
    runtime: Runtime,
    discovery: Box<dyn Discovery>,
    services: BTreeMap<ServiceId, Arc<Service>>,
    /// The changes that were told, but the first.
    told: usize,
}

impl Found {
    /// Starts it in a namespace.
    fn start(namespace: &Namespace, config: kubernetes::Config) -> Found {
        let namespace = namespace.clone();
        let build = move || {
            namespace.enter().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let discovery =
                runtime.block_on(async { build(&Config::Kubernetes(config), &NodeName::new("n1")) }).unwrap();
            (runtime, discovery)
        };
        // Its thread is where it was started from.
        let (runtime, discovery) = std::thread::spawn(build).join().unwrap();
        Found { runtime, discovery, services: BTreeMap::new(), told: 0 }
    }

    /// Takes changes in until this holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Found) -> bool) {
        let deadline = std::time::Instant::now() + SOON;
        while !holds(self) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            assert!(!left.is_zero(), "{what}: {:#?}\n{:?}", self.services, self.trouble());
            // Not all that is waited for comes as a change.
            let step = left.min(Duration::from_millis(50));
            let Found { runtime, discovery, .. } = self;
            let change =
                runtime.block_on(async { tokio::time::timeout(step, discovery.next()).await.ok() });
            if let Some(change) = change {
                self.take(change.unwrap());
            }
        }
    }

    fn take(&mut self, change: ServiceChange) {
        match change {
            ServiceChange::All(all) => {
                self.services = all.into_iter().map(|service| (service.id.clone(), service)).collect();
            }
            ServiceChange::Set(service) => {
                self.told += 1;
                self.services.insert(service.id.clone(), service);
            }
            ServiceChange::Remove(id) => {
                self.told += 1;
                self.services.remove(&id);
            }
        }
    }

    fn service(&self, name: &str) -> Option<&Service> {
        self.services.values().find(|service| service.id.to_string() == name).map(|service| &**service)
    }

    /// The addresses of the endpoints of a Service.
    fn endpoints(&self, name: &str) -> Vec<String> {
        let service = self.service(name);
        service.map_or(Vec::new(), |s| s.endpoints.iter().map(|e| e.id.address.to_string()).collect())
    }

    fn trouble(&self) -> String {
        self.discovery.health().borrow().last_error.as_deref().unwrap_or_default().to_owned()
    }

    fn remarks(&self, service: &str) -> String {
        let remarks = self.discovery.remarks();
        let remarks = remarks.borrow();
        let of_service = remarks.get(service).map(|remarks| remarks.iter().map(ToString::to_string).collect());
        of_service.map_or(String::new(), |lines: Vec<String>| lines.join("\n"))
    }
}

fn plane() -> ControlPlane {
    ControlPlane::start(Settings::new(&Namespace::new("kubernetes").unwrap())).unwrap()
}

/// A configuration that takes for granted what kube-proxy would say.
fn config(kubeconfig: PathBuf) -> kubernetes::Config {
    let mut config = kubernetes::Config { kubeconfig: Some(kubeconfig), ..kubernetes::Config::default() };
    config.kube_proxy.assume = Some(kubernetes::config::Assumed {
        mode: kubernetes::config::AssumedMode::Nftables,
        local_sources: vec!["10.1.0.0/16".parse().unwrap()],
        masquerade_all: false,
        node_port_addresses: Vec::new(),
    });
    config
}

fn service(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {{{labels}}}}}, \
          spec: {{{spec}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n"
    )
}

fn slice(name: &str, of: &str, labels: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!("{{addresses: ['{address}'], nodeName: n1}}")).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {of}{labels}}}}}, \
          ports: [{{name: http, port: 8080, protocol: TCP}}], endpoints: [{}]}}\n---\n",
        endpoints.join(", ")
    )
}

const ON: &str = "plimsoll.dev/balance: enabled";
const WEB: &str = "default/web:http/ipv4";

/// A Service that is switched on, with a slice as the cluster's controller would write it.
fn web(kubectl: &Kubectl, addresses: &[&str]) {
    let objects = [service("web", ON, "selector: {app: web}"), slice("web-1", "web", &format!(", {ON}"), addresses)];
    kubectl.apply(&objects.concat()).unwrap();
}

#[test]
fn what_kube_proxy_says_is_read() {
    if !available(&["kube-proxy"], &["nft", "iptables"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let _ = &mut cluster;
}
