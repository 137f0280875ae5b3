//! Recordings made into a scenario: the same arrivals with the same lives, for every policy.
//!
//! What is replayed is the time that all recordings have in common. Connections that were open at its beginning are
//! where they were, whoever decides from then on; those still open at its end stay to the end. An endpoint is there
//! from its first connection to its last, unless chance alone explains that it was not chosen before or after.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_core::order::MAX_ENDPOINTS;
use plimsoll_core::time::{Span, Timestamp};

use crate::recording::{Connection, Contents, How, LONGEST};
use crate::scenario::{Add, Clients, Endpoints, Event, Mesh, Nodes, Remove, Scenario};
use crate::traffic::{Recorded, Traffic};

/// The most connections that are replayed.
pub const MOST_CONNECTIONS: usize = 10_000_000;
/// The most recordings that are merged.
const MOST_RECORDINGS: usize = 1000;
/// The shortest time that is replayed, in milliseconds.
const SHORTEST: i64 = 5_000;
/// An endpoint that was not chosen by so many connections for each endpoint there is was not there: by a uniform draw
/// that happens to one in a thousand.
const PATIENCE: usize = 7;

/// The connections of one Service in a recording.
#[derive(Clone, Debug)]
pub struct Part {
    /// What to call the recording in errors.
    pub name: String,
    /// The rest of the recording.
    pub contents: Contents,
    /// The connections, in any order.
    pub connections: Vec<Connection>,
}

/// What can be simulated.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The scenario, with the traffic.
    pub scenario: Scenario,
    /// The endpoints, by their index in the scenario.
    pub endpoints: Vec<String>,
    /// What to keep in mind when reading the results.
    pub notes: Vec<String>,
}

/// Merges recordings of several nodes. `capacities` are those of endpoints, by name; the others have 1.
///
/// # Errors
///
/// Why these recordings cannot be replayed together, and what to do.
pub fn merge(service: &str, parts: &[Part], capacities: &BTreeMap<String, f64>) -> Result<Replay, String> {
    check_parts(parts)?;
    let (from, until) = common_time(parts)?;
    let mut endpoints = Named::default();
    let mut traffic = Traffic::default();
    let mut unanswered = 0_usize;
    for (part, node) in parts.iter().zip(0_u16..) {
        let offset = part.contents.head.began as i64 - from;
        for connection in &part.connections {
            let began = connection.began.map_or(i64::MIN, |began| began + offset);
            let ended = if connection.how == How::Open { i64::MAX } else { connection.until + offset };
            if began >= until - from || ended < 0 {
                continue;
            }
            if connection.how == How::Unanswered {
                unanswered += 1;
                continue;
            }
            let endpoint = endpoints.number(&part.contents.endpoints[connection.endpoint as usize]);
            let ends = if ended == i64::MAX { Timestamp::NEVER } else { millis(ended) };
            let recorded = Recorded { at: millis(began.max(0)), ends, node, endpoint };
            if began < 0 { &mut traffic.present } else { &mut traffic.arrivals }.push(recorded);
        }
    }
    traffic.present.sort_unstable();
    traffic.arrivals.sort_unstable();
    if traffic.arrivals.is_empty() {
        return Err(format!(
            "no connection of {service} began in the time that is replayed; record for longer"
        ));
    }
    if endpoints.names.len() > MAX_ENDPOINTS {
        let count = endpoints.names.len();
        return Err(format!("{service} had {count} endpoints, more than can be balanced ({MAX_ENDPOINTS})"));
    }
    if let Some(name) = capacities.keys().find(|name| !endpoints.numbers.contains_key(*name)) {
        return Err(format!(
            "{service} has no endpoint {name:?} to give a capacity; `--list` tells the names of those it has"
        ));
    }
    let mut notes = notes(parts, until - from, unanswered);
    let presences = presences(&traffic, &endpoints.names);
    let changes = presences.iter().filter(|p| p.from.is_some() || p.until.is_some()).count();
    if changes > 0 {
        notes.push(format!(
            "{changes} of {} endpoints came or went meanwhile, as far as their first and last connections tell",
            presences.len()
        ));
    }
    // Those that are there from the beginning come first, the others in the order of their coming.
    let mut place = vec![0; presences.len()];
    for (index, presence) in presences.iter().enumerate() {
        place[presence.number as usize] = index as u32;
    }
    for recorded in traffic.present.iter_mut().chain(&mut traffic.arrivals) {
        recorded.endpoint = place[recorded.endpoint as usize];
    }
    let names: Vec<String> =
        presences.iter().map(|presence| endpoints.names[presence.number as usize].clone()).collect();
    let scenario = scenario(service, until - from, parts.len(), &presences, &names, capacities, traffic);
    Ok(Replay { scenario, endpoints: names, notes })
}

