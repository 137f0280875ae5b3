//! Processes that all end with the first of them, however that ends, and that see mounts of their own: what they
//! start, detach and mount is gone when it is. Needs root.
//!
//! [`start`] starts that first process; first thing, before it has threads, it calls [`enter`].

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use crate::bound::Bound;
use crate::namespace::{Error, unshare};

/// Starts a program with the arguments and the environment of this command, as the first process of a PID namespace:
/// when it is killed, all others are, and it is over when the last of them is gone.
pub fn start(command: &Command) -> Result<Bound, Error> {
    let program = Path::new(command.get_program());
    Bound::start_where(
        program,
        || unshare(UnshareFlags::NEWPID),
        |whole| {
            whole.args(command.get_args());
            whole.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        },
    )
    .map_err(|source| Error::Kernel { what: format!("starting {command:?} apart"), source })
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
