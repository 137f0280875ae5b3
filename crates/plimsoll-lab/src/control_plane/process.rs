//! A program that runs in a namespace, writes a log, and never outlives this process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::{Error, trying};
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
    /// Starts it; what it writes is appended to its log.
    pub(super) fn start(&self) -> Result<Process, Error> {
        let failed = || trying(format!("starting {} (by `setpriv` of util-linux)", self.program.display()));
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed())?;
        let also = log.try_clone().map_err(failed())?;
        // The kernel ends it when the thread that started it ends, so that thread stays. By `setpriv`, since between
        // fork and exec of a process with threads there is little that may be done.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log).stderr(also);
        let (tell, told) = channel();
        let (hold, held) = channel::<()>();
        let thread = self
            .namespace
            .spawn(self.name, move || {
                let _ = tell.send(command.spawn());
                let _ = held.recv();
            })
            .map_err(failed())?;
        let child = told.recv().expect("the thread tells before it ends").map_err(failed())?;
        Ok(Process { plan: self.clone(), child, hold: Some(hold), thread: Some(thread) })
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
    child: Child,
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait().map_err(trying(format!("looking after {}", self.plan.name)))? {
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
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| trying(format!("sending a signal to {}", self.plan.name))(errno.into()))
    }

    /// Asks it to end, and kills it when it takes too long.
    pub(super) fn stop(mut self, patience: Duration) {
        let child = &mut self.child;
        // Not a process that has ended: its number may be another's by now.
        if matches!(child.try_wait(), Ok(None)) && kill_process(Pid::from_child(child), Signal::TERM).is_ok()
        {
            eventually(patience, || !matches!(child.try_wait(), Ok(None)));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hold = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
