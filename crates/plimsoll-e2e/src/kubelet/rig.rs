//! The rig: a node with containerd, kubelet and kube-proxy; the control plane with all controllers and the scheduler,
//! on a host of its own; two Services over the Pods of one Deployment; and those who dial them, in another Pod and on
//! the node.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use plimsoll_api::Status;
use plimsoll_lab::client::{Client, Limits, poisson};
use plimsoll_lab::cluster::Cluster;
use plimsoll_lab::control_plane::{
    ControlPlane, ControllerManager, KubeProxy, Kubectl, Kubelet, Mode, Network, Scheduler, Settings,
};
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::random::Random;
use serde_json::Value;

use crate::agent::status_on;
use crate::traffic::Traffic;
use crate::witness;

pub(super) const NODE: &str = "n1";
pub(super) const NAMESPACE: &str = "shop";
/// The Services: kube-proxy's alone, and ours.
const SERVICES: [&str; 2] = ["alone", "web"];
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 96, 80, 1), Ipv4Addr::new(10, 96, 80, 2)];
/// How many Pods the Deployment has.
pub(super) const PODS: usize = 4;
/// How long anything may take until it is seen.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
/// Connections per second of each client to each Service; the load ends by itself, whatever happens.
const RATE: f64 = 25.0;
const LENGTH: Duration = Duration::from_mins(20);
/// How long most connections live, and how long a few do: all shorter than a Pod's grace.
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(2);

