//! Bad input is an error that names what is wrong and what to do; a running agent keeps what it had.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::{available, eventually};
use tempfile::TempDir;

use crate::agent::plimsoll;
use crate::stage::{PROGRAMS, SOON, Stage};

const SERVICES: &str = "services:
  - name: web
    addresses: [10.96.0.1]
    ports: [{port: 80}]
    endpoints: [{address: 10.1.0.11}]
";

/// A directory with a valid file of Services and a valid key.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("services.yaml", SERVICES);
        files.write("mesh.key", &"0123456789abcdef".repeat(4));
        files
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.at(name), text).unwrap();
        self.at(name)
    }

    /// A configuration that is valid but for what `more` does.
    fn config(&self, more: &str) -> PathBuf {
        let services = self.at("services.yaml");
        self.write(
            "agent.yaml",
            &format!("node: n\ndiscovery: {{file: {{path: {}}}}}\n{more}\n", services.display()),
        )
    }
}

fn agent(config: &Path) -> Command {
    let mut command = plimsoll();
    command.arg("agent").arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// It must have ended by itself with exit code 1, and its last words must have all of these.
fn refused(what: &str, output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {text}");
    let last = text.split("plimsoll: ").last().unwrap();
    assert!(last.matches("os error").count() < 2, "a cause is told twice: {last}");
    for word in words {
        assert!(last.contains(word), "{what}: {word:?} is not in: {text}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_by_field_with_a_remedy() {
    let files = Files::new();
    let cases: &[(&str, &[&str])] = &[
        ("api: {lisen: \"127.0.0.1:9653\"}", &["agent.yaml", "line 3", "lisen", "listen"]),
        ("apis: {}", &["agent.yaml", "line 3", "apis", "api"]),
        (
            "dataplane: {nftables: {lease: 1s}}",
            &["dataplane.nftables", "lease", "1s", "three renewals of 500ms"],
        ),
        ("dataplane: {nftables: {mark_mask: 255}}", &["dataplane.nftables", "mark_mask", "must have 11"]),
        ("dataplane: {nftables: {priority: -100}}", &["priority", "-100", "before the proxy"]),
        ("balancer: {tick: 10s}", &["balancer.tick", "10s", "between"]),
        ("balancer: {policy: fair}", &["line 3", "fair", "waterline"]),
        ("store: {mesh: {bind: \"192.0.2.1:9653\"}}", &["192.0.2.1:9653", "key", "key_file", "openssl"]),
        ("store: {mesh: {peers: [n2]}}", &["0.0.0.0:9653", "key_file", "openssl"]),
    ];
    for (more, words) in cases {
        // The same answer from the agent as from the check of its configuration; nothing is started or touched.
        for check in [true, false] {
            let mut command = agent(&files.config(&format!("{more}\n")));
            if check {
                command.arg("--check-config");
            }
            refused(more, &command.output().unwrap(), words);
        }
    }
    let output = agent(&files.at("absent.yaml")).output().unwrap();
    refused("no configuration", &output, &["absent.yaml", "--config"]);
    let output = plimsoll().args(["agent", "--konfig", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--config"));
    let output = agent(&files.config("")).arg("--check-config").output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("lease: 10s"));
}

#[test]
fn an_agent_does_not_start_without_what_it_needs() {
    if !available(&[PROGRAMS, &["setpriv"]].concat()) {
        return;
    }
    let files = Files::new();
    let node = Namespace::new("node").unwrap();
    let run = |config: &Path| node.output(&mut agent(config)).unwrap();

    let taken = node.tcp_listen(([127, 0, 0, 1], 9653).into()).unwrap();
    refused("port in use", &run(&files.config("")), &["127.0.0.1:9653", "in use", "api.listen"]);
    drop(taken);

    let taken = node.udp(([127, 0, 0, 1], 9700).into()).unwrap();
    let mesh = format!(
        "store: {{mesh: {{bind: \"127.0.0.1:9700\", key_file: {}}}}}",
        files.at("mesh.key").display()
    );
    refused("mesh port in use", &run(&files.config(&mesh)), &["127.0.0.1:9700", "in use", "bind"]);
    drop(taken);

    let with_key = |key: &Path| {
        files.config(&format!("store: {{mesh: {{bind: \"127.0.0.1:0\", key_file: {}}}}}", key.display()))
    };
    let short = files.write("short.key", "# none here\n0123456789abcdef\n");
    refused("short key", &run(&with_key(&short)), &["short.key:2", "32 bytes", "openssl"]);
    refused("no key", &run(&with_key(&files.at("absent.key"))), &["absent.key", "check that it exists"]);

    let config = files.config("");
    std::fs::rename(files.at("services.yaml"), files.at("moved.yaml")).unwrap();
    refused("no Services", &run(&config), &["services.yaml", "discovery.file.path"]);
    files.write("services.yaml", &SERVICES.replace("port: 80", "port: 80, prot: tcp"));
    refused("unknown field", &run(&config), &["services.yaml", "4", "prot", "protocol"]);
    files.write("services.yaml", &SERVICES.replace("port: 80", "port: 0"));
    refused("port 0", &run(&config), &["services.yaml", "4", "port"]);
    files.write("services.yaml", SERVICES);

    // Root of nothing: all rights but those over the network.
    let mut without_rights = Command::new("setpriv");
    without_rights.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"]);
    without_rights.arg(env!("CARGO_BIN_EXE_plimsoll")).args(["agent", "--config"]).arg(&config);
    let output = node.output(without_rights.stdin(Stdio::null())).unwrap();
    refused("no rights", &output, &["CAP_NET_ADMIN", "root"]);
    assert_eq!(node.text("nft", &["list", "tables"]).unwrap(), "", "nothing is left behind");
}

#[test]
fn an_invalid_change_of_the_services_keeps_the_old_ones() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(1, 2);
    let agent = &stage.agents[0];
    let good = std::fs::read_to_string(stage.services_path()).unwrap();
    // What does not follow the load.
    let state = || {
        let [v4, v6] = agent.explain("http");
        let endpoints =
            [&v4, &v6].map(|e| e.endpoints.iter().map(|e| e.endpoint.clone()).collect::<Vec<_>>());
        (v4.keys, v6.keys, endpoints)
    };
    let before = state();
    let held = stage.hold(0, 10);
    let load = stage.load();
    let bad = [
        good.replace("port: 80", "port: 0"),
        good.replace("port: 80", "pört: 80"),
        good.replace("name: web", "name: web\n    color: red"),
        good.replace("endpoints:\n", "endpoints:\n      - {address: 10.1.0.11}\n"),
        good[..good.len() - 7].to_owned(),
        String::new(),
        "\0\u{1}".to_owned(),
    ];
    let loads = agent.metric("plimsoll_discovery_loads_total");
    for (index, text) in bad.iter().enumerate() {
        stage.replace_services(text);
        let refusals = || agent.metric("plimsoll_discovery_refusals_total");
        assert!(eventually(SOON, || refusals() == (index + 1) as f64), "{} refusals of\n{text}", refusals());
        assert_eq!(state(), before, "after\n{text}");
    }
    assert!(agent.log().contains("services.yaml"), "the log says what was wrong");
    assert_eq!(agent.metric("plimsoll_discovery_loads_total"), loads);
    std::fs::remove_file(stage.services_path()).unwrap();
    load.pass(20);
    assert_eq!(state(), before, "without the file");
    // A good one is taken over again, and only this ends the refusals.
    stage.write_services(|index| index == 0);
    assert!(eventually(SOON, || state() != before));
    assert_eq!(state().2[0], [stage.endpoints[0].id(false)]);
    load.finish();
    held.assert_alive();
    assert_eq!(stage.fell_through(0), 0);
}

#[test]
fn services_that_could_not_be_read_are_read_as_soon_as_they_can_be() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::running(1, 2);
    let agent = &stage.agents[0];
    let endpoints = || agent.explain("http")[0].endpoints.len();
    assert_eq!(endpoints(), 2);
    let refusals = || agent.log().matches("Too many open files").count();
    agent.limit_open_files(Some(0));
    stage.write_services(|index| index == 0);
    assert!(eventually(SOON, || refusals() > 0), "{}", agent.log());
    agent.limit_open_files(None);
    // The file does not change any more.
    assert!(eventually(SOON, || endpoints() == 1), "{}", agent.log());
    assert!(agent.metric("plimsoll_discovery_refusals_total") >= 1.0);
    assert_eq!(refusals(), 1, "it is said once: {}", agent.log());
}
