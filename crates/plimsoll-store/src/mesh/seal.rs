//! Sealing: what leaves the node is encrypted and signed with the mesh's key, what arrives is opened or refused.
//!
//! A datagram is a header in the clear, which is signed too, and a sealed message:
//!
//! ```text
//! version 1 | key id 2 | sender's start 16 | receiver's start, first 8 bytes | counter 8 | message | tag 16
//! ```
//!
//! The cipher is ChaCha20-Poly1305 (RFC 8439). Its key is derived for each process start, by HKDF-SHA-256
//! (RFC 5869) from the mesh's key and the sender's start, a random number that a process draws once. So a nonce
//! that is simply a counter never repeats under one key, without anything to remember across restarts.

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{self, Prk, Salt};

use super::key::Key;

/// The most a datagram may have, without UDP and IP headers.
pub const MAX_DATAGRAM: usize = 1200;
/// What sealing adds to a message.
pub(crate) const OVERHEAD: usize = HEADER + TAG;
/// The longest message that fits into a datagram.
pub(crate) const MAX_MESSAGE: usize = MAX_DATAGRAM - OVERHEAD;

const HEADER: usize = 1 + 2 + 16 + 8 + 8;
const TAG: usize = 16;
const VERSION: u8 = 1;

/// Drawn at random when a process starts: tells one life of a node from the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Start(pub [u8; 16]);

impl Start {
    /// What a datagram names its receiver by.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.0.first_chunk().copied().expect("sixteen bytes begin with eight"))
    }
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.mark().0))
    }
}

/// The first half of a [`Start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark([u8; 8]);

impl Mark {
    /// For a receiver whose start the sender does not know.
    pub(crate) const UNKNOWN: Mark = Mark([0; 8]);
}

/// The cleartext header of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    key_id: [u8; 2],
    pub(crate) sender: Start,
    pub(crate) receiver: Mark,
    pub(crate) counter: u64,
}

impl Header {
    /// Reads the header; `None` if this cannot be a datagram of this version.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Header> {
        if datagram.len() <= OVERHEAD || datagram.len() > MAX_DATAGRAM || datagram[0] != VERSION {
            return None;
        }
        let (key_id, rest) = datagram[1..].split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (receiver, rest) = rest.split_first_chunk()?;
        let (counter, _) = rest.split_first_chunk()?;
        Some(Header {
            key_id: *key_id,
            sender: Start(*sender),
            receiver: Mark(*receiver),
            counter: u64::from_be_bytes(*counter),
        })
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[derive(Debug)]
struct RingKey {
    id: [u8; 2],
    secret: Prk,
}

impl RingKey {
    fn new(key: &Key) -> RingKey {
        let secret = Salt::new(hkdf::HKDF_SHA256, b"plimsoll mesh 1").extract(&key.0);
        let mut digest = [0; 32];
        secret
            .expand(&[b"key id"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut digest))
            .expect("32 bytes are less than HKDF's limit of 255 hashes");
        RingKey { id: [digest[0], digest[1]], secret }
    }

    fn subkey(&self, start: &Start) -> LessSafeKey {
        let key: UnboundKey = self
            .secret
            .expand(&[b"start", &start.0], &aead::CHACHA20_POLY1305)
            .expect("32 bytes are less than HKDF's limit of 255 hashes")
            .into();
        LessSafeKey::new(key)
    }
}

/// The keys a node knows: the first seals, all open.
#[derive(Debug)]
pub struct KeyRing(Vec<RingKey>);

impl KeyRing {
    /// From the keys of a key file, of which there is at least one.
    pub(crate) fn new(keys: &[Key]) -> KeyRing {
        assert!(!keys.is_empty(), "a key file without keys is an error");
        KeyRing(keys.iter().map(RingKey::new).collect())
    }

    /// A key that everybody knows: the same format, no protection.
    pub(crate) fn insecure() -> KeyRing {
        KeyRing::new(&[Key([0; 32])])
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a key with the header's id is on the ring.
    pub(crate) fn knows(&self, header: &Header) -> bool {
        self.0.iter().any(|key| key.id == header.key_id)
    }

    /// Opens a datagram into a buffer. `cached` is the opener that served the sender last, if any; the one that did
    /// now is left in it.
    pub(crate) fn open<'a>(
        &self,
        header: &Header,
        cached: &mut Option<Opener>,
        datagram: &[u8],
        into: &'a mut Vec<u8>,
    ) -> Option<&'a [u8]> {
        if let Some(opener) = cached.as_ref().filter(|opener| opener.key_id == header.key_id)
            && opener.open(header, datagram, into)
        {
            return Some(&into[..datagram.len() - OVERHEAD]);
        }
        // Two keys have the same id once in 65,536 pairs, so all with this id are tried.
        for key in self.0.iter().filter(|key| key.id == header.key_id) {
            let opener = Opener { key_id: key.id, key: key.subkey(&header.sender) };
            if opener.open(header, datagram, into) {
                *cached = Some(opener);
                return Some(&into[..datagram.len() - OVERHEAD]);
            }
        }
        None
    }
}

