//! Waiting for many sockets on one thread.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

/// The token that [`Poll::wait`] hands out when somebody woke it.
pub(crate) const WOKEN: u64 = u64::MAX;

/// An epoll set and a way to wake who waits for it.
pub(crate) struct Poll {
    epoll: OwnedFd,
    wake: OwnedFd,
}

/// Wakes the thread that waits.
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn wake(&self) {
        // A full counter means that it is awake already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Poll {
    pub(crate) fn new() -> io::Result<(Poll, Waker)> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let waker = Waker(wake.try_clone()?);
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WOKEN), epoll::EventFlags::IN)?;
        Ok((Poll { epoll, wake }, waker))
    }

    /// From now on reports when the socket can be read (or has ended), or when it can be written once.
    pub(crate) fn add(&self, socket: impl AsFd, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags)?)
    }

    pub(crate) fn change(&self, socket: impl AsFd, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(token), flags)?)
    }

    /// The tokens of the sockets that are ready, after at most `limit`.
    pub(crate) fn wait(&self, limit: Duration, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let mut events = [const { MaybeUninit::uninit() }; 256];
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let events: &[epoll::Event] = match epoll::wait(&self.epoll, &mut events[..], Some(&limit)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for event in events {
            let token = event.data.u64();
            if token == WOKEN {
                let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            }
            ready.push(token);
        }
        Ok(())
    }
}

/// Lets the process have as many descriptors as the system allows it.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
