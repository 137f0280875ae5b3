//! The rig: three nodes with a real kube-proxy each and, when asked, an agent; pods on them with real servers; hosts
//! outside behind each node; and the control plane, on a host of its own.
//!
//! ```text
//! n1 n2 n3     nodes, in the zones a, b, c
//! p1a p1b p2a… pods with servers, two on each node     c1 c2 c3  pods with clients, one on each node
//! h1 h2 h3     servers on the nodes themselves          o1 o2 o3  hosts outside that reach all through n1, n2, n3
//! x1           a server outside the cluster
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use plimsoll_lab::cluster::{self, Cluster, POD_NETWORK_V4, POD_NETWORK_V6};
use plimsoll_lab::control_plane::{ControlPlane, KubeProxy, Kubectl, Mode, Settings};
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::sctp;
use plimsoll_lab::server::Server;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::objects::{LISTEN, Listed, NAMESPACE};
use crate::table::Proxy;
use crate::witness;

/// How many nodes there are.
pub(crate) const NODES: usize = 3;
/// The Service by which agents meet.
const AGENTS: &str = "plimsoll-agents";
/// The zone of each.
const ZONES: [&str; NODES] = ["a", "b", "c"];
/// What a host of the rig is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pod, with an address of its own.
    Pod,
    /// A node, or something on its network.
    Node,
    /// Not part of the cluster.
    Outside,
}

/// Somebody who dials or answers.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) at: cluster::Host,
    /// The node it is on, or that leads to it.
    pub(crate) node: usize,
    pub(crate) kind: Kind,
}

impl Host {
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.at.v4.into(), self.at.v6.into()]
    }
}

/// The rig. Nothing of it is left when it is dropped.
pub(crate) struct World {
    // In the order in which they end.
    pub(crate) agents: Vec<Agent>,
    pub(crate) proxies: Vec<KubeProxy>,
    _servers: Vec<Server>,
    _sctp: Vec<sctp::Server>,
    pub(crate) plane: ControlPlane,
    hosts: BTreeMap<String, Host>,
    cluster: Cluster,
    /// Whether the nodes' FORWARD chains drop.
    forward_drops: bool,
    _directory: TempDir,
}

/// The name of a node, as the API has it.
pub(crate) fn node_name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// The pods with servers that most parts use: two on each node.
pub(crate) fn two_pods_on_each() -> Vec<(String, usize)> {
    let pods = (0..NODES).flat_map(|node| ["a", "b"].map(|name| (format!("p{}{name}", node + 1), node)));
    pods.collect()
}

