//! A kubelet with containerd: a node that really runs Pods.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::error::{Error, trying};
use super::plane::ControlPlane;
use super::process::{Plan, Process};
use super::programs::program;
use crate::cluster;

/// How long each may take to become ready.
const START: Duration = Duration::from_mins(1);
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Where Debian and Ubuntu have the plugins for Pods' networks.
const PLUGINS: &str = "/usr/lib/cni";
/// Whether what crosses a bridge is seen by the rules for IPv4.
const BRIDGED: &str = "net/bridge/bridge-nf-call-iptables";

/// A node's kubelet and containerd; they are killed when this is dropped.
///
/// What they start detaches from them, and they mount, and write where programs of the system do: they belong into an
/// [`enclosure`](crate::enclosure).
#[derive(Debug)]
pub struct Kubelet {
    // In the order in which they end.
    _kubelet: Process,
    _containerd: Process,
}

impl Kubelet {
    /// Starts both on a node of the laboratory, with these images (OCI archives) and no others, and waits until the
    /// Node is ready. `pause` is the image by which a Pod's network is held. Pods get addresses of 10.1.200.0/24.
    pub fn start(
        plane: &ControlPlane,
        host: &cluster::Host,
        node: &str,
        network: Network,
        images: &[&Path],
        pause: &str,
    ) -> Result<Kubelet, Error> {
        let at = plane.directory();
        let write = |name: &str, text: &str| {
            let path = at.join(name);
            fs::write(&path, text).map_err(trying(format!("writing {}", path.display())))?;
            Ok::<_, Error>(path)
        };
        let networks = at.join("networks");
        fs::create_dir_all(&networks).map_err(trying(format!("making {}", networks.display())))?;
        write("networks/10-pods.conflist", &network.conflist())?;
        if network == Network::Bridge {
            // As kube-proxy wants it: else answers between Pods of a node pass by its rules.
            let settings = [BRIDGED, "net/bridge/bridge-nf-call-ip6tables"].map(|name| (name, "1"));
            host.namespace
                .sysctl(&settings)
                .map_err(|error| Error::Missing(format!("{error}; is the module br_netfilter loaded?")))?;
        }
        let config = write("containerd.toml", &containerd_toml(&networks, pause))?;
        let plan = |name, program, arguments| Plan::new(name, &host.namespace, program, arguments, at);
        let arguments = vec![format!("--config={}", config.display())];
        let mut containerd = plan("containerd", "containerd".into(), arguments).start()?;
        containerd.wait("listening", START, || ctr(&["version"]).is_ok())?;
        for image in images {
            ctr(&["--namespace=k8s.io", "images", "import", &image.display().to_string()])?;
        }
        let kubeconfig = plane.kubeconfig_for(&format!("system:node:{node}"), &["system:nodes"])?;
        let config = write("kubelet.yaml", &kubelet_yaml(at))?;
        let arguments = vec![
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={node}"),
            format!("--node-ip={},{}", host.v4, host.v6),
        ];
        let mut kubelet = plan("kubelet", program("kubelet")?, arguments).start()?;
        let kubectl = plane.kubectl();
        kubelet.wait("ready as a Node", START, || {
            let condition = "--for=condition=Ready";
            kubectl.run(&["wait", "node", node, condition, "--timeout=1s"]).is_ok()
        })?;
        Ok(Kubelet { _kubelet: kubelet, _containerd: containerd })
    }
}

/// How Pods of a node are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Each by a route of its own, as the laboratory's endpoints.
    Routed,
    /// All by a bridge.
    Bridge,
}

impl Network {
    fn conflist(self) -> String {
        let kind = match self {
            Network::Routed => r#""type": "ptp""#,
            Network::Bridge => {
                r#""type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true"#
            }
        };
        format!(
            r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    {kind},
    "ipam": {{
      "type": "host-local",
      "ranges": [[{{"subnet": "10.1.200.0/24"}}], [{{"subnet": "fd01:0:0:c8::/64"}}]],
      "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]
    }}
  }}]
}}
"#
        )
    }
}

fn containerd_toml(networks: &Path, pause: &str) -> String {
    format!(
        r#"version = 2
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{}"
"#,
        networks.display()
    )
}

fn kubelet_yaml(at: &Path) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\n\
         kind: KubeletConfiguration\n\
         authentication: {{anonymous: {{enabled: false}}, x509: {{clientCAFile: '{}/ca.crt'}}}}\n\
         containerRuntimeEndpoint: unix://{SOCKET}\n\
         volumePluginDir: /var/lib/kubelet/volume-plugins\n\
         # A machine that is somebody else's: nothing of it is managed.\n\
         cgroupDriver: cgroupfs\n\
         cgroupsPerQOS: false\n\
         enforceNodeAllocatable: []\n\
         failCgroupV1: false\n\
         failSwapOn: false\n\
         makeIPTablesUtilChains: false\n\
         # How full its disk is, is its owner's concern; and there is no place to get an image from again.\n\
         evictionHard: {{memory.available: '0%', nodefs.available: '0%', nodefs.inodesFree: '0%', imagefs.available: '0%'}}\n\
         imageGCHighThresholdPercent: 100\n",
        at.display()
    )
}

/// A question or order to containerd.
fn ctr(arguments: &[&str]) -> Result<(), Error> {
    let shown = arguments.join(" ");
    let output = Command::new("ctr").args(arguments).output();
    let output = output.map_err(trying(format!("running `ctr {shown}`")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Runtime { command: shown, message })
}
