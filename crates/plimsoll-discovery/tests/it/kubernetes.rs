//! A real API server and a real kube-proxy: what is switched on is found, and whatever fails is told and got over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::service::{Mode, NodeName, Service, ServiceChange, ServiceId};
use plimsoll_discovery::below::{NodePorts, Proxy, ProxyMode};
use plimsoll_discovery::{Config, Discovery, build, kubernetes};
use plimsoll_lab::cluster::Cluster;
use plimsoll_lab::control_plane::{self, ControlPlane, KubeProxy, Kubectl, Settings, available};
use plimsoll_lab::namespace::Namespace;
use tokio::runtime::Runtime;

pub(crate) const SOON: Duration = Duration::from_mins(1);

/// A discovery beside a control plane, and the Services as it told of them.
pub(crate) struct Found {
    runtime: Runtime,
    pub(crate) discovery: Box<dyn Discovery>,
    pub(crate) services: BTreeMap<ServiceId, Arc<Service>>,
    /// The changes that were told, but the first.
    pub(crate) told: usize,
}

impl Found {
    /// Starts it in a namespace.
    pub(crate) fn start(namespace: &Namespace, config: kubernetes::Config) -> Found {
        Found::start_on("n1", namespace, config)
    }

    /// The same on a node of this name.
    pub(crate) fn start_on(node: &str, namespace: &Namespace, config: kubernetes::Config) -> Found {
        let (node, namespace) = (NodeName::new(node), namespace.clone());
        let build = move || {
            namespace.enter().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let discovery =
                runtime.block_on(async { build(&Config::Kubernetes(config), &node, Vec::new) }).unwrap();
            (runtime, discovery)
        };
        // Its thread is where it was started from.
        let (runtime, discovery) = std::thread::spawn(build).join().unwrap();
        Found { runtime, discovery, services: BTreeMap::new(), told: 0 }
    }

    /// Takes changes in until this holds.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Found) -> bool) {
        self.until_within(SOON, what, holds);
    }

    /// The same, with another patience.
    pub(crate) fn until_within(&mut self, patience: Duration, what: &str, holds: impl Fn(&Found) -> bool) {
        let deadline = std::time::Instant::now() + patience;
        while !holds(self) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            assert!(!left.is_zero(), "{what}: {:#?}\n{:?}", self.services, self.trouble());
            // Not all that is waited for comes as a change.
            let step = left.min(Duration::from_millis(50));
            let Found { runtime, discovery, .. } = self;
            let change = runtime.block_on(async { tokio::time::timeout(step, discovery.next()).await.ok() });
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
    pub(crate) fn endpoints(&self, name: &str) -> Vec<String> {
        let service = self.service(name);
        service.map_or(Vec::new(), |s| s.endpoints.iter().map(|e| e.id.address.to_string()).collect())
    }

    pub(crate) fn trouble(&self) -> String {
        self.discovery.health().borrow().last_error.as_deref().unwrap_or_default().to_owned()
    }

    pub(crate) fn remarks(&self, service: &str) -> String {
        let remarks = self.discovery.remarks();
        let remarks = remarks.borrow();
        let of_service =
            remarks.get(service).map(|remarks| remarks.iter().map(ToString::to_string).collect());
        of_service.map_or(String::new(), |lines: Vec<String>| lines.join("\n"))
    }
}

pub(crate) fn plane() -> ControlPlane {
    ControlPlane::start(Settings::new(&Namespace::new("kubernetes").unwrap())).unwrap()
}

/// A configuration that takes for granted what kube-proxy would say.
pub(crate) fn config(kubeconfig: PathBuf) -> kubernetes::Config {
    let mut config = kubernetes::Config { kubeconfig: Some(kubeconfig), ..kubernetes::Config::default() };
    config.kube_proxy.assume = Some(kubernetes::config::Assumed {
        mode: kubernetes::config::AssumedMode::Nftables,
        local_sources: vec!["10.1.0.0/16".parse().unwrap()],
        masquerade_all: false,
        node_port_addresses: Vec::new(),
    });
    config
}

pub(crate) fn service(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {{{labels}}}}}, \
          spec: {{{spec}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n"
    )
}

