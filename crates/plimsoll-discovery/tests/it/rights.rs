//! The rights that the manifests give are enough, and each that is missing is named with the cure, while the rest goes
//! on. Only the set-up is done by an administrator.

use std::path::Path;

use plimsoll_core::service::NodeName;
use plimsoll_lab::control_plane::{ControlPlane, available};
use plimsoll_lab::eventually;
use serde_json::Value;

use crate::kubernetes::{Found, SOON, WEB, config, plane, web};

/// A Service with something to say about it, and a Node; and who the agent is.
fn installed() -> (ControlPlane, std::path::PathBuf) {
    let plane = plane();
    let identity = plane.install().unwrap();
    let kubectl = plane.kubectl();
    kubectl.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}").unwrap();
    web(&kubectl, &["10.1.0.11"]);
    kubectl.run(&["annotate", "service", "web", "plimsoll.dev/policy=fastest"]).unwrap();
    (plane, identity)
}

fn start(plane: &ControlPlane, identity: &Path, namespace_defaults: bool) -> Found {
    let agents = Some("plimsoll/plimsoll-agents".to_owned());
    let config =
        plimsoll_discovery::kubernetes::Config { namespace_defaults, agents, ..config(identity.into()) };
    let found = Found::start(plane.namespace(), config);
    found.discovery.live(&[NodeName::new("n1")]);
    found
}

fn events(plane: &ControlPlane) -> usize {
    plane.kubectl().run(&["get", "events.events.k8s.io", "-o", "name"]).unwrap().lines().count()
}

#[test]
fn what_the_manifests_allow_is_enough() {
    if !available(&["kube-controller-manager"], &[]) {
        return;
    }
    let (plane, identity) = installed();
    let _controllers = plimsoll_lab::control_plane::ControllerManager::start(&plane).unwrap();
    let mut found = start(&plane, &identity, false);
    found.until("the Service", |found| found.endpoints(WEB) == ["10.1.0.11"]);
    found.until("an Event", |_| events(&plane) == 1);
    found.until("no trouble", |found| found.trouble().is_empty());
    // And it is all that they allow.
    let kubectl = plane.kubectl().with(&identity);
    for refused in [
        ["get", "pods", "-A"],
        ["get", "secrets", "-A"],
        ["get", "services", "web"],
        ["get", "events", "-A"],
        ["delete", "service", "web"],
    ] {
        let error = kubectl.run(&refused).unwrap_err().to_string();
        assert!(error.contains("orbidden"), "{refused:?}: {error}");
    }
}

#[test]
fn each_missing_right_is_named_and_the_rest_goes_on() {
    if !available(&[], &[]) {
        return;
    }
    let (plane, identity) = installed();
    let kubectl = plane.kubectl();
    let role = kubectl.run(&["get", "clusterrole", "plimsoll", "-o", "json"]).unwrap();
    let whole: Value = serde_json::from_str(&role).unwrap();
    let rules = whole["rules"].as_array().unwrap().len();
    let replace = |role: &Value| kubectl.feed(&["replace", "-f", "-"], &role.to_string()).unwrap();
    let mut named = Vec::new();
    for missing in 0..rules {
        let mut role = whole.clone();
        let rule = role["rules"].as_array_mut().unwrap().remove(missing);
        role["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        replace(&role);
        let text = |field: &str| rule[field][0].as_str().unwrap().to_owned();
        let (resource, group, verb) = (text("resources"), text("apiGroups"), text("verbs"));
        let asked = ["auth", "can-i", "--all-namespaces", &verb, &format!("{resource}.{group}")];
        let asker = kubectl.with(&identity);
        assert!(eventually(SOON, || asker.run(&asked).is_err()), "{resource} can still be asked for");

        let mut found = start(&plane, &identity, false);
        let cure = format!("on the resource `{resource}` of the API group \"{group}\"");
        found.until("the missing right is named", |found| {
            let trouble = found.trouble();
            trouble.contains(&cure)
                && rule["verbs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|verb| trouble.contains(&format!("`{}`", verb.as_str().unwrap())))
        });
        match resource.as_str() {
            // Nothing can be balanced without these, and nothing is.
            "services" | "endpointslices" => assert!(found.services.is_empty() && found.told == 0),
            _ => found.until("the Service", |found| found.endpoints(WEB) == ["10.1.0.11"]),
        }
        let mut role = whole.clone();
        role["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        replace(&role);
        found.until("the right is used", |found| {
            found.endpoints(WEB) == ["10.1.0.11"] && !found.trouble().contains(&cure)
        });
        named.push(resource);
    }
    named.sort_unstable();
    assert_eq!(named, ["endpointslices", "events", "nodes", "services"]);

    // What is asked for in the configuration only.
    let mut found = start(&plane, &identity, true);
    found.until("the missing right is named", |found| {
        found.trouble().contains("on the resource `namespaces` of the API group \"\"")
    });
    found.until("the Service", |found| found.endpoints(WEB) == ["10.1.0.11"]);
}
