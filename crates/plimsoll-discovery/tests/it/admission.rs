//! The optional admission policy refuses what the agents would not understand, and nothing else.

use std::collections::BTreeMap;

use plimsoll_lab::control_plane::available;
use plimsoll_lab::eventually;

use crate::kubernetes::{Found, SOON, config, plane};

const POLICY: &str = include_str!("../../../../deploy/admission-policy.yaml");

/// Labels and annotations to try, each on a Service of its own.
const CASES: &[(&str, &str)] = &[
    ("balance: enabled", ""),
    ("balance: observe", ""),
    ("balance: disabled", ""),
    ("balance: 'on'", ""),
    ("balance: ''", ""),
    ("balance: Enabled", ""),
    ("balance: enabled, plimsoll.dev/policy: equal", ""),
    ("balance: enabled", "policy: waterline"),
    ("balance: enabled", "policy: lvs-feedback"),
    ("balance: enabled", "policy: equal"),
    ("balance: enabled", "policy: static"),
    ("balance: enabled", "policy: fastest"),
    ("balance: enabled", "policy: ''"),
    ("balance: enabled", "affinity: take-over"),
    ("balance: enabled", "affinity: leave"),
    ("balance: enabled", "affinity: 'yes'"),
    ("balance: enabled", "slow-start: 0s"),
    ("balance: enabled", "slow-start: 30s"),
    ("balance: enabled", "slow-start: 1m30s"),
    ("balance: enabled", "slow-start: 30s1m"),
    ("balance: enabled", "slow-start: 250ms"),
    ("balance: enabled", "slow-start: 24h"),
    ("balance: enabled", "slow-start: 24h1ms"),
    ("balance: enabled", "slow-start: '30'"),
    ("balance: enabled", "slow-start: 1.5s"),
    ("balance: enabled", "slow-start: -1s"),
    ("balance: enabled", "slow-start: 1d"),
    ("balance: enabled", "slow-start: ''"),
    ("balance: enabled", "slow-start: 999999999h"),
    ("balance: enabled", "capacity: '2'"),
    ("balance: enabled", "floor: '0.1'"),
    ("balance: enabled", "floor: 5%"),
    ("balance: enabled", "floor: 0.5%"),
    ("balance: enabled", "floor: 10%"),
    ("balance: enabled", "floor: 02.25%"),
    ("balance: enabled", "floor: 0.49%"),
    ("balance: enabled", "floor: 10.000001%"),
    ("balance: enabled", "floor: 100%"),
    ("balance: enabled", "floor: 5.%"),
    ("balance: enabled", "floor: .5%"),
    ("balance: enabled", "floor: -5%"),
    ("balance: enabled", "floor: 1e0%"),
    ("balance: enabled", "floor: '5'"),
    ("balance: enabled", "signals: cpu"),
    ("balance: enabled", "polcy: equal"),
    ("balance: enabled", "balance: enabled"),
    ("balance: enabled", "policy: equal, plimsoll.dev/slow-start: 1h, plimsoll.dev/affinity: leave"),
    ("balance: enabled", "policy: equal, plimsoll.dev/slow-start: soon"),
];

fn service(name: &str, (label, annotation): (&str, &str)) -> String {
    let annotation = if annotation.is_empty() { String::new() } else { format!("plimsoll.dev/{annotation}") };
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {{plimsoll.dev/{label}}}, \
           annotations: {{{annotation}}}}}, spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}}}\n---\n"
    )
}

#[test]
fn the_policy_refuses_what_agents_do_not_understand_and_nothing_else() {
    if !available(&[], &[]) {
        return;
    }
    let plane = plane();
    let kubectl = plane.kubectl();
    let all: Vec<String> =
        CASES.iter().enumerate().map(|(i, case)| service(&format!("case-{i}"), *case)).collect();
    kubectl.apply(&all.concat()).unwrap();
    kubectl.apply(&service("witness", ("balance: nonsense", ""))).unwrap();
    let mut found = Found::start(plane.namespace(), config(plane.admin().into()));
    found.until("all are known", |found| !found.remarks("default/witness").is_empty());

    kubectl.apply(POLICY).unwrap();
    let tried = |object: &str| kubectl.feed(&["create", "--dry-run=server", "-f", "-"], object);
    let works = || tried(&service("new", ("balance: nonsense", ""))).is_err();
    assert!(eventually(SOON, works), "the policy has no effect");
    let mut differ = BTreeMap::new();
    for (i, case) in CASES.iter().enumerate() {
        let remarks = found.remarks(&format!("default/case-{i}"));
        let refused = tried(&service("new", *case)).err().map(|error| error.to_string());
        if refused.is_some() == remarks.is_empty() {
            differ.insert(case, (remarks, refused));
        } else if let Some(why) = refused {
            assert!(why.contains("plimsoll.dev/"), "{why}");
        }
    }
    assert!(differ.is_empty(), "the agent says, the policy says: {differ:#?}");

    // What is there already is in nobody's way, but it cannot become wrong in another way.
    kubectl.run(&["label", "service", "witness", "team=shop"]).unwrap();
    kubectl
        .run(&["patch", "service", "witness", "-p", r#"{"spec": {"internalTrafficPolicy": "Local"}}"#])
        .unwrap();
    let set = |label: &str| kubectl.run(&["label", "--overwrite", "service", "witness", label]);
    let refused = set("plimsoll.dev/balance=other").unwrap_err().to_string();
    assert!(refused.contains("is `other`; write enabled, observe or disabled"), "{refused}");
    set("plimsoll.dev/balance=observe").unwrap();
    set("plimsoll.dev/balance-").unwrap();
    kubectl.run(&["delete", "service", "witness", "case-3"]).unwrap();

    // Defaults on a Namespace, and objects that have nothing of ours.
    let annotate = |value: &str| kubectl.run(&["annotate", "--overwrite", "namespace", "default", value]);
    assert!(annotate("plimsoll.dev/policy=fastest").is_err());
    annotate("plimsoll.dev/policy=equal").unwrap();
    tried("{apiVersion: v1, kind: Service, metadata: {name: plain}, spec: {ports: [{port: 80}]}}").unwrap();
}