impl World {
    /// Builds everything but proxies and agents. `pods` names those with servers, and their nodes; servers listen at
    /// `ports` ports from each of [`LISTEN`] on. `settings` are further lines of the agents' configuration; `etcd` is
    /// another than the one beside the API server.
    pub(crate) fn build(
        program: &Path,
        etcd: Option<&Path>,
        pods: &[(String, usize)],
        ports: u16,
        settings: &str,
    ) -> Result<World> {
        let mut cluster = Cluster::new(NODES)?;
        let mut hosts = BTreeMap::new();
        for node in 0..NODES {
            let number = node + 1;
            let on_node = cluster.nodes[node].host.clone();
            tell_all_refusals(&on_node.namespace)?;
            for name in [node_name(node), format!("h{number}")] {
                hosts.insert(name, Host { at: on_node.clone(), node, kind: Kind::Node });
            }
            let at = cluster.add_endpoint(node)?;
            hosts.insert(format!("c{number}"), Host { at, node, kind: Kind::Pod });
            let at = cluster.add_outside(node)?;
            hosts.insert(format!("o{number}"), Host { at, node, kind: Kind::Outside });
        }
        for (name, node) in pods {
            let at = cluster.add_endpoint(*node)?;
            hosts.insert(name.clone(), Host { at, node: *node, kind: Kind::Pod });
        }
        let at = cluster.add_outside(0)?;
        // It answers pods by their own nodes: what comes only one way is invalid to kube-proxy's iptables mode.
        for (node, on) in cluster.nodes.iter().enumerate() {
            let cluster::Host { v4, v6, .. } = on.host;
            let lines =
                format!("route add 10.1.{node}.0/24 via {v4}\nroute add fd01:0:0:{node:x}::/64 via {v6}");
            at.namespace.ip(&lines)?;
        }
        hosts.insert("x1".into(), Host { at, node: 0, kind: Kind::Outside });
        let (mut servers, mut sctp) = (Vec::new(), Vec::new());
        let fixed = ["x1", "h1", "h2", "h3"].into_iter();
        for name in fixed.chain(pods.iter().map(|(name, _)| name.as_str())) {
            let host = &hosts[name];
            let listen = |name: &str, first: u16| {
                let ports = first..first + ports;
                let at =
                    ports.flat_map(|port| host.addresses().map(|address| SocketAddr::new(address, port)));
                Server::start_telling(&host.at.namespace, name, &at.collect::<Vec<_>>())
            };
            servers.push(listen(name, LISTEN[0])?);
            servers.push(listen(&format!("{name}.second"), LISTEN[1])?);
            if host.kind == Kind::Pod {
                sctp.push(sctp::Server::start(&host.at.namespace, name, LISTEN[0]..LISTEN[0] + ports)?);
            }
        }
        let home = cluster.add_outside(0)?;
        let addresses = vec![home.v4.into(), home.v6.into()];
        let plane = ControlPlane::start(Settings {
            addresses,
            etcd: etcd.map(Path::to_owned),
            ..Settings::new(&home.namespace)
        })?;
        let directory = tempfile::Builder::new().prefix("plimsoll-e2e-").tempdir()?;
        let agents = agents(&cluster, &plane.install()?, program, directory.path(), settings)?;
        let world = World {
            agents,
            proxies: Vec::new(),
            _servers: servers,
            _sctp: sctp,
            plane,
            hosts,
            cluster,
            forward_drops: false,
            _directory: directory,
        };
        world.register(pods)?;
        Ok(world)
    }

