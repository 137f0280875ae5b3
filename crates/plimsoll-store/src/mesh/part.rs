//! Report parts: a node's report, cut into pieces that each fit into a datagram and mean something on their own.
//!
//! All records of a report are in one order: hosted endpoints first, then those that were only sent to, each
//! sorted. A part holds a run of them. In a full report a part says where the part before it ended, so that it
//! speaks for every position in between: what it does not mention there is gone. So no part waits for another,
//! nothing is put together, and a lost part costs its own run alone.

use std::net::IpAddr;
use std::time::Duration;

use plimsoll_core::report::EndpointReport;
use plimsoll_core::service::{EndpointId, Protocol};

use super::pack::{Malformed, Reader, pack_float, put_float, put_varint};

/// Which list of a report a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// Endpoints that the reporting node hosts.
    Hosted,
    /// Endpoints that it sent connections to.
    Sent,
}

/// Where a record stands in its report.
pub type Position = (List, EndpointId);

/// One record: an endpoint's load, or that the endpoint is no longer in the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// Its load; `None`: gone.
    pub load: Option<EndpointReport>,
}

/// A piece of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Which report of this process; each newer one has a higher number.
    pub sequence: u64,
    /// Whether it is part of a full report rather than of one that leaves out what did not change.
    pub full: bool,
    /// Which part of the report, from 0.
    pub index: u32,
    /// How many parts the report has.
    pub count: u32,
    /// How old the figures are.
    pub age: Duration,
    /// Connections the node sends per second.
    pub opens_per_second: f32,
    /// In a full report, where the part before this one ended; `None` in the first.
    pub after: Option<Position>,
    /// Strictly rising by position, all behind `after`.
    pub records: Vec<Record>,
}

/// The most parts a report may have: 65,536 endpoints of the longest kind fit.
pub(crate) const MAX_PARTS: u32 = 4096;
/// The longest header of a part, without `after`.
pub(crate) const MAX_PART_HEADER: usize = 1 + 10 + 5 + 5 + 5 + 2;
/// The longest record: flags, address, port and protocol, three counts, four rates.
const MAX_RECORD: usize = 1 + 17 + 3 + 3 * 5 + 4 * 2;

const FULL: u8 = 1;
const AFTER: u8 = 2;

// The address of a record, relative to the one before: two bits of its first byte.
const SAME_ADDRESS: u8 = 0;
const NEXT_ADDRESS: u8 = 1;
const LAST_BYTE: u8 = 2;
const SOME_BYTES: u8 = 3;
// The other bits.
const OTHER_PORT: u8 = 1 << 2;
const FAILURES: u8 = 1 << 3;
const CPU: u8 = 1 << 4;
const PRESSURE: u8 = 1 << 5;
const ACTIVE: u8 = 1 << 6;
const SENT: u8 = 1 << 7;
/// In the byte that says how many bytes of an address follow: it is an IPv6 address.
const SIX: u8 = 1 << 7;

/// What the first record of all is relative to.
const ORIGIN: Position = (
    List::Hosted,
    EndpointId { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0, protocol: Protocol::Tcp },
);

