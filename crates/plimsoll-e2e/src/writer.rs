//! The objects of a large cluster, written by many requests at once: kubectl would take minutes.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use plimsoll_lab::namespace::Namespace;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::objects::{LABEL, NAMESPACE};

/// How many Services there are, each with one slice.
pub(crate) const SERVICES: usize = 5_000;
/// Endpoints of each.
pub(crate) const ENDPOINTS: usize = 10;
/// How many nodes there are.
pub(crate) const NODES: usize = 500;
/// Where endpoints listen.
const AT_ENDPOINT: u16 = 8080;
/// Requests at once.
const AT_ONCE: usize = 64;

/// Writes as the administrator.
pub(crate) struct Writer {
    /// Where the API server is reached.
    namespace: Namespace,
    runtime: Runtime,
    client: Client,
}

/// The name of a node; the first is the one with the agent.
pub(crate) fn node(number: usize) -> String {
    format!("n{}", number + 1)
}

/// An endpoint; those from `SERVICES * ENDPOINTS` on replace others.
pub(crate) fn address(endpoint: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 1)) + endpoint as u32)
}

/// The name of a Service, and of its slice.
pub(crate) fn name(service: usize) -> String {
    format!("s{service}")
}

/// What is written of an object: which, and what.
type Write = (String, Value);

impl Writer {
    /// With the rights of this kubeconfig file, from this namespace.
    pub(crate) fn new(namespace: &Namespace, kubeconfig: &Path) -> Result<Writer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let file = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Writer { namespace: namespace.clone(), runtime, client })
    }

    /// Creates Nodes as a kubelet registers them, plain: nobody's heartbeats.
    pub(crate) fn nodes(&self, first: Ipv4Addr) -> Result<()> {
        let nodes = (0..NODES).map(|number| {
            let name = node(number);
            let address = if number == 0 { first } else { Ipv4Addr::from(0x0a00_0000 + number as u32) };
            let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone(number)});
            let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
            (String::new(), json!({"metadata": {"name": name, "labels": labels}, "status": status}))
        });
        self.create(&Api::all_with(self.client.clone(), &resource("", "Node", "nodes")), nodes)
    }

    /// Creates all Services and slices, those below `labelled` with the label.
    pub(crate) fn services(&self, labelled: usize) -> Result<()> {
        let services = (0..SERVICES).map(|service| {
            let [high, low] = (service as u16 + 256).to_be_bytes();
            let spec = json!({
                "clusterIP": Ipv4Addr::new(10, 96, high, low),
                "selector": {"app": name(service)},
                "ports": [{"name": "http", "port": 80, "targetPort": AT_ENDPOINT}],
            });
            let metadata = json!({"name": name(service), "labels": label(service < labelled)});
            (String::new(), json!({"metadata": metadata, "spec": spec}))
        });
        self.create(&self.api_of("", "Service", "services"), services)?;
        let slices = (0..SERVICES).map(|service| {
            let mut labels = label(service < labelled);
            labels["kubernetes.io/service-name"] = name(service).into();
            labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io".into();
            let slice = json!({
                "metadata": {"name": name(service), "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": AT_ENDPOINT, "protocol": "TCP"}],
                "endpoints": endpoints(service, None),
            });
            (String::new(), slice)
        });
        self.create(&self.slices(), slices)
    }

    /// Gives the label to the Services from this one on, and to their slices, as the cluster's controller does.
    pub(crate) fn label(&self, from: usize) -> Result<()> {
        let labels =
            || (from..SERVICES).map(|service| (name(service), json!({"metadata": {"labels": label(true)}})));
        self.patch(&self.api_of("", "Service", "services"), labels())?;
        self.patch(&self.slices(), labels())
    }

    /// Puts another endpoint in the place of a Service's first.
    pub(crate) fn replace(&self, service: usize, by: usize) -> Result<()> {
        let change = json!({"endpoints": endpoints(service, Some(by))});
        self.patch(&self.slices(), [(name(service), change)].into_iter())
    }

    fn slices(&self) -> Api<DynamicObject> {
        self.api_of("discovery.k8s.io", "EndpointSlice", "endpointslices")
    }

    fn api_of(&self, group: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource(group, kind, plural))
    }

    fn create(&self, api: &Api<DynamicObject>, objects: impl Iterator<Item = Write> + Send) -> Result<()> {
        self.all(objects, |(_, object)| async move {
            let object: DynamicObject = serde_json::from_value(object)?;
            api.create(&PostParams::default(), &object).await?;
            Ok(())
        })
    }

    fn patch(&self, api: &Api<DynamicObject>, changes: impl Iterator<Item = Write> + Send) -> Result<()> {
        self.all(changes, |(name, change)| async move {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await?;
            Ok(())
        })
    }

    fn all<Request: Future<Output = Result<()>> + Send>(
        &self,
        writes: impl Iterator<Item = Write> + Send,
        request: impl Fn(Write) -> Request + Send,
    ) -> Result<()> {
        let requests = stream::iter(writes.map(request));
        let all = requests.buffer_unordered(AT_ONCE).try_for_each(|()| std::future::ready(Ok(())));
        // The connections are made by the thread that waits, so they are made in its namespace.
        self.namespace.run(|| self.runtime.block_on(all)).context("the API server refuses an object")
    }
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
}

fn label(wanted: bool) -> Value {
    if wanted { json!({LABEL: "enabled"}) } else { json!({}) }
}

fn zone(node: usize) -> &'static str {
    ["a", "b", "c"][node % 3]
}

/// Those of a Service, spread over the nodes, the first of them perhaps replaced.
fn endpoints(service: usize, first: Option<usize>) -> Vec<Value> {
    let endpoint = |place: usize| {
        let number = service * ENDPOINTS + place;
        let on = number * 7 % NODES;
        json!({
            "addresses": [address(first.filter(|_| place == 0).unwrap_or(number))],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node(on),
            "zone": zone(on),
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("{}-{place}", name(service))},
        })
    };
    (0..ENDPOINTS).map(endpoint).collect()
}
