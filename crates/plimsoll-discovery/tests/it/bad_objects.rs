//! What is wrong in the cluster is told with its name and the cure, as an Event or as a trouble, and the rest goes on.

use std::path::{Path, PathBuf};

use plimsoll_core::service::NodeName;
use plimsoll_lab::control_plane::{ControlPlane, available};
use plimsoll_lab::eventually;

use crate::events::written;
use crate::kubernetes::{Found, ON, SOON, WEB, config, plane, service, slice, web};

/// The texts of the Events of a Service.
fn told(plane: &ControlPlane, service: &str) -> String {
    let events = written(&plane.kubectl());
    let of_service = events.iter().filter(|event| event["regarding"]["name"] == service);
    of_service.filter_map(|event| event["note"].as_str()).collect::<Vec<_>>().join("\n")
}

/// An agent with the rights of the manifests, beside a Service in which nothing is wrong.
fn start() -> (ControlPlane, Found) {
    let plane = plane();
    let identity = plane.install().unwrap();
    web(&plane.kubectl(), &["10.1.0.11"]);
    let found = Found::start(plane.namespace(), config(identity));
    found.discovery.live(&[NodeName::new("n1")]);
    (plane, found)
}

/// Waits until an Event of a Service has all of these texts, and then until a change of another Service is followed.
fn until_told(plane: &ControlPlane, found: &mut Found, service: &str, texts: &[&str]) {
    let has_all = || texts.iter().all(|text| told(plane, service).contains(text));
    assert!(eventually(SOON, has_all), "{texts:?}: {}", told(plane, service));
    web(&plane.kubectl(), &["10.1.0.11", "10.1.0.12"]);
    found.until("the rest goes on", |found| found.endpoints(WEB) == ["10.1.0.11", "10.1.0.12"]);
    web(&plane.kubectl(), &["10.1.0.11"]);
    found.until("the rest goes on", |found| found.endpoints(WEB) == ["10.1.0.11"]);
}

#[test]
fn labels_and_annotations_that_mean_nothing() {
    if !available(&[], &[]) {
        return;
    }
    let (plane, mut found) = start();
    let kubectl = plane.kubectl();
    kubectl.apply(&service("wrong", "plimsoll.dev/balance: nonsense", "selector: {app: web}")).unwrap();
    until_told(&plane, &mut found, "wrong", &["`nonsense` is not one of the choices; write `enabled`"]);
    kubectl
        .apply(&service("tuned", &format!("{ON}, plimsoll.dev/blance: enabled"), "selector: {app: web}"))
        .unwrap();
    let annotations = ["policy=fastest", "floor=0.1", "signals=cpu", "capacity=2", "polcy=equal"];
    for annotation in annotations {
        kubectl.run(&["annotate", "service", "tuned", &format!("plimsoll.dev/{annotation}")]).unwrap();
    }
    let texts = [
        "annotation plimsoll.dev/policy: `fastest` is not one of the choices; write `waterline`",
        "annotation plimsoll.dev/floor: `0.1` is not a part of the fair share from `0.5%` to `10%`",
        "annotation plimsoll.dev/signals: `cpu` is ignored: the name is reserved and means nothing yet",
        "annotation plimsoll.dev/capacity: `2` means nothing here and is ignored",
        "annotation plimsoll.dev/polcy: `equal` is ignored: nothing has this name",
        "label: `plimsoll.dev/blance` is ignored",
    ];
    // An Event is cut at a kilobyte; the log has the rest, as the remarks have it.
    found.until("all is remarked", |found| {
        texts.iter().all(|text| found.remarks("default/tuned").contains(text))
    });
    until_told(&plane, &mut found, "tuned", &texts[..1]);
}