pub(crate) fn slice(name: &str, of: &str, labels: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!("{{addresses: ['{address}'], nodeName: n1}}")).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {of}{labels}}}}}, \
          ports: [{{name: http, port: 8080, protocol: TCP}}], endpoints: [{}]}}\n---\n",
        endpoints.join(", ")
    )
}

pub(crate) const ON: &str = "plimsoll.dev/balance: enabled";
pub(crate) const WEB: &str = "default/web:http/ipv4";
const HAND: &str = "default/hand:http/ipv4";

/// A Service that is switched on, with a slice as the cluster's controller would write it.
pub(crate) fn web(kubectl: &Kubectl, addresses: &[&str]) {
    let objects =
        [service("web", ON, "selector: {app: web}"), slice("web-1", "web", &format!(", {ON}"), addresses)];
    kubectl.apply(&objects.concat()).unwrap();
}

#[test]
fn what_is_switched_on_is_followed() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let kubectl = plane.kubectl();
    web(&kubectl, &["10.1.0.11", "10.1.0.12"]);
    kubectl.apply(&service("other", "", "selector: {app: other}")).unwrap();
    kubectl.apply(&slice("other-1", "other", "", &["10.1.0.13"])).unwrap();
    let mut found = Found::start(plane.namespace(), config(plane.admin().into()));
    found.until("both endpoints", |found| found.endpoints(WEB) == ["10.1.0.11", "10.1.0.12"]);
    assert_eq!(found.services.len(), 1, "{:#?}", found.services);
    let web = found.service(WEB).unwrap();
    assert_eq!((web.mode, web.keys.len(), web.endpoints[0].id.port), (Mode::Enabled, 1, 8080));
    assert_eq!(web.endpoints[0].node, Some(NodeName::new("n1")));

    // A slice changes, one comes, one goes.
    kubectl.apply(&slice("web-1", "web", &format!(", {ON}"), &["10.1.0.11"])).unwrap();
    found.until("one endpoint", |found| found.endpoints(WEB) == ["10.1.0.11"]);
    kubectl.apply(&slice("web-2", "web", &format!(", {ON}"), &["10.1.0.14"])).unwrap();
    found.until("a second slice", |found| found.endpoints(WEB) == ["10.1.0.11", "10.1.0.14"]);
    kubectl.run(&["delete", "endpointslice", "web-1"]).unwrap();
    found.until("only the second slice", |found| found.endpoints(WEB) == ["10.1.0.14"]);

    // The label decides.
    kubectl.run(&["label", "--overwrite", "service", "web", "plimsoll.dev/balance=observe"]).unwrap();
    found.until("observed", |found| found.service(WEB).is_some_and(|web| web.mode == Mode::Observe));
    kubectl.run(&["label", "--overwrite", "service", "web", "plimsoll.dev/balance=disabled"]).unwrap();
    found.until("switched off", |found| found.services.is_empty());
    kubectl.run(&["label", "--overwrite", "service", "web", "plimsoll.dev/balance=enabled"]).unwrap();
    found.until("switched on", |found| found.endpoints(WEB) == ["10.1.0.14"]);
    kubectl.run(&["label", "service", "web", "plimsoll.dev/balance-"]).unwrap();
    found.until("without the label", |found| found.services.is_empty());

    // What is wrong is told, and nothing else breaks.
    kubectl.run(&["label", "service", "web", "plimsoll.dev/balance=on"]).unwrap();
    found.until("a remark", |found| found.remarks("default/web").contains("`on` is not one of the choices"));
}

#[test]
fn a_server_that_streams_no_lists_is_asked_for_lists() {
    if !available(&[], &[]) {
        return;
    }
    let namespace = Namespace::new("kubernetes").unwrap();
    let apiserver = vec!["--feature-gates=WatchList=false".into()];
    let plane = ControlPlane::start(Settings { apiserver, ..Settings::new(&namespace) }).unwrap();
    let kubectl = plane.kubectl();
    let streamed = "/api/v1/services?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                    &allowWatchBookmarks=true&timeoutSeconds=1";
    let refused = kubectl.run(&["get", "--raw", streamed]).unwrap_err().to_string();
    assert!(refused.contains("sendInitialEvents"), "{refused}");
    web(&kubectl, &["10.1.0.11"]);
    let mut found = Found::start(plane.namespace(), config(plane.admin().into()));
    found.until("the endpoint", |found| found.endpoints(WEB) == ["10.1.0.11"]);
    kubectl.apply(&slice("web-1", "web", &format!(", {ON}"), &["10.1.0.12"])).unwrap();
    found.until("the new endpoint", |found| found.endpoints(WEB) == ["10.1.0.12"]);
}