#[cfg(test)]
/// A load as it looks after a journey: rates rounded as [`super::pack::pack_float`] says, pressure at most 1.
pub(crate) fn rounded(load: &EndpointReport) -> EndpointReport {
    let round = |value: f32| super::pack::unpack_float(pack_float(value));
    EndpointReport {
        opens_per_second: round(load.opens_per_second),
        failures_per_second: round(load.failures_per_second),
        cpu: load.cpu.map(round),
        pressure: load.pressure.map(|pressure| round(pressure.min(1.0))),
        ..load.clone()
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

fn octets(address: IpAddr, buffer: &mut [u8; 16]) -> &mut [u8] {
    match address {
        IpAddr::V4(ip) => {
            buffer[..4].copy_from_slice(&ip.octets());
            &mut buffer[..4]
        }
        IpAddr::V6(ip) => {
            *buffer = ip.octets();
            buffer
        }
    }
}

/// Appends a position relative to `before`; `flags` are the bits that speak of the load.
fn put_position(into: &mut Vec<u8>, before: &Position, position: &Position, flags: u8) {
    let at = into.len();
    into.push(0);
    let (mut old_buffer, mut new_buffer) = ([0; 16], [0; 16]);
    let old = octets(before.1.address, &mut old_buffer);
    let new = octets(position.1.address, &mut new_buffer);
    let shared = if same_family(before.1.address, position.1.address) {
        old.iter().zip(new.iter()).take_while(|(old, new)| old == new).count()
    } else {
        0
    };
    let address = match new.len() - shared {
        0 => SAME_ADDRESS,
        1 if old[shared].checked_add(1) == Some(new[shared]) => NEXT_ADDRESS,
        1 => {
            into.push(new[shared]);
            LAST_BYTE
        }
        differing => {
            into.push(differing as u8 | if new.len() == 16 { SIX } else { 0 });
            into.extend_from_slice(&new[shared..]);
            SOME_BYTES
        }
    };
    let other_port = (before.1.port, before.1.protocol) != (position.1.port, position.1.protocol);
    if other_port {
        into.extend(position.1.port.to_be_bytes());
        into.push(position.1.protocol.number());
    }
    into[at] = flags
        | address
        | if other_port { OTHER_PORT } else { 0 }
        | if position.0 == List::Sent { SENT } else { 0 };
}

/// Reads a position and the flags that speak of the load.
fn take_position(reader: &mut Reader<'_>, before: &Position) -> Result<(Position, u8), Malformed> {
    let flags = reader.u8()?;
    let address = take_address(reader, before.1.address, flags & 3)?;
    let (mut port, mut protocol) = (before.1.port, before.1.protocol);
    if flags & OTHER_PORT != 0 {
        port = reader.u16()?;
        protocol = Protocol::from_number(reader.u8()?).ok_or(Malformed("an unknown protocol"))?;
    }
    let list = if flags & SENT == 0 { List::Hosted } else { List::Sent };
    Ok(((list, EndpointId { address, port, protocol }), flags))
}

fn take_address(reader: &mut Reader<'_>, before: IpAddr, code: u8) -> Result<IpAddr, Malformed> {
    let mut buffer = [0; 16];
    let bytes = octets(before, &mut buffer);
    let last = bytes.len() - 1;
    let mut six = before.is_ipv6();
    match code {
        SAME_ADDRESS => {}
        NEXT_ADDRESS => bytes[last] = bytes[last].checked_add(1).ok_or(Malformed("an address runs over"))?,
        LAST_BYTE => bytes[last] = reader.u8()?,
        _ => {
            let length = reader.u8()?;
            six = length & SIX != 0;
            let width = if six { 16 } else { 4 };
            let count = usize::from(length & !SIX);
            if count == 0 || count > width || (count < width && six != before.is_ipv6()) {
                return Err(Malformed("an address of impossible length"));
            }
            buffer[width - count..width].copy_from_slice(reader.take(count)?);
        }
    }
    Ok(if six {
        IpAddr::from(buffer)
    } else {
        IpAddr::from(*buffer.first_chunk::<4>().expect("sixteen bytes begin with four"))
    })
}

fn put_record(into: &mut Vec<u8>, before: &Position, position: &Position, load: Option<&EndpointReport>) {
    let Some(load) = load else {
        put_position(into, before, position, 0);
        into.push(0);
        return;
    };
    let active = load.young > 0 || load.middle > 0 || pack_float(load.opens_per_second) > 0;
    let failing = pack_float(load.failures_per_second) > 0;
    let flags = if active { ACTIVE } else { 0 }
        | if failing { FAILURES } else { 0 }
        | if load.cpu.is_some() { CPU } else { 0 }
        | if load.pressure.is_some() { PRESSURE } else { 0 };
    put_position(into, before, position, flags);
    // Zero is taken: it says that the endpoint is gone.
    put_varint(into, u64::from(load.open) + 1);
    if active {
        put_varint(into, load.young.into());
        put_varint(into, load.middle.into());
        put_float(into, load.opens_per_second);
    }
    if failing {
        put_float(into, load.failures_per_second);
    }
    if let Some(cpu) = load.cpu {
        put_float(into, cpu);
    }
    if let Some(pressure) = load.pressure {
        put_float(into, pressure.min(1.0));
    }
}

fn take_record(reader: &mut Reader<'_>, before: &Position) -> Result<Record, Malformed> {
    let (position, flags) = take_position(reader, before)?;
    if position <= *before {
        return Err(Malformed("records out of order"));
    }
    let open = reader.varint()?;
    if open == 0 {
        if flags & (ACTIVE | FAILURES | CPU | PRESSURE) != 0 {
            return Err(Malformed("an endpoint that is gone has a load"));
        }
        return Ok(Record { position, load: None });
    }
    let open = u32::try_from(open - 1).map_err(|_| Malformed("an integer is too large"))?;
    let active = flags & ACTIVE != 0;
    let load = EndpointReport {
        endpoint: position.1,
        open,
        young: if active { reader.varint_u32()? } else { 0 },
        middle: if active { reader.varint_u32()? } else { 0 },
        opens_per_second: if active { reader.float()? } else { 0.0 },
        failures_per_second: if flags & FAILURES != 0 { reader.float()? } else { 0.0 },
        cpu: if flags & CPU != 0 { Some(reader.float()?) } else { None },
        pressure: if flags & PRESSURE != 0 { Some(reader.float()?.min(1.0)) } else { None },
    };
    Ok(Record { position, load: Some(load) })
}

impl Part {
    /// Reads a part, to its end.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Part, Malformed> {
        let flags = reader.u8()?;
        if flags & !(FULL | AFTER) != 0 {
            return Err(Malformed("unknown flags"));
        }
        let sequence = reader.varint()?;
        let index = reader.varint_u32()?;
        let count = reader.varint_u32()?;
        if count == 0 || count > MAX_PARTS || index >= count {
            return Err(Malformed("an impossible number of parts"));
        }
        let age = Duration::from_millis(reader.varint_u32()?.into());
        let opens_per_second = reader.float()?;
        let full = flags & FULL != 0;
        let after = if flags & AFTER != 0 {
            if !full || index == 0 {
                return Err(Malformed("nothing comes before this part"));
            }
            Some(take_position(reader, &ORIGIN)?.0)
        } else {
            if full && index > 0 {
                return Err(Malformed("it does not say where the part before it ended"));
            }
            None
        };
        let mut records: Vec<Record> = Vec::new();
        while !reader.rest().is_empty() {
            let before = records.last().map_or(after.unwrap_or(ORIGIN), |record| record.position);
            let record = take_record(reader, &before)?;
            if full && record.load.is_none() {
                return Err(Malformed("a full report need not say what is gone"));
            }
            records.push(record);
        }
        if index + 1 < count && records.is_empty() {
            return Err(Malformed("an empty part that is not the last"));
        }
        Ok(Part { sequence, full, index, count, age, opens_per_second, after, records })
    }
}

/// What all parts of a report have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading {
    pub(crate) sequence: u64,
    pub(crate) full: bool,
    pub(crate) age: Duration,
    pub(crate) opens_per_second: f32,
}

