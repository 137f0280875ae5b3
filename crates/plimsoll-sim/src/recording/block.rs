//! Blocks: pieces of a recording that each carry their length, their number and a checksum.

/// What a block is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Head = 1,
    Services = 2,
    Endpoints = 3,
    Connections = 4,
    Tail = 5,
}

impl Kind {
    pub(super) const ALL: [Kind; 5] =
        [Kind::Head, Kind::Services, Kind::Endpoints, Kind::Connections, Kind::Tail];
}

/// Before the payload: its length, the kind, the block's number.
pub(super) const FRONT: usize = 4 + 1 + 4;
/// After it: the checksum of all that is before.
pub(super) const BACK: usize = 4;
/// The longest payload.
pub(super) const LONGEST: usize = 64 << 10;

/// Appends a block.
pub(super) fn seal(out: &mut Vec<u8>, kind: Kind, number: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= LONGEST);
    let start = out.len();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(payload);
    let sum = checksum(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// CRC-32 as in IEEE 802.3: every change of a single byte changes it.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum >> 8) ^ TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize];
    !bytes.iter().fold(!0, step)
}

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// Appends a number in groups of seven bits, the lowest first (LEB128).
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a number that may be below 0: 0, -1, 1, -2, … are written as 0, 1, 2, 3, …
pub(super) fn write_signed(out: &mut Vec<u8>, number: i64) {
    write_number(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// What is left of a payload. Its methods answer `None` where it is too short or no such thing.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for group in 0..10 {
            let byte = self.byte()?;
            // The tenth group has room for one bit.
            if group == 9 && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn fixed(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    pub(super) fn name(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(name).ok().filter(|name| super::is_name(name))
    }
}
