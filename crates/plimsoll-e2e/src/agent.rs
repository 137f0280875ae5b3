//! An agent: the real program, in a node's namespace.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use plimsoll_api::Status;
use plimsoll_lab::namespace::Namespace;
use plimsoll_lab::{Bound, eventually};
use rustix::process::Signal;

/// How long an agent may take to become ready, to follow, or to stop.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const API: ([u8; 4], u16) = ([127, 0, 0, 1], 9653);

/// An agent; it is killed when this is dropped, and when this process ends.
pub(crate) struct Agent {
    namespace: Namespace,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    process: Option<Bound>,
}

impl Agent {
    /// One that is still to be started.
    pub(crate) fn new(
        namespace: &Namespace,
        program: &Path,
        directory: &Path,
        node: &str,
        config: &str,
    ) -> Result<Agent> {
        let file = directory.join(format!("agent-{node}.yaml"));
        std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Agent {
            namespace: namespace.clone(),
            program: program.to_owned(),
            log: file.with_extension("log"),
            config: file,
            process: None,
        })
    }

    /// Starts it, without waiting for anything.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let process = Bound::start(&self.namespace, &self.program, |command| {
            command.arg("agent").arg("--config").arg(&self.config);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            for variable in ["PLIMSOLL_CONFIG", "PLIMSOLL_NODE", "PLIMSOLL_LOG"] {
                command.env_remove(variable);
            }
        });
        self.process = Some(process.with_context(|| format!("cannot start {}", self.program.display()))?);
        Ok(())
    }

    /// Waits until something holds of its status.
    pub(crate) fn wait(&mut self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            let process = self.process.as_mut().context("the agent does not run")?;
            let ended = process.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                bail!(
                    "the agent of {} is not {what} (its process: {}): {status:?}; its log ends:\n{}",
                    self.namespace.name(),
                    ended.map_or("running".into(), |status| status.to_string()),
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Result<Status> {
        status_on(&self.namespace)
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let namespace = self.namespace.clone();
        let is_ready =
            || namespace.run(|| get(SocketAddr::from(API), "/readyz")).is_ok_and(|(status, _)| status == 200);
        let process = self.process.as_mut().context("the agent does not run")?;
        let mut ended = None;
        let is_over = eventually(PATIENCE, || {
            ended = process.ended().transpose();
            ended.is_some() || is_ready()
        });
        if ended.is_some() || !is_over {
            bail!("the agent is not ready (its process: {ended:?}); its log ends:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the agent does not run")?.id())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        Ok(self.process.as_mut().context("the agent does not run")?.signal(signal)?)
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Ends it with this signal, and waits for that.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let mut process = self.process.take().context("the agent does not run")?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if process.ended()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
        bail!("an agent did not end; its log ends:\n{}", self.log_tail())
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("config=")).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// What the agent of a node says of itself.
pub(crate) fn status_on(node: &Namespace) -> Result<Status> {
    let body = node.run(|| ask("/v1/status"))?;
    serde_json::from_str(&body).with_context(|| format!("no status: {body}"))
}

/// The body of a page, asked for from the namespace of the calling thread.
fn ask(path: &str) -> Result<String> {
    let (status, body) = get(SocketAddr::from(API), path)?;
    if status != 200 {
        bail!("the agent answered {status}: {body}");
    }
    Ok(body)
}

/// One request by HTTP from the namespace of the calling thread: status and body.
pub(crate) fn get(to: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // By HTTP/1.0, so that the answer is neither in chunks nor followed by others.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {to}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (header, body) = text.split_once("\r\n\r\n").with_context(|| format!("not HTTP: {text}"))?;
    let status = header.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.with_context(|| format!("not HTTP: {header}"))?, body.to_owned()))
}
