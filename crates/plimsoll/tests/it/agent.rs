//! An agent as a process of its own, and questions to it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use plimsoll_api::{Explanation, Status};
use plimsoll_lab::eventually;
use plimsoll_lab::namespace::Namespace;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::stage::SOON;

/// The program under test.
pub(crate) fn plimsoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.stdin(Stdio::null()).env_remove("PLIMSOLL_LOG").env_remove("PLIMSOLL_NODE");
    command
}

/// An answer of the HTTP API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header, in lower case.
    pub(crate) header: String,
    pub(crate) body: String,
}

pub(crate) struct Agent {
    pub(crate) namespace: Namespace,
    pub(crate) config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Whether it may do no more than in its container.
    pub(crate) confined: bool,
}

impl Agent {
    /// An agent that is still to be started.
    pub(crate) fn new(namespace: &Namespace, directory: &Path, node: usize, config: &str) -> Agent {
        let at = directory.join(format!("node{node}.yaml"));
        std::fs::write(&at, config).unwrap();
        let log = directory.join(format!("node{node}.log"));
        Agent { namespace: namespace.clone(), config: at, log, child: None, confined: false }
    }

    /// Starts it, without waiting for anything.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = plimsoll();
        if self.confined {
            command = Command::new("setpriv");
            // As the chart's securityContext: root with this one capability, and no way to more.
            command.args(["--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs", "--"]);
            command.arg(plimsoll().get_program()).stdin(Stdio::null()).env_remove("PLIMSOLL_LOG");
        }
        command.arg("agent").arg("--config").arg(&self.config).stdout(Stdio::null()).stderr(log);
        self.child = Some(self.namespace.start(&mut command).unwrap());
    }

    /// Waits until it is ready.
    pub(crate) fn wait_ready(&mut self) {
        let ready = eventually(SOON, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended: {ended:?}; its log:\n{}", self.log());
            self.ask("/readyz").is_some_and(|answer| answer.status == 200)
        });
        assert!(ready, "the agent did not become ready; its log:\n{}", self.log());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Sets how many files it may have open; `None`: as many as this process.
    pub(crate) fn limit_open_files(&self, limit: Option<u64>) {
        let child = self.child.as_ref().expect("it runs");
        let own = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: limit.or(own.current), ..own };
        prlimit(Some(Pid::from_child(child)), Resource::Nofile, limit).unwrap();
    }

    /// Sends a signal that ends it, and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        let mut status = None;
        let ended = eventually(SOON, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        if !ended {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the agent did not end; its log:\n{}", self.log());
        }
        status.unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether the kernel has our table in this node's namespace.
    pub(crate) fn has_table(&self) -> bool {
        self.namespace.text("nft", &["list", "tables"]).unwrap().contains("inet plimsoll")
    }

    /// Gets a page; nothing if nobody answers.
    pub(crate) fn ask(&self, path: &str) -> Option<Answer> {
        self.namespace.run(|| ask(([127, 0, 0, 1], 9653).into(), path).ok())
    }

    /// Gets a page that must be there.
    pub(crate) fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.ask(path).unwrap_or_else(|| panic!("no answer to {path}; log:\n{}", self.log()));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        self.get("/v1/status")
    }

    /// The Service for this port (`http`, `dns`), for both families in their order.
    pub(crate) fn explain(&self, port: &str) -> [Explanation; 2] {
        let explanations: Vec<Explanation> = self.get(&format!("/v1/explain?service=web:{port}"));
        explanations.try_into().expect("there are both families")
    }

    /// A metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.ask("/metrics").unwrap().body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            // Not the line with the whole configuration.
            let last: Vec<&str> = log.lines().filter(|line| !line.contains("config=")).collect();
            let last = &last[last.len().saturating_sub(20)..];
            eprintln!("--- {} ends:", self.log.display());
            eprintln!("{}", last.join("\n"));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One request, from the namespace of the calling thread.
fn ask(to: SocketAddr, path: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let broken = || std::io::Error::other(format!("not HTTP: {text}"));
    let (header, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = header.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(broken)?;
    Ok(Answer { status, header: header.to_lowercase(), body: body.into() })
}
