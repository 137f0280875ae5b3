//! A real control plane: it starts, refuses, remembers, drives kube-proxy and makes slices.

use std::path::Path;
use std::time::Duration;

use plimsoll_lab::cluster::Cluster;
use plimsoll_lab::control_plane::{
    ControlPlane, ControllerManager, Error, KubeProxy, Mode, Settings, available,
};
use plimsoll_lab::eventually;
use plimsoll_lab::namespace::Namespace;

const SOON: Duration = Duration::from_secs(30);

fn plane() -> ControlPlane {
    ControlPlane::start(Settings::new(&Namespace::new("control-plane").unwrap())).unwrap()
}

fn runs(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

#[test]
fn objects_are_kept_through_a_crash_and_nothing_is_left() {
    if !available(&[], &[]) {
        return;
    }
    let mut plane = plane();
    let kubectl = plane.kubectl();
    kubectl.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {color: white}}").unwrap();
    let color = || kubectl.run(&["get", "configmap", "kept", "-o", "jsonpath={.data.color}"]);
    assert_eq!(color().unwrap(), "white");

    let [etcd, apiserver] = plane.ids().map(Option::unwrap);
    plane.kill_apiserver();
    assert!(color().is_err(), "nobody is there to answer");
    plane.kill_etcd();
    assert!(!runs(etcd) && !runs(apiserver));
    plane.start_etcd().unwrap();
    plane.start_apiserver().unwrap();
    assert_eq!(color().unwrap(), "white");

    let ids = plane.ids().map(Option::unwrap);
    let directory = plane.directory().to_owned();
    plane.stop();
    assert!(!ids.into_iter().any(runs), "etcd or the API server still runs");
    assert!(!directory.exists());
}

#[test]
fn everybody_may_do_what_their_role_allows_and_no_more() {
    if !available(&[], &[]) {
        return;
    }
    let plane = ControlPlane::start(Settings::new(&Namespace::current().unwrap())).unwrap();
    let admin = plane.kubectl();
    let account = "system:serviceaccount:plimsoll:agent";
    let groups = ["system:serviceaccounts", "system:serviceaccounts:plimsoll"];
    let agent = admin.with(&plane.kubeconfig_for(account, &groups).unwrap());
    let reader = admin.with(&plane.kubeconfig_for("jane", &["readers"]).unwrap());
    let list = ["get", "services"];
    for (name, refused) in [(account, &agent), ("jane", &reader)] {
        let Err(Error::Refused { message, .. }) = refused.run(&list) else { panic!("{name} has no role") };
        assert!(message.contains("Forbidden") && message.contains(name), "{message}");
    }
    admin
        .apply(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: sees-services}, \
              rules: [{apiGroups: [''], resources: [services], verbs: [list]}]}\n---\n\
              {apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: sees-services}, \
              roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: sees-services}, \
              subjects: [{kind: ServiceAccount, namespace: plimsoll, name: agent}, \
                         {apiGroup: rbac.authorization.k8s.io, kind: Group, name: readers}]}",
        )
        .unwrap();
    for allowed in [&agent, &reader] {
        assert!(eventually(SOON, || allowed.run(&list).is_ok()), "{:?}", allowed.run(&list));
        assert!(allowed.run(&["delete", "service", "kubernetes"]).is_err(), "only the listing was allowed");
    }
    // The other group of a ServiceAccount counts as well.
    let seen = agent.run(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"]).unwrap();
    assert!(groups.iter().all(|group| seen.contains(&format!("\"{group}\""))), "{seen}");
}

#[test]
fn a_program_that_ends_tells_why() {
    if !available(&[], &[]) {
        return;
    }
    let namespace = Namespace::new("control-plane").unwrap();
    let settings = Settings { apiserver: vec!["--no-such-argument".into()], ..Settings::new(&namespace) };
    let Err(error) = ControlPlane::start(settings) else { panic!("there is no such argument") };
    let text = error.to_string();
    assert!(text.contains("kube-apiserver: it ended") && text.contains("no-such-argument"), "{text}");
}

