//! A program that runs in a namespace, writes a log, and never outlives this process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::error::{Error, trying};
use crate::bound::Bound;
use crate::namespace::Namespace;
use crate::patience::eventually;

/// How many of the log's last lines an error shows.
const TAIL: usize = 25;

/// How to start a program, as often as wanted.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) namespace: Namespace,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) log: PathBuf,
}

impl Plan {
    /// Of a program whose log is in this directory, by its name.
    pub(super) fn new(
        name: &'static str,
        namespace: &Namespace,
        program: PathBuf,
        arguments: Vec<String>,
        directory: &Path,
    ) -> Plan {
        let log = directory.join(name).with_extension("log");
        Plan { name, namespace: namespace.clone(), program, arguments, log }
    }

    /// Starts it; what it writes is appended to its log.
    pub(super) fn start(&self) -> Result<Process, Error> {
        let failed = || trying(format!("starting {} (by `setpriv` of util-linux)", self.program.display()));
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed())?;
        let also = log.try_clone().map_err(failed())?;
        let process = Bound::start(&self.namespace, &self.program, |command| {
            command.args(&self.arguments).stdin(Stdio::null()).stdout(log).stderr(also);
        })
        .map_err(failed())?;
        Ok(Process { plan: self.clone(), process })
    }

    fn failed(&self, what: String) -> Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        Error::Program { name: self.name.into(), what, log: self.log.clone(), tail }
    }
}

/// Whether a program runs; one that has ended by itself is forgotten.
pub(super) fn runs(process: &mut Option<Process>) -> bool {
    process.take_if(|process| process.check().is_err());
    process.is_some()
}

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    plan: Plan,
    process: Bound,
}

impl Process {
    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Fails if it has ended.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.process.ended().map_err(trying(format!("looking after {}", self.plan.name)))? {
            None => Ok(()),
            Some(status) => Err(self.plan.failed(format!("it ended ({status})"))),
        }
    }

    /// Waits until something holds, as long as it runs.
    pub(super) fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            if holds() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.plan.failed(format!("not {what} within {} s", limit.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        self.process.signal(signal).map_err(trying(format!("sending a signal to {}", self.plan.name)))
    }

    /// Asks it to end, and kills it when it takes too long.
    pub(super) fn stop(mut self, patience: Duration) {
        if self.process.signal(Signal::TERM).is_ok() {
            eventually(patience, || !matches!(self.process.ended(), Ok(None)));
        }
    }
}