#[test]
fn hand_made_slices_that_are_wrong() {
    if !available(&[], &[]) {
        return;
    }
    let (plane, mut found) = start();
    let kubectl = plane.kubectl();
    kubectl.apply(&service("hand", ON, "clusterIP: 10.96.0.77")).unwrap();
    kubectl.apply(&slice("hand-1", "hand", "", &["255.255.255.255", "10.1.0.21", "10.1.0.22"])).unwrap();
    let hand = "default/hand:http/ipv4";
    found.until("what is right of it", |found| found.endpoints(hand) == ["10.1.0.21", "10.1.0.22"]);
    let bad = "EndpointSlice default/hand-1: endpoint address: `255.255.255.255` is no ipv4 address that an endpoint";
    until_told(&plane, &mut found, "hand", &[bad, "correct the slice"]);

    // Another says of one of them that it is not ready: that may be either.
    let unready = slice("hand-2", "hand", "", &["10.1.0.22"]).replace(
        "nodeName: n1",
        "nodeName: n1, conditions: {ready: false, serving: false, terminating: false}",
    );
    kubectl.apply(&unready).unwrap();
    let twice = "EndpointSlice default/hand-2: endpoint: `10.1.0.22` is in EndpointSlice default/hand-1 too";
    until_told(&plane, &mut found, "hand", &[twice, "remove it from one of the slices"]);
    assert_eq!(found.endpoints(hand), ["10.1.0.21", "10.1.0.22"], "the one that can serve counts");
}

#[test]
fn ten_thousand_endpoints_of_one_service() {
    if !available(&[], &[]) {
        return;
    }
    let (plane, mut found) = start();
    let kubectl = plane.kubectl();
    kubectl.apply(&service("large", ON, "selector: {app: large}")).unwrap();
    let slices: Vec<String> = (0..10)
        .map(|i| {
            let addresses: Vec<String> =
                (0..1000).map(|j| format!("10.{}.{}.1", 10 + 4 * i + j / 250, j % 250)).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            slice(&format!("large-{i}"), "large", &format!(", {ON}"), &addresses)
        })
        .collect();
    kubectl.apply(&slices.concat()).unwrap();
    found.until("all of them", |found| found.endpoints("default/large:http/ipv4").len() == 10_000);
    assert_eq!(found.remarks("default/large"), "");
    web(&kubectl, &["10.1.0.12"]);
    found.until("the rest goes on", |found| found.endpoints(WEB) == ["10.1.0.12"]);
}

/// A kubeconfig file of one who has this file with a token.
fn with_token(plane: &ControlPlane, token: &Path) -> PathBuf {
    let admin = std::fs::read_to_string(plane.admin()).unwrap();
    let (before, _) = admin.split_once("users:").unwrap();
    let path = plane.directory().join("token.yaml");
    let user = format!("users: [{{name: lab, user: {{tokenFile: '{}'}}}}]\n", token.display());
    let context = "contexts: [{name: lab, context: {cluster: lab, user: lab}}]\ncurrent-context: lab\n";
    std::fs::write(&path, before.to_owned() + &user + context).unwrap();
    path
}

#[test]
fn a_token_that_is_not_valid_any_more() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    plane.install().unwrap();
    let kubectl = plane.kubectl();
    web(&kubectl, &["10.1.0.11"]);
    let token =
        || kubectl.run(&["create", "token", "plimsoll", "-n", "plimsoll", "--duration", "10m"]).unwrap();
    // Tokens live for ten minutes at least: one whose account is gone is refused in the same way as one that has expired.
    let path = plane.directory().join("token");
    let old = token();
    kubectl.run(&["delete", "serviceaccount", "plimsoll", "-n", "plimsoll"]).unwrap();
    std::fs::write(&path, old).unwrap();
    let mut found = Found::start(plane.namespace(), config(with_token(&plane, &path)));
    found.until("the token", |found| {
        let trouble = found.trouble();
        trouble.contains("(401)") && trouble.contains("has expired") && trouble.contains("service account")
    });
    assert!(found.services.is_empty() && found.told == 0);
    // A kubelet renews the file, and nobody has to start anything again.
    kubectl.run(&["create", "serviceaccount", "plimsoll", "-n", "plimsoll"]).unwrap();
    std::fs::write(&path, token()).unwrap();
    let works = |found: &Found| found.endpoints(WEB) == ["10.1.0.11"] && !found.trouble().contains("401");
    found.until_within(2 * SOON, "the new token is used", works);
}