fn node(name: &str, address: impl std::fmt::Display) -> [String; 2] {
    let head = format!("apiVersion: v1, kind: Node, metadata: {{name: {name}}}");
    [
        format!("{{{head}}}"),
        format!("{{{head}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"),
    ]
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, \
    spec: {clusterIP: 10.96.0.80, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}\n---\n";

fn slice(name: &str, address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}, \
          ports: [{{name: http, port: 8080, protocol: TCP}}], \
          endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]}}\n---\n"
    )
}

#[test]
fn kube_proxy_writes_rules_for_all_slices() {
    if !available(&["kube-proxy"], &["nft"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let host = cluster.add_outside(0).unwrap();
    let plane = ControlPlane::start(Settings {
        addresses: vec![host.v4.into(), host.v6.into()],
        ..Settings::new(&host.namespace)
    })
    .unwrap();
    let kubectl = plane.kubectl();
    let on = &cluster.nodes[0].host;
    let [object, status] = node("node0", on.v4);
    kubectl.apply(&object).unwrap();
    kubectl.apply_status(&status).unwrap();
    kubectl
        .apply(&(SERVICE.to_owned() + &slice("web-a", "10.1.0.11") + &slice("web-b", "10.1.0.12")))
        .unwrap();
    let mut proxy = KubeProxy::start(&plane, &on.namespace, "node0", Mode::Nftables, "").unwrap();
    let rules = || on.namespace.text("nft", &["list", "table", "ip", "kube-proxy"]).unwrap_or_default();
    let has = |text: &str, address: &str| {
        text.lines().any(|line| line.contains("vmap {") && line.contains(&format!("__{address}/8080")))
    };
    let both = || {
        let text = rules();
        text.contains("10.96.0.80 . tcp . 80") && has(&text, "10.1.0.11") && has(&text, "10.1.0.12")
    };
    assert!(eventually(SOON, both), "{}", rules());

    // What changes while it is away is written when it is back.
    proxy.kill();
    kubectl.run(&["delete", "endpointslice", "web-a"]).unwrap();
    assert!(both(), "its rules stay");
    proxy.start_again().unwrap();
    let one = || !has(&rules(), "10.1.0.11") && has(&rules(), "10.1.0.12");
    assert!(eventually(SOON, one), "{}", rules());
    let id = proxy.id().unwrap();
    drop(proxy);
    assert!(!runs(id));
}

#[test]
fn the_controllers_make_slices_of_pods() {
    if !available(&["kube-controller-manager"], &[]) {
        return;
    }
    let plane = plane();
    let kubectl = plane.kubectl();
    let mut controllers = ControllerManager::start(&plane).unwrap();
    let [object, status] = node("node0", "192.168.50.1");
    kubectl.apply(&object).unwrap();
    kubectl.apply_status(&status).unwrap();
    let pod = "apiVersion: v1, kind: Pod, metadata: {name: web-0, labels: {app: web}}";
    let spec = "spec: {nodeName: node0, containers: [{name: web, image: none}]}";
    kubectl.apply(&format!("{SERVICE}{{{pod}, {spec}}}")).unwrap();
    kubectl
        .apply_status(&format!(
            "{{{pod}, status: {{phase: Running, podIP: 10.1.0.11, podIPs: [{{ip: 10.1.0.11}}], \
               conditions: [{{type: Ready, status: 'True'}}]}}}}"
        ))
        .unwrap();
    let told = || {
        let path = "jsonpath={.items[*].endpoints[*].addresses[*]} {.items[*].endpoints[*].conditions.ready} \
                    {.items[*].endpoints[*].nodeName}";
        kubectl
            .run(&["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path])
            .unwrap_or_default()
    };
    assert!(eventually(SOON, || told() == "10.1.0.11 true node0"), "{}", told());
    assert!(!kubectl.run(&["create", "token", "default"]).unwrap().is_empty());

    let before = controllers.id();
    controllers.kill();
    controllers.start_again(&plane).unwrap();
    assert_ne!(controllers.id(), before);
    assert_eq!(told(), "10.1.0.11 true node0");
}
