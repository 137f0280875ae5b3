//! Writing: names and connections as they come, block by block.

use super::block::{Kind, seal, write_number, write_signed};
use super::{Connection, Head, How, MAGIC, MOST_ENDPOINTS, MOST_SERVICES, Tail, Why, is_name};

/// Connections are collected up to this many bytes before they become a block.
const FULL: usize = 16 << 10;

/// Writes a recording. The caller takes what is ready now and then, and puts it into a file.
#[derive(Debug)]
pub struct Writer {
    ready: Vec<u8>,
    /// Bytes that were taken.
    taken: u64,
    blocks: u32,
    services: usize,
    endpoints: usize,
    /// Connections that are no block yet, with the latest time among them.
    waiting: Vec<u8>,
    latest: i64,
    /// When the last of them ended.
    previous: i64,
    /// Up to when everything was heard, as of the last block.
    heard: u64,
    connections: u64,
}

impl Writer {
    /// Begins a recording. `None` if the node's name cannot be in one.
    pub fn new(head: &Head) -> Option<Writer> {
        if !is_name(&head.node) {
            return None;
        }
        let mut writer = Writer {
            ready: MAGIC.to_vec(),
            taken: 0,
            blocks: 0,
            services: 0,
            endpoints: 0,
            waiting: Vec::new(),
            latest: 0,
            previous: 0,
            heard: 0,
            connections: 0,
        };
        let mut payload = Vec::new();
        write_name(&mut payload, &head.node);
        payload.extend_from_slice(&head.began.to_le_bytes());
        payload.push(u8::from(head.salt.is_some()));
        payload.extend_from_slice(&head.salt.unwrap_or(0).to_le_bytes());
        writer.seal(Kind::Head, &payload);
        Some(writer)
    }

    /// Enters a Service; its number. `None` if that cannot be its name, or if there are too many.
    pub fn add_service(&mut self, name: &str) -> Option<u32> {
        self.services = enter(self.services, MOST_SERVICES, name)?;
        self.seal_name(Kind::Services, name);
        Some((self.services - 1) as u32)
    }

    /// Enters an endpoint; its number. `None` if that cannot be its name, or if there are too many.
    pub fn add_endpoint(&mut self, name: &str) -> Option<u32> {
        self.endpoints = enter(self.endpoints, MOST_ENDPOINTS, name)?;
        self.seal_name(Kind::Endpoints, name);
        Some((self.endpoints - 1) as u32)
    }

    /// Adds a connection, at `now` milliseconds after the beginning. What would be in the future is taken as now,
    /// and an end before the beginning of the recording, or of the connection, as that.
    pub fn add(&mut self, now: u64, connection: &Connection) {
        let least = connection.began.unwrap_or(0).max(0);
        let until = connection.until.min(now as i64).max(least);
        let how = How::ALL.iter().position(|how| *how == connection.how).unwrap_or_default() as u8;
        let out = &mut self.waiting;
        write_number(out, u64::from(connection.service));
        write_number(out, u64::from(connection.endpoint));
        out.push(how | if connection.began.is_none() { UNKNOWN } else { 0 });
        write_signed(out, until - self.previous);
        if let Some(began) = connection.began {
            write_number(out, (until - began) as u64);
        }
        self.previous = until;
        self.latest = self.latest.max(until);
        self.connections += 1;
        if self.waiting.len() >= FULL {
            self.flush(now);
        }
    }

    /// Makes a block of what waits.
    pub fn flush(&mut self, now: u64) {
        if self.waiting.is_empty() {
            return;
        }
        self.heard = self.heard.max(now).max(self.latest as u64);
        let mut payload = Vec::with_capacity(self.waiting.len() + 10);
        write_number(&mut payload, self.heard);
        payload.append(&mut self.waiting);
        self.seal(Kind::Connections, &payload);
        self.previous = 0;
    }

    /// How many connections there are.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// How many bytes the recording has, those that wait included.
    pub fn size(&self) -> u64 {
        self.taken + (self.ready.len() + self.waiting.len()) as u64
    }

    /// How many bytes are ready.
    pub fn ready(&self) -> u64 {
        self.ready.len() as u64
    }

    /// The bytes that are ready, to be put behind those taken before.
    pub fn take(&mut self) -> Vec<u8> {
        self.taken += self.ready.len() as u64;
        std::mem::take(&mut self.ready)
    }

    /// Ends the recording; the bytes that were not taken yet. How many connections there are it knows itself, and
    /// that the end is not before anything heard.
    pub fn finish(mut self, tail: &Tail) -> Vec<u8> {
        self.flush(tail.length);
        let why = Why::ALL.iter().position(|why| *why == tail.why).unwrap_or_default() as u8;
        let mut payload = Vec::new();
        write_number(&mut payload, tail.length.max(self.heard));
        for number in [self.connections, tail.losses, tail.left_out] {
            write_number(&mut payload, number);
        }
        write_signed(&mut payload, tail.clock_moved);
        payload.push(why);
        self.seal(Kind::Tail, &payload);
        self.ready
    }

    fn seal_name(&mut self, kind: Kind, name: &str) {
        let mut payload = Vec::new();
        write_name(&mut payload, name);
        self.seal(kind, &payload);
    }

    fn seal(&mut self, kind: Kind, payload: &[u8]) {
        seal(&mut self.ready, kind, self.blocks, payload);
        self.blocks += 1;
    }
}

/// Set in a connection's byte if nobody knows when it began.
pub(super) const UNKNOWN: u8 = 0x80;

fn enter(known: usize, most: usize, name: &str) -> Option<usize> {
    (known < most && is_name(name)).then_some(known + 1)
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    write_number(out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
}
