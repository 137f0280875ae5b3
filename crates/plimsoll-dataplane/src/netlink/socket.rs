//! The socket: requests with their acknowledgements, dumps, events.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::{Error, Message, Refusal, messages};

/// The largest answer the kernel makes of a dump is 32 kB; single messages are far smaller.
const RECEIVE: usize = 64 * 1024;

/// Whom a socket speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// nftables, conntrack.
    Netfilter,
    /// Addresses, links, routes.
    Route,
}

/// What [`Socket::set_buffers`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Bytes of the receive buffer as the kernel reckons them (twice what was asked for).
    pub receive: usize,
    /// Bytes of the send buffer, likewise. One send can be a little less than half of it.
    pub send: usize,
    /// Whether the limits of `net.core` could be passed; they cannot in a user namespace.
    pub forced: bool,
}

/// A netlink socket, closed on exec.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread, which it stays in.
    pub fn open(protocol: Protocol) -> Result<Socket, Error> {
        let number = match protocol {
            Protocol::Netfilter => Some(netlink::NETFILTER),
            // NETLINK_ROUTE is number 0.
            Protocol::Route => None,
        };
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number)
                .map_err(|errno| failed("open a socket", errno))?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))
            .map_err(|errno| failed("bind the socket", errno))?;
        let socket = Socket { fd, buffer: vec![0; RECEIVE] };
        // Old kernels know neither: their errors come without words, that is all.
        let _ = socket.option(libc::NETLINK_EXT_ACK, 1);
        let _ = socket.option(libc::NETLINK_CAP_ACK, 1);
        Ok(socket)
    }

    /// Receives what is sent to a multicast group (`NFNLGRP_…`).
    pub fn join(&self, group: u32) -> Result<(), Error> {
        self.option(libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|source| Error::Io { what: "join a multicast group", source })
    }

    /// Asks for buffers of these sizes in bytes, beyond the limits of `net.core` where that is allowed.
    pub fn set_buffers(&self, receive: usize, send: usize) -> Result<Buffers, Error> {
        let fd = &self.fd;
        let forced = sockopt::set_socket_recv_buffer_size_force(fd, receive).is_ok()
            && sockopt::set_socket_send_buffer_size_force(fd, send).is_ok();
        let sizes = || {
            if !forced {
                sockopt::set_socket_recv_buffer_size(fd, receive)?;
                sockopt::set_socket_send_buffer_size(fd, send)?;
            }
            Ok((sockopt::socket_recv_buffer_size(fd)?, sockopt::socket_send_buffer_size(fd)?))
        };
        let (receive, send) = sizes().map_err(|errno| failed("set the socket's buffers", errno))?;
        Ok(Buffers { receive, send, forced })
    }

    /// Sends messages as one datagram.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    return Err(Error::Io { what: "send (batch too large)", source: Errno::NOBUFS.into() });
                }
                Err(errno) => return Err(failed("send", errno)),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// The next datagram, if one is there.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::NOBUFS) => return Err(Error::Overrun),
                Err(errno) => return Err(failed("receive", errno)),
                Ok((_, whole)) if whole > self.buffer.len() => {
                    return Err(Error::Protocol("a datagram larger than 64 kB"));
                }
                Ok((length, _)) => return Ok(Some(&self.buffer[..length])),
            }
        }
    }

    /// Waits until something can be received; `false` if nothing came in time.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(failed("wait", errno)),
        }
    }

    /// Sends messages and collects what the kernel refused; acknowledgements are dropped. The last message, or any
    /// other, must carry [`ACK`](super::ACK), for no answer at all is an error too.
    ///
    /// The kernel works on what is sent before `send` returns, so all answers are there by then.
    pub fn transact(&mut self, bytes: &[u8], refusals: &mut Vec<Refusal>) -> Result<(), Error> {
        refusals.clear();
        self.send(bytes)?;
        let mut answered = false;
        loop {
            match self.receive() {
                Ok(Some(answer)) => {
                    for verdict in messages(answer).filter_map(|message| message.verdict()) {
                        answered = true;
                        refusals.extend(verdict.err());
                    }
                }
                Ok(None) if answered => return Ok(()),
                Ok(None) => return Err(Error::Protocol("no acknowledgement")),
                // More refusals than fit: those that came tell enough.
                Err(Error::Overrun) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request that asks for a dump and calls `each` for every message of the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when what was dumped changed meanwhile: `each` has seen a mixture; forget it and
    /// dump again.
    pub fn dump(&mut self, request: &[u8], mut each: impl FnMut(Message<'_>)) -> Result<(), Error> {
        self.send(request)?;
        let mut interrupted = false;
        loop {
            let Some(answer) = self.receive()? else {
                // The kernel makes the next part when the last one is taken, so there is always one to wait for.
                if !self.wait(Duration::from_secs(10))? {
                    return Err(Error::Protocol("a dump that does not end"));
                }
                continue;
            };
            for message in messages(answer) {
                interrupted |= message.is_interrupted();
                match message.verdict() {
                    Some(Err(refusal)) => return Err(Error::Refused(refusal)),
                    Some(Ok(())) if interrupted => return Err(Error::Interrupted),
                    Some(Ok(())) => return Ok(()),
                    None => each(message),
                }
            }
        }
    }

    #[allow(unsafe_code)]
    fn option(&self, name: libc::c_int, value: u32) -> io::Result<()> {
        let size = size_of::<u32>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the pointer and the size describe `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_NETLINK, name, (&raw const value).cast(), size)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn failed(what: &'static str, errno: Errno) -> Error {
    Error::Io { what, source: errno.into() }
}
