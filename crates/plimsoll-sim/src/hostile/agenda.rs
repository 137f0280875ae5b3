//! What is due in a hostile run, as it waits in the queue.

/// What is due; the number says for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The next phase.
    Turn,
    /// Something goes wrong.
    Fault,
    /// A node's agent starts.
    Start(usize),
    /// A node's discovery tells what there is.
    Learn(usize),
    /// A frozen node goes on.
    Thaw(usize),
    /// A node's dataplane carries a plan out, for the agent with this incarnation.
    Carry(usize, u32),
    /// It counts, for that agent.
    Count(usize, u32),
    /// A balancer wants to be woken.
    Wake(usize),
    /// A report arrives.
    Datagram(usize),
    /// A node opens a connection.
    Open(usize),
    /// A connection closes.
    Close(usize),
}

impl Due {
    pub(super) fn pack(self) -> u64 {
        let (kind, which, more) = match self {
            Due::Turn => (0, 0, 0),
            Due::Fault => (1, 0, 0),
            Due::Start(node) => (2, node, 0),
            Due::Learn(node) => (3, node, 0),
            Due::Thaw(node) => (4, node, 0),
            Due::Carry(node, incarnation) => (5, node, incarnation),
            Due::Count(node, incarnation) => (6, node, incarnation),
            Due::Wake(node) => (7, node, 0),
            Due::Datagram(datagram) => (8, datagram, 0),
            Due::Open(node) => (9, node, 0),
            Due::Close(connection) => (10, connection, 0),
        };
        (kind << 56) | ((which as u64) << 24) | u64::from(more)
    }

    pub(super) fn unpack(entry: u64) -> Due {
        let which = (entry >> 24) as usize & 0xffff_ffff;
        let more = entry as u32 & 0xff_ffff;
        match entry >> 56 {
            0 => Due::Turn,
            1 => Due::Fault,
            2 => Due::Start(which),
            3 => Due::Learn(which),
            4 => Due::Thaw(which),
            5 => Due::Carry(which, more),
            6 => Due::Count(which, more),
            7 => Due::Wake(which),
            8 => Due::Datagram(which),
            9 => Due::Open(which),
            _ => Due::Close(which),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_survives_the_queue() {
        for due in [
            Due::Turn,
            Due::Fault,
            Due::Start(1),
            Due::Learn(20),
            Due::Thaw(3),
            Due::Carry(20, 70_000),
            Due::Count(1, 2),
            Due::Wake(0),
            Due::Datagram(0x00ff_ffff),
            Due::Open(7),
            Due::Close(1_000_000),
        ] {
            assert_eq!(Due::unpack(due.pack()), due);
        }
    }
}
