//! What a node sent is recorded, whole, and replayed under every policy.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use plimsoll_lab::client::{Client, Limits, held};
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::server::{Behaviour, Close};
use plimsoll_lab::{available, eventually};
use plimsoll_sim::recording::{self, Connection, Contents, How};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::agent::plimsoll;
use crate::stage::{PROGRAMS, SOON, Stage, http};

const SWITCH: &str = "/proc/sys/net/netfilter/nf_conntrack_timestamp";

/// A `plimsoll record` that runs.
struct Recorder {
    child: Child,
    /// What it says after it began.
    said: BufReader<ChildStderr>,
    path: PathBuf,
}

impl Recorder {
    /// Starts one on a node, and waits until it has met what is open there.
    fn start(node: &Namespace, path: &Path, arguments: &[&str]) -> Recorder {
        let mut command = plimsoll();
        command.arg("record").arg(path).args(arguments).stderr(Stdio::piped());
        let mut child = node.start(&mut command).unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        assert!(first.starts_with("recording into"), "it does not begin: {first}");
        Recorder { child, said, path: path.to_owned() }
    }

    /// Stops it as Ctrl-C does; what it said, and what it recorded.
    fn stop(mut self) -> (String, Contents, Vec<Connection>) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let said = self.end();
        let (contents, connections) = read(&self.path);
        (said, contents, connections)
    }
}

impl Recorder {
    /// Waits until it has ended; what it said.
    fn end(&mut self) -> String {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }
}

fn read(path: &Path) -> (Contents, Vec<Connection>) {
    let mut connections = Vec::new();
    let bytes = std::fs::read(path).unwrap();
    let contents = recording::read(&bytes, |connection| connections.push(*connection)).unwrap();
    (contents, connections)
}

/// How many ended how, by endpoint.
type Ends = BTreeMap<(String, How), usize>;

fn ends(contents: &Contents, connections: &[Connection]) -> Ends {
    let mut ends = Ends::new();
    for connection in connections {
        let endpoint = contents.endpoints[connection.endpoint as usize].clone();
        *ends.entry((endpoint, connection.how)).or_default() += 1;
    }
    ends
}

/// What the servers of a stage greet with, as a recording calls them.
fn endpoint(stage: &Stage, greeting: &str) -> String {
    let greets = |v6: bool| move |e: &&crate::stage::Endpoint| e.servers[usize::from(v6)].name() == greeting;
    let found =
        [false, true].into_iter().find_map(|v6| Some(stage.endpoints.iter().find(greets(v6))?.id(v6)));
    found.expect("one of the servers greeted")
}

fn simulate(arguments: &[&str], files: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.arg("simulate").args(arguments).stdin(Stdio::null());
    if !files.is_empty() {
        command.arg("--replay").args(files);
    }
    command.output().unwrap()
}

