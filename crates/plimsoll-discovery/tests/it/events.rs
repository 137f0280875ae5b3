//! Several agents beside a real API server write one Event for each transition, whoever comes and goes.

use std::collections::BTreeSet;
use std::path::Path;

use plimsoll_core::service::NodeName;
use plimsoll_lab::control_plane::{ControlPlane, Kubectl, available};
use plimsoll_lab::eventually;
use serde_json::Value;

use crate::kubernetes::{Found, ON, SOON, config, plane, service};

/// Agents of these names, which know of each other.
fn agents(plane: &ControlPlane, identity: &Path, nodes: &[&str]) -> Vec<Found> {
    let all = names(nodes);
    let start = |node: &&str| Found::start_on(node, plane.namespace(), config(identity.into()));
    let agents: Vec<Found> = nodes.iter().map(start).collect();
    tell(&agents, &all);
    agents
}

/// Tells all of them who is alive.
fn tell(agents: &[Found], live: &[NodeName]) {
    for agent in agents {
        agent.discovery.live(live);
    }
}

fn names(nodes: &[&str]) -> Vec<NodeName> {
    nodes.iter().map(|node| NodeName::new(node)).collect()
}

/// What the agents wrote.
pub(crate) fn written(kubectl: &Kubectl) -> Vec<Value> {
    let all = kubectl.run(&["get", "events.events.k8s.io", "-A", "-o", "json"]).unwrap();
    let all: Value = serde_json::from_str(&all).unwrap();
    let ours = all["items"].as_array().unwrap().iter();
    ours.filter(|event| event["reportingController"] == "plimsoll.dev/agent").cloned().collect()
}

/// What they wrote of the Services whose names begin so.
fn of(events: &[Value], prefix: &str) -> usize {
    let name =
        |event: &&Value| event["regarding"]["name"].as_str().is_some_and(|name| name.starts_with(prefix));
    events.iter().filter(name).count()
}

/// Makes Services with something wrong, and waits for an Event of each: so many that every agent writes some, so that each
/// has done by then what it had to do before.
fn round(kubectl: &Kubectl, prefix: &str) {
    let all: Vec<String> = (0..ROUND)
        .map(|i| service(&format!("{prefix}{i}"), "plimsoll.dev/balance: yes-please", "selector: {app: web}"))
        .collect();
    kubectl.apply(&all.concat()).unwrap();
    let told = || of(&written(kubectl), prefix) == ROUND;
    assert!(eventually(SOON, told), "{} of {ROUND}", of(&written(kubectl), prefix));
}

const ROUND: usize = 16;

#[test]
fn one_event_for_each_transition_whoever_comes_and_goes() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let identity = plane.install().unwrap();
    let kubectl = plane.kubectl();
    // One thing is wrong before anybody looks, and one is left alone.
    kubectl.apply(&service("wrong", ON, "selector: {app: web}")).unwrap();
    kubectl.run(&["annotate", "service", "wrong", "plimsoll.dev/policy=fastest"]).unwrap();
    kubectl.apply(&service("headless", ON, "clusterIP: None, selector: {app: web}")).unwrap();
    let mut all = agents(&plane, &identity, &["n1", "n2", "n3"]);
    round(&kubectl, "first-");
    let events = written(&kubectl);
    assert_eq!(events.len(), ROUND + 2, "{events:#?}");
    let writers: BTreeSet<&str> =
        events.iter().map(|event| event["reportingInstance"].as_str().unwrap()).collect();
    assert_eq!(writers, ["n1", "n2", "n3"].into(), "all take part");
    let about = |name: &str| {
        let event = events.iter().find(|event| event["regarding"]["name"] == name).unwrap();
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        (text("type"), text("reason"), text("note"))
    };
    let (kind, reason, note) = about("wrong");
    assert_eq!((kind.as_str(), reason.as_str()), ("Warning", "NotUnderstood"));
    assert!(note.contains("`fastest` is not one of the choices; write `waterline`"), "{note}");
    let (kind, reason, note) = about("headless");
    assert_eq!((kind.as_str(), reason.as_str()), ("Normal", "LeftToProxy"));
    assert!(note.contains("it is headless"), "{note}");
    // Where people look.
    let described = kubectl.run(&["describe", "service", "wrong"]).unwrap();
    assert!(described.contains("NotUnderstood") && described.contains("plimsoll.dev/agent"), "{described}");

    // One goes: the others see to what it may have left, and find it done.
    all.pop();
    tell(&all, &names(&["n1", "n2"]));
    round(&kubectl, "second-");
    // All begin anew; and one that thinks it is alone writes nothing twice.
    drop(all);
    let mut all = agents(&plane, &identity, &["n1", "n2", "n3"]);
    let alone = agents(&plane, &identity, &["n4"]);
    round(&kubectl, "third-");
    let events = written(&kubectl);
    assert_eq!(events.len(), 3 * ROUND + 2, "{events:#?}");
    assert!(events.iter().all(|event| event["series"].is_null()), "nothing came about twice: {events:#?}");
    drop(alone);

    // Another wrong value is another transition; the right one is none to tell.
    kubectl.run(&["annotate", "--overwrite", "service", "wrong", "plimsoll.dev/policy=slowest"]).unwrap();
    round(&kubectl, "fourth-");
    assert_eq!(of(&written(&kubectl), "wrong"), 2);
    all[0].until("the wrong value is known", |agent| agent.remarks("default/wrong").contains("slowest"));
    kubectl.run(&["annotate", "--overwrite", "service", "wrong", "plimsoll.dev/policy=equal"]).unwrap();
    round(&kubectl, "fifth-");
    assert_eq!(of(&written(&kubectl), "wrong"), 2);
}

#[test]
fn what_comes_about_again_is_counted() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let identity = plane.install().unwrap();
    let kubectl = plane.kubectl();
    let annotate = |value: &str| {
        kubectl
            .run(&["annotate", "--overwrite", "service", "wrong", &format!("plimsoll.dev/policy={value}")])
            .unwrap();
    };
    kubectl.apply(&service("wrong", ON, "selector: {app: web}")).unwrap();
    annotate("fastest");
    let mut all = agents(&plane, &identity, &["n1"]);
    assert!(eventually(SOON, || written(&kubectl).len() == 1));
    // It was written long ago.
    let mut event = written(&kubectl).remove(0);
    let name = event["metadata"]["name"].as_str().unwrap().to_owned();
    kubectl.run(&["delete", "events.events.k8s.io", &name]).unwrap();
    event["eventTime"] = "2020-01-01T00:00:00.000000Z".into();
    for field in ["resourceVersion", "uid", "creationTimestamp", "managedFields"] {
        event["metadata"].as_object_mut().unwrap().remove(field);
    }
    kubectl.feed(&["create", "-f", "-"], &event.to_string()).unwrap();

    annotate("equal");
    all[0].until("it is right", |agent| agent.remarks("default/wrong").is_empty());
    annotate("fastest");
    let counted = || written(&kubectl).iter().all(|event| event["series"]["count"] == 2);
    assert!(eventually(SOON, counted), "{:#?}", written(&kubectl));
    assert_eq!(written(&kubectl).len(), 1);
}