fn check_parts(parts: &[Part]) -> Result<(), String> {
    let Some(first) = parts.first() else { return Err("there is no recording to replay".into()) };
    if parts.len() > MOST_RECORDINGS {
        return Err(format!("{} recordings are more than can be merged ({MOST_RECORDINGS})", parts.len()));
    }
    for (number, part) in parts.iter().enumerate() {
        let head = &part.contents.head;
        if let Some(twin) = parts[..number].iter().find(|other| other.contents.head.node == head.node) {
            return Err(format!(
                "{} and {} are both of node {:?}; give one recording of each node (`plimsoll record --node` names it)",
                twin.name, part.name, head.node
            ));
        }
        if head.salt != first.contents.head.salt {
            return Err(format!(
                "{} and {} hashed their endpoints with different salts, so nobody can tell which are the same; record \
                 on every node with the same --salt-file, or with --addresses",
                first.name, part.name
            ));
        }
    }
    Ok(())
}

/// From when to when all recordings go, in milliseconds since 1970.
fn common_time(parts: &[Part]) -> Result<(i64, i64), String> {
    let from = |part: &&Part| part.contents.head.began as i64;
    let until = |part: &&Part| part.contents.head.began as i64 + part.contents.tail.length as i64;
    let (Some(last), Some(first)) = (parts.iter().max_by_key(from), parts.iter().min_by_key(until)) else {
        return Err("there is no recording to replay".into());
    };
    let from = from(&last);
    let until = until(&first).min(from + LONGEST as i64);
    if until - from >= SHORTEST {
        return Ok((from, until));
    }
    Err(if parts.len() == 1 {
        format!("{} is {:.1} s long; a replay takes 5 s at least", last.name, (until - from) as f64 / 1e3)
    } else {
        format!(
            "{} ends {:.1} s after {} begins, and a replay takes 5 s that all recordings have in common: record on all \
             nodes at the same time, with clocks that agree",
            first.name,
            (until - from) as f64 / 1e3,
            last.name
        )
    })
}

fn millis(millis: i64) -> Timestamp {
    Timestamp::from_nanos(millis as u64 * 1_000_000)
}

/// Names with numbers.
#[derive(Default)]
struct Named {
    numbers: BTreeMap<String, u32>,
    names: Vec<String>,
}

impl Named {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }
}

/// When an endpoint was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Presence {
    number: u32,
    /// When it came; `None`: it was there.
    from: Option<Timestamp>,
    /// When it got its last connection; `None`: it may get more.
    until: Option<Timestamp>,
}

/// When each endpoint was there: those from the beginning by name, then the others by their coming.
fn presences(traffic: &Traffic, names: &[String]) -> Vec<Presence> {
    let arrivals = &traffic.arrivals;
    let mut places: Vec<Option<(usize, usize)>> = vec![None; names.len()];
    for (place, recorded) in arrivals.iter().enumerate() {
        let first = places[recorded.endpoint as usize].map_or(place, |(first, _)| first);
        places[recorded.endpoint as usize] = Some((first, place));
    }
    let mut was_there = vec![false; names.len()];
    for recorded in &traffic.present {
        was_there[recorded.endpoint as usize] = true;
    }
    let patience = PATIENCE * names.len();
    let mut presences: Vec<Presence> = (0_u32..)
        .zip(places)
        .map(|(number, place)| {
            let Some((first, last)) = place else {
                // Only what it had before: it may have gone at once.
                let is_gone = arrivals.len() > patience;
                return Presence { number, from: None, until: is_gone.then_some(Timestamp::ZERO) };
            };
            let came = first > patience && !was_there[number as usize];
            let went = arrivals.len() - 1 - last > patience;
            let after = std::time::Duration::from_nanos(1);
            Presence {
                number,
                from: came.then_some(arrivals[first].at),
                until: went.then(|| arrivals[last].at + after),
            }
        })
        .collect();
    presences.sort_by(|a, b| (a.from, &names[a.number as usize]).cmp(&(b.from, &names[b.number as usize])));
    presences
}

