//! What rules are made of: expressions that load into registers, compare, look up and decide.
//!
//! Attribute numbers: `include/uapi/linux/netfilter/nf_tables.h`. Each method writes one expression, the way the
//! `nft` program does, so that it can list and reload what we wrote.

use plimsoll_core::service::{Family, Protocol};

use crate::netlink::Builder;

/// A register: 1 to 4 of 16 bytes, or 8 to 23 of 4 bytes over the same space (8 to 11 are register 1).
pub(super) type Register = u32;
/// Where every expression puts or finds its first value.
pub(super) const R: Register = 1;
/// Behind the longest key that begins in [`R`].
const BESIDE_KEYS: Register = 14;

/// Where the second and the third field of a concatenation that begins with an address are.
const fn after_address(family: Family) -> (Register, Register) {
    match family {
        Family::V4 => (9, 10),
        Family::V6 => (2, 13),
    }
}

/// What `meta` reads or writes.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Meta {
    Priority = 2,
    InputName = 6,
    NfProto = 15,
    L4Proto = 16,
}

/// What `ct` reads or writes.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Ct {
    Direction = 1,
    Status = 2,
    Mark = 3,
    ProtoSrc = 11,
    ProtoDst = 12,
    SrcIp = 19,
    DstIp = 20,
    SrcIp6 = 21,
    DstIp6 = 22,
}

/// A direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Direction {
    Original = 0,
    Reply = 1,
}

