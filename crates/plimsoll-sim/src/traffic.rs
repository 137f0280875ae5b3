//! Traffic that really was: who connected through which node, when, for how long, and to which endpoint.

use plimsoll_core::time::Timestamp;

/// A connection that really was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// When it began.
    pub at: Timestamp,
    /// When it ended; never, if it was still open at the end.
    pub ends: Timestamp,
    /// The node that sent it.
    pub node: u16,
    /// The endpoint that got it.
    pub endpoint: u32,
}

/// All connections of some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Those that were open at the beginning.
    pub present: Vec<Recorded>,
    /// Those that began later, in the order of their beginnings.
    pub arrivals: Vec<Recorded>,
}