#[test]
fn a_burst_is_told_as_few_changes() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let kubectl = plane.kubectl();
    web(&kubectl, &["10.1.0.1"]);
    let mut found = Found::start(plane.namespace(), config(plane.admin().into()));
    found.until("the Service", |found| found.endpoints(WEB).len() == 1);
    let slices: Vec<String> = (0..50)
        .map(|i| slice(&format!("more-{i}"), "web", &format!(", {ON}"), &[&format!("10.1.1.{i}")]))
        .collect();
    kubectl.apply(&slices.concat()).unwrap();
    found.until("all slices", |found| found.endpoints(WEB).len() == 51);
    assert!(found.told <= 50, "{} changes for 50 slices", found.told);
}

#[test]
fn slices_of_a_service_without_a_selector_are_found_by_its_name() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let kubectl = plane.kubectl();
    kubectl.apply(&service("hand", ON, "clusterIP: 10.96.0.77")).unwrap();
    kubectl.apply(&slice("hand-made", "hand", "", &["192.0.2.7"])).unwrap();
    let mut found = Found::start(plane.namespace(), config(plane.admin().into()));
    found.until("its endpoint", |found| found.endpoints(HAND) == ["192.0.2.7"]);
    kubectl.apply(&slice("hand-made", "hand", "", &["192.0.2.8"])).unwrap();
    found.until("another", |found| found.endpoints(HAND) == ["192.0.2.8"]);
    kubectl.run(&["delete", "service", "hand"]).unwrap();
    found.until("nothing", |found| found.services.is_empty());
}

#[test]
fn an_api_server_that_is_away_is_waited_for() {
    if !available(&[], &[]) {
        return;
    }
    let mut plane = plane();
    let kubectl = plane.kubectl();
    web(&kubectl, &["10.1.0.11"]);
    let mut found = Found::start(plane.namespace(), config(plane.admin().into()));
    found.until("the Service", |found| found.endpoints(WEB) == ["10.1.0.11"]);
    plane.kill_apiserver();
    found.until("the trouble is told", |found| found.trouble().contains("does not answer"));
    assert_eq!(found.endpoints(WEB), ["10.1.0.11"], "what was known stays");
    plane.start_apiserver().unwrap();
    kubectl.apply(&slice("web-1", "web", &format!(", {ON}"), &["10.1.0.12"])).unwrap();
    found.until("the new endpoint", |found| found.endpoints(WEB) == ["10.1.0.12"]);
    found.until("all is well", |found| !found.trouble().contains("does not answer"));

    // And so is one that forgot what came when: etcd and all.
    plane.kill_apiserver();
    plane.kill_etcd();
    plane.start_etcd().unwrap();
    plane.start_apiserver().unwrap();
    kubectl.run(&["delete", "endpointslice", "web-1"]).unwrap();
    found.until("no endpoint", |found| found.endpoints(WEB).is_empty());
}

/// A role with the rights over these resources (of either group).
fn role(kubectl: &Kubectl, user: &str, resources: &str) {
    let role = format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: {user}}}, \
           rules: [{{apiGroups: ['', discovery.k8s.io], resources: [{resources}], verbs: [get, list, watch]}}]}}\n---\n\
         {{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {user}}}, \
           roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {user}}}, \
           subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {user}}}]}}\n"
    );
    kubectl.apply(&role).unwrap();
}

