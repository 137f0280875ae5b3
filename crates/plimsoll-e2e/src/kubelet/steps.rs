//! The steps: what is done, and what has to be seen of it.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use plimsoll_api::{Explanation, Status};
use plimsoll_lab::client::{Client, End, Limits, held};
use plimsoll_lab::control_plane::{MANIFESTS, program};
use serde::de::DeserializeOwned;

use super::Told;
use super::rig::{Endpoint, NAMESPACE, NODE, PATIENCE, PODS, Rig, until};
use super::traces;
use crate::witness::stands_still;

/// Connections that are held while Pods go, at each Service: enough that each Pod has some.
const HELD: usize = 40;

/// As the guide has it: a namespace, a key, the manifests as they are committed; the agent runs as they say.
pub(super) fn install(rig: &mut Rig) -> Result<Told> {
    let kubectl = rig.kubectl();
    kubectl.run(&["create", "namespace", "plimsoll"])?;
    let key = format!("--from-literal=mesh.key={}", "0123456789abcdef".repeat(4));
    kubectl.run(&["--namespace=plimsoll", "create", "secret", "generic", "plimsoll-mesh", &key])?;
    kubectl.feed(&["apply", "--server-side", "-f", "-"], MANIFESTS)?;
    rig.rolled_out("plimsoll", "daemonset/plimsoll")?;
    let process = traces::process()?.context("no process of the agent's")?;
    let mut problems = traces::unconfined(&process)?;
    let status = rig.status()?;
    if !status.ready || status.node != NODE {
        problems.push(format!("the agent says it is {:?}", (status.ready, status.node)));
    }
    if !traces::has_table(rig.node())? {
        problems.push("no table of ours is in the kernel".into());
    }
    let objects = traces::objects(rig)?;
    for kind in ["namespace/", "daemonset.apps/", "clusterrole.rbac.authorization.k8s.io/"] {
        if !objects.contains(&format!("{kind}plimsoll")) {
            problems.push(format!("{kind}plimsoll is not in the API server"));
        }
    }
    let line = format!(
        "the agent is ready, with its token, NET_ADMIN alone and a root it cannot write; {} objects",
        objects.len()
    );
    Ok(Told { line, problems })
}

/// A Deployment and its two Services: all Pods serve both who dial, and only the other Service is kube-proxy's.
pub(super) fn serve(rig: &mut Rig) -> Result<Told> {
    rig.deploy()?;
    until("the agent has the Service with all Pods", || {
        let services = rig.status()?.services;
        Ok(services.len() == 1
            && services
                .iter()
                .all(|s| s.service.starts_with("shop/web") && s.eligible == PODS && s.keys_taken == 1))
    })?;
    until("kube-proxy has both Services", || {
        let dialler = rig.dialler()?;
        Ok([0, 1].iter().all(|service| dialler.tcp_connect(Rig::address(*service)).is_ok()))
    })?;
    rig.begin_load()?;
    let pods = rig.endpoints()?;
    rig.all_serve(pods.keys())?;
    let mut problems = Vec::new();
    if rig.left(0)? == 0 {
        problems.push("nothing of the other Service was seen on its way to kube-proxy".into());
    }
    Ok(Told { line: format!("{} Pods serve another Pod and the node", pods.len()), problems })
}

/// A rollout with one Pod more at a time: the new ones serve.
pub(super) fn roll(rig: &mut Rig) -> Result<Told> {
    let old = rig.endpoints()?;
    rig.kubectl().run(&["rollout", "restart", "--namespace", NAMESPACE, "deployment/web"])?;
    rig.rolled_out(NAMESPACE, "deployment/web")?;
    let new = rig.replaced(&old)?;
    rig.all_serve(new.keys())?;
    Ok(Told { line: format!("{} new Pods serve", new.len()), problems: Vec::new() })
}

