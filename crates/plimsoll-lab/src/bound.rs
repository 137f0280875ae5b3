//! A program in a namespace that never outlives this process, however this process ends.

use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use crate::namespace::Namespace;

/// A running program; it is killed when this is dropped, and by the kernel when this process ends.
#[derive(Debug)]
pub struct Bound {
    child: Child,
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bound {
    /// Starts a program (by `setpriv` of util-linux), with the arguments and all else that `with` gives its command.
    pub fn start(
        namespace: &Namespace,
        program: &Path,
        with: impl FnOnce(&mut Command),
    ) -> io::Result<Bound> {
        let namespace = namespace.clone();
        Bound::start_where(program, move || namespace.enter().map_err(io::Error::other), with)
    }

    /// The same, where `enter` takes the thread that starts it.
    pub(crate) fn start_where(
        program: &Path,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
        with: impl FnOnce(&mut Command),
    ) -> io::Result<Bound> {
        // By `setpriv`, since between fork and exec of a process with threads there is little that may be done.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        with(&mut command);
        // The kernel ends it when the thread that started it ends, so that thread stays, and starts nothing else.
        let (tell, told) = channel();
        let (hold, held) = channel::<()>();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let thread = thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let _ = tell.send(enter().and_then(|()| command.spawn()));
            let _ = held.recv();
        })?;
        let child = told.recv().expect("the thread tells before it ends")?;
        Ok(Bound { child, hold: Some(hold), thread: Some(thread) })
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Not a process that has ended: its number may be another's by now.
        match self.ended()? {
            None => Ok(kill_process(Pid::from_child(&self.child), signal)?),
            Some(status) => Err(io::Error::other(format!("it has ended ({status})"))),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hold = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
