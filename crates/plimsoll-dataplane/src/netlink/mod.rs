//! A small netlink codec: enough for nftables, conntrack and routing's addresses, in both directions.
//!
//! [`Builder`] writes messages with nested attributes into one reusable buffer; [`messages`] and [`Attributes`]
//! read them back and never panic, whatever the bytes are; [`Socket`] carries them. Format and rules: netlink(7)
//! and the kernel's `Documentation/userspace-api/netlink`.

mod build;
mod parse;
mod socket;
#[cfg(test)]
mod tests;

pub use build::Builder;
pub use parse::{Attribute, Attributes, Message, check_bytes, messages};
pub use socket::{Buffers, Protocol, Socket};

use std::fmt;
use std::io;

/// `NLM_F_REQUEST`: every message to the kernel carries it ([`Builder`] sets it).
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer even if all went well.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: answer with everything there is.
pub const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: fail if it exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it does not exist.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add at the end.
pub const APPEND: u16 = 0x800;

/// Bytes of a netlink message's header.
pub(crate) const HEADER: usize = 16;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` masked away.
const KIND_MASK: u16 = 0x3fff;

/// The next multiple of four: where the next message or attribute begins.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// The four bytes after the header of every nfnetlink message (`struct nfgenmsg`): family, version 0 and a
/// resource id that only batches use.
pub const fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

/// What the kernel said no to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The sequence number of the message that it concerns.
    pub seq: u32,
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`), where it had any.
    pub text: Option<String>,
    /// Offset, in the refused message, of the attribute that the kernel disliked.
    pub offset: Option<u32>,
}

impl Refusal {
    /// The error number as an I/O error.
    pub fn io(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.io())?;
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// What went wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("netlink: cannot {what}: {source}")]
    Io {
        /// Which call.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// `ENOBUFS`: the kernel had more to tell than the receive buffer holds; some messages are lost.
    #[error("netlink: messages were lost because the receive buffer was full")]
    Overrun,
    /// What was dumped changed meanwhile (`NLM_F_DUMP_INTR`): the dump is not whole; do it again.
    #[error("netlink: what was being dumped changed meanwhile")]
    Interrupted,
    /// The kernel refused a request.
    #[error("netlink: refused: {0}")]
    Refused(Refusal),
    /// The kernel did not answer as it must.
    #[error("netlink: unexpected answer: {0}")]
    Protocol(&'static str),
}

impl Error {
    /// The error number behind it, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            Error::Refused(refusal) => Some(refusal.errno),
            Error::Overrun => Some(libc::ENOBUFS),
            Error::Interrupted | Error::Protocol(_) => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }
}