/// The same with a recording that comes through a pipe.
fn simulate_piped(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.arg("simulate").args(arguments).args(["--replay", "/dev/stdin"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&std::fs::read(file).unwrap()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_connection_of_a_node_without_an_agent_is_in_its_recording() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::new(2, 2);
    let node = &stage.cluster.nodes[0].host.namespace;
    let directory = TempDir::new().unwrap();
    let mut expected = Ends::new();
    let mut expect = |stage: &Stage, greetings: &mut dyn Iterator<Item = String>, how| {
        for greeting in greetings {
            *expected.entry((endpoint(stage, &greeting), how)).or_default() += 1;
        }
    };
    // Open before: some to the end, some not. And what another node sends, which this one only delivers.
    let (stay, go, foreign) = (stage.hold(0, 4), stage.hold(0, 6), stage.hold(1, 3));
    let recorder = Recorder::start(node, &directory.path().join("a.plr"), &["--addresses", "--node", "n0"]);
    let new = stage.hold(0, 5);
    let short: Vec<_> = (0..20).map(|_| stage.hold(0, 1)).collect();
    expect(&stage, &mut stay.connections.iter().map(|(name, _)| name.clone()), How::Open);
    expect(&stage, &mut new.connections.iter().map(|(name, _)| name.clone()), How::Open);
    for held in std::iter::once(go).chain(short) {
        expect(&stage, &mut held.connections.iter().map(|(name, _)| name.clone()), How::Finished);
    }
    let limits = Limits { close: Close::Reset, ..Limits::default() };
    let client = Client::start(&stage.callers[0].namespace, held(10, http(true)), limits).unwrap();
    assert!(eventually(SOON, || client.by_endpoint().values().sum::<u64>() == 10));
    client.stop();
    assert!(eventually(SOON, || stage.open() == 12), "{}", stage.open());
    let (said, contents, connections) = recorder.stop();

    assert_eq!(contents.head.node, "n0");
    assert_eq!((contents.tail.losses, contents.tail.left_out), (0, 0), "{said}");
    let mut services = contents.services.clone();
    services.sort();
    assert_eq!(services, ["tcp/10.96.0.1:80", "tcp/[fd96::1]:80"]);
    let mut found = ends(&contents, &connections);
    let reset: usize = found.iter().filter(|((_, how), _)| *how == How::Reset).map(|(_, count)| count).sum();
    found.retain(|(_, how), _| *how != How::Reset);
    assert_eq!((reset, found), (10, expected), "{said}");
    let old = connections.iter().filter(|connection| connection.began.is_none()).count();
    assert_eq!(old, 4 + 6, "what was open before has no beginning");
    for Connection { began, until, .. } in &connections {
        assert!(began.is_none_or(|began| 0 <= began && began <= *until), "{began:?} {until}");
        assert!(*until <= contents.tail.length as i64);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    let switch = node.run(|| std::fs::read_to_string(SWITCH)).unwrap();
    assert_eq!(switch.trim(), "0", "the kernel is as it was");
    drop((stay, new, foreign));
}

#[test]
fn a_terminal_that_goes_away_ends_a_recording_in_order_and_a_second_signal_at_once() {
    if !available(PROGRAMS) {
        return;
    }
    let stage = Stage::new(1, 1);
    let node = &stage.cluster.nodes[0].host.namespace;
    let directory = TempDir::new().unwrap();
    let switch = || node.run(|| std::fs::read_to_string(SWITCH)).unwrap().trim().to_owned();
    for (name, signal) in [("hup.plr", Signal::HUP), ("quit.plr", Signal::QUIT)] {
        let path = directory.path().join(name);
        let Recorder { mut child, said, .. } = Recorder::start(node, &path, &[]);
        assert_eq!(switch(), "1");
        stage.hold(0, 3).assert_alive();
        // Nobody reads any more what it says.
        drop(said);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name}");
        assert_eq!((read(&path).1.len(), switch().as_str()), (3, "0"), "{name}");
    }
    let path = directory.path().join("twice.plr");
    let Recorder { mut child, mut said, .. } = Recorder::start(node, &path, &[]);
    // Two different ones: of two that are the same the kernel may make one.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut error = String::new();
    said.read_to_string(&mut error).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{error}");
    assert!(error.contains("second signal"), "{error}");
    assert_eq!((std::fs::read_dir(directory.path()).unwrap().count(), switch().as_str()), (2, "0"));
}

#[test]
fn recordings_of_two_nodes_are_replayed_under_each_policy() {
    if !available(PROGRAMS) {
        return;
    }
    // Here the agents' table translates.
    let stage = Stage::running(2, 2);
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let salt = at("salt");
    std::fs::write(&salt, "0123456789abcdef0123456789abcdef\n").unwrap();
    let services = stage.services_path();
    let start = |node: usize, name: &str| {
        let (salt, services) = (salt.to_str().unwrap(), services.to_str().unwrap());
        let named = format!("n{node}");
        let arguments = ["--salt-file", salt, "--services", services, "--node", &named];
        Recorder::start(&stage.cluster.nodes[node].host.namespace, &at(name), &arguments)
    };
    let recorders = [start(0, "n0.plr"), start(1, "n1.plr")];
    let load = stage.load();
    let began = std::time::Instant::now();
    // A replay takes 5 s at least.
    assert!(eventually(SOON, || began.elapsed().as_secs() >= 7));
    load.finish();
    let mut attempts = 0;
    for recorder in recorders {
        let (said, contents, connections) = recorder.stop();
        assert_eq!(contents.endpoints.len(), 8, "each in both families: {said}");
        assert!(contents.endpoints.iter().all(|name| name.starts_with('#')), "{:?}", contents.endpoints);
        assert!(connections.iter().all(|connection| connection.how == How::Finished));
        attempts += connections.len() as u64;
    }
    let accepted: u64 = stage.endpoints.iter().map(crate::stage::Endpoint::accepted).sum();
    assert_eq!(attempts, accepted, "the nodes recorded what the servers accepted");

    let files = [at("n0.plr"), at("n1.plr")];
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let output = simulate(&["--json"], &files);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for words in ["--service", "web:http/ipv4 (", "web:http/ipv6 ("] {
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
    let output = simulate(&["--json", "--service", "web:http/ipv4"], &files);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = results["results"].as_array().unwrap();
    let row = |row: &serde_json::Value| {
        let selection =
            row["selection"].as_str().map(|selection| format!(":{selection}")).unwrap_or_default();
        let max_over_mean = row["max_over_mean"].as_f64().expect("each has connections");
        assert!(max_over_mean >= 1.0 && row["failed_share"] == 0.0, "{row}");
        format!("{}{selection}", row["policy"].as_str().unwrap())
    };
    let policies: Vec<String> = rows.iter().map(row).collect();
    let expected =
        ["as-recorded", "jsq-work", "random", "round-robin", "wlc", "waterline:counter", "waterline:edf"];
    assert_eq!(policies, expected);
    // Either family, and what really happened named too.
    let either = simulate(&["--json", "--service", "web:http", "--policies", "as-recorded,wlc"], &files);
    let error = String::from_utf8_lossy(&either.stderr);
    assert!(either.status.success() && error.contains("replayed is web:http/ipv"), "{error}");
    for ignored in ["--json", "--service=web:http", "--capacity=a=2"] {
        assert_eq!(simulate(&["--list", ignored], &files).status.code(), Some(2), "{ignored}");
    }
    // A file that can be read only once.
    let piped = simulate_piped(&["--json", "--service", "web:http/ipv4"], files[0]);
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    let listed = simulate(&["--list"], &files);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("node n0") && listed.matches("web:http/ipv6").count() == 8, "{listed}");
    refuse_the_rest(directory.path(), files[0]);
}

/// Recordings that cannot be replayed are refused with what is wrong, and a remedy.
fn refuse_the_rest(directory: &Path, good: &Path) {
    let bytes = std::fs::read(good).unwrap();
    let bad = directory.join("bad.plr");
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    let cases: [(&[u8], &[&str]); 4] = [
        (&bytes[..bytes.len() / 2], &["bad.plr", "byte ", "cut short", "copy it again"]),
        (&damaged, &["bad.plr", "byte ", "damaged", "copy it again"]),
        (b"services:\n", &["bad.plr", "no recording", "plimsoll record"]),
        (&bytes, &["n0", "one recording of each node"]),
    ];
    for (content, words) in cases {
        std::fs::write(&bad, content).unwrap();
        let page = directory.join("page.html");
        let html = format!("--html={}", page.display());
        let output = simulate(&["--service", "web:http/ipv4", &html], &[good, &bad]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        assert!(output.stdout.is_empty() && !page.exists(), "nothing half-written is left behind");
    }
    let output = simulate(&["c-mix"], &[good]);
    assert_eq!(output.status.code(), Some(2), "a scenario and a recording");
}

#[test]
fn attempts_that_fail_and_a_file_that_is_full_are_told() {
    if !available(&[PROGRAMS, &["setpriv"]].concat()) {
        return;
    }
    let stage = Stage::new(1, 1);
    let node = &stage.cluster.nodes[0].host.namespace;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("small.plr");
    let mut recorder = Recorder::start(node, &path, &["--max-size", "64KiB"]);
    stage.endpoints[0].servers[0].behave(Behaviour::Refuse);
    let refused = || stage.callers[0].namespace.tcp_connect(http(false)).is_err();
    assert!(eventually(SOON, refused));
    // A byte for what each connection needs at least: many more than fit.
    let limits = Limits { open: 20_000, close: Close::Reset, ..Limits::default() };
    node.sysctl(&[("net/netfilter/nf_conntrack_tcp_timeout_close", "1")]).unwrap();
    let mut ended = false;
    for _ in 0..20 {
        let client = Client::start(&stage.callers[0].namespace, held(2_000, http(true)), limits).unwrap();
        assert!(eventually(SOON, || client.opened() == 2_000), "{}", client.opened());
        client.stop();
        // Looking lets the kernel forget them at once.
        let forgotten = || {
            ended = recorder.child.try_wait().unwrap().is_some();
            ended || node.text("conntrack", &["-L", "-p", "tcp"]).unwrap().lines().count() < 100
        };
        assert!(eventually(SOON, forgotten));
        if ended {
            break;
        }
    }
    assert!(ended, "it is not full");
    let said = recorder.end();
    assert!(said.contains("--max-size"), "{said}");
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size <= 64 << 10, "{size}");
    let (contents, connections) = read(&path);
    let unanswered = connections.iter().filter(|connection| connection.how == How::Unanswered).count();
    assert!(unanswered > 0 && connections.len() > 3_000, "{unanswered} of {}", connections.len());
    assert_eq!(contents.tail.why, recording::Why::Full);

    let again = node.output(plimsoll().arg("record").arg(&path).stderr(Stdio::piped())).unwrap();
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(1) && error.contains("exists; choose another name"), "{error}");
    let mut without_rights = Command::new("setpriv");
    without_rights.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"]);
    let other = directory.path().join("other.plr");
    without_rights.arg(env!("CARGO_BIN_EXE_plimsoll")).arg("record").arg(&other).stdin(Stdio::null());
    let refused = node.output(&mut without_rights).unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && error.contains("CAP_NET_ADMIN"), "{error}");
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing half-written is left behind"
    );
}
