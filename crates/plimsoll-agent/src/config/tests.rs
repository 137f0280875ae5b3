//! Configurations, good and bad.

use super::*;

fn check(text: &str) -> Result<Config, String> {
    let config = Config::parse(text)?;
    config.check().map_err(|error| error.to_string())?;
    Ok(config)
}

/// The smallest configuration, with one more line.
fn with(more: &str) -> String {
    format!("discovery: {{file: {{path: services.yaml}}}}\n{more}\n")
}

/// `text` must be refused with a message that has all of `words`.
fn refused(text: &str, words: &[&str]) {
    let error = check(text).expect_err(text);
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn the_smallest_configuration_has_sensible_defaults() {
    let config = check(&with("")).unwrap();
    assert_eq!(config.dataplane.kind(), "nftables");
    assert_eq!(config.store.kind(), "local");
    assert_eq!(config.dataplane.lease(), Span::from_secs(10));
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:9653");
}

#[test]
fn a_value_that_cannot_be_is_told_with_its_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    for (text, expected) in [
        ("balancer:\n  tick: 1h", "3:9: balancer.tick: 1h is not"),
        ("balancer:\n  guard: {}\n  report_interval: 5s", "4:20: balancer.report_interval: 5s is not"),
        ("dataplane:\n  nftables: {lease: 1s}", "3:21: dataplane.nftables.lease: 1s is too short"),
        // What is missing is missed in its section.
        ("store:\n  mesh: {peers: [n2]}", "3:9: store.mesh: the mesh would send"),
        (
            "store:\n  mesh:\n    insecure: true\n    peers: ['n2:x']",
            "5:12: store.mesh.peers: `n2:x` is neither",
        ),
    ] {
        std::fs::write(file.path(), with(text)).unwrap();
        let error = Config::load(file.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{path}:{expected}")), "{error}");
    }
}

#[test]
fn the_effective_configuration_has_the_name() {
    let config = check(&with("")).unwrap();
    let name = config.node_name().map(|name| name.to_string());
    assert_eq!(config.effective().map(|config| config.node).ok(), name.map(Some).ok());
    let named = check(&with("node: n1")).unwrap().effective().unwrap();
    assert_eq!(named.node.as_deref(), Some("n1"));
}

#[test]
fn errors_name_line_and_field() {
    refused(&with("balancer: {tik: 1s}"), &["tik", "line 2"]);
    refused("dataplane: {nftables: {}}", &["discovery"]);
    refused(&with("api: {listen: here}"), &["line 2"]);
    refused(&with("balancer: {tick: 1h}"), &["balancer.tick", "1h", "between"]);
    refused(&with("balancer: {report_interval: 5s}"), &["balancer.report_interval", "between"]);
}

#[test]
fn a_lease_must_outlive_three_ticks() {
    refused(&with("dataplane: {nftables: {lease: 1s}}"), &["lease", "1s", "three renewals of 500ms"]);
    check(&with("dataplane: {nftables: {lease: 1500ms}}")).unwrap();
}

#[test]
fn a_tick_follows_the_report_interval_within_bounds() {
    for (interval, tick) in [("200ms", 500), ("700ms", 700), ("2s", 1000)] {
        let config = check(&with(&format!("balancer: {{report_interval: {interval}}}"))).unwrap();
        assert_eq!(config.balancer.tick(), Span::from_millis(tick), "{interval}");
    }
}

#[test]
fn the_effective_configuration_reads_back() {
    let config = check(&with("balancer: {tick: 250ms}")).unwrap();
    let shown = serde_json::to_string(&config).unwrap();
    assert_eq!(Config::parse(&shown).unwrap(), config);
}

#[test]
fn a_mask_is_read_in_hex_and_shown_so() {
    for written in ["0x1ffc0000", "\"0x1ffc0000\"", "536608768"] {
        let config = check(&with(&format!("dataplane: {{nftables: {{mark_mask: {written}}}}}"))).unwrap();
        let shown = config.to_yaml().unwrap();
        assert!(shown.contains("0x1ffc0000"), "{shown}");
        assert_eq!(Config::parse(&shown).unwrap(), config);
    }
    for wrong in ["-1", "0x1ffc00000", "many", "\"0xg\"", "1.5"] {
        refused(
            &with(&format!("dataplane: {{nftables: {{mark_mask: {wrong}}}}}")),
            &["0x0ff70000", "line 2"],
        );
    }
}

#[test]
fn a_mesh_in_a_cluster_finds_the_others_by_itself() {
    let agents = |cluster: &str, store: &str| {
        let text = format!("node: n1\ndiscovery: {{kubernetes: {{{cluster}}}}}\nstore: {store}\n");
        let config = Config::parse(&text).unwrap().effective().unwrap();
        match config.discovery {
            plimsoll_discovery::Config::Kubernetes(cluster) => cluster.agents,
            plimsoll_discovery::Config::File(_) => panic!("it is from a cluster"),
        }
    };
    assert_eq!(agents("", "{mesh: {key_file: /k}}").as_deref(), Some("plimsoll-agents"));
    assert_eq!(agents("agents: net/ours", "{mesh: {key_file: /k}}").as_deref(), Some("net/ours"));
    assert_eq!(agents("", "{mesh: {key_file: /k, peers: [n2]}}"), None, "whoever names peers means them");
    assert_eq!(agents("", "local"), None);
}
