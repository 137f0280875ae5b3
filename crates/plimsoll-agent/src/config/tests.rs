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
fn the_report_interval_follows_the_number_of_nodes() {
    let config = check(&with("")).unwrap();
    let millis = |nodes| config.report_interval(nodes).as_millis();
    assert_eq!([millis(0), millis(20), millis(50), millis(500)], [200, 200, 500, 1000]);
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
fn the_effective_configuration_reads_back() {
    let config = check(&with("balancer: {tick: 250ms}")).unwrap();
    let shown = serde_json::to_string(&config).unwrap();
    assert_eq!(Config::parse(&shown).unwrap(), config);
}
