//! What sets and maps are made of: kinds of keys and data, elements, and the sets themselves.

use std::net::IpAddr;

use plimsoll_core::service::{EndpointId, Family};

use super::expression::Verdict;
use crate::netlink::Builder;

/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;

/// A few bytes of an element's key or data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    bytes: [u8; 32],
    length: usize,
}

impl Bytes {
    pub(super) fn new(parts: &[&[u8]]) -> Bytes {
        let mut all = Bytes::default();
        for part in parts {
            all.bytes[all.length..all.length + part.len()].copy_from_slice(part);
            all.length += part.len();
        }
        all
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn address(address: IpAddr) -> Bytes {
        match address {
            IpAddr::V4(address) => Bytes::new(&[&address.octets()]),
            IpAddr::V6(address) => Bytes::new(&[&address.octets()]),
        }
    }

    /// `address . address`
    pub(super) fn hairpin(address: IpAddr) -> Bytes {
        let one = Bytes::address(address);
        Bytes::new(&[one.as_slice(), one.as_slice()])
    }

    /// `address . l4proto . port`; fields begin at multiples of four bytes.
    pub(super) fn endpoint(endpoint: &EndpointId) -> Bytes {
        let address = Bytes::address(endpoint.address);
        let port = Bytes::port(endpoint.protocol.number(), endpoint.port);
        Bytes::new(&[address.as_slice(), port.as_slice()])
    }

    /// `l4proto . port`
    pub(super) fn port(protocol: u8, port: u16) -> Bytes {
        Bytes::new(&[&[protocol, 0, 0, 0], &port.to_be_bytes(), &[0; 2]])
    }

    /// `address . port`: where to translate to.
    pub(super) fn destination(endpoint: &EndpointId) -> Bytes {
        let address = Bytes::address(endpoint.address);
        Bytes::new(&[address.as_slice(), &endpoint.port.to_be_bytes(), &[0; 2]])
    }

    /// A number as registers hold it.
    pub(super) fn host(number: u32) -> Bytes {
        Bytes::new(&[&number.to_ne_bytes()])
    }

    /// A number as interval sets compare it.
    pub(super) fn network(number: u32) -> Bytes {
        Bytes::new(&[&number.to_be_bytes()])
    }
}

/// What a map has for a key.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    None,
    Value(Bytes),
    Verdict(Verdict<'a>),
    /// Not data: the key is the first after an interval.
    End,
}

/// One element of a set or map.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) key: Bytes,
    pub(super) data: Data<'a>,
}

impl Element<'_> {
    pub(super) fn member(key: Bytes) -> Element<'static> {
        Element { key, data: Data::None }
    }

    pub(super) fn write(&self, m: &mut Builder) {
        m.nest(1, |m| {
            m.nest(1, |m| m.bytes_of(1, self.key.as_slice()));
            match self.data {
                Data::None => {}
                Data::Value(value) => m.nest(2, |m| m.bytes_of(1, value.as_slice())),
                Data::Verdict(verdict) => m.nest(2, |m| verdict.write(m)),
                Data::End => m.be32(3, INTERVAL_END),
            }
        });
    }
}

/// Kinds of key and data: nft's own type numbers, 6 bits per field of a concatenation, and their lengths in bytes.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) number: u32,
    pub(super) length: u32,
}

impl Kind {
    pub(super) const PRIORITY: Kind = Kind { number: 23, length: 4 };
    pub(super) const INTEGER: Kind = Kind { number: 4, length: 4 };
    pub(super) const MARK: Kind = Kind { number: 19, length: 4 };
    pub(super) const PROTOCOL: Kind = Kind { number: 12, length: 1 };
    pub(super) const VERDICT: Kind = Kind { number: 0xffff_ff00, length: 16 };
    pub(super) const PORT_KEY: Kind = Kind { number: 0xc << 6 | 0xd, length: 8 };

    pub(super) fn address(family: Family) -> Kind {
        match family {
            Family::V4 => Kind { number: 7, length: 4 },
            Family::V6 => Kind { number: 8, length: 16 },
        }
    }

    fn then(self, other: Kind) -> Kind {
        let fields = if other.number > 0x3f { 2 } else { 1 };
        Kind { number: self.number << (6 * fields) | other.number, length: self.length + other.length }
    }

    pub(super) fn hairpin(family: Family) -> Kind {
        Kind::address(family).then(Kind::address(family))
    }

    /// `address . inet_proto . inet_service`
    pub(super) fn endpoint(family: Family) -> Kind {
        Kind::address(family).then(Kind::PORT_KEY)
    }

    /// `address . inet_service`
    pub(super) fn destination(family: Family) -> Kind {
        Kind::address(family).then(Kind { number: 13, length: 4 })
    }
}

/// `NFT_SET_…`
pub(super) const ANONYMOUS_SET: u32 = 0x1;
pub(super) const CONSTANT: u32 = 0x2;
pub(super) const INTERVAL: u32 = 0x4;
pub(super) const MAP: u32 = 0x8;
pub(super) const TIMEOUT: u32 = 0x10;
pub(super) const DYNAMIC: u32 = 0x20;

/// A set or map to be made.
#[derive(Clone, Copy)]
pub(super) struct Set<'a> {
    pub(super) name: &'a str,
    pub(super) key: Kind,
    pub(super) data: Option<Kind>,
    pub(super) flags: u32,
    /// Milliseconds until an element goes; 0: never.
    pub(super) timeout: u64,
    /// At most so many elements; 0: as many as there are.
    pub(super) size: u32,
    /// Each element counts its packets.
    pub(super) counter: bool,
    /// nft's own notes, from which it lists the set as it would have been written.
    pub(super) notes: &'a [u8],
}

impl<'a> Set<'a> {
    pub(super) fn new(name: &'a str, key: Kind) -> Set<'a> {
        Set { name, key, data: None, flags: 0, timeout: 0, size: 0, counter: false, notes: &[] }
    }

    pub(super) fn map(name: &'a str, key: Kind, data: Kind) -> Set<'a> {
        Set { data: Some(data), ..Set::new(name, key) }
    }
}
