//! One network namespace: made, entered, configured.

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A laboratory step that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("{what}: {source} (root or `unshare -Urnm` is needed)")]
    Kernel {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{program}` failed in namespace {namespace}: {message}")]
    Program {
        /// Which program, with its input.
        program: String,
        /// Where.
        namespace: String,
        /// What it said.
        message: String,
    },
}

/// A network namespace that lives as long as this value (and what runs in it). Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// Makes an empty namespace with its loopback up. The name is only used in messages.
    pub fn new(name: &str) -> Result<Namespace, Error> {
        let namespace = Namespace::bare(name)?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes an empty namespace as the kernel makes it, with its loopback down; needs no program.
    pub fn bare(name: &str) -> Result<Namespace, Error> {
        let file =
            thread::scope(|scope| scope.spawn(make).join().expect("making a namespace does not panic"))
                .map_err(|source| Error::Kernel {
                    what: format!("making network namespace {name}"),
                    source,
                })?;
        Ok(Namespace { name: name.into(), file: Arc::new(file) })
    }

    /// The namespace of the calling thread: what is started there shares its addresses and ports with whoever else
    /// is in it.
    pub fn current() -> Result<Namespace, Error> {
        let file =
            own().map_err(|source| Error::Kernel { what: "opening the own namespace".into(), source })?;
        Ok(Namespace { name: "current".into(), file: Arc::new(file) })
    }

    /// The namespace of another process.
    pub fn of_process(name: &str, process: u32) -> Result<Namespace, Error> {
        let path = format!("/proc/{process}/ns/net");
        let failed =
            |source| Error::Kernel { what: format!("opening {path}, the namespace of {name}"), source };
        Ok(Namespace { name: name.into(), file: Arc::new(File::open(&path).map_err(failed)?) })
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path other programs can open to enter it while this process lives (`ip link set … netns PATH`,
    /// `nsenter --net=PATH`).
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Moves the calling thread into the namespace, for good. Sockets it has stay where they were made.
    pub fn enter(&self) -> Result<(), Error> {
        // Who is there needs no right to go there.
        if self.is_own() {
            return Ok(());
        }
        let file: &File = &self.file;
        move_into_link_name_space(rustix::fd::AsFd::as_fd(file), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Error::Kernel { what: format!("entering {}", self.name), source: errno.into() })
    }

    /// Runs a closure inside, on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter().expect("a namespace that was made can be entered");
                    inside()
                })
                .join()
        });
        match result {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread_name: &str,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let namespace = self.clone();
        thread::Builder::new().name(thread_name.chars().take(15).collect()).spawn(move || {
            namespace.enter().expect("a namespace that was made can be entered");
            inside()
        })
    }

    /// Starts a program inside: a child process is in the namespace of the thread that starts it.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())
    }

    /// Runs a program inside and gives its output, whatever its exit status.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())
    }

    /// Runs lines of `ip` commands (without the word `ip`) in one process; fails at the first that fails.
    pub fn ip(&self, lines: &str) -> Result<(), Error> {
        self.feed(Command::new("ip").args(["-batch", "-"]), lines).map(|_| ())
    }

    /// Loads an nft file.
    pub fn nft(&self, text: &str) -> Result<(), Error> {
        self.feed(Command::new("nft").args(["-f", "-"]), text).map(|_| ())
    }

    /// What a program prints; an error when its exit status is not 0.
    pub fn text(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        self.feed(Command::new(program).args(arguments), "")
    }

    /// Sets kernel parameters of the namespace: `("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| {
            for (name, value) in settings {
                std::fs::write(format!("/proc/sys/{name}"), value).map_err(|source| Error::Kernel {
                    what: format!("setting {name} to {value} in {}", self.name),
                    source,
                })?;
            }
            Ok(())
        })
    }

    /// A TCP listener made inside; it can be used from any thread.
    pub fn tcp_listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind(at))
    }

    /// A TCP connection made inside.
    pub fn tcp_connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, std::time::Duration::from_secs(5)))
    }

    /// A UDP socket made inside.
    pub fn udp(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        self.run(|| UdpSocket::bind(at))
    }

    /// Whether the calling thread is in it.
    fn is_own(&self) -> bool {
        let number = |file: io::Result<File>| file.and_then(|file| file.metadata()).map(|file| file.ino());
        matches!((number(own()), number(self.file.try_clone())), (Ok(here), Ok(there)) if here == there)
    }

    fn feed(&self, command: &mut Command, input: &str) -> Result<String, Error> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = format!("{command:?} <<< {}", input.chars().take(400).collect::<String>());
        let failed = |message: String| Error::Program {
            program: program.clone(),
            namespace: self.name.to_string(),
            message,
        };
        let mut child = self.start(command).map_err(|error| failed(error.to_string()))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let (written, output) = thread::scope(|scope| {
            // Written beside the reading, so that neither side waits for the other with a full pipe.
            let writer = scope.spawn(move || stdin.write_all(input.as_bytes()));
            let output = child.wait_with_output();
            (writer.join().expect("writing does not panic"), output)
        });
        let output = output.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
        }
        written.map_err(|error| failed(error.to_string()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn make() -> io::Result<File> {
    unshare(UnshareFlags::NEWNET)?;
    own()
}

fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Makes this process, not root, root over user, network and mount namespaces of its own. Call it first thing in
/// `main`: the kernel refuses it once there are threads. Does nothing for root.
///
/// Test binaries have threads before any test runs; without root they are started under `unshare -Urnm`.
pub fn enter_rootless() -> Result<(), Error> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() {
        return Ok(());
    }
    let kernel = |what: &str| {
        let what = format!("{what} without root (user namespaces must be allowed)");
        move |source| Error::Kernel { what, source }
    };
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)
        .map_err(kernel("making namespaces"))?;
    std::fs::write("/proc/self/setgroups", "deny").map_err(kernel("giving up groups"))?;
    std::fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))
        .map_err(kernel("mapping the user"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
        .map_err(kernel("mapping the group"))
}

/// The calling thread leaves namespaces for new ones.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: unsafe only for CLONE_FILES, which would let threads disagree about descriptors; it is not used.
    #[allow(unsafe_code)]
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}
