//! Processes that all end with the first of them, however that ends, and that see mounts of their own: what they
//! start, detach and mount is gone when it is. Needs root.
//!
//! [`Enclosure::start`] starts that first process; first thing, before it has threads, it calls [`enter`].

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use crate::namespace::{Error, unshare};

/// The first process of a PID namespace; it is killed, and with it all others, when this is dropped.
pub struct Enclosure {
    child: Child,
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Enclosure {
    /// Starts a program with the arguments and the environment of this command. The kernel kills it when this process
    /// ends.
    pub fn start(command: &Command) -> Result<Enclosure, Error> {
        let failed = |source| Error::Kernel { what: format!("starting {command:?} apart"), source };
        // As every program of the laboratory that must not outlive it: see `control_plane`.
        let mut whole = Command::new("setpriv");
        whole.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        whole.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let (tell, told) = channel();
        let (hold, held) = channel::<()>();
        // On a thread that stays, and that starts nothing else: from now on it may not even have threads.
        let thread = thread::Builder::new()
            .name("enclosure".into())
            .spawn(move || {
                let _ = tell.send(unshare(UnshareFlags::NEWPID).and_then(|()| whole.spawn()));
                let _ = held.recv();
            })
            .map_err(failed)?;
        let child = told.recv().expect("the thread tells before it ends").map_err(failed)?;
        Ok(Enclosure { child, hold: Some(hold), thread: Some(thread) })
    }

    /// How the first process ended, if it has: then all others have as well.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // The kernel gives the first process free when the last of the others is gone.
        let _ = self.child.wait();
        self.hold = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What kubelet would set for the whole machine, and to what.
const OF_THE_MACHINE: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Gives this process, the first of its PID namespace, and all that it starts mounts of their own: `/run` is empty,
/// `/var/lib` and `/var/log` are in this directory, and what a kubelet would set for the whole machine looks as if it were set.
pub fn enter(directory: &Path) -> Result<(), Error> {
    let failed = |what: &str| {
        let what = format!("{what} in an enclosure");
        move |source: io::Error| Error::Kernel { what, source }
    };
    unshare(UnshareFlags::NEWNS).map_err(failed("making mounts of its own"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| failed("keeping mounts to itself")(errno.into()))?;
    // Processes are numbered anew.
    for (kind, at) in [("proc", "/proc"), ("tmpfs", "/run")] {
        mount(kind, at, kind, MountFlags::NOSUID | MountFlags::NODEV, None)
            .map_err(|errno| failed(&format!("mounting {at}"))(errno.into()))?;
    }
    let bind = |from: &Path, at: &str| {
        mount_bind(from, at).map_err(|errno| failed(&format!("mounting {at}"))(errno.into()))
    };
    for at in ["/var/lib", "/var/log"] {
        let own = directory.join(at.trim_start_matches('/'));
        fs::create_dir_all(&own).map_err(failed(&format!("making {}", own.display())))?;
        bind(&own, at)?;
    }
    for (name, value) in OF_THE_MACHINE {
        let own = directory.join(name.replace('/', "."));
        fs::write(&own, value).map_err(failed(&format!("writing {}", own.display())))?;
        bind(&own, &format!("/proc/sys/{name}"))?;
    }
    Ok(())
}