#[test]
fn a_missing_right_is_named_and_waited_for() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let kubectl = plane.kubectl();
    web(&kubectl, &["10.1.0.11"]);
    role(&kubectl, "agent", "services, nodes");
    let mut found = Found::start(plane.namespace(), config(plane.kubeconfig_for("agent", &[]).unwrap()));
    let named = |found: &Found| {
        let trouble = found.trouble();
        trouble.contains("the verbs `list` and `watch` on the resource `endpointslices`")
            && trouble.contains("API group \"discovery.k8s.io\"")
    };
    found.until("the missing right is named", named);
    assert!(found.services.is_empty() && found.told == 0);
    role(&kubectl, "agent", "services, nodes, endpointslices");
    found.until("the right is there", |found| found.endpoints(WEB) == ["10.1.0.11"]);
    assert!(!named(&found), "{}", found.trouble());
}

#[test]
fn a_foreign_certificate_is_told_as_such() {
    if !available(&[], &[]) {
        return;
    }
    let (plane, other) = (plane(), plane());
    let theirs = std::fs::read_to_string(other.admin()).unwrap();
    let url = |plane: &ControlPlane| plane.url().to_owned();
    let mixed = theirs.replace(&url(&other), &url(&plane));
    let path = plane.directory().join("mixed.yaml");
    std::fs::write(&path, mixed).unwrap();
    let mut found = Found::start(plane.namespace(), config(path));
    found.until("the certificate", |found| found.trouble().contains("certificate is not trusted"));
}

#[test]
fn what_kube_proxy_says_is_read() {
    if !available(&["kube-proxy"], &["nft", "iptables"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let host = cluster.add_outside(0).unwrap();
    let addresses = vec![host.v4.into(), host.v6.into()];
    let plane = ControlPlane::start(Settings { addresses, ..Settings::new(&host.namespace) }).unwrap();
    let kubectl = plane.kubectl();
    let on = &cluster.nodes[0].host;
    let node = "apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}";
    kubectl.apply(&format!("{{{node}}}")).unwrap();
    let status = format!("status: {{addresses: [{{type: InternalIP, address: {}}}]}}", on.v4);
    kubectl.apply_status(&format!("{{{node}, {status}}}")).unwrap();
    web(&kubectl, &["10.1.0.11"]);
    let config =
        || kubernetes::Config { kubeconfig: Some(plane.admin().into()), ..kubernetes::Config::default() };
    let modes = [
        (control_plane::Mode::Nftables, ProxyMode::Nftables, NodePorts::At(vec![on.v4.into()])),
        (control_plane::Mode::Iptables, ProxyMode::Iptables, NodePorts::All),
    ];
    for (mode, expected, node_ports) in modes {
        let proxy = KubeProxy::start(&plane, &on.namespace, "n1", mode, "").unwrap();
        let mut found = Found::start(&on.namespace, config());
        found.until("the Service", |found| found.endpoints(WEB) == ["10.1.0.11"]);
        assert_eq!(found.service(WEB).unwrap().mode, Mode::Enabled);
        assert_eq!(found.trouble(), "");
        let nodes = found.discovery.nodes().borrow().clone();
        assert_eq!(nodes[0].zone.as_deref(), Some("a"));
        let known: Proxy = found.discovery.proxy().borrow().clone().unwrap();
        assert_eq!((known.mode, known.masquerade_all, &known.node_ports), (expected, false, &node_ports));
        drop(proxy);
        // What it said stays, and that it does not answer is told.
        found.until("it does not answer", |found| found.trouble().contains("kube-proxy"));
        assert_eq!(found.service(WEB).unwrap().mode, Mode::Enabled);
    }

    // Without one nothing is steered.
    let mut found = Found::start(&on.namespace, config());
    found.until("the Service", |found| found.endpoints(WEB) == ["10.1.0.11"]);
    assert_eq!(found.service(WEB).unwrap().mode, Mode::Observe);
    assert!(found.remarks("default/web").contains("only observed"), "{}", found.remarks("default/web"));

    // One that comes later brings ranges that the dataplane was not made with: all starts anew.
    let _proxy = KubeProxy::start(&plane, &on.namespace, "n1", control_plane::Mode::Nftables, "").unwrap();
    let Found { runtime, discovery, .. } = &mut found;
    let ended = async {
        loop {
            if let Err(error) = discovery.next().await {
                return error;
            }
        }
    };
    let error = runtime.block_on(async { tokio::time::timeout(SOON, ended).await }).unwrap();
    assert!(matches!(error, plimsoll_discovery::Error::ProxyChanged), "{error}");
}
