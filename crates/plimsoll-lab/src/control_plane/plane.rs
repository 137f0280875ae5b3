//! etcd and the API server.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::error::{Error, trying};
use super::identity::Authority;
use super::kubectl::Kubectl;
use super::process::{Plan, Process, runs};
use super::programs::program;
use crate::namespace::Namespace;

/// How long the API server may take to become ready; it takes seconds, and more on a busy machine.
const START: Duration = Duration::from_secs(90);
/// How long each of them has to end when asked.
const END: Duration = Duration::from_secs(10);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How a control plane is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it runs.
    pub namespace: Namespace,
    /// The addresses by which others reach the API server, the one in kubeconfig files first; without any it is only
    /// reached by loopback.
    pub addresses: Vec<IpAddr>,
    /// Where the addresses of Services come from: a network of each family that the cluster has, the first of the
    /// family of the first address above.
    pub service_networks: String,
    /// Another etcd than the one beside the API server.
    pub etcd: Option<PathBuf>,
    /// Whether a kubelet runs Pods ([`super::Kubelet`]): they get tokens of their `ServiceAccounts`, and reach the API server
    /// by its Service. Without one Pods are mere objects.
    pub runs_pods: bool,
    /// More arguments for the API server.
    pub apiserver: Vec<String>,
}

impl Settings {
    /// In this namespace, by loopback, dual stack.
    pub fn new(namespace: &Namespace) -> Settings {
        Settings {
            namespace: namespace.clone(),
            addresses: Vec::new(),
            service_networks: "10.96.0.0/16,fd96::/112".into(),
            etcd: None,
            runs_pods: false,
            apiserver: Vec::new(),
        }
    }
}

/// A running control plane. Nothing of it is left when it is dropped.
pub struct ControlPlane {
    // In the order in which they end.
    apiserver: Option<Process>,
    etcd: Option<Process>,
    plans: [Plan; 2],
    settings: Settings,
    authority: Authority,
    url: String,
    port: u16,
    admin: PathBuf,
    kubectl: PathBuf,
    users: std::sync::atomic::AtomicUsize,
    directory: TempDir,
}

impl ControlPlane {
    /// Starts one, and waits until it is ready.
    pub fn start(settings: Settings) -> Result<ControlPlane, Error> {
        let directory = tempfile::Builder::new()
            .prefix("plimsoll-control-plane-")
            .tempdir()
            .map_err(trying("making a temporary directory"))?;
        let [client, peer, secure] = free_ports(&settings.namespace)?;
        let authority = Authority::new(directory.path())?;
        certify(&authority, &settings)?;
        let address = settings.addresses.first().copied().unwrap_or(LOOPBACK);
        let url = format!("https://{}", SocketAddr::new(address, secure));
        let admin = authority.kubeconfig("admin", &url)?;
        let at = directory.path();
        let plan = |name, program, arguments| Plan::new(name, &settings.namespace, program, arguments, at);
        let mut etcd_arguments = etcd_arguments(at, client, peer);
        if settings.etcd.is_none() {
            // What a crash of the machine would lose is gone with the machine. Not all others know how.
            etcd_arguments.push("--unsafe-no-fsync".into());
        }
        let etcd = settings.etcd.clone().map_or_else(|| program("etcd"), Ok)?;
        let apiserver = program("kube-apiserver")?;
        let plans = [
            plan("etcd", etcd, etcd_arguments),
            plan("kube-apiserver", apiserver, apiserver_arguments(at, &settings, client, secure)),
        ];
        let mut plane = ControlPlane {
            apiserver: None,
            etcd: None,
            plans,
            authority,
            url,
            port: secure,
            admin,
            kubectl: program("kubectl")?,
            users: 0.into(),
            settings,
            directory,
        };
        plane.start_etcd()?;
        plane.start_apiserver()?;
        Ok(plane)
    }

    /// Where the API server is, `https://ADDRESS:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate of the authority that signed the API server's, as PEM.
    pub fn authority(&self) -> String {
        self.authority.certificate()
    }

    /// Whether it is made for a kubelet that runs Pods.
    pub(super) fn runs_pods(&self) -> bool {
        self.settings.runs_pods
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.settings.namespace
    }

