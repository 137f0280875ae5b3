//! The HTTP API of a running agent.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_api::Problem;
use plimsoll_lab::{available, eventually};
use rustix::process::Signal;

use crate::agent::Agent;
use crate::stage::{LEASE, PROGRAMS, SOON, Stage};

fn problem(agent: &Agent, path: &str, status: u16) -> String {
    let answer = agent.ask(path).unwrap();
    assert_eq!(answer.status, status, "{path}: {}", answer.body);
    serde_json::from_str::<Problem>(&answer.body).unwrap().error
}

#[test]
fn an_agent_answers_about_itself() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(1, 2);
    let agent = &stage.agents[0];
    for path in ["/livez", "/healthz", "/readyz"] {
        let answer = agent.ask(path).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
    }
    let status = agent.status();
    assert!(status.ready && status.waiting_for.is_empty() && status.node == "node0", "{status:?}");
    assert_eq!((status.dataplane.as_str(), status.store.as_str()), ("nftables", "mesh"));
    let services: Vec<&str> = status.services.iter().map(|service| service.service.as_str()).collect();
    assert_eq!(services, ["web:dns/ipv4", "web:dns/ipv6", "web:http/ipv4", "web:http/ipv6"]);

    let config: serde_json::Value = agent.get("/v1/config");
    assert_eq!(config["dataplane"]["nftables"]["lease"], "3s", "what was set: {config}");
    assert_eq!(config["api"]["listen"], "127.0.0.1:9653", "what was not: {config}");
    let key = std::fs::read_to_string(config["store"]["mesh"]["key_file"].as_str().unwrap()).unwrap();
    assert!(!config.to_string().contains(key.trim()), "the key stays in its file");

    assert!(
        problem(agent, "/v2/status", 404).contains("/v1/status"),
        "an unknown page names those there are"
    );
    let unknown = problem(agent, "/v1/explain?service=wev", 404);
    assert!(unknown.contains("wev") && services.iter().all(|name| unknown.contains(name)), "{unknown}");
    for path in ["/v1/explain", "/v1/explain?service=a&service=b"] {
        assert!(problem(agent, path, 400).contains("service=NAME"), "{path}");
    }
    for (name, count) in [("web", 4), ("web:http", 2), ("web:80", 2), ("web:53/ipv6", 1)] {
        let path = format!("/v1/explain?service={name}");
        assert_eq!(agent.get::<Vec<plimsoll_api::Explanation>>(&path).len(), count, "{name}");
    }
}

#[test]
fn an_agent_is_ready_when_it_counts_and_serves() {
    if !available(PROGRAMS) {
        return;
    }
    let mut stage = Stage::new(1, 1);
    let agent = &mut stage.agents[0];
    // Counts come at a random time within the first interval; a long one leaves time to ask before.
    let config = std::fs::read_to_string(&agent.config).unwrap();
    std::fs::write(&agent.config, config + "balancer: {report_interval: 2s}\n").unwrap();
    let mut not_yet: Vec<String> = Vec::new();
    for _ in 0..5 {
        agent.start();
        let ready = eventually(SOON, || match agent.ask("/readyz") {
            None => false,
            Some(answer) if answer.status == 200 => true,
            Some(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.body);
                assert!(answer.body.starts_with("waiting for "), "{}", answer.body);
                not_yet.push(answer.body);
                false
            }
        });
        assert!(ready, "{not_yet:?}");
        assert!(agent.has_table());
        assert_eq!(agent.end(Signal::TERM).code(), Some(0));
        if not_yet.iter().any(|body| body.contains("the first counts")) {
            return;
        }
    }
    panic!("five times it did not wait for the first counts: {not_yet:?}");
}

/// Name, type and help of each metric family; panics where the text is not OpenMetrics.
fn families(text: &str) -> BTreeMap<String, String> {
    let lines = text.strip_suffix("# EOF\n").expect("it ends with EOF");
    let (mut helps, mut kinds) = (BTreeSet::new(), BTreeMap::new());
    let (mut samples, mut family) = (BTreeSet::new(), String::new());
    for line in lines.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(!help.trim().is_empty() && helps.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            name.clone_into(&mut family);
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect(line);
            assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            assert!(!line.starts_with('#'), "neither help nor type nor unit: {line}");
            let (sample, value) = line.rsplit_once(' ').expect(line);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample.to_owned()), "twice: {line}");
            let name = sample.split('{').next().unwrap();
            let suffixes: &[&str] = match kinds[&family].as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{family} is a {other}"),
            };
            let suffix = name.strip_prefix(family.as_str()).expect(line);
            assert!(suffixes.contains(&suffix), "a sample of another family than {family}: {line}");
            assert!(sample == name || sample.ends_with('}'), "{line}");
        }
    }
    assert!(kinds.keys().eq(&helps), "each has a help and a type");
    kinds
}

#[test]
fn metrics_are_openmetrics() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(2, 1);
    let held = stage.hold(0, 12);
    let agent = &stage.agents[0];
    stage.assert_counts(&[0]);
    let answer = agent.ask("/metrics").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.header.contains("content-type: application/openmetrics-text; version=1.0.0"));
    let families = families(&answer.body);
    assert!(families.keys().all(|name| name.starts_with("plimsoll_")), "{families:?}");
    let expected = [
        ("plimsoll_ready", "gauge"),
        ("plimsoll_events", "counter"),
        ("plimsoll_apply_seconds", "histogram"),
        ("plimsoll_discovery_refusals", "counter"),
        ("plimsoll_service_open_connections", "gauge"),
        ("plimsoll_mesh_members", "gauge"),
        ("plimsoll_mesh_rejected_datagrams", "counter"),
        ("plimsoll_plan_age_seconds", "gauge"),
        ("plimsoll_counts_age_seconds", "gauge"),
        ("plimsoll_mesh_sent_bytes", "counter"),
        ("plimsoll_build", "info"),
    ];
    for (name, kind) in expected {
        assert_eq!(families.get(name).map(String::as_str), Some(kind), "{name}");
    }
    assert_eq!(agent.metric("plimsoll_ready"), 1.0);
    assert!(eventually(SOON, || agent.metric("plimsoll_mesh_members") == 1.0));
    // The dataplane counts every report interval, and renews leases every third of one.
    let recent = |name: &str, limit: std::time::Duration| agent.metric(name) < limit.as_secs_f64();
    assert!(eventually(SOON, || recent("plimsoll_plan_age_seconds", LEASE)));
    assert!(eventually(SOON, || recent("plimsoll_counts_age_seconds", LEASE)));
    for family in ["ipv4", "ipv6"] {
        let open = format!("plimsoll_service_open_connections{{service=\"web:http/{family}\"}}");
        assert_eq!(agent.metric(&open), 6.0);
    }
    held.assert_alive();
}