    /// Tells the API server of the nodes and the pods.
    fn register(&self, pods: &[(String, usize)]) -> Result<()> {
        let (mut objects, mut statuses, mut addresses) = (String::new(), String::new(), Vec::new());
        for (node, zone) in ZONES.iter().enumerate() {
            let name = node_name(node);
            let [v4, v6] = self.host(&name)?.addresses();
            let labels = format!("topology.kubernetes.io/zone: {zone}, kubernetes.io/hostname: {name}");
            let pods = format!("10.1.{node}.0/24");
            let _ = writeln!(
                objects,
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
                 spec: {{podCIDR: {pods}, podCIDRs: [{pods}, 'fd01:0:0:{node:x}::/64']}}"
            );
            let address = |address| format!("{{\"type\": \"InternalIP\", \"address\": \"{address}\"}}");
            let (v4, v6) = (address(v4), address(v6));
            addresses.push((name, format!("{{\"status\": {{\"addresses\": [{v4}, {v6}]}}}}")));
        }
        objects += &self.agents_service()?;
        for (name, node) in pods {
            let [v4, v6] = self.host(name)?.addresses();
            let head = format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n"
            );
            let _ = writeln!(
                objects,
                "{head}spec: {{nodeName: {}, containers: [{{name: server, image: none}}]}}",
                node_name(*node)
            );
            let _ = writeln!(
                statuses,
                "{head}status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}], \
                 conditions: [{{type: Ready, status: 'True'}}]}}"
            );
        }
        let kubectl = self.kubectl();
        kubectl.apply(&objects)?;
        kubectl.apply_status(&statuses)?;
        // Not applied: to that, a list of addresses has but one of a type.
        for (node, status) in &addresses {
            kubectl.run(&["patch", "node", node, "--subresource=status", "--type=merge", "-p", status])?;
        }
        Ok(())
    }

    /// The Service by which agents meet, as the chart has it, with its endpoints: a Pod on each node's own address.
    fn agents_service(&self) -> Result<String> {
        let mut objects = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {AGENTS}, namespace: {NAMESPACE}}}\n\
             spec: {{clusterIP: None, ports: [{{name: mesh, port: 9653, protocol: UDP}}]}}\n"
        );
        for (family, of_family) in [("IPv4", 0), ("IPv6", 1)] {
            let _ = writeln!(
                objects,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
                 metadata: {{name: {AGENTS}-{of_family}, namespace: {NAMESPACE}, \
                 labels: {{kubernetes.io/service-name: {AGENTS}}}}}\nports: [{{name: mesh, port: 9653, protocol: UDP}}]\n\
                 endpoints:"
            );
            for (node, zone) in ZONES.iter().enumerate() {
                let name = node_name(node);
                let address = self.host(&name)?.addresses()[of_family];
                let _ = writeln!(
                    objects,
                    "- {{addresses: ['{address}'], nodeName: {name}, zone: {zone}, conditions: {{ready: true}}}}"
                );
            }
        }
        Ok(objects)
    }

    /// kubectl as the administrator.
    pub(crate) fn kubectl(&self) -> Kubectl {
        self.plane.kubectl()
    }

    /// Somebody, by name.
    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        let names = || self.hosts.keys().cloned().collect::<Vec<_>>().join(", ");
        self.hosts.get(name).with_context(|| format!("the rig has no `{name}`; it has {}", names()))
    }

    /// What an endpoint is in the API.
    pub(crate) fn listed(&self, name: &str) -> Result<Listed> {
        let host = self.host(name)?;
        let node = (host.kind != Kind::Outside).then(|| (node_name(host.node), ZONES[host.node].to_owned()));
        Ok(Listed { addresses: host.addresses(), node })
    }

    /// The namespace of a node.
    pub(crate) fn node(&self, node: usize) -> &Namespace {
        &self.cluster.nodes[node].host.namespace
    }

    /// Cuts a node off the others, or joins it again.
    pub(crate) fn connect(&self, node: usize, connected: bool) -> Result<()> {
        Ok(self.cluster.connect(node, connected)?)
    }

    /// Whose address this is. A node has one on each pod's link as well.
    pub(crate) fn who(&self, address: IpAddr) -> String {
        if let Some((name, _)) = self
            .hosts
            .iter()
            // A node goes by its own name, not by that of a server on it.
            .find(|(name, host)| host.addresses().contains(&address) && !name.starts_with('h'))
        {
            return name.clone();
        }
        match address {
            IpAddr::V4(v4) if v4.octets()[..2] == [10, 1] && v4.octets()[3] == 1 => {
                node_name(v4.octets()[2].into())
            }
            other => other.to_string(),
        }
    }

    /// Starts kube-proxy on all nodes in a mode and a configuration, instead of those that ran before.
    pub(crate) fn start_proxies(&mut self, mode: Mode, how: &Proxy) -> Result<()> {
        self.proxies.clear();
        self.guard_forwarding(how.forward_drops)?;
        let (plane, cluster) = (&self.plane, &self.cluster);
        let start = |node: usize| {
            let namespace = &cluster.nodes[node].host.namespace;
            KubeProxy::start(plane, namespace, &node_name(node), mode, &how.configuration)
        };
        self.proxies = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..NODES).map(|node| scope.spawn(move || start(node))).collect();
            starting
                .into_iter()
                .map(|thread| thread.join().expect("starting does not panic"))
                .collect::<Result<_, _>>()
        })?;
        Ok(())
    }

    /// Tells the kube-proxies their nodes' zones once more. One that starts on a busy machine may have missed its own:
    /// it begins to follow its Node a moment before anything of it listens.
    pub(crate) fn tell_zones(&mut self) -> Result<()> {
        for zones in [[""; NODES], ZONES] {
            let began = SystemTime::now();
            for (node, zone) in zones.iter().enumerate() {
                let label = format!("topology.kubernetes.io/zone={zone}");
                self.kubectl().run(&["label", "node", &node_name(node), "--overwrite", &label])?;
            }
            for proxy in &mut self.proxies {
                proxy.wait_synced(began)?;
            }
        }
        Ok(())
    }

    /// Lets the nodes' FORWARD chains drop what is neither from a pod nor to one, or nothing, as before.
    fn guard_forwarding(&mut self, drops: bool) -> Result<()> {
        if std::mem::replace(&mut self.forward_drops, drops) == drops {
            return Ok(());
        }
        let (policy, change) = if drops { ("DROP", "-A") } else { ("ACCEPT", "-D") };
        for node in 0..NODES {
            for (program, pods) in [("iptables", POD_NETWORK_V4), ("ip6tables", POD_NETWORK_V6)] {
                let iptables = |arguments: &[&str]| self.node(node).text(program, arguments);
                iptables(&["-w", "-P", "FORWARD", policy])?;
                // As networks of pods do it.
                for side in ["-s", "-d"] {
                    iptables(&["-w", change, "FORWARD", side, pods, "-j", "ACCEPT"])?;
                }
            }
        }
        Ok(())
    }

    /// Starts all agents, and waits until each has put so many Services (one per port and family) into the kernel.
    pub(crate) fn start_agents(&mut self, services: usize) -> Result<()> {
        for agent in &mut self.agents {
            agent.start()?;
        }
        self.wait_for_services(services)
    }

    /// Waits until each agent has put so many Services into the kernel.
    pub(crate) fn wait_for_services(&mut self, services: usize) -> Result<()> {
        for agent in &mut self.agents {
            agent.wait(&format!("ready with {services} Services"), |status| {
                let peers = status.nodes.len() >= NODES - 1;
                status.ready && peers && status.services.len() == services
            })?;
        }
        // What all know is in the kernels with the next plan of each.
        let known = Instant::now();
        for agent in &mut self.agents {
            agent.wait("done with a plan for them", |status| {
                status.plan_age_seconds.is_some_and(|age| age < known.elapsed().as_secs_f64())
            })?;
        }
        Ok(())
    }

    /// Stops all agents, and checks that nothing of them is left in the kernel.
    pub(crate) fn stop_agents(&mut self) -> Result<()> {
        for (node, agent) in self.agents.iter_mut().enumerate() {
            agent.stop()?;
            let tables = self.cluster.nodes[node].host.namespace.text("nft", &["list", "tables"])?;
            if tables.contains("plimsoll") {
                bail!("the agent of {} left its table behind: {tables}", node_name(node));
            }
        }
        Ok(())
    }

    /// Forgets connections of the past, and begins to note what is left to kube-proxy.
    pub(crate) fn begin_witness(&self) -> Result<()> {
        for node in 0..NODES {
            // It fails where there is nothing to forget.
            for family in ["ipv4", "ipv6"] {
                let _ = self.node(node).text("conntrack", &["-F", "-f", family]);
            }
            witness::begin(self.node(node))?;
        }
        Ok(())
    }
}

