//! An agent in a Kubernetes cluster, reached from outside: its Pod is looked up, and the API server forwards to its port.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::io::DuplexStream;

/// Those of the agents' Pods, as the chart makes them.
const LABELS: &str = "app.kubernetes.io/name=plimsoll,app.kubernetes.io/component=agent";
/// The agents' port, where a Pod does not name it.
const PORT: u16 = 9653;

/// What these options are about.
const HEADING: &str = "An agent in a Kubernetes cluster, by its API server";

/// Which agent of which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Place {
    /// The agent of this node. Without it `kubectl plimsoll` asks the first that is ready
    #[arg(help_heading = HEADING, long, value_name = "NODE", conflicts_with = "agent")]
    pub(crate) node: Option<String>,
    /// The namespace of the agents; default: wherever they are
    #[arg(help_heading = HEADING, short, long, value_name = "NAMESPACE", conflicts_with = "agent")]
    namespace: Option<String>,
    /// The context in the kubeconfig file
    #[arg(help_heading = HEADING, long, value_name = "NAME", conflicts_with = "agent")]
    context: Option<String>,
    /// The kubeconfig file; default: that of KUBECONFIG, or ~/.kube/config
    #[arg(help_heading = HEADING, long, value_name = "FILE", conflicts_with = "agent")]
    kubeconfig: Option<PathBuf>,
}

impl Place {
    /// Whether anything of it was given.
    pub(crate) fn is_given(&self) -> bool {
        self.node.is_some() || self.namespace.is_some() || self.context.is_some() || self.kubeconfig.is_some()
    }

    /// Looks for the agent.
    pub(crate) async fn find(&self) -> anyhow::Result<Found> {
        let client = self.client().await?;
        let pods: Api<Pod> = match &self.namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let mut asked = ListParams::default().labels(LABELS);
        if let Some(node) = &self.node {
            asked = asked.fields(&format!("spec.nodeName={node}"));
        }
        let listed = pods.list(&asked).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 403 => anyhow!(
                "you may not list Pods {} (403: {}); name the agents' namespace with -n, or ask for the right to list \
                 `pods` there, and to get and create `pods/portforward`",
                self.whereabouts(),
                status.message
            ),
            other => anyhow!(other).context("the Pods of the agents cannot be listed"),
        })?;
        let count = listed.items.len();
        let chosen = listed.items.iter().filter(|pod| is_running(pod)).max_by_key(|pod| is_ready(pod));
        let Some(pod) = chosen else { bail!("{}", self.nobody(count)) };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| &container.ports);
        let port = ports.flatten().find(|port| port.name.as_deref() == Some("http"));
        let port = port.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(PORT);
        Ok(Found { pods: Api::namespaced(client, &namespace), name, namespace, port })
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.context(
            "it is not known how to reach the cluster; set KUBECONFIG, give --kubeconfig or --context, or name an \
             agent's address with --agent",
        )?;
        Client::try_from(config).context("a client of the cluster cannot be made")
    }

    fn whereabouts(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("in the namespace {namespace}"),
            None => "in all namespaces".to_owned(),
        }
    }

    /// Why there is nobody to ask.
    fn nobody(&self, pods: usize) -> String {
        let on = self.node.as_ref().map(|node| format!(" on the node {node}")).unwrap_or_default();
        let place = self.whereabouts();
        if pods == 0 {
            return format!(
                "there is no agent's Pod{on} {place} (none with the labels {LABELS}); is Plimsoll installed there, and \
                 is the node's name right? see `kubectl get pods -A -l {LABELS} -o wide`"
            );
        }
        format!("the agent's Pods{on} {place} do not run; see `kubectl get pods -A -l {LABELS} -o wide`")
    }
}

/// An agent's Pod.
#[derive(Clone)]
pub(crate) struct Found {
    pods: Api<Pod>,
    name: String,
    namespace: String,
    port: u16,
}

impl Found {
    /// A connection to its HTTP API, and what became of it where it ends early.
    pub(crate) async fn connect(
        &self,
    ) -> anyhow::Result<(DuplexStream, impl Future<Output = Option<String>> + use<>)> {
        let Found { pods, name, namespace, port } = self;
        let forwarded = pods.portforward(name, &[*port]).await;
        let mut forwarded = forwarded.with_context(|| {
            format!(
                "the API server does not forward to the port {port} of the Pod {namespace}/{name}; that takes the right \
                 to get and create `pods/portforward`, and a kubelet that answers: try `kubectl -n {namespace} port-forward \
                 {name} {port}`"
            )
        })?;
        let broken = || anyhow!("the port {port} of the Pod {namespace}/{name} was not forwarded");
        let stream = forwarded.take_stream(*port).ok_or_else(broken)?;
        let error = forwarded.take_error(*port).ok_or_else(broken)?;
        Ok((stream, error))
    }

    /// As people write it.
    pub(crate) fn shown(&self) -> String {
        format!("the agent in the Pod {}/{}", self.namespace, self.name)
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
