//! Agents in a Kubernetes cluster find each other through it: a real API server with its controllers, nodes in network
//! namespaces, and the agents' Pods as objects that stand for the processes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use plimsoll_lab::cluster::{Cluster, Host};
use plimsoll_lab::control_plane::{ControlPlane, ControllerManager, Kubectl, Settings, available};
use plimsoll_lab::eventually;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::stage::SOON;

/// So many Services with something wrong that each of three agents tells of some.
const WRONG: usize = 16;

/// Those of the agents' Pods.
const LABELS: &str = "{app.kubernetes.io/name: plimsoll, app.kubernetes.io/instance: plimsoll, \
    app.kubernetes.io/component: agent}";

/// A control plane beside nodes, and agents on them.
struct InCluster {
    // In the order in which they end.
    agents: Vec<Agent>,
    _controllers: ControllerManager,
    plane: ControlPlane,
    /// Who the agents are, by the rights that the manifests give them.
    identity: PathBuf,
    /// Their configuration, as it is in the manifests.
    config: String,
    cluster: Cluster,
    directory: TempDir,
}

impl InCluster {
    fn new(nodes: usize) -> InCluster {
        let mut cluster = Cluster::new(nodes).unwrap();
        let host = cluster.add_outside(0).unwrap();
        let addresses = vec![host.v4.into(), host.v6.into()];
        let plane = ControlPlane::start(Settings { addresses, ..Settings::new(&host.namespace) }).unwrap();
        let controllers = ControllerManager::start(&plane).unwrap();
        let identity = plane.install().unwrap();
        let path = ["get", "configmap", "plimsoll", "-n", "plimsoll", "-o", "jsonpath={.data.agent\\.yaml}"];
        let config = plane.kubectl().run(&path).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mesh.key"), "0123456789abcdef".repeat(4)).unwrap();
        InCluster {
            agents: Vec::new(),
            _controllers: controllers,
            plane,
            identity,
            config,
            cluster,
            directory,
        }
    }

    fn kubectl(&self) -> Kubectl {
        self.plane.kubectl()
    }

    fn host(&self, node: usize) -> &Host {
        &self.cluster.nodes[node].host
    }

    /// Makes a Node of this name, and the Pod of its agent, which stands for the process.
    fn register(&self, name: &str, addresses: &[String]) {
        let node = format!("apiVersion: v1, kind: Node, metadata: {{name: {name}}}");
        // One alone: an apply tells the addresses of a Node by their kind.
        let internal = format!("{{type: InternalIP, address: '{}'}}", addresses[0]);
        let pod = format!(
            "apiVersion: v1, kind: Pod, metadata: {{namespace: plimsoll, name: agent-{name}, labels: {LABELS}}}"
        );
        let spec = format!(
            "spec: {{nodeName: {name}, hostNetwork: true, containers: [{{name: agent, image: none}}]}}"
        );
        let ips: Vec<String> = addresses.iter().map(|address| format!("{{ip: '{address}'}}")).collect();
        let (first, ips) = (&addresses[0], ips.join(", "));
        let kubectl = self.kubectl();
        kubectl.apply(&format!("{{{node}}}")).unwrap();
        kubectl.apply_status(&format!("{{{node}, status: {{addresses: [{internal}]}}}}")).unwrap();
        kubectl.apply(&format!("{{{pod}, {spec}}}")).unwrap();
        // Not ready yet: it is to be met all the same.
        kubectl
            .apply_status(&format!(
                "{{{pod}, status: {{phase: Running, hostIP: '{first}', podIP: '{first}', podIPs: [{ips}]}}}}"
            ))
            .unwrap();
    }

    fn unregister(&self, name: &str) {
        let (pod, node) = (format!("pod/agent-{name}"), format!("node/{name}"));
        self.kubectl().run(&["delete", "-n", "plimsoll", "--force", "--grace-period=0", &pod]).unwrap();
        self.kubectl().run(&["delete", &node]).unwrap();
    }

    /// The configuration of the manifests, with what a Pod would have from elsewhere: its name, who it is, and its key.
    fn config(&self, name: &str) -> String {
        let (identity, key) = (self.identity.display(), self.directory.path().join("mesh.key"));
        let cluster = format!(
            "agents: plimsoll/plimsoll-agents\n    kubeconfig: {identity}\n    \
             kube_proxy: {{assume: {{mode: nftables, local_sources: [10.1.0.0/16]}}}}"
        );
        let config = self.config.replace("agents: plimsoll-agents", &cluster);
        format!("node: {name}\n{config}")
            .replace("/run/secrets/plimsoll/mesh.key", &key.display().to_string())
    }

    /// Starts an agent of this name on a node.
    fn start(&mut self, node: usize, name: &str) -> &mut Agent {
        let config = self.config(name);
        if node == self.agents.len() {
            let namespace = &self.cluster.nodes[node].host.namespace;
            let mut agent = Agent::new(namespace, self.directory.path(), node, &config);
            agent.confined = true;
            self.agents.push(agent);
        }
        let agent = &mut self.agents[node];
        std::fs::write(&agent.config, config).unwrap();
        agent.start();
        agent.wait_ready();
        agent
    }

