//! Reading: foreign bytes, believed only as far as each block's checksum, number and times hold.

use super::block::{BACK, FRONT, Kind, LONGEST as LONGEST_BLOCK, Rest, checksum, seal};
use super::write::UNKNOWN;
use super::{
    Connection, Contents, Error, Head, How, LONGEST, LONGEST_LIFE, MAGIC, MAGIC_OF_ALL, MOST_ENDPOINTS,
    MOST_SERVICES, Tail, Why,
};

const COPY_AGAIN: &str = "copy it again from where it was recorded";

/// Reads a recording, shows each of its connections, in no order, and tells the rest. It takes no memory beyond the
/// names.
///
/// # Errors
///
/// With what is wrong, where, and what to do. Connections before that place were shown: forget them.
pub fn read(bytes: &[u8], mut each: impl FnMut(&Connection)) -> Result<Contents, Error> {
    let mut reading = Reading { bytes, at: begin(bytes)?, blocks: 0 };
    let (at, kind, payload) = reading.block()?;
    let mut contents = match (kind, read_head(payload)) {
        (Kind::Head, Some(head)) => Contents::new(head),
        _ => return Err(senseless(at, 0)),
    };
    let mut heard = 0;
    let mut connections = 0;
    loop {
        let number = reading.blocks;
        let (at, kind, payload) = reading.block()?;
        let mut rest = Rest(payload);
        match kind {
            Kind::Head => return Err(senseless(at, number)),
            Kind::Services => enter(&mut contents.services, MOST_SERVICES, &mut rest),
            Kind::Endpoints => enter(&mut contents.endpoints, MOST_ENDPOINTS, &mut rest),
            Kind::Connections => {
                let before = std::mem::replace(&mut heard, rest.number().ok_or(senseless(at, number))?);
                check_time(at, number, before, heard)?;
                connections += read_connections(&contents, heard, &mut rest, &mut each)
                    .map_err(|what| Error { at, what: format!("block {number}: {what}") })?;
                Some(())
            }
            Kind::Tail => {
                let tail = read_tail(&mut rest).ok_or(senseless(at, number))?;
                check_time(at, number, heard, tail.length)?;
                if tail.connections != connections {
                    let what = format!(
                        "it should hold {} connections and holds {connections}; {COPY_AGAIN}",
                        tail.connections
                    );
                    return Err(Error { at, what });
                }
                if reading.at != bytes.len() {
                    let what = format!("something follows its end; {COPY_AGAIN}");
                    return Err(Error { at: reading.at, what });
                }
                contents.tail = tail;
                Some(())
            }
        }
        .filter(|()| rest.0.is_empty())
        .ok_or(senseless(at, number))?;
        if kind == Kind::Tail {
            return Ok(contents);
        }
    }
}

impl Contents {
    fn new(head: Head) -> Contents {
        let tail =
            Tail { length: 0, connections: 0, losses: 0, left_out: 0, clock_moved: 0, why: Why::Stopped };
        Contents { head, services: Vec::new(), endpoints: Vec::new(), tail }
    }
}

/// Where the first block begins.
fn begin(bytes: &[u8]) -> Result<usize, Error> {
    if bytes.starts_with(MAGIC) {
        return Ok(MAGIC.len());
    }
    let common = bytes.iter().zip(MAGIC).take_while(|(a, b)| a == b).count();
    let what = if common == bytes.len() {
        format!("it is cut short; {COPY_AGAIN}")
    } else if bytes.starts_with(MAGIC_OF_ALL) {
        "it is a recording of another version of the format; read it with the plimsoll that wrote it"
            .to_owned()
    } else {
        "it is no recording; `plimsoll record` makes one".to_owned()
    };
    Err(Error { at: common, what })
}

/// The blocks, one after the other.
struct Reading<'a> {
    bytes: &'a [u8],
    at: usize,
    blocks: u32,
}

impl<'a> Reading<'a> {
    /// The next block: where it begins, what it is about, and what is in it.
    fn block(&mut self) -> Result<(usize, Kind, &'a [u8]), Error> {
        let (at, number) = (self.at, self.blocks);
        let wrong = |what: String| Error { at, what };
        let cut = || {
            wrong(format!(
                "it is cut short in block {number}: it was not finished, or not copied whole; {COPY_AGAIN}"
            ))
        };
        let damaged = || wrong(format!("block {number} is damaged; {COPY_AGAIN}"));
        let front = self.bytes.get(at..at + FRONT).ok_or_else(cut)?;
        let length = u32::from_le_bytes([front[0], front[1], front[2], front[3]]) as usize;
        if length > LONGEST_BLOCK {
            return Err(damaged());
        }
        let end = at + FRONT + length;
        let sum = self.bytes.get(end..end + BACK).ok_or_else(cut)?;
        if checksum(&self.bytes[at..end]).to_le_bytes() != sum {
            return Err(damaged());
        }
        let found = u32::from_le_bytes([front[5], front[6], front[7], front[8]]);
        if found != number {
            return Err(wrong(format!(
                "block {found} stands where block {number} should be: a part is missing or out of place; {COPY_AGAIN}"
            )));
        }
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == front[4]);
        self.at = end + BACK;
        self.blocks += 1;
        Ok((at, kind.ok_or_else(|| senseless(at, number))?, &self.bytes[at + FRONT..end]))
    }
}

