//! `plimsoll doctor` in network namespaces that have, or have not, what it should find.

use plimsoll_lab::available;
use plimsoll_lab::namespace::Namespace;
use serde_json::Value;

use super::plimsoll;

/// A namespace with a route to everywhere.
fn namespace() -> Namespace {
    let namespace = Namespace::new("doctor").unwrap();
    namespace
        .ip("link add veth0 type veth peer name veth1\nlink set veth0 up\nlink set veth1 up\n\
             addr add 10.0.0.1/24 dev veth0\nroute add default via 10.0.0.2\n")
        .unwrap();
    namespace.sysctl(&[("net/ipv4/ip_forward", "1")]).unwrap();
    namespace
}

/// Loads rules; nft wants an end of line before a brace that closes.
fn rules(namespace: &Namespace, text: &str) {
    namespace.nft(&text.replace('}', "\n}")).unwrap();
}

struct Answer {
    code: Option<i32>,
    findings: Vec<Value>,
    ok: bool,
}

impl Answer {
    fn verdict(&self, check: &str) -> &str {
        self.finding(check)["verdict"].as_str().unwrap()
    }

    fn finding(&self, check: &str) -> &Value {
        let found = self.findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {:?}", self.findings))
    }
}

fn doctor(namespace: &Namespace, arguments: &[&str]) -> Answer {
    let output = namespace.output(plimsoll().args(["doctor", "-o", "json"]).args(arguments)).unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    for finding in answer["findings"].as_array().unwrap() {
        assert_eq!(finding["verdict"] == "ok", finding["todo"].is_null(), "what is to do is said: {finding}");
    }
    Answer {
        code: output.status.code(),
        findings: answer["findings"].as_array().unwrap().clone(),
        ok: answer["ok"].as_bool().unwrap(),
    }
}

#[test]
fn a_clean_namespace_has_no_problem_and_stays_clean() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    let answer = doctor(&namespace, &[]);
    assert!(answer.ok, "{:?}", answer.findings);
    assert_eq!(answer.code, Some(0));
    for check in ["kernel", "rights", "nf-tables", "owner", "forward-drop", "order", "mark", "table"] {
        assert_eq!(answer.verdict(check), "ok", "{check}");
    }
    assert_eq!(namespace.text("nft", &["list", "ruleset"]).unwrap(), "");
}

#[test]
fn a_forward_chain_that_drops_is_found_until_it_accepts_translated_connections() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    let wall =
        "table inet wall { chain ahead { type filter hook forward priority 0; policy drop; counter; } }";
    rules(&namespace, wall);
    let answer = doctor(&namespace, &[]);
    let found = answer.finding("forward-drop");
    assert_eq!(found["verdict"], "warning");
    let todo = found["todo"].as_str().unwrap();
    // It is what it says: the remedy, word for word, works.
    let remedy = "insert rule inet wall ahead ct status dnat accept";
    assert!(todo.contains(&format!("`nft {remedy}`")), "{todo}");
    namespace.nft(remedy).unwrap();
    assert_eq!(doctor(&namespace, &[]).verdict("forward-drop"), "ok");
}

#[test]
fn a_last_rule_that_rejects_is_found() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    let wall = "table inet wall { chain ahead { type filter hook forward priority 0; policy accept; \
                ct state established accept; counter reject; } }";
    rules(&namespace, wall);
    assert_eq!(doctor(&namespace, &[]).verdict("forward-drop"), "warning");
}

#[test]
fn the_rules_of_iptables_are_understood() {
    if !available(&["ip", "nft", "iptables-nft"]) {
        return;
    }
    let namespace = namespace();
    let iptables = |line: &str| {
        namespace.text("iptables-nft", &line.split(' ').collect::<Vec<_>>()).unwrap();
    };
    iptables("-P FORWARD DROP");
    iptables("-t mangle -A PREROUTING -j CONNMARK --restore-mark");
    iptables("-t mangle -A PREROUTING -j CONNMARK --set-mark 0x4000/0x4000");
    let answer = doctor(&namespace, &[]);
    assert_eq!(answer.verdict("forward-drop"), "warning");
    assert_eq!(answer.verdict("mark"), "ok", "{}", answer.finding("mark"));
    iptables("-I FORWARD -m conntrack --ctstate DNAT -j ACCEPT");
    iptables("-t mangle -A PREROUTING -j CONNMARK --save-mark");
    let answer = doctor(&namespace, &[]);
    assert_eq!(answer.verdict("forward-drop"), "ok", "{}", answer.finding("forward-drop"));
    assert_eq!(answer.verdict("mark"), "warning");
}