/// Opens the datagrams that one process sealed with one key.
#[derive(Debug)]
pub(crate) struct Opener {
    key_id: [u8; 2],
    key: LessSafeKey,
}

impl Opener {
    fn open(&self, header: &Header, datagram: &[u8], into: &mut Vec<u8>) -> bool {
        let (clear, sealed) = datagram.split_at(HEADER);
        into.clear();
        into.extend_from_slice(sealed);
        self.key.open_in_place(nonce(header.counter), Aad::from(clear), into).is_ok()
    }
}

/// Seals what this process sends.
#[derive(Debug)]
pub(crate) struct Sealer {
    start: Start,
    key_id: [u8; 2],
    key: LessSafeKey,
    counter: u64,
}

impl Sealer {
    /// With the first key of the ring.
    pub(crate) fn new(ring: &KeyRing, start: Start) -> Sealer {
        let first = &ring.0[0];
        Sealer { start, key_id: first.id, key: first.subkey(&start), counter: 0 }
    }

    /// Goes on with the first key of another ring. The counter goes on too: receivers keep one window per start.
    pub(crate) fn change_keys(&mut self, ring: &KeyRing) {
        *self = Sealer { counter: self.counter, ..Sealer::new(ring, self.start) };
    }

    /// The counter of the next datagram.
    pub(crate) fn counter(&self) -> u64 {
        self.counter
    }

    /// A datagram that carries `message`, which has at most [`MAX_MESSAGE`] bytes.
    pub(crate) fn seal(&mut self, receiver: Mark, message: &[u8]) -> Vec<u8> {
        debug_assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes", message.len());
        let mut datagram = Vec::with_capacity(message.len() + OVERHEAD);
        datagram.push(VERSION);
        datagram.extend(self.key_id);
        datagram.extend(self.start.0);
        datagram.extend(receiver.0);
        datagram.extend(self.counter.to_be_bytes());
        datagram.extend_from_slice(message);
        let (clear, sealed) = datagram.split_at_mut(HEADER);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.counter), Aad::from(&*clear), sealed)
            .expect("a datagram is far below the cipher's limit");
        datagram.extend(tag.as_ref());
        self.counter += 1;
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ring: &KeyRing, datagram: &[u8]) -> Option<Vec<u8>> {
        let header = Header::parse(datagram)?;
        ring.open(&header, &mut None, datagram, &mut Vec::new()).map(<[u8]>::to_vec)
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else() {
        let ring = KeyRing::new(&[Key([1; 32])]);
        let mut sealer = Sealer::new(&ring, Start([9; 16]));
        let datagram = sealer.seal(Mark::UNKNOWN, b"report");
        assert_eq!(datagram.len(), OVERHEAD + 6);
        assert_eq!(open(&ring, &datagram).unwrap(), b"report");
        for bit in 0..datagram.len() * 8 {
            let mut mutated = datagram.clone();
            mutated[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&ring, &mutated), None, "bit {bit}");
        }
        for length in 0..datagram.len() {
            assert_eq!(open(&ring, &datagram[..length]), None, "cut at {length}");
        }
        assert_ne!(sealer.seal(Mark::UNKNOWN, b"report")[35..], datagram[35..], "the nonce moves on");
    }

    #[test]
    fn starts_have_keys_of_their_own() {
        let ring = KeyRing::new(&[Key([1; 32])]);
        let one = Sealer::new(&ring, Start([1; 16])).seal(Mark::UNKNOWN, b"the same");
        let other = Sealer::new(&ring, Start([2; 16])).seal(Mark::UNKNOWN, b"the same");
        assert_ne!(one[HEADER..], other[HEADER..]);
    }

    #[test]
    fn a_ring_opens_with_any_of_its_keys() {
        let (old, new) = (Key([1; 32]), Key([2; 32]));
        let both = KeyRing::new(&[new.clone(), old.clone()]);
        let sealed_old = Sealer::new(&KeyRing::new(&[old]), Start([1; 16])).seal(Mark::UNKNOWN, b"x");
        let sealed_new = Sealer::new(&both, Start([1; 16])).seal(Mark::UNKNOWN, b"x");
        assert!(open(&both, &sealed_old).is_some() && open(&both, &sealed_new).is_some());
        let only_new = KeyRing::new(&[new]);
        assert!(open(&only_new, &sealed_new).is_some());
        assert!(!only_new.knows(&Header::parse(&sealed_old).unwrap()));
        assert_eq!(open(&only_new, &sealed_old), None);
        assert_eq!(open(&KeyRing::insecure(), &sealed_new), None);
    }
}
