//! Membership: who a member is, and how foca's messages are written.
//!
//! foca runs the protocol (SWIM: "Scalable Weakly-consistent Infection-style Process Group Membership Protocol",
//! Das, Gupta and Motivala 2002, with suspicion); this file gives it an identity and a compact codec.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Config, Header, Member, Message, PeriodicParams, State};
use plimsoll_core::service::NodeName;

use super::pack::{Malformed, Reader, put_varint};
use super::seal::{MAX_MESSAGE, Start};

/// The longest node name: that of a DNS subdomain, as Kubernetes has it.
pub(crate) const MAX_NAME: usize = 253;

/// One life of a node in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node's name; of two processes with the same name the newer is the member.
    pub name: NodeName,
    /// When the process started, in milliseconds of its own clock since 1970. Only compared between processes
    /// of the same name.
    pub generation: u64,
    /// How often it came back after the others had declared it dead.
    pub renewal: u32,
    /// Drawn at random when the process started.
    pub start: Start,
    /// Where it receives datagrams.
    pub address: SocketAddr,
}

impl Identity {
    /// Whether this is a newer life of the same node than `other`.
    pub(crate) fn beats(&self, other: &Identity) -> bool {
        let rank =
            |identity: &Identity| (identity.generation, identity.renewal, identity.start, identity.address);
        rank(self) > rank(other)
    }

    /// Appends the identity.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let name = self.name.as_str().as_bytes();
        into.push(name.len() as u8);
        into.extend_from_slice(name);
        put_varint(into, self.generation);
        put_varint(into, self.renewal.into());
        into.extend(self.start.0);
        match self.address.ip() {
            IpAddr::V4(ip) => {
                into.push(4);
                into.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                into.push(6);
                into.extend(ip.octets());
            }
        }
        into.extend(self.address.port().to_be_bytes());
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Identity, Malformed> {
        let length = usize::from(reader.u8()?);
        if length == 0 || length > MAX_NAME {
            return Err(Malformed("a node name of impossible length"));
        }
        let name =
            std::str::from_utf8(reader.take(length)?).map_err(|_| Malformed("a node name is not text"))?;
        let generation = reader.varint()?;
        let renewal = reader.varint_u32()?;
        let start = Start(reader.array()?);
        let ip = match reader.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
            _ => return Err(Malformed("an unknown address family")),
        };
        let address = SocketAddr::new(ip, reader.u16()?);
        Ok(Identity { name: NodeName::new(name), generation, renewal, start, address })
    }
}

impl foca::Identity for Identity {
    type Addr = NodeName;

    /// Coming back is for the mesh to decide, at its own pace: two live processes of one name would otherwise
    /// renew in turns as fast as the network carries it.
    fn renew(&self) -> Option<Identity> {
        None
    }

    fn addr(&self) -> NodeName {
        self.name.clone()
    }

    fn win_addr_conflict(&self, adversary: &Identity) -> bool {
        self.beats(adversary)
    }
}

/// How foca is set for a mesh of this many members: a silent one is noticed within a probe (a second) and a
/// suspicion (3 s, more in large meshes).
pub(crate) fn config(members: usize) -> Config {
    let decades = ((members + 1) as f64).log10().max(1.0);
    let nonzero = |count| NonZeroUsize::new(count).expect("written as a number above zero");
    let every = |seconds, count| {
        Some(PeriodicParams { frequency: Duration::from_secs_f64(seconds), num_members: nonzero(count) })
    };
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(300),
        num_indirect_probes: nonzero(3),
        max_transmissions: NonZeroU8::new((5.0 * decades) as u8).expect("at least one decade"),
        suspect_to_down_after: Duration::from_secs_f64(3.0 * decades),
        remove_down_after: Some(Duration::from_hours(1)),
        max_packet_size: nonzero(MAX_MESSAGE - 1),
        notify_down_members: true,
        periodic_announce: every(10.0, 1),
        periodic_announce_to_down_members: every(10.0, 2),
        periodic_gossip: every(0.2, 3),
    }
}

const PING: u8 = 1;
const ACK: u8 = 2;
const PING_REQUEST: u8 = 3;
const INDIRECT_PING: u8 = 4;
const INDIRECT_ACK: u8 = 5;
const FORWARDED_ACK: u8 = 6;
const ANNOUNCE: u8 = 7;
const FEED: u8 = 8;
const GOSSIP: u8 = 9;
const TURN_UNDEAD: u8 = 10;