    /// The directory with its certificates, data and logs; others may put theirs there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The kubeconfig file of one who may do everything (`system:masters`).
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// A new kubeconfig file with a client certificate of this user in these groups (at most two).
    ///
    /// A `ServiceAccount` is `system:serviceaccount:NAMESPACE:NAME` in `system:serviceaccounts` and
    /// `system:serviceaccounts:NAMESPACE`.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf, Error> {
        let number = self.users.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = format!("user-{number}");
        self.authority.client(&file, user, groups)?;
        self.authority.kubeconfig(&file, &self.url)
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        let cache = self.directory.path().join("kubectl");
        Kubectl::new(self.kubectl.clone(), &self.settings.namespace, &self.admin, cache)
    }

    /// The process numbers of etcd and the API server, while they run.
    pub fn ids(&self) -> [Option<u32>; 2] {
        [self.etcd.as_ref().map(Process::id), self.apiserver.as_ref().map(Process::id)]
    }

    /// The log of etcd and that of the API server.
    pub fn logs(&self) -> [&Path; 2] {
        [&self.plans[0].log, &self.plans[1].log]
    }

    /// Kills etcd; its data stay.
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// Starts etcd if it does not run, on the data that are there.
    pub fn start_etcd(&mut self) -> Result<(), Error> {
        if !runs(&mut self.etcd) {
            self.etcd = Some(self.plans[0].start()?);
        }
        Ok(())
    }

    /// Kills the API server; connections to it end.
    pub fn kill_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Starts the API server if it does not run, where it was before, and waits until it is ready.
    pub fn start_apiserver(&mut self) -> Result<(), Error> {
        if !runs(&mut self.apiserver) {
            self.apiserver = Some(self.plans[1].start()?);
        }
        self.wait_ready()
    }

    /// Waits until the API server is ready, as after [`ControlPlane::start_etcd`].
    pub fn wait_ready(&mut self) -> Result<(), Error> {
        let kubectl = self.kubectl();
        let (namespace, at) = (&self.settings.namespace, SocketAddr::new(LOOPBACK, self.port));
        let etcd = &mut self.etcd;
        let Some(apiserver) = &mut self.apiserver else {
            return Err(Error::Missing("the API server was killed and not started again".into()));
        };
        let mut broken = None;
        apiserver.wait("ready", START, || {
            broken = etcd.as_mut().and_then(|etcd| etcd.check().err());
            // kubectl takes a while to start: not before there is somebody to ask.
            broken.is_some()
                || (namespace.tcp_connect(at).is_ok() && kubectl.run(&["get", "--raw=/readyz"]).is_ok())
        })?;
        broken.map_or(Ok(()), Err)
    }

    /// Asks the API server to end, and then etcd. Dropping it kills both instead.
    pub fn stop(mut self) {
        for process in [self.apiserver.take(), self.etcd.take()].into_iter().flatten() {
            process.stop(END);
        }
    }
}

/// Everything that is signed before the start.
fn certify(authority: &Authority, settings: &Settings) -> Result<(), Error> {
    let mut names: Vec<String> =
        ["localhost", "kubernetes.default.svc", "127.0.0.1", "::1", "10.96.0.1"].map(String::from).into();
    names.extend(settings.addresses.iter().map(IpAddr::to_string));
    authority.server("apiserver", names)?;
    authority.client("admin", "admin", &["system:masters"])?;
    authority.client("kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"])?;
    authority.client("front-proxy", "front-proxy-client", &[])?;
    authority.key("service-accounts")
}

fn etcd_arguments(directory: &Path, client: u16, peer: u16) -> Vec<String> {
    let data = directory.join("etcd");
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
    ]
}

fn apiserver_arguments(directory: &Path, settings: &Settings, etcd: u16, secure: u16) -> Vec<String> {
    let at = directory.display();
    let mut lines = String::new();
    let bind = match settings.addresses.as_slice() {
        [] => "127.0.0.1",
        all if all.iter().any(IpAddr::is_ipv6) => "::",
        _ => "0.0.0.0",
    };
    let advertise = settings.addresses.first().unwrap_or(&LOOPBACK);
    let _ = write!(
        lines,
        "--etcd-servers=http://127.0.0.1:{etcd}
         --bind-address={bind}
         --advertise-address={advertise}
         --secure-port={secure}
         --tls-cert-file={at}/apiserver.crt
         --tls-private-key-file={at}/apiserver.key
         --client-ca-file={at}/ca.crt
         --service-account-issuer=https://kubernetes.default.svc
         --service-account-key-file={at}/service-accounts.pub
         --service-account-signing-key-file={at}/service-accounts.key
         --service-cluster-ip-range={networks}
         {of_pods}
         --allow-privileged=true
         --profiling=false
         --kubelet-client-certificate={at}/kubelet-client.crt
         --kubelet-client-key={at}/kubelet-client.key
         --kubelet-preferred-address-types=InternalIP
         --requestheader-client-ca-file={at}/ca.crt
         --requestheader-allowed-names=front-proxy-client
         --requestheader-username-headers=X-Remote-User
         --requestheader-group-headers=X-Remote-Group
         --requestheader-extra-headers-prefix=X-Remote-Extra-
         --proxy-client-cert-file={at}/front-proxy.crt
         --proxy-client-key-file={at}/front-proxy.key",
        networks = settings.service_networks,
        of_pods = if settings.runs_pods {
            "--authorization-mode=Node,RBAC\n--enable-admission-plugins=NodeRestriction"
        } else {
            "--authorization-mode=RBAC\n--disable-admission-plugins=ServiceAccount\n--endpoint-reconciler-type=none"
        },
    );
    lines.lines().map(|line| line.trim().to_owned()).chain(settings.apiserver.iter().cloned()).collect()
}

/// Ports that nobody uses on loopback; they stay the same when a program is started again.
fn free_ports<const COUNT: usize>(namespace: &Namespace) -> Result<[u16; COUNT], Error> {
    let failed = || trying(format!("looking for free ports in namespace {}", namespace.name()));
    let mut ports = [0; COUNT];
    // Together, so that they differ.
    let mut listeners = Vec::new();
    for port in &mut ports {
        let listener = namespace.tcp_listen(SocketAddr::new(LOOPBACK, 0)).map_err(failed())?;
        *port = listener.local_addr().map_err(failed())?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
