//! Recordings: the connections that a node really had, in a compact file that can be checked to the last byte.
//!
//! `plimsoll record` writes them, `plimsoll simulate --replay` reads them; `docs/recording.md` describes the format
//! byte by byte. Writing and reading are pure: bytes come and go as arguments.

mod block;
mod read;
mod write;

pub use read::{check_bytes, read};
pub use write::Writer;

/// What every recording begins with; the number is the version of the format.
const MAGIC: &[u8] = b"plimsoll-recording 1\n";
/// What recordings of every version begin with.
const MAGIC_OF_ALL: &[u8] = b"plimsoll-recording ";
/// The longest name, in bytes.
pub const LONGEST_NAME: usize = 256;
/// The most Services in a recording.
pub const MOST_SERVICES: usize = 1 << 16;
/// The most endpoints in a recording.
pub const MOST_ENDPOINTS: usize = 1 << 20;
/// The longest recording, in milliseconds: a day, the longest that can be simulated.
pub const LONGEST: u64 = 86_400_000;
/// The longest life of a connection, in milliseconds: a hundred years.
const LONGEST_LIFE: u64 = 3_155_760_000_000;

/// What is known before anything is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The node, which sent all connections of the recording.
    pub node: String,
    /// When the recording began, by the node's clock, in milliseconds since 1970.
    pub began: u64,
    /// A number that is the same in recordings whose endpoints were made unrecognizable in the same way; `None`:
    /// endpoints are told by their addresses.
    pub salt: Option<u64>,
}

/// What is known at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// How long the recording is, in milliseconds.
    pub length: u64,
    /// How many connections it holds.
    pub connections: u64,
    /// How often the kernel had more to tell than could be heard: each time, some connections are missing.
    pub losses: u64,
    /// Connections that were seen and not recorded, for want of room or because nobody knows when they began.
    pub left_out: u64,
    /// By how many milliseconds the node's clock was set, which ended the recording.
    pub clock_moved: i64,
    /// Why it ended.
    pub why: Why,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was as long as it was to be.
    Time,
    /// The file was as large as it may become.
    Full,
    /// It was stopped.
    Stopped,
    /// The clock was set, or the node slept: what came after could not be compared with what came before.
    Clock,
}

impl Why {
    const ALL: [Why; 4] = [Why::Time, Why::Full, Why::Stopped, Why::Clock];
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It had not ended when the recording did.
    Open,
    /// With a FIN.
    Finished,
    /// With an RST.
    Reset,
    /// Nothing came any more; what UDP always does.
    Silent,
    /// It was gone all at once, and nobody knows how.
    Gone,
    /// It never was one: refused, or not answered.
    Unanswered,
}

impl How {
    const ALL: [How; 6] = [How::Open, How::Finished, How::Reset, How::Silent, How::Gone, How::Unanswered];
}

/// One connection. Times are milliseconds after the beginning of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The Service's number in the recording.
    pub service: u32,
    /// The endpoint's number in the recording.
    pub endpoint: u32,
    /// When it began; below 0 if before the recording, and `None` if so long before that nobody knows.
    pub began: Option<i64>,
    /// When it ended; for one that had not, when it was seen last.
    pub until: i64,
    /// How.
    pub how: How,
}

/// Everything in a recording but its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What was known before.
    pub head: Head,
    /// The Services' names, by number.
    pub services: Vec<String>,
    /// The endpoints' names, by number.
    pub endpoints: Vec<String>,
    /// What is known at the end.
    pub tail: Tail,
}

/// Bytes that are no recording, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct Error {
    /// The first byte of the part that is wrong, counted from 0.
    pub at: usize,
    /// What is wrong with it, and what to do.
    pub what: String,
}

/// Whether a name can be in a recording: not empty, not too long, and nothing in it that would play tricks on a
/// terminal.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