/// Where a rule sends the packet.
#[derive(Clone, Copy)]
pub(super) enum Verdict<'a> {
    Jump(&'a str),
    Goto(&'a str),
    Return,
}

impl Verdict<'_> {
    /// Writes the verdict as data (`NFTA_DATA_VERDICT`).
    pub(super) fn write(self, m: &mut Builder) {
        let (code, chain) = match self {
            Verdict::Jump(chain) => (-3i32, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        m.nest(2, |m| {
            m.be32(1, code as u32);
            if let Some(chain) = chain {
                m.text(2, chain);
            }
        });
    }
}

/// The number of a family in nftables.
pub(super) const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The base of a payload expression.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `IPS_DST_NAT`, `RTN_LOCAL`, `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const DST_NAT: u32 = 0x20;
const LOCAL: u32 = 2;
const FULLY_RANDOM: u32 = 0x10;

/// TCP flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACKNOWLEDGE: u8 = 16;

/// Writes the expressions of one rule, each method one or a phrase of them.
pub(super) struct Rule<'a> {
    m: &'a mut Builder,
}

impl<'a> Rule<'a> {
    pub(super) fn new(m: &'a mut Builder) -> Rule<'a> {
        Rule { m }
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Builder)) -> &mut Self {
        self.m.nest(1, |m| {
            m.text(1, name);
            m.nest(2, body);
        });
        self
    }

    pub(super) fn meta(&mut self, key: Meta, into: Register) -> &mut Self {
        self.expression("meta", |m| {
            m.be32(2, key as u32);
            m.be32(1, into);
        })
    }

    pub(super) fn set_meta(&mut self, key: Meta, from: Register) -> &mut Self {
        self.expression("meta", |m| {
            m.be32(2, key as u32);
            m.be32(3, from);
        })
    }

    fn compare(&mut self, operator: u32, from: Register, value: &[u8]) -> &mut Self {
        self.expression("cmp", |m| {
            m.be32(1, from);
            m.be32(2, operator);
            m.nest(3, |m| m.bytes_of(1, value));
        })
    }

    pub(super) fn equals(&mut self, value: &[u8]) -> &mut Self {
        self.compare(0, R, value)
    }

    pub(super) fn payload(&mut self, base: u32, offset: u32, length: u32, into: Register) -> &mut Self {
        self.expression("payload", |m| {
            m.be32(1, into);
            m.be32(2, base);
            m.be32(3, offset);
            m.be32(4, length);
        })
    }

    /// Register 1 becomes `(register 1 & mask) ^ xor`.
    pub(super) fn bitwise(&mut self, mask: &[u8], xor: &[u8]) -> &mut Self {
        self.bitwise_in(R, mask, xor)
    }

    fn bitwise_in(&mut self, register: Register, mask: &[u8], xor: &[u8]) -> &mut Self {
        self.expression("bitwise", |m| {
            m.be32(1, register);
            m.be32(2, register);
            m.be32(3, mask.len() as u32);
            m.nest(4, |m| m.bytes_of(1, mask));
            m.nest(5, |m| m.bytes_of(1, xor));
        })
    }

    /// Goes on only if register 1 is in the set.
    pub(super) fn member(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |m| {
            m.text(1, set);
            m.be32(2, R);
        })
    }

    /// Goes on only if register 1 is in the anonymous set with this number within the batch.
    pub(super) fn member_of_anonymous(&mut self, id: u32) -> &mut Self {
        self.expression("lookup", |m| {
            m.text(1, ANONYMOUS);
            m.be32(4, id);
            m.be32(2, R);
        })
    }

    /// Replaces register 1 by what the map has for it; goes on only if it has something.
    pub(super) fn map(&mut self, map: &str) -> &mut Self {
        self.expression("lookup", |m| {
            m.text(1, map);
            m.be32(2, R);
            m.be32(3, R);
        })
    }

    /// Carries out the verdict that the map has for register 1.
    pub(super) fn verdict_map(&mut self, map: &str) -> &mut Self {
        self.expression("lookup", |m| {
            m.text(1, map);
            m.be32(2, R);
            m.be32(3, 0);
        })
    }

    pub(super) fn verdict(&mut self, verdict: Verdict<'_>) -> &mut Self {
        self.expression("immediate", |m| {
            m.be32(1, 0);
            m.nest(2, |m| verdict.write(m));
        })
    }

    pub(super) fn immediate(&mut self, value: &[u8]) -> &mut Self {
        self.expression("immediate", |m| {
            m.be32(1, R);
            m.nest(2, |m| m.bytes_of(1, value));
        })
    }

    /// A counter of this rule's own, modulo `steps`, into register 1.
    pub(super) fn count_up(&mut self, steps: u32) -> &mut Self {
        self.expression("numgen", |m| {
            m.be32(1, R);
            m.be32(2, steps);
            m.be32(3, 0);
            m.be32(4, 0);
        })
    }

    /// Host to network order: interval sets compare bytes.
    pub(super) fn network_order(&mut self) -> &mut Self {
        self.expression("byteorder", |m| {
            m.be32(1, R);
            m.be32(2, R);
            m.be32(3, 1);
            m.be32(4, 4);
            m.be32(5, 4);
        })
    }

    /// Destination NAT to the address and port that a map look-up left in register 1 and behind it.
    pub(super) fn dnat(&mut self, family: Family) -> &mut Self {
        let (port, _) = after_address(family);
        self.expression("nat", |m| {
            m.be32(1, 1);
            m.be32(2, u32::from(nfproto(family)));
            m.be32(3, R);
            m.be32(5, port);
        })
    }

    pub(super) fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |m| m.be32(1, FULLY_RANDOM))
    }

    fn address_type(&mut self, flags: u32) -> &mut Self {
        self.expression("fib", |m| {
            m.be32(3, flags);
            m.be32(2, 3);
            m.be32(1, R);
        })
        .equals(&LOCAL.to_ne_bytes())
    }

    /// Goes on only if the packet came by the interface of this name (or one whose name begins so, with `*`).
    pub(super) fn came_by(&mut self, interface: &str) -> &mut Self {
        let mut name = interface.as_bytes().to_vec();
        // Of a whole name the end counts, too.
        if name.pop_if(|last| *last == b'*').is_none() {
            name.resize(16, 0);
        }
        self.meta(Meta::InputName, R).equals(&name)
    }

    /// Goes on only if the source is an address of this node.
    pub(super) fn source_is_here(&mut self) -> &mut Self {
        self.address_type(1)
    }

    /// Goes on only if the destination is an address of this node.
    pub(super) fn destination_is_here(&mut self) -> &mut Self {
        self.address_type(2)
    }

    pub(super) fn ct(&mut self, key: Ct, direction: Option<Direction>, into: Register) -> &mut Self {
        self.expression("ct", |m| {
            m.be32(2, key as u32);
            m.be32(1, into);
            if let Some(direction) = direction {
                m.u8(3, direction as u8);
            }
        })
    }

    /// Replaces the bits of the ct mark that `clear` has by those of `set`.
    pub(super) fn mark(&mut self, clear: u32, set: u32) -> &mut Self {
        self.mark_by(R, clear, set)
    }

    /// As [`mark`](Rule::mark), but leaves a key that is in register 1 where it is.
    pub(super) fn mark_beside_key(&mut self, clear: u32, set: u32) -> &mut Self {
        self.mark_by(BESIDE_KEYS, clear, set)
    }

    fn mark_by(&mut self, register: Register, clear: u32, set: u32) -> &mut Self {
        let kept = !(clear | set);
        self.ct(Ct::Mark, None, register).bitwise_in(register, &kept.to_ne_bytes(), &set.to_ne_bytes());
        self.expression("ct", |m| {
            m.be32(2, Ct::Mark as u32);
            m.be32(4, register);
        })
    }

    /// Goes on only if the bits of `mask` in the ct mark are `value`.
    pub(super) fn marked(&mut self, mask: u32, value: u32) -> &mut Self {
        self.ct(Ct::Mark, None, R).bitwise(&mask.to_ne_bytes(), &[0; 4]).equals(&value.to_ne_bytes())
    }

    /// Leaves these bits of the ct mark in register 1.
    pub(super) fn marked_bits(&mut self, mask: u32) -> &mut Self {
        self.ct(Ct::Mark, None, R).bitwise(&mask.to_ne_bytes(), &[0; 4])
    }

    /// Adds what is in register 1 (and behind it) to a dynamic set or refreshes it; with `data`, to a map.
    pub(super) fn update(&mut self, set: &str, data: Option<Register>) -> &mut Self {
        self.dynamic(1, set, data)
    }

    /// Takes the element with the key in register 1 out of a dynamic map, if it is there.
    pub(super) fn forget(&mut self, map: &str, data: Register) -> &mut Self {
        self.dynamic(2, map, Some(data))
    }

    fn dynamic(&mut self, operation: u32, set: &str, data: Option<Register>) -> &mut Self {
        self.expression("dynset", |m| {
            m.be32(4, R);
            if let Some(data) = data {
                m.be32(5, data);
            }
            m.be32(3, operation);
            m.text(1, set);
        })
    }

    // Phrases.

    pub(super) fn family(&mut self, family: Family) -> &mut Self {
        self.meta(Meta::NfProto, R).equals(&[nfproto(family)])
    }

    pub(super) fn protocol(&mut self, protocol: Protocol) -> &mut Self {
        self.meta(Meta::L4Proto, R).equals(&[protocol.number()])
    }

    /// Goes on only for the protocols in the anonymous set `id`.
    pub(super) fn protocols(&mut self, id: u32) -> &mut Self {
        self.meta(Meta::L4Proto, R).member_of_anonymous(id)
    }

    pub(super) fn source(&mut self, family: Family) -> &mut Self {
        self.source_into(family, R)
    }

    pub(super) fn source_into(&mut self, family: Family, into: Register) -> &mut Self {
        match family {
            Family::V4 => self.payload(NETWORK, 12, 4, into),
            Family::V6 => self.payload(NETWORK, 8, 16, into),
        }
    }

    pub(super) fn destination_into(&mut self, family: Family, into: Register) -> &mut Self {
        match family {
            Family::V4 => self.payload(NETWORK, 16, 4, into),
            Family::V6 => self.payload(NETWORK, 24, 16, into),
        }
    }

    /// `saddr . daddr`
    pub(super) fn source_and_destination(&mut self, family: Family) -> &mut Self {
        let (second, _) = after_address(family);
        self.source(family).destination_into(family, second)
    }

    /// `daddr . l4proto . dport`
    pub(super) fn key(&mut self, family: Family) -> &mut Self {
        let (protocol, port) = after_address(family);
        self.destination_into(family, R).meta(Meta::L4Proto, protocol).payload(TRANSPORT, 2, 2, port)
    }

    /// `l4proto . dport`
    pub(super) fn port_key(&mut self) -> &mut Self {
        self.meta(Meta::L4Proto, R).payload(TRANSPORT, 2, 2, 9)
    }

    /// `ct original daddr . l4proto . ct original proto-dst`: what the client asked for.
    pub(super) fn original_key(&mut self, family: Family) -> &mut Self {
        let (protocol, port) = after_address(family);
        self.original_destination(family).meta(Meta::L4Proto, protocol).ct(
            Ct::ProtoDst,
            Some(Direction::Original),
            port,
        )
    }

    pub(super) fn original_destination(&mut self, family: Family) -> &mut Self {
        let key = if family == Family::V4 { Ct::DstIp } else { Ct::DstIp6 };
        self.ct(key, Some(Direction::Original), R)
    }

    /// `l4proto . ct original proto-dst`
    pub(super) fn original_port_key(&mut self) -> &mut Self {
        self.meta(Meta::L4Proto, R).ct(Ct::ProtoDst, Some(Direction::Original), 9)
    }

    /// `ct reply saddr . l4proto . ct reply proto-src`: the endpoint, whoever translated.
    pub(super) fn endpoint(&mut self, family: Family) -> &mut Self {
        let (protocol, port) = after_address(family);
        let key = if family == Family::V4 { Ct::SrcIp } else { Ct::SrcIp6 };
        let reply = Some(Direction::Reply);
        self.ct(key, reply, R).meta(Meta::L4Proto, protocol).ct(Ct::ProtoSrc, reply, port)
    }

    /// Goes on only for connections whose destination was translated.
    pub(super) fn translated(&mut self) -> &mut Self {
        self.translated_by(R)
    }

    /// As [`translated`](Rule::translated), but leaves a key that is in register 1 where it is.
    pub(super) fn translated_beside_key(&mut self) -> &mut Self {
        self.translated_by(BESIDE_KEYS)
    }

    fn translated_by(&mut self, register: Register) -> &mut Self {
        self.ct(Ct::Status, None, register).any_of(register, &DST_NAT.to_ne_bytes())
    }

    pub(super) fn direction(&mut self, direction: Direction) -> &mut Self {
        self.ct(Ct::Direction, None, R).equals(&[direction as u8])
    }

    /// Goes on only if the register has any of these bits.
    fn any_of(&mut self, register: Register, bits: &[u8]) -> &mut Self {
        let none = &[0; 4][..bits.len()];
        self.bitwise_in(register, bits, none).compare(1, register, none)
    }

    fn tcp_flags(&mut self) -> &mut Self {
        self.payload(TRANSPORT, 13, 1, R)
    }

    /// Goes on only for TCP with one of these flags. The first of several TCP matches in a rule must say
    /// [`protocol`](Rule::protocol) before.
    pub(super) fn tcp_any_of(&mut self, flags: u8) -> &mut Self {
        self.tcp_flags().any_of(R, &[flags])
    }

    /// Goes on only if, of the flags in `mask`, exactly `value` is set.
    pub(super) fn tcp_exactly(&mut self, mask: u8, value: u8) -> &mut Self {
        self.tcp_flags().bitwise(&[mask], &[0]).equals(&[value])
    }

    pub(super) fn tcp_sequence_zero(&mut self) -> &mut Self {
        self.payload(TRANSPORT, 4, 4, R).equals(&[0; 4])
    }
}

/// The name under which an anonymous set is made and looked up; the kernel puts a number in.
pub(super) const ANONYMOUS: &str = "__set%d";
