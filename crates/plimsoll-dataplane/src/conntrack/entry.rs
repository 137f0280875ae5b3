//! One connection as ctnetlink tells it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use plimsoll_core::service::{EndpointId, Protocol};

use super::{DELETE, NEW};
use crate::netlink::{Attributes, Builder, Message, messages};

/// `enum ctattr_type`.
pub(super) mod kind {
    pub(in super::super) const TUPLE_ORIG: u16 = 1;
    pub(in super::super) const TUPLE_REPLY: u16 = 2;
    pub(in super::super) const STATUS: u16 = 3;
    pub(in super::super) const PROTOINFO: u16 = 4;
    pub(in super::super) const TIMEOUT: u16 = 7;
    pub(in super::super) const MARK: u16 = 8;
    pub(in super::super) const ID: u16 = 12;
    pub(in super::super) const ZONE: u16 = 18;
    pub(in super::super) const TIMESTAMP: u16 = 20;
    pub(in super::super) const MARK_MASK: u16 = 21;
    pub(in super::super) const FILTER: u16 = 25;
    pub(in super::super) const STATUS_MASK: u16 = 26;
}

/// `enum ctattr_tuple` and what is nested in it.
mod tuple {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTO: u16 = 2;
    pub(super) const ZONE: u16 = 3;
    pub(super) const V4_SOURCE: u16 = 1;
    pub(super) const V4_DESTINATION: u16 = 2;
    pub(super) const V6_SOURCE: u16 = 3;
    pub(super) const V6_DESTINATION: u16 = 4;
    pub(super) const PROTO_NUMBER: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
}

pub(super) const PROTOINFO_TCP: u16 = 1;
pub(super) const PROTOINFO_TCP_STATE: u16 = 1;

pub(super) const SEEN_REPLY: u32 = 1 << 1;
pub(super) const ASSURED: u32 = 1 << 2;
pub(super) const DST_NAT: u32 = 1 << 5;

/// One direction's addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// What names a connection towards the kernel: its original direction and its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    protocol: u8,
    pub(crate) original: Direction,
    zone: u16,
    /// The zone holds for the original direction alone.
    directed_zone: bool,
}

/// How far conntrack thinks a TCP connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// No SYN-ACK and ACK yet.
    Opening,
    /// Both sides may send.
    Established,
    /// A FIN or a RST was seen.
    Closing,
}

impl TcpState {
    /// From `enum tcp_conntrack`.
    fn from_number(number: u8) -> Option<TcpState> {
        match number {
            // NONE, SYN_SENT, SYN_RECV, SYN_SENT2.
            0..=2 | 9 => Some(TcpState::Opening),
            3 => Some(TcpState::Established),
            // FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE.
            4..=8 => Some(TcpState::Closing),
            _ => None,
        }
    }
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The protocol's number.
    pub protocol: u8,
    /// As the client sends.
    pub original: Direction,
    /// As the endpoint answers: its source is the endpoint, whatever address the client used.
    pub reply: Direction,
    /// The kernel's number for it.
    pub id: Option<u32>,
    /// Its mark.
    pub mark: u32,
    /// `IPS_…` bits.
    pub status: u32,
    /// Where a TCP connection is.
    pub tcp: Option<TcpState>,
    /// Its zone; 0 is everybody's.
    pub zone: u16,
    directed_zone: bool,
}

impl Entry {
    /// Reads a message about a connection; `None` for others, and for protocols without ports.
    pub fn parse(message: &Message<'_>) -> Option<Entry> {
        if message.kind != NEW && message.kind != DELETE {
            return None;
        }
        let (mut original, mut reply) = (None, None);
        let (mut id, mut mark, mut status, mut tcp, mut zone, mut directed_zone) =
            (None, 0, 0, None, 0, false);
        for attribute in message.attributes(4) {
            match attribute.kind {
                kind::TUPLE_ORIG => {
                    original = direction(attribute.attributes());
                    if let Some(number) = attribute.attributes().find(tuple::ZONE).and_then(|a| a.be16()) {
                        (zone, directed_zone) = (number, true);
                    }
                }
                kind::TUPLE_REPLY => reply = direction(attribute.attributes()),
                kind::STATUS => status = attribute.be32()?,
                kind::PROTOINFO => {
                    let info = attribute.attributes().find(PROTOINFO_TCP);
                    let state = info.and_then(|info| info.attributes().find(PROTOINFO_TCP_STATE));
                    tcp = state.and_then(|state| TcpState::from_number(state.u8()?));
                }
                kind::MARK => mark = attribute.be32()?,
                kind::ID => id = attribute.be32(),
                kind::ZONE => zone = attribute.be16()?,
                _ => {}
            }
        }
        let ((protocol, original), (_, reply)) = (original?, reply?);
        Some(Entry { protocol, original, reply, id, mark, status, tcp, zone, directed_zone })
    }