/// Refusals are ICMP errors, of which the kernel sends but some: of the types in a mask, so many per second.
fn tell_all_refusals(node: &Namespace) -> Result<()> {
    Ok(node.sysctl(&[("net/ipv4/icmp_ratemask", "0"), ("net/ipv6/icmp/ratemask", "255")])?)
}

fn agents(
    cluster: &Cluster,
    kubeconfig: &Path,
    program: &Path,
    directory: &Path,
    settings: &str,
) -> Result<Vec<Agent>> {
    let key: PathBuf = directory.join("mesh.key");
    std::fs::write(&key, "0123456789abcdef".repeat(4) + "\n")?;
    let agent = |(node, at): (usize, &cluster::Node)| {
        let config = format!(
            "node: {name}\n\
             discovery: {{kubernetes: {{kubeconfig: '{kubeconfig}', agents: {NAMESPACE}/{AGENTS}}}}}\n\
             store: {{mesh: {{bind: '{address}:9653', key_file: '{key}'}}}}\n\
             {settings}\n",
            name = node_name(node),
            address = at.host.v4,
            kubeconfig = kubeconfig.display(),
            key = key.display(),
        );
        Agent::new(&at.host.namespace, program, directory, &node_name(node), &config)
    };
    cluster.nodes.iter().enumerate().map(agent).collect()
}
