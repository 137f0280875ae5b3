//! The Helm chart and the manifests, on a real API server.

use std::path::{Path, PathBuf};
use std::process::Command;

use plimsoll_lab::control_plane::{ControlPlane, Kubectl, Settings, available, program};
use plimsoll_lab::namespace::Namespace;

use crate::plimsoll;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A control plane with a namespace for Plimsoll, and helm beside it.
struct Helm {
    plane: ControlPlane,
    kubectl: Kubectl,
}

impl Helm {
    fn new() -> Helm {
        let plane = ControlPlane::start(Settings::new(&Namespace::new("chart").unwrap())).unwrap();
        let kubectl = plane.kubectl();
        kubectl.run(&["create", "namespace", "plimsoll"]).unwrap();
        Helm { plane, kubectl }
    }

    /// What helm prints; an error is what it says.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let home = self.plane.directory().join("helm");
        let mut helm = Command::new(program("helm").unwrap());
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, &home);
        }
        helm.args(arguments).arg("--namespace=plimsoll").arg("--kubeconfig").arg(self.plane.admin());
        let output = self.plane.namespace().run(|| helm.output()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn with_chart(&self, command: &str, values: &[&str]) -> Result<String, String> {
        let chart = repository("charts/plimsoll");
        let values: Vec<String> = values.iter().map(|value| format!("--set={value}")).collect();
        let mut arguments = vec![command, "plimsoll", chart.to_str().unwrap()];
        arguments.extend(values.iter().map(String::as_str));
        if command == "template" {
            // It asks no cluster, not even for its version.
            arguments.push("--kube-version=1.35.0");
        }
        self.run(&arguments)
    }

    /// The mesh's key, as it is in the Secret.
    fn key(&self) -> String {
        let path = [
            "get",
            "secret",
            "plimsoll-mesh",
            "-n",
            "plimsoll",
            "-o",
            "go-template={{index .data \"mesh.key\" | base64decode}}",
        ];
        self.kubectl.run(&path).unwrap()
    }

    /// All that carries the name of the release, of whatever kind.
    fn left(&self) -> Vec<String> {
        let kinds = self.kubectl.run(&["api-resources", "--verbs=list", "-o", "name"]).unwrap();
        let kinds: Vec<&str> = kinds.lines().collect();
        let selected = ["-A", "-l", "app.kubernetes.io/instance=plimsoll", "-o", "name"];
        let all = self.kubectl.run(&[&["get", &kinds.join(",")][..], &selected].concat()).unwrap();
        all.lines().map(str::to_owned).collect()
    }
}

#[test]
fn helm_draws_the_key_once_and_leaves_nothing_else() {
    if !available(&["helm"], &[]) {
        return;
    }
    let helm = Helm::new();
    let told = helm.with_chart("install", &[]).unwrap();
    assert!(told.contains("plimsoll.dev/balance=observe"), "{told}");
    let key = helm.key();
    assert_eq!(key.len(), 44, "32 bytes in base64");

    // The agent takes both the key and the configuration.
    let directory = tempfile::tempdir().unwrap();
    let (config, key_file) = (directory.path().join("agent.yaml"), directory.path().join("mesh.key"));
    std::fs::write(&key_file, &key).unwrap();
    let path = ["get", "configmap", "plimsoll", "-n", "plimsoll", "-o", "jsonpath={.data.agent\\.yaml}"];
    let text = helm.kubectl.run(&path).unwrap();
    let text = text.replace("/run/secrets/plimsoll/mesh.key", key_file.to_str().unwrap());
    std::fs::write(&config, text).unwrap();
    let checked =
        plimsoll().args(["agent", "--check-config", "--node=n1", "--config"]).arg(&config).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    helm.with_chart("upgrade", &["log.level=debug"]).unwrap();
    assert_eq!(helm.key(), key, "an upgrade keeps it");
    helm.run(&["uninstall", "plimsoll"]).unwrap();
    assert_eq!(helm.left(), ["secret/plimsoll-mesh"]);
    helm.with_chart("install", &["admissionPolicy.enabled=true"]).unwrap();
    assert_eq!(helm.key(), key, "and so does the next installation");
    // Whoever has a Secret of their own gets no other.
    helm.with_chart("upgrade", &["meshKey.existingSecret=ours"]).unwrap();
    let volume = "jsonpath={.spec.template.spec.volumes[?(@.name=='mesh-key')].secret.secretName}";
    let named = helm.kubectl.run(&["get", "daemonset", "plimsoll", "-n", "plimsoll", "-o", volume]).unwrap();
    assert_eq!(named, "ours");
    assert_eq!(helm.key(), key, "what was drawn is not taken away");
    helm.run(&["uninstall", "plimsoll"]).unwrap();
    assert_eq!(helm.left(), ["secret/plimsoll-mesh"]);
}

#[test]
fn manifests_are_what_the_api_knows_and_wrong_values_are_refused() {
    if !available(&["helm"], &[]) {
        return;
    }
    let helm = Helm::new();
    let apply = |manifests: &str| {
        helm.kubectl.feed(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], manifests)
    };
    for name in ["plimsoll.yaml", "admission-policy.yaml"] {
        let manifests = std::fs::read_to_string(repository("deploy").join(name)).unwrap();
        apply(&manifests).unwrap();
        let misspelt = manifests.replacen("\nspec:\n", "\nspec:\n  nonsense: 1\n", 1);
        let error = apply(&misspelt).unwrap_err().to_string();
        assert!(error.contains("nonsense"), "the check does not look: {error}");
    }
    for values in [
        &["config.store=local"][..],
        &["config.discovery.kubernetes.namespace_defaults=true", "config.discovery.kubernetes.events=false"],
        &["config.store.mesh.bind=[::]:9700", "config.api.listen=[::1]:9701", "image.digest="],
        &[
            "serviceAccount.create=false",
            "serviceAccount.name=other",
            "nodeSelector.pool=edge",
            "log.json=false",
        ],
        &["imagePullSecrets[0].name=ours", "podLabels.team=net", "extraEnv[0].name=A", "extraEnv[0].value=b"],
        &["admissionPolicy.enabled=true", "admissionPolicy.action=Warn", "updateStrategy.maxUnavailable=1"],
    ] {
        let rendered = helm.with_chart("template", &[values, &["namespace.create=true"]].concat());
        let rendered = rendered.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        apply(&rendered).unwrap_or_else(|error| panic!("{values:?}: {error}"));
    }
    for (value, named) in [
        ("image.repository=", "/image/repository"),
        ("image.tagg=1", "tagg"),
        ("updateStrategy.maxUnavailable=0", "/updateStrategy/maxUnavailable"),
        ("config.discovery.file.path=/x", "file"),
        ("config.dataplan.dry_run=1", "dataplan"),
        ("admissionPolicy.action=Maybe", "/admissionPolicy/action"),
        ("meshKey.secretKey=a/b", "/meshKey/secretKey"),
    ] {
        let error = helm.with_chart("template", &[value]).unwrap_err();
        assert!(error.contains("schema") && error.contains(named), "{value}: {error}");
    }
}