    /// A TCP connection between these, for tests without a kernel.
    #[cfg(test)]
    pub(crate) fn sample(client: SocketAddr, endpoint: EndpointId, translated: bool) -> Entry {
        let serves = SocketAddr::new(endpoint.address, endpoint.port);
        let asked = if translated { SocketAddr::new([10, 96, 0, 1].into(), 80) } else { serves };
        Entry {
            protocol: endpoint.protocol.number(),
            original: Direction { source: client, destination: asked },
            reply: Direction { source: serves, destination: client },
            id: None,
            mark: 0,
            status: SEEN_REPLY | if translated { DST_NAT } else { 0 },
            tcp: Some(TcpState::Established),
            zone: 0,
            directed_zone: false,
        }
    }

    /// The endpoint that serves it, if the protocol can be balanced.
    pub fn endpoint(&self) -> Option<EndpointId> {
        let protocol = Protocol::from_number(self.protocol)?;
        Some(EndpointId { address: self.reply.source.ip(), port: self.reply.source.port(), protocol })
    }

    /// Whether the endpoint has answered.
    pub fn is_answered(&self) -> bool {
        self.status & SEEN_REPLY != 0
    }

    /// Whether a DNAT rule of this node chose the endpoint.
    pub fn is_translated(&self) -> bool {
        self.status & DST_NAT != 0
    }

    /// What names it towards the kernel.
    pub fn flow(&self) -> Flow {
        let Entry { protocol, original, zone, directed_zone, .. } = *self;
        Flow { protocol, original, zone, directed_zone }
    }
}

fn direction(attributes: Attributes<'_>) -> Option<(u8, Direction)> {
    let (mut addresses, mut ports) = ((None, None), (0, 0));
    let mut protocol = None;
    for attribute in attributes {
        match attribute.kind {
            tuple::IP => {
                for address in attribute.attributes() {
                    match address.kind {
                        tuple::V4_SOURCE | tuple::V6_SOURCE => addresses.0 = ip(address.payload),
                        tuple::V4_DESTINATION | tuple::V6_DESTINATION => addresses.1 = ip(address.payload),
                        _ => {}
                    }
                }
            }
            tuple::PROTO => {
                for part in attribute.attributes() {
                    match part.kind {
                        tuple::PROTO_NUMBER => protocol = part.u8(),
                        tuple::SOURCE_PORT => ports.0 = part.be16()?,
                        tuple::DESTINATION_PORT => ports.1 = part.be16()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let source = SocketAddr::new(addresses.0?, ports.0);
    let destination = SocketAddr::new(addresses.1?, ports.1);
    Some((protocol?, Direction { source, destination }))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

impl Flow {
    pub(super) fn family(&self) -> u8 {
        if self.original.source.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
    }

    pub(super) fn write(&self, m: &mut Builder) {
        let Direction { source, destination } = self.original;
        m.nest(kind::TUPLE_ORIG, |m| {
            m.nest(tuple::IP, |m| {
                write_address(m, tuple::V4_SOURCE, source.ip());
                write_address(m, tuple::V4_DESTINATION, destination.ip());
            });
            m.nest(tuple::PROTO, |m| {
                m.u8(tuple::PROTO_NUMBER, self.protocol);
                m.be16(tuple::SOURCE_PORT, source.port());
                m.be16(tuple::DESTINATION_PORT, destination.port());
            });
            if self.directed_zone {
                m.be16(tuple::ZONE, self.zone);
            }
        });
        if self.zone != 0 && !self.directed_zone {
            m.be16(kind::ZONE, self.zone);
        }
    }
}

/// Writes the endpoint as the source of a direction, for a filter.
pub(super) fn write_source(m: &mut Builder, direction: u16, endpoint: EndpointId) {
    m.nest(direction, |m| {
        m.nest(tuple::IP, |m| write_address(m, tuple::V4_SOURCE, endpoint.address));
        m.nest(tuple::PROTO, |m| {
            m.u8(tuple::PROTO_NUMBER, endpoint.protocol.number());
            m.be16(tuple::SOURCE_PORT, endpoint.port);
        });
    });
}

/// Writes an address under its type for IPv4, or under that plus two for IPv6.
fn write_address(m: &mut Builder, v4_kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => m.bytes_of(v4_kind, &address.octets()),
        IpAddr::V6(address) => m.bytes_of(v4_kind + 2, &address.octets()),
    }
}

/// Reads arbitrary bytes as messages about connections and returns how many it understood: what a fuzzer calls.
pub fn check_bytes(bytes: &[u8]) -> usize {
    let mut understood = 0;
    for entry in messages(bytes).filter_map(|message| Entry::parse(&message)) {
        understood += 1;
        let _ = (entry.endpoint(), entry.is_answered(), entry.is_translated());
        let mut builder = Builder::new();
        builder.message(NEW, 0, &[0; 4], |m| entry.flow().write(m));
    }
    let _ = messages(bytes).filter_map(|message| super::lives::check_message(&message)).count();
    understood
}
