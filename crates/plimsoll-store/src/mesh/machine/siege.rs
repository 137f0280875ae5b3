//! A machine under arbitrary datagrams, from strangers and from a member gone mad: what a fuzzer calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::report::Report;
use plimsoll_core::service::NodeName;
use plimsoll_core::time::Timestamp;

use super::super::seal::{KeyRing, MAX_DATAGRAM, MAX_MESSAGE};
use super::{Input, Machine, Me, Output};

/// Two nodes that have met; the second is about to go mad.
struct Siege {
    now: Timestamp,
    node: Machine,
    member: Machine,
    out: Vec<Output>,
}

const ADDRESSES: [([u8; 4], u16); 3] = [([10, 0, 0, 1], 9653), ([10, 0, 0, 2], 9653), ([192, 0, 2, 1], 4000)];

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(ADDRESSES[index])
}

fn machine(index: usize, name: &str) -> Machine {
    let me = Me { name: NodeName::new(name), address: address(index), generation: 1 };
    let mut machine = Machine::new(Timestamp::ZERO, me, KeyRing::insecure(), [index as u8; 32]);
    machine.on(Timestamp::ZERO, Input::Peers(vec![address(1 - index)]), &mut Vec::new());
    machine
}

impl Siege {
    fn new() -> Siege {
        let mut siege = Siege {
            now: Timestamp::ZERO,
            node: machine(0, "node"),
            member: machine(1, "member"),
            out: Vec::new(),
        };
        // A greeting, the challenges and their answers, and the news that each is alive.
        for _ in 0..20 {
            siege.now = siege.node.next_wake().min(siege.member.next_wake()).max(siege.now);
            let (now, out) = (siege.now, &mut siege.out);
            siege.node.on(now, Input::Wake, out);
            siege.member.on(now, Input::Wake, out);
            siege.deliver();
            if !siege.node.members.is_empty() && !siege.member.members.is_empty() {
                break;
            }
        }
        assert!(!siege.node.members.is_empty(), "the two did not meet");
        siege
    }

    /// Carries what the two say to each other until they are silent.
    fn deliver(&mut self) {
        while let Some(output) = self.out.pop() {
            let Output::Send { to, bytes } = output else { continue };
            let (machine, from) =
                if to == address(0) { (&mut self.node, address(1)) } else { (&mut self.member, address(0)) };
            machine.on(self.now, Input::Datagram { from, bytes: &bytes }, &mut self.out);
        }
    }

    /// Gives the node a datagram; what a stranger gets back is no longer than what it sent.
    fn strike(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.node.on(self.now, Input::Datagram { from, bytes }, &mut self.out);
        for output in self.out.drain(..) {
            let Output::Send { to, bytes: answer } = output else { continue };
            assert!(answer.len() <= MAX_DATAGRAM, "a datagram of {} bytes", answer.len());
            assert!(to != address(2) || answer.len() <= bytes.len(), "a stranger can amplify");
        }
    }

    fn live(&mut self, step: Duration) {
        self.now = self.now + step;
        let report = Report {
            node: NodeName::new("node"),
            age: Duration::ZERO,
            opens_per_second: 1.0,
            hosted: Vec::new(),
            sent: Vec::new(),
        };
        self.node.on(self.now, Input::Publish(Arc::new(report)), &mut self.out);
        self.node.on(self.now, Input::Wake, &mut self.out);
        self.out.clear();
    }
}

/// Reads arbitrary bytes as a sequence of datagrams (a byte that says what is done with it, two bytes of length,
/// low one first, and its bytes) and gives them to a node that has one other member. By the two lowest bits of the
/// first byte: 0 a stranger sends it, 1 it comes from the member's address, 2 the member seals it, 3 it is
/// ignored and time passes. Returns how many there were.
pub fn check_bytes(bytes: &[u8]) -> usize {
    let mut siege = Siege::new();
    let (mut rest, mut count) = (bytes, 0);
    while let Some((&[what, low, high], tail)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(tail.len());
        let (datagram, tail) = tail.split_at(length);
        rest = tail;
        count += 1;
        match what & 3 {
            0 => siege.strike(address(2), datagram),
            1 => siege.strike(address(1), datagram),
            2 => {
                let message = &datagram[..length.min(MAX_MESSAGE)];
                let sealed = siege.member.sealer.seal(siege.node.me.start.mark(), message);
                siege.strike(address(1), &sealed);
            }
            _ => siege.live(Duration::from_millis(50) * u32::from(what >> 2)),
        }
    }
    siege.live(Duration::from_mins(1));
    count
}
