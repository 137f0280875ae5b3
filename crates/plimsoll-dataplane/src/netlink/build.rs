//! Writing: messages with nested attributes, one after the other in one buffer that is used again and again.

use super::{HEADER, NESTED, REQUEST, align};

/// Writes netlink messages into one buffer.
///
/// ```
/// use plimsoll_dataplane::netlink::{ACK, Builder, messages};
///
/// let mut builder = Builder::new();
/// let seq = builder.message(0x0a00, ACK, &[1, 0, 0, 0], |m| {
///     m.text(1, "plimsoll");
///     m.nest(2, |m| m.be32(1, 7));
/// });
/// let message = messages(builder.bytes()).next().expect("just written");
/// assert_eq!(message.seq, seq);
/// ```
#[derive(Debug, Default)]
pub struct Builder {
    buffer: Vec<u8>,
    seq: u32,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Forgets the messages; sequence numbers go on rising.
    pub fn clear(&mut self) {
        self.buffer.clear();
    }

    /// Gives back the memory for messages beyond so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.buffer.shrink_to(bytes);
    }

    /// The messages written since the last [`clear`](Builder::clear).
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// How many bytes they take.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Sets the sequence number after which the next message counts on.
    pub fn number_from(&mut self, seq: u32) {
        self.seq = seq;
    }

    /// Forgets what was written after the first `length` bytes, which must be a former [`len`](Builder::len).
    pub fn truncate(&mut self, length: usize) {
        self.buffer.truncate(length);
    }

    /// Writes one message: header (`NLM_F_REQUEST` is added to `flags`), the family's own `header`, and what
    /// `body` adds. Returns its sequence number.
    pub fn message(&mut self, kind: u16, flags: u16, header: &[u8], body: impl FnOnce(&mut Builder)) -> u32 {
        let start = self.buffer.len();
        self.seq = self.seq.wrapping_add(1).max(1);
        let seq = self.seq;
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.buffer.extend_from_slice(&seq.to_ne_bytes());
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        debug_assert_eq!(self.buffer.len() - start, HEADER);
        self.buffer.extend_from_slice(header);
        self.pad();
        body(self);
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        seq
    }

    /// Appends whole messages that were written elsewhere.
    pub fn raw(&mut self, messages: &[u8]) {
        self.buffer.extend_from_slice(messages);
    }

    /// Adds `flags` to the message that begins at `start`, a former [`len`](Builder::len).
    pub fn add_flags(&mut self, start: usize, flags: u16) {
        let field = &mut self.buffer[start + 6..start + 8];
        let old = u16::from_ne_bytes([field[0], field[1]]);
        field.copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Writes one attribute.
    pub fn bytes_of(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 4).expect("attributes are written in pieces below 64 kB");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(payload);
        self.pad();
    }

    /// Writes an attribute that holds what `body` adds. It must stay below 64 kB: longer lists are split over
    /// messages by whoever writes them.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Builder)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length =
            u16::try_from(self.buffer.len() - start).expect("lists are split into attributes below 64 kB");
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes a byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes_of(kind, &[value]);
    }

    /// Writes a number of 16 bits in network order.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes_of(kind, &value.to_be_bytes());
    }

    /// Writes a number of 32 bits in network order, as netfilter wants its numbers.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes_of(kind, &value.to_be_bytes());
    }

    /// Writes a number of 64 bits in network order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes_of(kind, &value.to_be_bytes());
    }

    /// Writes a string with its final zero byte.
    pub fn text(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(value.len() + 5).expect("names are far shorter than 64 kB");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value.as_bytes());
        self.buffer.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.buffer.resize(align(self.buffer.len()), 0);
    }
}