/// A block that was written like this.
fn senseless(at: usize, number: u32) -> Error {
    let what = format!(
        "block {number} makes no sense, although it is undamaged: no plimsoll wrote it; record again"
    );
    Error { at, what }
}

fn check_time(at: usize, number: u32, before: u64, now: u64) -> Result<(), Error> {
    if now < before {
        let what = format!(
            "time runs backwards in block {number}, from {before} ms to {now} ms after the beginning: no plimsoll wrote \
             it; record again"
        );
        return Err(Error { at, what });
    }
    if now > 2 * LONGEST {
        return Err(senseless(at, number));
    }
    Ok(())
}

fn read_head(payload: &[u8]) -> Option<Head> {
    let mut rest = Rest(payload);
    let node = rest.name()?.to_owned();
    let began = rest.fixed()?;
    let is_salted = rest.byte()?;
    let salt = rest.fixed()?;
    if is_salted > 1 || !rest.0.is_empty() || began > u64::MAX / 4 {
        return None;
    }
    Some(Head { node, began, salt: (is_salted == 1).then_some(salt) })
}

fn enter(names: &mut Vec<String>, most: usize, rest: &mut Rest<'_>) -> Option<()> {
    let name = rest.name().filter(|_| names.len() < most)?;
    names.push(name.to_owned());
    Some(())
}

fn read_tail(rest: &mut Rest<'_>) -> Option<Tail> {
    Some(Tail {
        length: rest.number()?,
        connections: rest.number()?,
        losses: rest.number()?,
        left_out: rest.number()?,
        clock_moved: rest.signed()?,
        why: *Why::ALL.get(usize::from(rest.byte()?))?,
    })
}

/// Shows the connections of a block; how many they are.
fn read_connections(
    contents: &Contents,
    heard: u64,
    rest: &mut Rest<'_>,
    each: &mut impl FnMut(&Connection),
) -> Result<u64, &'static str> {
    let mut count = 0;
    let mut previous = 0;
    while !rest.0.is_empty() {
        let connection =
            read_connection(rest, previous).ok_or("a connection makes no sense; record again")?;
        if connection.service as usize >= contents.services.len()
            || connection.endpoint as usize >= contents.endpoints.len()
        {
            return Err("a connection has a Service or an endpoint that has no name; record again");
        }
        if !(0..=heard as i64).contains(&connection.until) {
            return Err("time runs backwards: a connection ends outside the recording; record again");
        }
        previous = connection.until;
        each(&connection);
        count += 1;
    }
    Ok(count)
}

fn read_connection(rest: &mut Rest<'_>, previous: i64) -> Option<Connection> {
    let service = u32::try_from(rest.number()?).ok()?;
    let endpoint = u32::try_from(rest.number()?).ok()?;
    let byte = rest.byte()?;
    let how = *How::ALL.get(usize::from(byte & !UNKNOWN))?;
    let until = previous.checked_add(rest.signed()?)?;
    let began = if byte & UNKNOWN == 0 {
        let life = rest.number().filter(|life| *life <= LONGEST_LIFE)?;
        Some(until.checked_sub(life as i64)?)
    } else {
        None
    };
    Some(Connection { service, endpoint, began, until, how })
}

/// Reads arbitrary bytes as a recording, once as they are and once as the insides of undamaged blocks, shows what it
/// understood, and returns how many connections that were: what a fuzzer calls.
pub fn check_bytes(bytes: &[u8], mut each: impl FnMut(Contents, Vec<Connection>)) -> usize {
    let mut understood = 0;
    let mut check = |bytes: &[u8]| {
        let mut shown = Vec::new();
        match read(bytes, |connection| shown.push(*connection)) {
            Ok(contents) => {
                assert_eq!(contents.tail.connections, shown.len() as u64, "each is shown once");
                understood += shown.len();
                each(contents, shown);
            }
            Err(error) => assert!(error.at <= bytes.len() && !error.what.is_empty()),
        }
    };
    check(bytes);
    // A block's kind, its length, what is in it; and so on.
    let mut sealed = MAGIC.to_vec();
    let mut rest = bytes;
    let mut number = 0;
    while let [kind, length, tail @ ..] = rest {
        let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
        let (payload, after) = tail.split_at(usize::from(*length).min(tail.len()));
        seal(&mut sealed, kind, number, payload);
        (rest, number) = (after, number + 1);
    }
    check(&sealed);
    understood
}
