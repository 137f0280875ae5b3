//! SCTP by raw packets, as far as the start of an association goes: the kernel tracks and translates it even where it
//! has no SCTP sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::namespace::Namespace;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// Bytes in front of the parameters of a chunk.
const FIXED: usize = 20;
/// The parameter that carries what the other side is to send back.
const COOKIE: u16 = 7;

/// A packet of one chunk, INIT or INIT ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The port it comes from.
    pub from: u16,
    /// The port it goes to.
    pub to: u16,
    /// Whether it acknowledges another.
    pub acknowledges: bool,
    /// The tag of the one who began the association.
    pub tag: u32,
    /// The cookie of an INIT ACK.
    pub cookie: Vec<u8>,
}

impl Packet {
    /// The start of an association.
    pub fn init(from: u16, to: u16, tag: u32) -> Packet {
        Packet { from, to, acknowledges: false, tag, cookie: Vec::new() }
    }

    /// The answer to it.
    #[must_use]
    pub fn acknowledgement(&self, cookie: &[u8]) -> Packet {
        Packet { from: self.to, to: self.from, acknowledges: true, tag: self.tag, cookie: cookie.into() }
    }

    fn bytes(&self) -> Vec<u8> {
        let cookie = if self.cookie.is_empty() { 0 } else { self.cookie.len() + 4 };
        let mut packet = Vec::new();
        packet.extend(self.from.to_be_bytes());
        packet.extend(self.to.to_be_bytes());
        packet.extend(if self.acknowledges { self.tag } else { 0 }.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([if self.acknowledges { INIT_ACK } else { INIT }, 0]);
        packet.extend(((FIXED + cookie) as u16).to_be_bytes());
        packet.extend((self.tag + u32::from(self.acknowledges)).to_be_bytes());
        packet.extend([0, 0, 0x20, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        if cookie > 0 {
            packet.extend(COOKIE.to_be_bytes());
            packet.extend((cookie as u16).to_be_bytes());
            packet.extend(&self.cookie);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        let sum = checksum(&packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
        packet
    }

    /// Reads one. Nothing where it is another chunk, or where the checksum is wrong.
    fn read(bytes: &[u8]) -> Option<Packet> {
        let mut zeroed = bytes.to_vec();
        zeroed.get_mut(8..12)?.fill(0);
        let number = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let acknowledges = *bytes.get(12)? == INIT_ACK;
        if bytes[8..12] != checksum(&zeroed).to_le_bytes() || !(acknowledges || bytes[12] == INIT) {
            return None;
        }
        let tag = long(if acknowledges { 4 } else { 16 })?;
        let cookie = 12 + FIXED;
        let cookie = match number(cookie) {
            Some(COOKIE) => bytes.get(cookie + 4..cookie + usize::from(number(cookie + 2)?))?.to_vec(),
            _ => Vec::new(),
        };
        Some(Packet { from: number(0)?, to: number(2)?, acknowledges, tag, cookie })
    }
}

/// CRC-32C, as RFC 9260 asks for.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(sum & 1)))
    })
}

/// A raw socket for SCTP.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    v6: bool,
}

impl Raw {
    /// Opens one inside the namespace.
    pub fn open(namespace: &Namespace, v6: bool) -> io::Result<Raw> {
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let protocol = rustix::net::ipproto::SCTP;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            namespace.run(|| rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol)))?;
        Ok(Raw { socket, v6 })
    }

    /// Sends a packet.
    pub fn send(&self, packet: &Packet, to: IpAddr) -> io::Result<()> {
        let to = SocketAddr::new(to, 0);
        rustix::net::sendto(&self.socket, &packet.bytes(), SendFlags::empty(), &to)?;
        Ok(())
    }

    /// The sound packets that are there, with their senders; and whether an ICMP error came in between, which only
    /// reaches sockets that are connected.
    pub fn receive(&self) -> (Vec<(IpAddr, Packet)>, bool) {
        let (mut packets, mut refused) = (Vec::new(), false);
        let mut buffer = [0; 2048];
        loop {
            match rustix::net::recvfrom(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    // In front of IPv4 there is its header, of four times the low half of the first byte.
                    let header = if self.v6 { 0 } else { usize::from(buffer[0] & 0xf) * 4 };
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    let packet = buffer.get(header..length).and_then(Packet::read);
                    packets.extend(from.map(|from| from.ip()).zip(packet));
                }
                Err(Errno::CONNREFUSED) => refused = true,
                Err(_) => return (packets, refused),
            }
        }
    }

    /// Waits until there is something to receive, or the time is up.
    pub fn wait(&self, limit: Duration) {
        wait(&[self], limit);
    }
}

fn wait(sockets: &[&Raw], limit: Duration) {
    let mut ready: Vec<PollFd<'_>> =
        sockets.iter().map(|raw| PollFd::new(&raw.socket, PollFlags::IN)).collect();
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    // An interrupted wait is a short one.
    let _ = poll(&mut ready, Some(&limit));
}

/// Answers each INIT to one of its ports, in both families, with its name and the client's address in the cookie, after a space.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one inside the namespace; it ends when it is dropped.
    pub fn start(namespace: &Namespace, name: &str, ports: Range<u16>) -> io::Result<Server> {
        let sockets = [Raw::open(namespace, false)?, Raw::open(namespace, true)?];
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), name.to_owned());
        let serve = move || {
            while !stopped.load(Ordering::SeqCst) {
                wait(&[&sockets[0], &sockets[1]], Duration::from_millis(100));
                for socket in &sockets {
                    for (client, packet) in socket.receive().0 {
                        if ports.contains(&packet.to) && !packet.acknowledges {
                            let cookie = format!("{name} {client}");
                            // A client that is gone needs no answer.
                            let _ = socket.send(&packet.acknowledgement(cookie.as_bytes()), client);
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("sctp".into()).spawn(serve)?;
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What became of the start of an association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was in the cookie.
    Cookie(String),
    /// An ICMP error.
    Refused,
    /// Nothing in time.
    Silence,
}

/// Begins this many associations with an address, from ports from `first` on, and waits for the answers.
pub fn dial(
    namespace: &Namespace,
    to: SocketAddr,
    first: u16,
    count: u16,
    limit: Duration,
) -> io::Result<Vec<Answer>> {
    let socket = Raw::open(namespace, to.is_ipv6())?;
    rustix::net::connect(&socket.socket, &SocketAddr::new(to.ip(), 0))?;
    let mut refused = false;
    for number in 0..count {
        let sent = socket.send(&Packet::init(first + number, to.port(), 1 + u32::from(number)), to.ip());
        // The error of an earlier one, or of a rule on this very host.
        refused |= sent.is_err();
    }
    let mut cookies: BTreeMap<u16, String> = BTreeMap::new();
    let deadline = Instant::now() + limit;
    while cookies.len() < usize::from(count) && !refused {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.wait(left);
        let (packets, error) = socket.receive();
        refused |= error;
        for (_, packet) in packets {
            if packet.acknowledges && packet.from == to.port() && packet.to.wrapping_sub(first) < count {
                cookies.insert(packet.to, String::from_utf8_lossy(&packet.cookie).into_owned());
            }
        }
    }
    let missing = usize::from(count) - cookies.len();
    let rest = if refused { Answer::Refused } else { Answer::Silence };
    Ok(cookies.into_values().map(Answer::Cookie).chain(std::iter::repeat_n(rest, missing)).collect())
}