/// Writes records, which rise strictly by position, as parts of at most `limit` bytes each, each begun with
/// `kind`. There is always at least one, so that an empty report is heard too.
pub(crate) fn encode<'a>(
    kind: u8,
    heading: &Heading,
    records: impl Iterator<Item = (Position, Option<&'a EndpointReport>)>,
    limit: usize,
) -> Vec<Vec<u8>> {
    let room = limit - 1 - MAX_PART_HEADER;
    let mut bodies: Vec<(bool, Vec<u8>)> = vec![(false, Vec::with_capacity(room))];
    let mut before = ORIGIN;
    let mut record = Vec::with_capacity(MAX_RECORD);
    for (position, load) in records {
        record.clear();
        put_record(&mut record, &before, &position, load);
        let (_, body) = bodies.last_mut().expect("it began with one");
        if body.len() + record.len() <= room {
            body.extend_from_slice(&record);
        } else {
            let mut body = Vec::with_capacity(room);
            if heading.full {
                put_position(&mut body, &ORIGIN, &before, 0);
            } else {
                before = ORIGIN;
            }
            put_record(&mut body, &before, &position, load);
            bodies.push((heading.full, body));
        }
        before = position;
    }
    let count = bodies.len() as u64;
    let finish = |(index, (after, body)): (usize, (bool, Vec<u8>))| {
        let mut message = Vec::with_capacity(body.len() + MAX_PART_HEADER + 1);
        message.push(kind);
        message.push(if heading.full { FULL } else { 0 } | if after { AFTER } else { 0 });
        put_varint(&mut message, heading.sequence);
        put_varint(&mut message, index as u64);
        put_varint(&mut message, count);
        put_varint(&mut message, heading.age.as_millis().min(u128::from(u32::MAX)) as u64);
        put_float(&mut message, heading.opens_per_second);
        message.extend_from_slice(&body);
        message
    };
    bodies.into_iter().enumerate().map(finish).collect()
}
