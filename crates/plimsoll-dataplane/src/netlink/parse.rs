//! Reading: iterators over foreign bytes that stop where the bytes stop making sense.

use super::{HEADER, KIND_MASK, Refusal, align};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type; for nfnetlink: subsystem * 256 + message.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// Its sequence number.
    pub seq: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages in `bytes`; ends at the first that is not whole.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = usize::try_from(u32::from_ne_bytes(four(header, 0)?)).ok()?;
        let body = rest.get(HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            seq: u32::from_ne_bytes(four(header, 8)?),
            body,
        };
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

impl<'a> Message<'a> {
    /// The attributes after a family header of `header` bytes (4 for nfnetlink, 8 for `ifaddrmsg`).
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes { rest: self.body.get(align(header)..).unwrap_or_default() }
    }

    /// Whether this ends a dump.
    pub fn is_done(&self) -> bool {
        self.kind == NLMSG_DONE
    }

    /// Whether the dump that this belongs to was overtaken by a change.
    pub fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// For an error or acknowledgement (also one within `NLMSG_DONE`): `Ok` if all went well, else the refusal.
    /// `None` for any other message.
    pub fn verdict(&self) -> Option<Result<(), Refusal>> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        let errno = four(self.body, 0).map_or(0, i32::from_ne_bytes);
        if errno == 0 {
            return Some(Ok(()));
        }
        // Error: number, the refused message's header (its whole body too unless NETLINK_CAP_ACK), then attributes.
        let attributes = if self.flags & NLM_F_ACK_TLVS == 0 {
            &[]
        } else if self.kind == NLMSG_DONE {
            self.body.get(4..).unwrap_or_default()
        } else {
            let echoed = if self.flags & NLM_F_CAPPED == 0 {
                four(self.body, 4).map_or(HEADER, |length| u32::from_ne_bytes(length) as usize)
            } else {
                HEADER
            };
            align(echoed).checked_add(4).and_then(|start| self.body.get(start..)).unwrap_or_default()
        };
        let mut refusal = Refusal { seq: self.seq, errno: errno.saturating_neg(), text: None, offset: None };
        for attribute in (Attributes { rest: attributes }) {
            match attribute.kind {
                NLMSGERR_ATTR_MSG => refusal.text = attribute.text().map(str::to_owned),
                NLMSGERR_ATTR_OFFS => refusal.offset = attribute.u32(),
                _ => {}
            }
        }
        Some(Err(refusal))
    }
}

/// One attribute. Its methods read the payload as what the caller expects, `None` where it is too short.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// Its type, without the flag bits.
    pub kind: u16,
    /// What it holds.
    pub payload: &'a [u8],
}

/// The attributes in some bytes; ends at the first that is not whole.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads `bytes` as attributes.
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: bytes }
    }

    /// The first attribute of this type.
    pub fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self.clone(), |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let header = self.rest.get(..4)?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let payload = self.rest.get(4..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind, payload })
    }
}

impl<'a> Attribute<'a> {
    /// The attributes nested in it.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.payload }
    }

    /// A byte.
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// 16 bits in network order.
    pub fn be16(&self) -> Option<u16> {
        self.payload.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// 32 bits in network order.
    pub fn be32(&self) -> Option<u32> {
        four(self.payload, 0).map(u32::from_be_bytes)
    }

    /// 64 bits in network order.
    pub fn be64(&self) -> Option<u64> {
        self.payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// 32 bits in the machine's order.
    pub fn u32(&self) -> Option<u32> {
        four(self.payload, 0).map(u32::from_ne_bytes)
    }

    /// A string, up to its first zero byte.
    pub fn text(&self) -> Option<&'a str> {
        let end = self.payload.iter().position(|&byte| byte == 0).unwrap_or(self.payload.len());
        std::str::from_utf8(&self.payload[..end]).ok()
    }
}

fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Reads arbitrary bytes as netlink messages in every way this codec can, and returns how many messages and
/// attributes it saw: what a fuzzer calls.
pub fn check_bytes(bytes: &[u8]) -> (usize, usize) {
    fn walk(attributes: Attributes<'_>, depth: usize, seen: &mut usize) {
        for attribute in attributes {
            *seen += 1;
            let _ = (attribute.u8(), attribute.be16(), attribute.be32(), attribute.be64(), attribute.u32());
            let _ = attribute.text();
            if depth > 0 {
                walk(attribute.attributes(), depth - 1, seen);
            }
        }
    }
    let (mut count, mut seen) = (0, 0);
    for message in messages(bytes) {
        count += 1;
        let _ = (message.verdict(), message.is_done(), message.is_interrupted());
        walk(message.attributes(4), 6, &mut seen);
        walk(message.attributes(8), 6, &mut seen);
    }
    (count, seen)
}