/// A Pod that is not ready gets nothing new; one that is ready again does.
pub(super) fn flip_readiness(rig: &mut Rig) -> Result<Told> {
    let (kubectl, pods) = (rig.kubectl(), rig.endpoints()?);
    let pod = pods.keys().next().context("no Pods")?;
    let say = |word: &str| {
        kubectl.run(&["exec", "--namespace", NAMESPACE, pod, "--", "/usr/bin/plimsoll-pod", word])
    };
    let is = |ready: bool| {
        until(&format!("the slice has the Pod with ready: {ready}"), || {
            Ok(rig.endpoints()?.get(pod).is_some_and(|endpoint| endpoint.ready == ready))
        })
    };
    let count = || rig.greeted(pod).iter().sum::<u64>();
    say("unready")?;
    is(false)?;
    let before = count();
    let mut problems = Vec::new();
    if !stands_still(PATIENCE, || Ok(count()))? {
        problems.push("the Pod still got connections although its slice says that it is not ready".into());
    }
    let after = count() - before;
    // The others go on meanwhile.
    rig.all_serve(pods.keys().filter(|other| *other != pod))?;
    if count() != before + after {
        problems.push("the Pod got connections again before it was ready".into());
    }
    say("ready")?;
    is(true)?;
    rig.all_serve([pod])?;
    Ok(Told {
        line: format!("{after} connections to the Pod after its slice said so, then none; then again"),
        problems,
    })
}

/// `kubectl drain` of the node: its Pods go as fast as the budget allows, and come again, since they tolerate that it
/// takes no others; the agent stays. What is open to a Pod lives until the Pod ends.
pub(super) fn drain(rig: &mut Rig) -> Result<Told> {
    let agent = traces::process()?;
    let old = rig.endpoints()?;
    let holds = [hold(rig, 0)?, hold(rig, 1)?];
    until("connections are held at both Services", || {
        Ok(holds.iter().all(|client| client.by_endpoint().values().sum::<u64>() == HELD as u64))
    })?;
    until("the agent counts those of both", || {
        // The load alone has some dozen open.
        Ok(rig.status()?.services.iter().any(|service| service.open >= (2 * HELD) as f64))
    })?;
    let mut problems = Vec::new();
    let kubectl = rig.kubectl();
    std::thread::scope(|scope| {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let drained = scope.spawn(move || kubectl.run(&["drain", NODE, "--ignore-daemonsets", &timeout]));
        let mut terminating = None;
        until("a slice has a Pod as terminating", || {
            let endpoints = rig.endpoints()?;
            terminating = endpoints.into_iter().find(|(_, endpoint)| endpoint.terminating);
            Ok(terminating.is_some())
        })?;
        let pod = terminating.map(|(pod, _)| pod).unwrap_or_default();
        for client in &holds {
            let (open, of_pod) = (client.open(), client.by_endpoint().get(pod.as_str()).copied());
            if open != HELD as u64 || of_pod.is_none() {
                problems.push(format!(
                    "with {pod} terminating {open} of {HELD} held connections are open, {of_pod:?} of its own"
                ));
            }
        }
        drained.join().expect("draining does not panic")?;
        anyhow::Ok(())
    })?;
    let new = rig.replaced(&old)?;
    until("what was held has ended with the Pods", || Ok(holds.iter().all(|client| client.open() == 0)))?;
    rig.kubectl().run(&["uncordon", NODE])?;
    rig.all_serve(new.keys())?;
    let ends = holds.map(|client| {
        let outcomes = client.stop();
        outcomes.iter().filter(|outcome| matches!(outcome.end, End::Cut | End::Reset)).count()
    });
    if ends != [HELD; 2] {
        problems.push(format!("{ends:?} of {HELD} held connections were ended by their Pods"));
    }
    if traces::process()? != agent {
        problems.push("the agent is not the same any more".into());
    }
    let line = format!(
        "{} new Pods serve; {HELD} held connections ended with their Pods; the agent stayed",
        new.len()
    );
    Ok(Told { line, problems })
}

/// Connections that are held at a Service.
fn hold(rig: &Rig, service: usize) -> Result<Client> {
    let limits = Limits { length: PATIENCE * 4, ..Limits::default() };
    Ok(Client::start(rig.dialler()?, held(HELD, Rig::address(service)), limits)?)
}