/// The scenario in which all of this happens.
fn scenario(
    service: &str,
    length: i64,
    nodes: usize,
    presences: &[Presence],
    names: &[String],
    capacities: &BTreeMap<String, f64>,
    traffic: Traffic,
) -> Scenario {
    let capacity = |index: usize| capacities.get(&names[index]).copied().unwrap_or(1.0);
    let span = |at: Timestamp| Span(at.since(Timestamp::ZERO));
    let (mut groups, mut events) = (Vec::new(), Vec::new());
    for (index, presence) in presences.iter().enumerate() {
        let capacity = capacity(index);
        match presence.from {
            None => {
                groups.push(Endpoints { count: 1, capacity, stated: None, hidden: false, outside: false });
            }
            Some(at) => {
                let add = Add { count: 1, capacity, cold_speed: 1.0, cold_for: Span::default() };
                events.push(Event { at: span(at), times: 1, add: Some(add), ..Event::default() });
            }
        }
        if let Some(at) = presence.until {
            // Its connections end when they ended, so nobody waits for that.
            let remove = Remove { endpoint: index, grace: Span(crate::scenario::LONGEST.0 * 2) };
            events.push(Event { at: span(at), times: 1, remove: Some(remove), ..Event::default() });
        }
    }
    let until = Span(std::time::Duration::from_millis(length as u64));
    let rate = traffic.arrivals.len() as f64 / until.0.as_secs_f64();
    let about = format!(
        "{service} as it was recorded on {nodes} node{}: {} connections that began, {} that were open before",
        if nodes == 1 { "" } else { "s" },
        traffic.arrivals.len(),
        traffic.present.len()
    );
    Scenario {
        about,
        until,
        // What was open before is where it was: a policy needs time to show.
        measured_from: Span(until.0 / 4),
        windows: Vec::new(),
        nodes: Nodes { count: nodes, skew: 0.0, shares: Vec::new() },
        endpoints: groups,
        clients: clients(rate),
        work: None,
        signals: None,
        mesh: Mesh::default(),
        bursts: None,
        swing: None,
        events,
        traffic: Some(Arc::new(traffic)),
    }
}

/// Clients whose lives are told elsewhere.
fn clients(rate: f64) -> Clients {
    Clients {
        rate: Some(rate),
        long_part: Some(0.0),
        load: None,
        long_work: 0.0,
        short_life: Span::default(),
        long_life: Span::default(),
        long_sigma: 0.0,
    }
}

/// What to keep in mind.
fn notes(parts: &[Part], length: i64, unanswered: usize) -> Vec<String> {
    let mut notes = Vec::new();
    for part in parts {
        let (name, tail) = (&part.name, &part.contents.tail);
        if tail.losses > 0 {
            notes.push(format!(
                "{name}: some connections are missing, since the kernel had more to tell than was heard, {} times",
                tail.losses
            ));
        }
        if tail.left_out > 0 {
            notes.push(format!(
                "{name}: {} connections were left out for want of room or of a beginning",
                tail.left_out
            ));
        }
        if tail.clock_moved != 0 {
            notes.push(format!(
                "{name}: the clock was set by {} ms, which ended the recording",
                tail.clock_moved
            ));
        }
        let unused = tail.length as i64 - length;
        if unused * 10 > tail.length as i64 {
            notes.push(format!(
                "{name}: {:.0} of {:.0} s are not replayed, since not all recordings have them",
                unused as f64 / 1e3,
                tail.length as f64 / 1e3
            ));
        }
    }
    if unanswered > 0 {
        notes.push(format!("{unanswered} attempts were refused or not answered; they are not replayed"));
    }
    notes
}

/// Makes a scenario of each Service of an arbitrary recording, and returns how many could be replayed: what a fuzzer
/// calls.
pub fn check_recording(contents: &Contents, connections: &[Connection]) -> usize {
    let merged = (0_u32..).zip(&contents.services).map(|(number, service)| {
        let own = connections.iter().filter(|connection| connection.service == number).copied().collect();
        let part = Part { name: "arbitrary".into(), contents: contents.clone(), connections: own };
        merge(service, &[part], &BTreeMap::new())
    });
    // Each takes a copy of all names: no more than a few.
    merged.take(4).filter(|merged| merged.as_ref().is_ok_and(|replay| !replay.endpoints.is_empty())).count()
}

#[cfg(test)]
mod tests;