#[test]
fn a_chain_that_decides_first_is_found() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    rules(&namespace, "table ip early { chain pre { type nat hook prerouting priority -110; } }");
    rules(&namespace, "table ip late { chain pre { type nat hook prerouting priority -100; } }");
    let answer = doctor(&namespace, &[]);
    assert_eq!(answer.verdict("order"), "warning");
    let what = answer.finding("order")["what"].as_str().unwrap();
    assert!(what.contains("ip early pre at -110"), "{what}");
    namespace.nft("delete table ip early").unwrap();
    assert_eq!(doctor(&namespace, &[]).verdict("order"), "ok");
}

#[test]
fn a_foreign_writer_of_our_mark_bits_is_found() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    let verdict = |rule: &str| {
        rules(&namespace, "add table ip marks\ndelete table ip marks\n");
        let hook = "type filter hook prerouting priority 0";
        rules(&namespace, &format!("table ip marks {{ chain pre {{ {hook}; {rule}; }} }}"));
        doctor(&namespace, &[]).verdict("mark").to_owned()
    };
    assert_eq!(verdict("ct mark set 0x1"), "warning", "it sets all other bits to 0");
    assert_eq!(verdict("ct mark set meta mark"), "warning");
    assert_eq!(verdict("ct mark set ct mark | 0x00010000"), "warning");
    assert_eq!(verdict("ct mark set ct mark & 0xffff0fff | 0x4000"), "ok");
    assert_eq!(verdict("ct mark & 0x00010000 == 0 accept"), "ok", "it only reads");
    assert_eq!(verdict("meta mark set ct mark"), "ok", "it only reads");
    assert_eq!(
        verdict("ct mark & 0x1 == 0 ct mark set 0x5"),
        "warning",
        "what was read is not what is written"
    );
}

#[test]
fn a_table_that_nobody_owns_is_found() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    namespace.nft("add table inet plimsoll").unwrap();
    assert_eq!(doctor(&namespace, &[]).verdict("table"), "warning");
}

#[test]
fn a_configuration_is_followed_to_what_it_names() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.yaml");
    let services = directory.path().join("services.yaml");
    std::fs::write(&config, format!("node: n1\ndiscovery: {{file: {{path: {}}}}}\n", services.display()))
        .unwrap();
    let arguments = ["--config", config.to_str().unwrap()];

    let answer = doctor(&namespace, &arguments);
    assert_eq!((answer.verdict("services"), answer.code, answer.ok), ("problem", Some(3), false));

    std::fs::write(
        &services,
        "services:\n- name: web\n  addresses: [10.96.0.1, 'fd96::1']\n  ports: [{port: 80}]\n",
    )
    .unwrap();
    let answer = doctor(&namespace, &arguments);
    assert_eq!((answer.verdict("services"), answer.code), ("ok", Some(0)), "{:?}", answer.findings);
    // There is a default route for IPv4 alone.
    let what = answer.finding("routes")["what"].as_str().unwrap();
    assert!(what.contains("fd96::1") && !what.contains("10.96.0.1"), "{what}");
    assert_eq!(answer.verdict("api-port"), "ok");

    let _stranger = namespace.tcp_listen(([127, 0, 0, 1], 9653).into()).unwrap();
    let answer = doctor(&namespace, &arguments);
    assert_eq!((answer.verdict("api-port"), answer.code), ("problem", Some(3)));
}

#[test]
fn bridges_without_netfilter_are_found() {
    if !available(&["ip", "nft"]) {
        return;
    }
    let namespace = namespace();
    assert_eq!(doctor(&namespace, &[]).verdict("bridges"), "ok");
    if namespace.ip("link add br0 type bridge").is_err() {
        assert!(std::env::var_os("PLIMSOLL_REQUIRE_ALL_TESTS").is_none(), "this kernel has no bridges");
        eprintln!("SKIPPED: this kernel has no bridges");
        return;
    }
    // Where the kernel has br_netfilter its default is on.
    let passes = namespace
        .sysctl(&[("net/bridge/bridge-nf-call-iptables", "0"), ("net/bridge/bridge-nf-call-ip6tables", "0")]);
    let verdict = doctor(&namespace, &[]);
    assert_eq!(verdict.verdict("bridges"), "warning", "{passes:?}");
}