/// What the user has: a Deployment whose Pods serve for ten more seconds when they are to go, and come again on a node
/// that is drained: there is no other. And a Pod to dial from, which a drain leaves alone.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      dnsPolicy: Default
      tolerations: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]
      terminationGracePeriodSeconds: 10
      containers:
      - name: server
        image: 'IMAGE'
        imagePullPolicy: Never
        args: [serve]
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: dialler, namespace: shop}
spec:
  selector: {matchLabels: {app: dialler}}
  template:
    metadata: {labels: {app: dialler}}
    spec:
      dnsPolicy: Default
      containers: [{name: dialler, image: 'IMAGE', imagePullPolicy: Never}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {minAvailable: 3, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: Service
metadata: {name: alone, namespace: shop}
spec: {clusterIP: 10.96.80.1, selector: {app: web}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {plimsoll.dev/balance: enabled}}
spec: {clusterIP: 10.96.80.2, selector: {app: web}, ports: [{port: 80, targetPort: web}]}
";

/// The rig. It is meant for an enclosure, which ends what Pods run.
pub(super) struct Rig {
    // In the order in which they end. By who dials, the clients of both Services.
    load: Vec<[Client; 2]>,
    /// The Pod to dial from.
    dialler: Option<Namespace>,
    _proxy: KubeProxy,
    _kubelet: Kubelet,
    _scheduler: Scheduler,
    _controllers: ControllerManager,
    pub(super) plane: ControlPlane,
    cluster: Cluster,
    pub(super) program: PathBuf,
}

/// An endpoint as its slice has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    pub(super) terminating: bool,
}

impl Rig {
    pub(super) fn build(program: &Path, images: [&Path; 2], mode: Mode, network: Network) -> Result<Rig> {
        let mut cluster = Cluster::new(1)?;
        let home = cluster.add_outside(0)?;
        let addresses = vec![home.v4.into(), home.v6.into()];
        let settings = Settings { addresses, runs_pods: true, ..Settings::new(&home.namespace) };
        let plane = ControlPlane::start(settings)?;
        let controllers = ControllerManager::start(&plane)?;
        let scheduler = Scheduler::start(&plane)?;
        let host = &cluster.nodes[0].host;
        let kubelet = Kubelet::start(&plane, host, NODE, network, &images, &pod_image())?;
        let proxy = KubeProxy::start(&plane, &host.namespace, NODE, mode, "")?;
        Ok(Rig {
            load: Vec::new(),
            dialler: None,
            _proxy: proxy,
            _kubelet: kubelet,
            _scheduler: scheduler,
            _controllers: controllers,
            plane,
            cluster,
            program: std::path::absolute(program)?,
        })
    }

    /// kubectl as the administrator.
    pub(super) fn kubectl(&self) -> Kubectl {
        self.plane.kubectl()
    }

    /// The node's network.
    pub(super) fn node(&self) -> &Namespace {
        &self.cluster.nodes[0].host.namespace
    }

    /// The network of the Pod to dial from.
    pub(super) fn dialler(&self) -> Result<&Namespace> {
        self.dialler.as_ref().context("nothing is deployed yet")
    }

    /// Where a Service is.
    pub(super) fn address(service: usize) -> SocketAddr {
        SocketAddr::new(ADDRESSES[service].into(), 80)
    }

    /// Applies what the user has, and waits until all Pods are ready.
    pub(super) fn deploy(&mut self) -> Result<()> {
        self.kubectl().apply(&OBJECTS.replace("IMAGE", &pod_image()))?;
        self.rolled_out(NAMESPACE, "deployment/web")?;
        self.rolled_out(NAMESPACE, "daemonset/dialler")?;
        let process = process(|path| {
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"HOSTNAME=dialler-"))
        })?;
        let number = process.as_ref().and_then(|path| path.file_name()?.to_str()?.parse().ok());
        let number = number.context("no process of the Pod to dial from")?;
        self.dialler = Some(Namespace::of_process("dialler", number)?);
        Ok(())
    }

    /// Begins the load, and to note what is left to kube-proxy.
    pub(super) fn begin_load(&mut self) -> Result<()> {
        witness::begin(self.node())?;
        let life = |random: &mut Random| if random.unit() < 0.1 { LONG } else { SHORT };
        for (seed, from) in [self.dialler()?.clone(), self.node().clone()].into_iter().enumerate() {
            let client = |service: usize| {
                let arrivals = poisson(1 + seed as u64, RATE, LENGTH, Rig::address(service), life);
                Client::start(&from, arrivals, Limits { length: LENGTH, ..Limits::default() })
            };
            self.load.push([client(0)?, client(1)?]);
        }
        Ok(())
    }

    /// What became of the load so far; nothing before it began.
    pub(super) fn traffic(&self) -> Result<Traffic> {
        let fell_back = if self.load.is_empty() { 0 } else { self.left(1)? };
        Ok(Traffic { fell_back, ..Traffic::of(&self.load) })
    }

    /// Connections of a Service that were left to kube-proxy.
    pub(super) fn left(&self, service: usize) -> Result<u64> {
        let passed = witness::passed(self.node())?;
        Ok(passed.iter().filter(|(key, _)| key.1 == ADDRESSES[service]).map(|(_, count)| count).sum())
    }

    /// How many of the connections of each who dials our Service a Pod got so far.
    pub(super) fn greeted(&self, pod: &str) -> Vec<u64> {
        let count = |both: &[Client; 2]| both[1].by_endpoint().get(pod).copied().unwrap_or_default();
        self.load.iter().map(count).collect()
    }

    /// Waits until each of these Pods got new connections from everybody who dials our Service.
    pub(super) fn all_serve<'a>(&self, pods: impl IntoIterator<Item = &'a String>) -> Result<()> {
        let before: Vec<(&String, Vec<u64>)> = pods.into_iter().map(|pod| (pod, self.greeted(pod))).collect();
        until("each Pod gets connections from everybody", || {
            let grew = |(pod, before): &(&String, Vec<u64>)| {
                self.greeted(pod).iter().zip(before).all(|(now, before)| now > before)
            };
            Ok(before.iter().all(grew))
        })
    }

    /// What the slices of a Service have, by Pod.
    pub(super) fn endpoints(&self) -> Result<BTreeMap<String, Endpoint>> {
        let of = format!("--selector=kubernetes.io/service-name={}", SERVICES[1]);
        let slices = self.json(&["get", "endpointslices", "--namespace", NAMESPACE, &of])?;
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
        let read = |endpoint: &Value| {
            let condition = |name: &str| endpoint["conditions"][name].as_bool().unwrap_or_default();
            let address = endpoint["addresses"][0].as_str()?.parse().ok()?;
            let (ready, terminating) = (condition("ready"), condition("terminating"));
            let pod = endpoint["targetRef"]["name"].as_str()?.to_owned();
            Some((pod, Endpoint { address, ready, terminating }))
        };
        endpoints.map(|e| read(e).with_context(|| format!("not an endpoint of a Pod: {e}"))).collect()
    }

    /// Waits until the Pods are as many as there should be, all new and ready, and none of the old is left.
    pub(super) fn replaced(&self, old: &BTreeMap<String, Endpoint>) -> Result<BTreeMap<String, Endpoint>> {
        let mut now = BTreeMap::new();
        until("all Pods are new, and those before are gone", || {
            now = self.endpoints()?;
            let pods = self.json(&["get", "pods", "--namespace", NAMESPACE, "--selector=app=web"])?;
            let is_new = |pod: &String| now[pod].ready && !old.contains_key(pod);
            Ok(now.len() == PODS
                && now.keys().all(is_new)
                && pods["items"].as_array().map(Vec::len) == Some(PODS))
        })?;
        Ok(now)
    }

    /// Waits for a rollout.
    pub(super) fn rolled_out(&self, namespace: &str, what: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl().run(&["rollout", "status", "--namespace", namespace, what, &timeout])?;
        Ok(())
    }

    /// What kubectl prints as JSON.
    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl().run(&[arguments, &["--output=json"]].concat())?;
        serde_json::from_str(&text).context("kubectl wrote something that is not JSON")
    }

    /// What the agent says of itself, on its node.
    pub(super) fn status(&self) -> Result<Status> {
        status_on(self.node())
    }

    /// How things stand, for whoever has to find out why something did not come about.
    pub(super) fn describe(&self) -> String {
        let kubectl = self.kubectl();
        let told = |arguments: &[&str]| kubectl.run(arguments).unwrap_or_else(|error| error.to_string());
        let agent = ["--namespace=plimsoll", "daemonset/plimsoll"];
        [
            told(&["get", "pods", "--all-namespaces", "--output=wide"]),
            told(&["get", "events", "--all-namespaces", "--field-selector=type=Warning"]),
            told(&[&["logs", "--tail=20"], &agent[..]].concat()),
        ]
        .join("\n")
    }
}

/// The image of what the Pods run.
fn pod_image() -> String {
    format!("docker.io/library/plimsoll-pod:{}", env!("CARGO_PKG_VERSION"))
}

/// The directory in /proc of a process of which something holds, if there is one.
pub(super) fn process(holds: impl Fn(&Path) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // What a process has that has ended meanwhile, or is none, cannot be read and is nothing.
        if holds(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Waits until something holds; what cannot be asked at the moment is asked again.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match holds() {
            Ok(true) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.context(what.to_owned())),
            Ok(false) if Instant::now() >= deadline => {
                bail!("not within {} s: {what}", PATIENCE.as_secs());
            }
            // Mostly it is kubectl that is asked, which takes a while to start.
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