    /// Who wrote each Event that is there.
    fn events(&self) -> Vec<String> {
        let path =
            "jsonpath={range .items[*]}{.reportingController} {.reportingInstance} {.series}{\"\\n\"}{end}";
        let all = self.kubectl().run(&["get", "events.events.k8s.io", "-n", "default", "-o", path]).unwrap();
        let ours = all.lines().filter_map(|line| line.strip_prefix("plimsoll.dev/agent "));
        ours.map(|line| line.trim().to_owned()).collect()
    }

    /// Waits until these agents have as many others in the mesh, and hear of them.
    fn meet(&self, nodes: &[usize], others: &[&str]) {
        for node in nodes {
            let agent = &self.agents[*node];
            let heard = || {
                let status = agent.status();
                let others = others.iter().filter(|other| **other != status.node);
                let all = others.clone().all(|other| status.nodes.iter().any(|node| node.node == **other));
                all && agent.metric("plimsoll_mesh_members") == others.count() as f64
            };
            assert!(eventually(SOON, heard), "{others:?}: {:?}", agent.status());
        }
    }
}

#[test]
fn agents_meet_through_the_cluster_and_follow_its_nodes() {
    if !available(&["kube-controller-manager"], &["nft", "conntrack"]) {
        return;
    }
    let mut all = InCluster::new(3);
    let v4 = |all: &InCluster, node: usize| vec![all.host(node).v4.to_string()];
    let both =
        |all: &InCluster, node: usize| vec![all.host(node).v4.to_string(), all.host(node).v6.to_string()];

    // Without the Service nobody is met, and it is said what is missing.
    all.kubectl().run(&["delete", "service", "plimsoll-agents", "-n", "plimsoll"]).unwrap();
    all.register("n0", &v4(&all, 0));
    all.start(0, "n0");
    let trouble = |all: &InCluster| all.agents[0].status().troubles.join("\n");
    let named = || trouble(&all).contains("discovery.kubernetes.agents");
    assert!(eventually(SOON, named), "{}", trouble(&all));
    all.plane.install().unwrap();
    assert!(eventually(SOON, || trouble(&all).is_empty()), "{}", trouble(&all));

    // Nodes join, of one family and of both.
    all.register("n1", &both(&all, 1));
    all.start(1, "n1");
    all.meet(&[0, 1], &["n0", "n1"]);
    all.start(2, "n2");
    all.register("n2", &v4(&all, 2));
    all.meet(&[0, 1, 2], &["n0", "n1", "n2"]);

    // What is wrong is told once, by all of them together.
    let wrong: Vec<String> = (0..WRONG)
        .map(|i| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: wrong-{i}, labels: {{plimsoll.dev/balance: nonsense}}}}, \
                   spec: {{ports: [{{port: 80}}]}}}}\n---\n"
            )
        })
        .collect();
    all.kubectl().apply(&wrong.concat()).unwrap();
    assert!(eventually(SOON, || all.events().len() == WRONG), "{:?}", all.events());
    let writers: BTreeSet<String> = all.events().into_iter().collect();
    assert_eq!(writers, ["n0", "n1", "n2"].map(String::from).into());

    // One is gone, without a word.
    all.agents[2].end(Signal::KILL);
    all.unregister("n2");
    all.meet(&[0, 1], &["n0", "n1"]);

    // It is made anew, with another address of which only its Node tells.
    let other = "192.168.50.77";
    all.host(2).namespace.ip(&format!("addr add {other}/24 dev eth0")).unwrap();
    all.register("n2", &[other.to_owned()]);
    all.start(2, "n2");
    assert!(all.agents[2].log().contains(&format!("advertised={other}:9653")), "{}", all.agents[2].log());
    all.meet(&[0, 1, 2], &["n0", "n1", "n2"]);

    // It has another name from now on, at the same address.
    all.agents[2].end(Signal::TERM);
    all.unregister("n2");
    all.register("renamed", &[other.to_owned()]);
    all.start(2, "renamed");
    all.meet(&[0, 1, 2], &["n0", "n1", "renamed"]);

    // The whole cluster begins anew, and meets again without anybody else.
    for node in 0..3 {
        all.agents[node].end(Signal::TERM);
    }
    for (node, name) in ["n0", "n1", "renamed"].into_iter().enumerate() {
        all.start(node, name);
    }
    all.meet(&[0, 1, 2], &["n0", "n1", "renamed"]);
    // A Service that each of them has told of after all that shows that they have done what they had to do before.
    all.kubectl().apply(&wrong.concat().replace("wrong-", "later-")).unwrap();
    assert!(eventually(SOON, || all.events().len() >= 2 * WRONG), "{:?}", all.events());
    assert_eq!(all.events().len(), 2 * WRONG, "{:?}", all.events());
}
