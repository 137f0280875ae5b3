//! SCTP by raw packets: the kernel tracks and translates it even where it has no SCTP sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use plimsoll_core::plan::{Change, Plan};
use plimsoll_core::service::{EndpointId, Family, Key, Place, Protocol, ServiceId};
use plimsoll_core::table::{Choose, KeyEntry, Masquerade, ServiceTable, Weighted};
use plimsoll_dataplane::Dataplane;
use plimsoll_dataplane::nftables::{Config, NftablesDataplane, Setup, Terms};
use plimsoll_lab::cluster::{Cluster, Host};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::stage::{SOON, find, vip};

const PORT: u16 = 9000;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// Associations that are opened.
const ASSOCIATIONS: u16 = 32;

/// A packet of one INIT or INIT ACK chunk; the tag of one is what the other is to be verified by.
fn packet(from: u16, to: u16, chunk: u8, tag: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(if chunk == INIT { 0 } else { tag }.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend((tag + u32::from(chunk == INIT_ACK)).to_be_bytes());
    packet.extend([0, 0, 0x20, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// CRC-32C, as RFC 9260 asks for.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(sum & 1)))
    })
}

fn is_sound(packet: &[u8]) -> bool {
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    packet[8..12] == checksum(&zeroed).to_le_bytes()
}

/// Raw SCTP at a host.
struct Raw {
    socket: OwnedFd,
    v6: bool,
}

impl Raw {
    fn open(host: &Host, v6: bool) -> Raw {
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let protocol = rustix::net::ipproto::SCTP;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let open = || rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol));
        Raw { socket: host.namespace.run(open).unwrap(), v6 }
    }

    fn send(&self, packet: &[u8], to: IpAddr) {
        rustix::net::sendto(&self.socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
    }

    /// The packets that are there, with their senders.
    fn receive(&self) -> Vec<(IpAddr, Vec<u8>)> {
        let mut packets = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((length, _, from)) = rustix::net::recvfrom(&self.socket, &mut buffer, RecvFlags::empty())
        {
            // In front of IPv4 there is its header, of four times the low half of the first byte.
            let header = if self.v6 { 0 } else { usize::from(buffer[0] & 0xf) * 4 };
            let from = SocketAddr::try_from(from.unwrap()).unwrap().ip();
            packets.push((from, buffer[header..length].to_vec()));
        }
        packets
    }
}

fn associations_follow_the_weights(v6: bool) {
    if !plimsoll_lab::available(&["ip", "conntrack"]) {
        return;
    }
    let mut cluster = Cluster::new(1).unwrap();
    let hosts: Vec<Host> = (0..2).map(|_| cluster.add_endpoint(0).unwrap()).collect();
    let caller = cluster.add_endpoint(0).unwrap();
    let address = |host: &Host| if v6 { IpAddr::V6(host.v6) } else { IpAddr::V4(host.v4) };
    let id = |host: &Host| EndpointId { address: address(host), port: PORT, protocol: Protocol::Sctp };
    let node = cluster.nodes[0].host.namespace.clone();
    let mut dataplane = node
        .run(|| {
            let terms = Terms::new(Setup::default(), Duration::from_hours(1));
            NftablesDataplane::open(Config::default(), terms)
        })
        .unwrap();
    let key = Key { place: Place::Internal(vip(v6).ip()), port: 80, protocol: Protocol::Sctp };
    let table = ServiceTable {
        protocol: Protocol::Sctp,
        keys: vec![KeyEntry { key, choose: Choose::Cluster, masquerade: Masquerade::FromOutside }],
        affinity: None,
        cluster: hosts
            .iter()
            .zip([1, 3])
            .map(|(host, weight)| Weighted { endpoint: id(host), weight })
            .collect(),
        local: Vec::new(),
    };
    let family = if v6 { Family::V6 } else { Family::V4 };
    let service = ServiceId { name: "sigtran".into(), port: "".into(), family };
    let endpoints: std::collections::BTreeSet<EndpointId> = hosts.iter().map(id).collect();
    let plan = Plan {
        fresh: true,
        changes: vec![Change::Replace(service, table)],
        host: endpoints.clone(),
        know: endpoints,
        ..Plan::default()
    };
    dataplane.apply(&plan).unwrap();

    let servers: Vec<Raw> = hosts.iter().map(|host| Raw::open(host, v6)).collect();
    let client = Raw::open(&caller, v6);
    for from in 0..ASSOCIATIONS {
        client.send(&packet(5000 + from, 80, INIT, 1000 + u32::from(from)), vip(v6).ip());
    }
    let mut served: BTreeMap<usize, usize> = BTreeMap::new();
    let mut answered = 0;
    let deadline = Instant::now() + SOON;
    while answered < usize::from(ASSOCIATIONS) && Instant::now() < deadline {
        let mut ready: Vec<PollFd<'_>> =
            servers.iter().chain([&client]).map(|raw| PollFd::new(&raw.socket, PollFlags::IN)).collect();
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
        for (i, server) in servers.iter().enumerate() {
            for (from, init) in server.receive() {
                assert!(is_sound(&init), "translated with a wrong checksum");
                assert_eq!(u16::from_be_bytes([init[2], init[3]]), PORT);
                let port = u16::from_be_bytes([init[0], init[1]]);
                let tag = u32::from_be_bytes([init[16], init[17], init[18], init[19]]);
                server.send(&packet(PORT, port, INIT_ACK, tag), from);
                *served.entry(i).or_default() += 1;
            }
        }
        for (from, ack) in client.receive().into_iter().filter(|(_, packet)| packet[12] == INIT_ACK) {
            assert_eq!((from, u16::from_be_bytes([ack[0], ack[1]])), (vip(v6).ip(), 80));
            answered += 1;
        }
    }
    assert_eq!(answered, usize::from(ASSOCIATIONS));
    assert_eq!(served.into_values().collect::<Vec<_>>(), [8, 24], "weights 1 : 3");

    let counts = dataplane.read().unwrap();
    let opened = |counts: &[plimsoll_core::load::Count]| {
        hosts.iter().map(|host| find(counts, id(host)).opened).collect::<Vec<_>>()
    };
    assert_eq!((opened(&counts.hosted), opened(&counts.sent)), (vec![8, 24], vec![8, 24]));
    // Only conntrack tells the end.
    let family = if v6 { "ipv6" } else { "ipv4" };
    node.text("conntrack", &["-D", "-f", family, "-p", "sctp"]).unwrap();
    let all_closed = || {
        let counts = dataplane.read().unwrap();
        hosts.iter().all(|host| find(&counts.hosted, id(host)).open == 0)
    };
    assert!(plimsoll_lab::eventually(SOON, all_closed), "the ends were not counted");
}

#[test]
fn sctp_associations_follow_the_weights_over_ipv4() {
    associations_follow_the_weights(false);
}

#[test]
fn sctp_associations_follow_the_weights_over_ipv6() {
    associations_follow_the_weights(true);
}
