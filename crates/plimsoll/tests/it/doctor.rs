//! `plimsoll doctor` in network namespaces that have, or have not, what it should find.

use plimsoll_lab::available;
use plimsoll_lab::cluster::Cluster;
use plimsoll_lab::namespace::Namespace;
use serde_json::Value;

use super::plimsoll;

/// The programs these tests need.
const PROGRAMS: &[&str] = &["ip", "nft"];

/// A namespace with a route to everywhere; nothing where there can be none.
fn namespace() -> Option<Namespace> {
    if !available(PROGRAMS) {
        return None;
    }
    let namespace = Namespace::new("doctor").unwrap();
    namespace
        .ip("link add veth0 type veth peer name veth1\nlink set veth0 up\nlink set veth1 up\n\
             addr add 10.0.0.1/24 dev veth0\nroute add default via 10.0.0.2\n")
        .unwrap();
    namespace.sysctl(&[("net/ipv4/ip_forward", "1")]).unwrap();
    Some(namespace)
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
    let Some(namespace) = namespace() else { return };
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
    let Some(namespace) = namespace() else { return };
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
    let Some(namespace) = namespace() else { return };
    let wall = "table inet wall { chain ahead { type filter hook forward priority 0; policy accept; \
                ct state established accept; counter reject; } }";
    rules(&namespace, wall);
    assert_eq!(doctor(&namespace, &[]).verdict("forward-drop"), "warning");
}

#[test]
fn a_chain_that_decides_first_is_found() {
    let Some(namespace) = namespace() else { return };
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
    let Some(namespace) = namespace() else { return };
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
    let Some(namespace) = namespace() else { return };
    namespace.nft("add table inet plimsoll").unwrap();
    assert_eq!(doctor(&namespace, &[]).verdict("table"), "warning");
}

#[test]
fn a_configuration_is_followed_to_what_it_names() {
    let Some(namespace) = namespace() else { return };
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
fn a_node_that_the_file_does_not_know_is_found() {
    let Some(namespace) = namespace() else { return };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.yaml");
    let services = directory.path().join("services.yaml");
    let web = "services:\n- name: web\n  addresses: [10.96.0.1]\n  ports: [{port: 80}]\n";
    let verdict = |node: &str, file: &str| {
        std::fs::write(&services, file).unwrap();
        let text = format!("node: {node}\ndiscovery: {{file: {{path: {}}}}}\n", services.display());
        std::fs::write(&config, text).unwrap();
        let answer = doctor(&namespace, &["--config", config.to_str().unwrap()]);
        let finding = answer.finding("node").clone();
        (finding["verdict"].as_str().unwrap().to_owned(), finding["what"].as_str().unwrap().to_owned())
    };
    let hosting = format!("{web}  endpoints: [{{address: 10.1.0.11, node: n1}}, {{address: 10.1.0.12}}]\n");
    assert_eq!(verdict("n1", &hosting), ("ok".into(), "n1 hosts 1 of 2 endpoints".into()));
    let (found, what) = verdict("n2", &hosting);
    assert!(found == "warning" && what.contains("names n2"), "{what}");
    let (found, what) = verdict("n2", &format!("nodes: [{{name: n1}}]\n{hosting}"));
    assert!(found == "warning" && what.contains("among the nodes") && what.contains("(n1)"), "{what}");
}

#[test]
fn peers_that_do_not_resolve_or_listen_are_told() {
    if !available(PROGRAMS) {
        return;
    }
    let cluster = Cluster::new(3).unwrap();
    let [here, silent, refusing] = [0, 1, 2].map(|node| &cluster.nodes[node].host);
    // It takes datagrams and says nothing, as an agent does to a stranger.
    let _listens = silent.namespace.udp((silent.v4, 9653).into()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.yaml");
    let services = directory.path().join("services.yaml");
    std::fs::write(&services, "services: []\n").unwrap();
    let findings = |peers: &str| -> Vec<(String, String)> {
        let text = format!(
            "node: n1\ndiscovery: {{file: {{path: {}}}}}\nstore: {{mesh: {{insecure: true, peers: [{peers}]}}}}\n",
            services.display()
        );
        std::fs::write(&config, text).unwrap();
        let answer = doctor(&here.namespace, &["--config", config.to_str().unwrap()]);
        let found = answer.findings.iter().filter(|finding| finding["check"] == "mesh-peers");
        let words = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
        found.map(|finding| (words(finding, "verdict"), words(finding, "what"))).collect()
    };
    let good = format!("{}, {}, '{}'", here.v4, silent.v4, here.v6);
    let found = findings(&good);
    assert!(found.len() == 1 && found[0].0 == "ok", "{found:?}");
    here.namespace.ip("route del default").unwrap();
    let found = findings(&format!("{good}, {}, nowhere.invalid, 203.0.113.1", refusing.v4));
    let expected = [
        ("warning", "do not resolve: nowhere.invalid"),
        ("warning", "cannot be reached: 203.0.113.1"),
        ("note", &format!("nobody listens at {}", refusing.v4)),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((verdict, what), (expected, begins)) in found.iter().zip(expected) {
        assert!(verdict == expected && what.starts_with(begins), "{verdict}: {what}");
    }
    assert_eq!(findings(&here.v4.to_string())[0].0, "note", "no other node is named");
}

/// An agent that ends with the test.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_agent_is_told_from_strangers() {
    let Some(namespace) = namespace() else { return };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.yaml");
    let services = directory.path().join("services.yaml");
    std::fs::write(&services, "services: []\n").unwrap();
    std::fs::write(
        &config,
        format!(
            "node: n1\ndiscovery: {{file: {{path: {}}}}}\nstore: {{mesh: {{bind: '127.0.0.1:9653'}}}}\n",
            services.display()
        ),
    )
    .unwrap();
    let mut command = plimsoll();
    command.args(["agent", "--log", "warn", "--config"]).arg(&config);
    let mut agent = Agent(namespace.start(&mut command).unwrap());
    let arguments = ["--config", config.to_str().unwrap()];
    let mut answer = doctor(&namespace, &arguments);
    let ready = plimsoll_lab::eventually(std::time::Duration::from_secs(20), || {
        assert!(agent.0.try_wait().unwrap().is_none(), "the agent ended");
        answer = doctor(&namespace, &arguments);
        ["table", "api-port", "mesh-port"].iter().all(|check| {
            let finding = answer.finding(check);
            finding["verdict"] == "ok" && finding["what"].as_str().unwrap().contains("running agent")
        })
    });
    assert!(ready, "{:?}", answer.findings);
    assert!(answer.ok, "{:?}", answer.findings);
}

#[test]
fn bridges_without_netfilter_are_found() {
    let Some(namespace) = namespace() else { return };
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
