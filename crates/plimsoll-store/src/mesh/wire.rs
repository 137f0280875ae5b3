//! What a sealed datagram says: the messages of the mesh and their bytes.

use super::membership::{Identity, Membership};
use super::pack::{Malformed, Reader};
use super::part::Part;
use super::session::Token;

pub(crate) const HELLO: u8 = 1;
pub(crate) const CHALLENGE: u8 = 2;
pub(crate) const ANSWER: u8 = 3;
pub(crate) const WELCOME: u8 = 4;
pub(crate) const MEMBERSHIP: u8 = 5;
pub(crate) const REPORT: u8 = 6;
pub(crate) const ASK: u8 = 7;
pub(crate) const SUPERSEDED: u8 = 8;
pub(crate) const WHO: u8 = 9;

/// How many bytes a challenge has. A hello is as long, so that it can be answered with one.
pub(crate) const CHALLENGE_BYTES: usize = 1 + 8 + 16;

/// A message of the mesh.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// "Who is there?" To an address whose owner's start is not known.
    Hello,
    /// "I do not know you, or you do not know me: prove that you are alive."
    Challenge {
        /// The counter of the datagram that provoked it, which proves that the challenger is alive.
        echo: u64,
        /// What the answer must repeat.
        token: Token,
    },
    /// The answer to a challenge.
    Answer {
        /// The challenge's token.
        token: Token,
    },
    /// "You are believed. This is who I am."
    Welcome(Identity),
    /// A message of the membership protocol.
    Membership(Membership),
    /// A piece of the sender's report.
    Report(Part),
    /// "Send me a full report with the next."
    Ask,
    /// "A newer process has your name."
    Superseded {
        /// The newer process, as far as the sender knows.
        by: Identity,
        /// Whether it is alive.
        live: bool,
    },
    /// "You send me reports, but I do not know you as a member: announce yourself." Gossip reaches nearly all, and
    /// this the rest.
    Who,
}

impl Message {
    /// Reads the inside of a datagram.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            HELLO => {
                let padding = reader.take(CHALLENGE_BYTES - 1)?;
                if padding.iter().any(|byte| *byte != 0) {
                    return Err(Malformed("a hello says nothing"));
                }
                Message::Hello
            }
            CHALLENGE => Message::Challenge { echo: reader.u64()?, token: reader.array()? },
            ANSWER => Message::Answer { token: reader.array()? },
            WELCOME => Message::Welcome(Identity::decode(&mut reader)?),
            MEMBERSHIP => return Ok(Message::Membership(Membership::decode(&mut reader)?)),
            REPORT => return Ok(Message::Report(Part::decode(&mut reader)?)),
            ASK => Message::Ask,
            WHO => Message::Who,
            SUPERSEDED => {
                let live = match reader.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed("neither alive nor dead")),
                };
                Message::Superseded { by: Identity::decode(&mut reader)?, live }
            }
            _ => return Err(Malformed("an unknown kind of message")),
        };
        reader.finish()?;
        Ok(message)
    }
}

pub(crate) fn hello() -> Vec<u8> {
    let mut bytes = vec![0; CHALLENGE_BYTES];
    bytes[0] = HELLO;
    bytes
}

pub(crate) fn challenge(echo: u64, token: &Token) -> Vec<u8> {
    let mut bytes = vec![CHALLENGE];
    bytes.extend(echo.to_be_bytes());
    bytes.extend(token);
    bytes
}

pub(crate) fn answer(token: &Token) -> Vec<u8> {
    let mut bytes = vec![ANSWER];
    bytes.extend(token);
    bytes
}

pub(crate) fn welcome(identity: &Identity) -> Vec<u8> {
    let mut bytes = vec![WELCOME];
    identity.encode(&mut bytes);
    bytes
}

pub(crate) fn membership(written_by_foca: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(written_by_foca.len() + 1);
    bytes.push(MEMBERSHIP);
    bytes.extend_from_slice(written_by_foca);
    bytes
}

pub(crate) fn superseded(by: &Identity, live: bool) -> Vec<u8> {
    let mut bytes = vec![SUPERSEDED, u8::from(live)];
    by.encode(&mut bytes);
    bytes
}