fn encode_header(header: &Header<Identity>, into: &mut Vec<u8>) {
    let (kind, about) = match &header.message {
        Message::Ping(number) => (PING, Some((*number, None))),
        Message::Ack(number) => (ACK, Some((*number, None))),
        Message::PingReq { target, probe_number } => (PING_REQUEST, Some((*probe_number, Some(target)))),
        Message::IndirectPing { origin, probe_number } => {
            (INDIRECT_PING, Some((*probe_number, Some(origin))))
        }
        Message::IndirectAck { target, probe_number } => (INDIRECT_ACK, Some((*probe_number, Some(target)))),
        Message::ForwardedAck { origin, probe_number } => {
            (FORWARDED_ACK, Some((*probe_number, Some(origin))))
        }
        Message::Announce => (ANNOUNCE, None),
        Message::Feed => (FEED, None),
        // Never sent: it carries custom broadcasts, of which there are none.
        Message::Gossip | Message::Broadcast => (GOSSIP, None),
        Message::TurnUndead => (TURN_UNDEAD, None),
    };
    into.push(kind);
    header.src.encode(into);
    into.extend(header.src_incarnation.to_be_bytes());
    header.dst.encode(into);
    if let Some((number, identity)) = about {
        into.push(number);
        if let Some(identity) = identity {
            identity.encode(into);
        }
    }
}

fn decode_header(reader: &mut Reader<'_>) -> Result<Header<Identity>, Malformed> {
    let kind = reader.u8()?;
    let src = Identity::decode(reader)?;
    let src_incarnation = reader.u16()?;
    let dst = Identity::decode(reader)?;
    let message = match kind {
        PING => Message::Ping(reader.u8()?),
        ACK => Message::Ack(reader.u8()?),
        PING_REQUEST => Message::PingReq { probe_number: reader.u8()?, target: Identity::decode(reader)? },
        INDIRECT_PING => {
            Message::IndirectPing { probe_number: reader.u8()?, origin: Identity::decode(reader)? }
        }
        INDIRECT_ACK => {
            Message::IndirectAck { probe_number: reader.u8()?, target: Identity::decode(reader)? }
        }
        FORWARDED_ACK => {
            Message::ForwardedAck { probe_number: reader.u8()?, origin: Identity::decode(reader)? }
        }
        ANNOUNCE => Message::Announce,
        FEED => Message::Feed,
        GOSSIP => Message::Gossip,
        TURN_UNDEAD => Message::TurnUndead,
        _ => return Err(Malformed("an unknown kind of membership message")),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

fn encode_member(member: &Member<Identity>, into: &mut Vec<u8>) {
    into.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
    into.extend(member.incarnation().to_be_bytes());
    member.id().encode(into);
}

fn decode_member(reader: &mut Reader<'_>) -> Result<Member<Identity>, Malformed> {
    let state = match reader.u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(Malformed("an unknown member state")),
    };
    let incarnation = reader.u16()?;
    Ok(Member::new(Identity::decode(reader)?, incarnation, state))
}

/// One of foca's messages, read whole before foca sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// From whom, to whom, what.
    pub header: Header<Identity>,
    /// What the sender says of others.
    pub updates: Vec<Member<Identity>>,
}

impl Membership {
    /// Reads one of foca's messages, to its end.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Membership, Malformed> {
        let header = decode_header(reader)?;
        let mut updates = Vec::new();
        if !reader.rest().is_empty() {
            // The count is foreign: the vector grows with what is really there.
            for _ in 0..reader.u16()? {
                updates.push(decode_member(reader)?);
            }
        }
        reader.finish()?;
        if header.message == Message::Announce && !updates.is_empty() {
            return Err(Malformed("an announcement with updates"));
        }
        Ok(Membership { header, updates })
    }

    /// Writes the message as foca does.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        encode_header(&self.header, into);
        if matches!(self.header.message, Message::Announce | Message::TurnUndead) {
            return;
        }
        into.extend((self.updates.len() as u16).to_be_bytes());
        for update in &self.updates {
            encode_member(update, into);
        }
    }
}

/// foca's way to the functions above.
#[derive(Debug, Default)]
pub(crate) struct Codec {
    written: Vec<u8>,
}

/// Why foca's codec could not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("no room left in the datagram")]
    NoRoom,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Codec {
    /// Whole or not at all.
    fn write(&mut self, mut buf: impl BufMut) -> Result<(), CodecError> {
        if buf.remaining_mut() < self.written.len() {
            return Err(CodecError::NoRoom);
        }
        buf.put_slice(&self.written);
        Ok(())
    }
}

fn read<T>(
    mut buf: impl Buf,
    decode: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, CodecError> {
    let mut reader = Reader::new(buf.chunk());
    let value = decode(&mut reader)?;
    let used = buf.chunk().len() - reader.rest().len();
    buf.advance(used);
    Ok(value)
}

impl foca::Codec<Identity> for Codec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), CodecError> {
        self.written.clear();
        encode_header(header, &mut self.written);
        self.write(buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        read(buf, decode_header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), CodecError> {
        self.written.clear();
        encode_member(member, &mut self.written);
        self.write(buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        read(buf, decode_member)
    }
}
