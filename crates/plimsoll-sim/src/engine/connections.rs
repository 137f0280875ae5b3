//! The connections of clients, each known by a number that is used again when it is gone.

use plimsoll_core::time::Timestamp;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its client will dial.
    Dialling,
    /// It is open.
    Open,
    /// It is gone, but something is still to happen by its number.
    Gone,
}

/// A connection of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) long: bool,
    pub(super) node: u16,
    pub(super) endpoint: u32,
    pub(super) opened: Timestamp,
    /// When it closes; never, if with the answer to its one request. While dialling, how long it will last.
    pub(super) ends: Timestamp,
    /// What the steering called it.
    pub(super) mark: u64,
    pub(super) requests_per_second: f64,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    places: Vec<Connection>,
    free: Vec<u32>,
}

impl Connections {
    /// Takes in a connection; its number.
    pub(super) fn add(&mut self, connection: Connection) -> u32 {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = connection;
            return number;
        }
        self.places.push(connection);
        (self.places.len() - 1) as u32
    }

    pub(super) fn get(&mut self, number: u32) -> &mut Connection {
        &mut self.places[number as usize]
    }

    /// For how many connections there is room.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// Gives a number back, when nothing is to happen by it any more.
    pub(super) fn free(&mut self, number: u32) {
        self.places[number as usize].phase = Phase::Gone;
        self.free.push(number);
    }

    /// The numbers of the open long connections that fit.
    pub(super) fn long(&self, fits: impl Fn(&Connection) -> bool) -> Vec<u32> {
        let numbered = self.places.iter().enumerate();
        let fitting = numbered
            .filter(|(_, connection)| connection.phase == Phase::Open && connection.long && fits(connection));
        fitting.map(|(number, _)| number as u32).collect()
    }
}
