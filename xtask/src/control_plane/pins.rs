//! What the control plane is made of, each with its version: the only place to change one.

/// The Go that is fetched where there is none, and the oldest that is used where there is one.
pub(super) const GO: &str = "1.26.8";
/// Its module zip: for each of Go's names of a machine, the SHA-256.
pub(super) const GO_ZIPS: [(&str, &str); 2] = [
    ("amd64", "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7"),
    ("arm64", "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99"),
];
/// Raised when the way of building changes and what is built with it, so that nothing old is taken for new.
pub(super) const REVISION: u32 = 1;

/// A Go module.
#[derive(PartialEq, Eq)]
pub(super) struct Module {
    /// Its path.
    pub(super) path: &'static str,
    /// Its version, one that `go list -m -versions` shows.
    pub(super) version: &'static str,
    /// The version of modules it replaces by its own directories, where it does not tell one itself.
    pub(super) staging: Option<&'static str>,
    /// Where its programs keep their version, for `go build -ldflags -X`.
    pub(super) says: &'static [(&'static str, &'static str)],
}

static ETCD: Module =
    Module { path: "go.etcd.io/etcd/server/v3", version: "v3.6.16", staging: None, says: &[] };
static ETCDCTL: Module =
    Module { path: "go.etcd.io/etcd/etcdctl/v3", version: "v3.6.16", staging: None, says: &[] };
static KUBERNETES: Module = Module {
    path: "k8s.io/kubernetes",
    version: "v1.35.4",
    staging: Some("v0.35.4"),
    says: &[
        ("k8s.io/component-base/version.gitVersion", "v1.35.4"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "35"),
    ],
};
static KWOK: Module = Module {
    path: "sigs.k8s.io/kwok",
    version: "v0.8.0",
    staging: None,
    says: &[("sigs.k8s.io/kwok/pkg/consts.Version", "v0.8.0")],
};
static HELM: Module = Module {
    path: "helm.sh/helm/v3",
    version: "v3.22.0",
    staging: None,
    says: &[("helm.sh/helm/v3/internal/version.version", "v3.22.0")],
};

/// A program.
pub(super) struct Program {
    /// Its name.
    pub(super) name: &'static str,
    /// Its module.
    pub(super) module: &'static Module,
    /// Its package, inside the module.
    pub(super) package: &'static str,
    /// Whether the tests need it.
    pub(super) needed: bool,
}

const fn program(
    name: &'static str,
    module: &'static Module,
    package: &'static str,
    needed: bool,
) -> Program {
    Program { name, module, package, needed }
}

/// All programs, in the order in which they are built: etcd first, which is quick.
pub(super) static PROGRAMS: [Program; 10] = [
    program("etcd", &ETCD, "", true),
    program("kube-apiserver", &KUBERNETES, "/cmd/kube-apiserver", true),
    program("kube-proxy", &KUBERNETES, "/cmd/kube-proxy", true),
    program("kube-controller-manager", &KUBERNETES, "/cmd/kube-controller-manager", true),
    program("kubectl", &KUBERNETES, "/cmd/kubectl", true),
    program("kube-scheduler", &KUBERNETES, "/cmd/kube-scheduler", false),
    program("kubelet", &KUBERNETES, "/cmd/kubelet", false),
    program("etcdctl", &ETCDCTL, "", false),
    program("kwok", &KWOK, "/cmd/kwok", false),
    program("helm", &HELM, "/cmd/helm", true),
];

/// The version of Kubernetes.
pub(crate) fn kubernetes() -> &'static str {
    KUBERNETES.version
}

/// Tells what was built with other pins from what is built with these.
pub(super) fn key() -> String {
    let mut modules: Vec<&Module> = PROGRAMS.iter().map(|program| program.module).collect();
    modules.dedup();
    let versions: Vec<&str> = modules.iter().map(|module| module.version.trim_start_matches('v')).collect();
    format!("{}-go{GO}-{REVISION}-{}", versions.join("-"), std::env::consts::ARCH)
}
