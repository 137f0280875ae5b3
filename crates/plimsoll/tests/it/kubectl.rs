//! `kubectl plimsoll`: the same program under another name finds an agent in the cluster, or says why it cannot.

use std::path::Path;
use std::process::{Command, Output};

use plimsoll_lab::control_plane::{ControlPlane, Settings, available};
use plimsoll_lab::namespace::Namespace;

use crate::plimsoll;

/// The program as kubectl finds it.
fn plugin(directory: &Path) -> std::path::PathBuf {
    let link = directory.join("kubectl-plimsoll");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plimsoll"), &link).unwrap();
    }
    link
}

fn run(command: &mut Command, namespace: Option<&Namespace>) -> (Output, String) {
    command.env_remove("KUBECONFIG").env_remove("PLIMSOLL_AGENT").env("HOME", "/nonexistent");
    let output = match namespace {
        Some(namespace) => namespace.run(|| command.output()),
        None => command.output(),
    };
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, told)
}

#[test]
fn it_goes_by_the_name_it_is_called_by() {
    let directory = tempfile::tempdir().unwrap();
    let (help, _) = run(Command::new(plugin(directory.path())).args(["status", "--help"]), None);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("Usage: kubectl plimsoll status"), "{help}");
    let (help, _) = run(plimsoll().args(["status", "--help"]), None);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: plimsoll status"));

    // Outside of a cluster it says what is missing, and where else an agent may be.
    let (output, told) = run(Command::new(plugin(directory.path())).arg("status"), None);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("set KUBECONFIG") && told.contains("--agent"), "{told}");
    // An address is an address, whatever the name.
    let (_, told) =
        run(Command::new(plugin(directory.path())).args(["status", "--agent", "127.0.0.1:1"]), None);
    assert!(told.contains("no agent answers at 127.0.0.1:1"), "{told}");
    let (_, told) = run(plimsoll().args(["status", "--agent", "127.0.0.1:1", "--node", "n1"]), None);
    assert!(told.contains("cannot be used with"), "{told}");
}

#[test]
fn an_agent_is_looked_for_and_what_stands_in_the_way_is_told() {
    if !available(&[], &[]) {
        return;
    }
    let plane = ControlPlane::start(Settings::new(&Namespace::new("kubectl").unwrap())).unwrap();
    let kubectl = plane.kubectl();
    let asked_as = |who: &Path, arguments: &[&str]| {
        let mut command = Command::new(plugin(plane.directory()));
        command.args(["status", "--kubeconfig"]).arg(who).args(arguments);
        run(&mut command, Some(plane.namespace())).1
    };
    let asked = |arguments: &[&str]| asked_as(plane.admin(), arguments);

    let told = asked(&[]);
    assert!(
        told.contains("no agent's Pod in all namespaces") && told.contains("is Plimsoll installed"),
        "{told}"
    );

    let node = |name: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n---\n");
    kubectl.apply(&(node("n1") + &node("n2"))).unwrap();
    kubectl.apply("{apiVersion: v1, kind: Namespace, metadata: {name: plimsoll}}").unwrap();
    for number in [1, 2] {
        let pod = format!(
            "apiVersion: v1, kind: Pod, metadata: {{name: agent-{number}, namespace: plimsoll, labels: \
               {{app.kubernetes.io/name: plimsoll, app.kubernetes.io/component: agent}}}}"
        );
        kubectl
            .apply(&format!(
                "{{{pod}, spec: {{nodeName: n{number}, hostNetwork: true, containers: [{{name: agent, image: none, \
                   ports: [{{name: http, containerPort: 9653}}]}}]}}}}"
            ))
            .unwrap();
        if number == 2 {
            let told = asked(&["--node", "n2"]);
            assert!(told.contains("the agent's Pods on the node n2 in all namespaces do not run"), "{told}");
            kubectl.apply_status(&format!("{{{pod}, status: {{phase: Running}}}}")).unwrap();
        }
    }
    let told = asked(&["--node", "n3"]);
    assert!(told.contains("no agent's Pod on the node n3"), "{told}");
    let told = asked(&["-n", "default"]);
    assert!(told.contains("in the namespace default"), "{told}");

    // The one that runs is chosen. There is no kubelet here that would forward to it.
    for arguments in [&[][..], &["-n", "plimsoll"], &["--node", "n2"]] {
        let told = asked(arguments);
        assert!(told.contains("the port 9653 of the Pod plimsoll/agent-2"), "{told}");
        assert!(told.contains("kubectl -n plimsoll port-forward agent-2 9653"), "{told}");
    }

    let nobody = plane.kubeconfig_for("jane", &[]).unwrap();
    let told = asked_as(&nobody, &[]);
    assert!(told.contains("you may not list Pods in all namespaces (403") && told.contains("-n"), "{told}");
}