/// `kubectl plimsoll`, by kubectl and the API server's port forwarding, with the rights that the guide names; and `kubectl
/// exec`.
pub(super) fn ask(rig: &mut Rig) -> Result<Told> {
    let kubectl = rig.kubectl();
    kubectl.apply(ASKER)?;
    let asker = rig.plane.kubeconfig_for("asker", &[])?;
    let plugins = rig.plane.directory().join("plugins");
    std::fs::create_dir_all(&plugins)?;
    symlink(&rig.program, plugins.join("kubectl-plimsoll"))?;
    let asked = |words: &[&str]| {
        let mut command = Command::new(program("kubectl")?);
        command.arg("plimsoll").args(words).args(["--namespace", "plimsoll"]);
        command.env("KUBECONFIG", &asker).env("PATH", &plugins).env_remove("PLIMSOLL_AGENT");
        let output = rig.plane.namespace().run(|| command.output())?;
        if !output.status.success() {
            bail!("kubectl plimsoll {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut problems = Vec::new();
    let status: Status = read(&asked(&["status", "--output=json"])?)?;
    if !(status.ready
        && status.node == NODE
        && status.services.iter().any(|s| s.service.starts_with("shop/web")))
    {
        problems.push(format!("the status is {status:?}"));
    }
    let explanations: Vec<Explanation> =
        read(&asked(&["explain", "shop/web", "--node", NODE, "--output=json"])?)?;
    let mut explained: Vec<String> =
        explanations.iter().flat_map(|e| &e.endpoints).map(|e| e.endpoint.clone()).collect();
    explained.sort();
    let mut listed: Vec<String> =
        rig.endpoints()?.values().map(|endpoint| format!("tcp/{}:8080", endpoint.address)).collect();
    listed.sort();
    if explained != listed {
        problems.push(format!("explained are {explained:?}, and in the slices {listed:?}"));
    }
    let on_node = ["exec", "--namespace=plimsoll", "daemonset/plimsoll", "--", "plimsoll", "status"];
    for text in [asked(&["status"])?, asked(&["explain", "shop/web"])?, kubectl.run(&on_node)?] {
        if !text.contains("shop/web") {
            problems.push(format!("the Service is not named in: {text}"));
        }
    }
    Ok(Told {
        line: format!("status and explain name the Service and its {} Pods", explained.len()),
        problems,
    })
}

const ASKER: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: asker, namespace: plimsoll}
rules:
- {apiGroups: [''], resources: [pods], verbs: [list]}
- {apiGroups: [''], resources: [pods/portforward], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: asker, namespace: plimsoll}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: asker}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: asker}]
";

fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| format!("not what was asked for: {text}"))
}

/// The agents' rollout: kube-proxy serves while none is there, and the kernel is clean.
pub(super) fn roll_agents(rig: &mut Rig) -> Result<Told> {
    let old = traces::process()?.context("no process of the agent's")?;
    rig.kubectl().run(&["rollout", "restart", "--namespace=plimsoll", "daemonset/plimsoll"])?;
    gone(rig)?;
    rig.rolled_out("plimsoll", "daemonset/plimsoll")?;
    let new = traces::process()?.context("no process of the agent's")?;
    let mut problems = traces::unconfined(&new)?;
    if old == new {
        problems.push("the agent is still the old one".into());
    }
    if !stands_still(PATIENCE, || rig.left(1))? || !traces::has_table(rig.node())? {
        problems.push("the new agent does not serve".into());
    }
    let pods: BTreeMap<String, Endpoint> = rig.endpoints()?;
    rig.all_serve(pods.keys())?;
    Ok(Told { line: "no table in between; the new agent serves".into(), problems })
}

/// Waits until nothing of ours is in the kernel, and kube-proxy serves our Service.
fn gone(rig: &Rig) -> Result<()> {
    until("the kernel has no table of ours", || Ok(!traces::has_table(rig.node())?))?;
    let before = rig.left(1)?;
    until("kube-proxy serves", || Ok(rig.left(1)? > before))
}

/// `kubectl delete` of the manifests: nothing is left in the kernel nor in the API server.
pub(super) fn uninstall(rig: &mut Rig) -> Result<Told> {
    rig.kubectl().feed(&["delete", "-f", "-"], MANIFESTS)?;
    gone(rig)?;
    let pods: BTreeMap<String, Endpoint> = rig.endpoints()?;
    rig.all_serve(pods.keys())?;
    let mut problems = Vec::new();
    if traces::process()?.is_some() {
        problems.push("an agent still runs".into());
    }
    let ruleset = rig.node().text("nft", &["list", "ruleset"])?;
    if ruleset.contains("plimsoll") {
        problems.push("the kernel's ruleset still has something of ours".into());
    }
    let objects = traces::objects(rig)?;
    if !objects.is_empty() {
        problems.push(format!("the API server still has {}", objects.join(", ")));
    }
    Ok(Told { line: "no table, no process, no object; kube-proxy serves".into(), problems })
}
