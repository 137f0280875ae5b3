//! Whether a scenario can be simulated: each finding says where it is and what to write instead.

use std::collections::BTreeSet;

use plimsoll_core::order::MAX_ENDPOINTS;
use plimsoll_core::time::{Span, Timestamp};

use super::{Clients, Event, Failure, Scenario, Work};

/// The longest scenario: a day.
pub(crate) const LONGEST: Span = Span::from_secs(86_400);
/// The most nodes.
const MOST_NODES: usize = 1000;
/// The most new connections per second, all nodes together.
const HIGHEST_RATE: f64 = 1e6;

/// The most long connections that are open in the long run; the run begins with them.
const MOST_OPEN: f64 = 1e7;

/// The most repetitions of an event or a window.
const MOST_TIMES: u32 = 10_000;

type Checked = Result<(), String>;

impl Scenario {
    pub(super) fn check(&self) -> Checked {
        if self.until.0.is_zero() || self.until > LONGEST {
            return Err(format!("until = \"{}\" must be above 0s and at most {LONGEST}", self.until));
        }
        if self.measured_from >= self.until {
            return Err(format!(
                "measured_from = \"{}\" must be before the end, until = \"{}\"",
                self.measured_from, self.until
            ));
        }
        self.check_nodes()?;
        self.check_endpoints()?;
        self.check_clients(&self.clients)?;
        if let Some(work) = &self.work {
            check_work(work)?;
        }
        self.check_arrivals()?;
        self.check_rest()?;
        for (number, window) in self.windows.iter().enumerate() {
            let place = format!("windows[{number}]");
            if window.until <= window.from {
                return Err(format!(
                    "{place}: until = \"{}\" must be after from = \"{}\"",
                    window.until, window.from
                ));
            }
            check_repetition(&place, window.every, window.times)?;
            self.check_end(&place, window.spans().map(|(_, until)| until))?;
        }
        let mut endpoints = self.endpoint_count();
        for event in &self.events {
            let added = event.add.as_ref().map_or(0, |add| add.count.saturating_mul(event.times as usize));
            endpoints = endpoints.saturating_add(added);
        }
        if endpoints > MAX_ENDPOINTS {
            return Err(format!("{endpoints} endpoints in all, more than can be balanced ({MAX_ENDPOINTS})"));
        }
        for (number, event) in self.events.iter().enumerate() {
            self.check_event(&format!("events[{number}]"), event)?;
        }
        self.check_removals()?;
        self.check_overlaps()
    }

    /// How many endpoints there are just before a time, those that were removed included.
    fn endpoints_before(&self, at: Timestamp) -> usize {
        let added = self.events.iter().filter_map(|event| {
            let times = event.occurrences().filter(|(added, _)| *added < at).count();
            Some(event.add.as_ref()?.count * times)
        });
        self.endpoint_count() + added.sum::<usize>()
    }

    fn check_removals(&self) -> Checked {
        let mut removed = BTreeSet::new();
        for (number, event) in self.events.iter().enumerate() {
            let Some(remove) = &event.remove else { continue };
            for (_, turn) in event.occurrences() {
                let endpoint = remove.endpoint + turn;
                if !removed.insert(endpoint) {
                    return Err(format!("events[{number}].remove: endpoint {endpoint} is removed already"));
                }
            }
        }
        Ok(())
    }

    /// Whether nothing fails, is misread or is cut off while it does already: the end of the one would be that of both.
    fn check_overlaps(&self) -> Checked {
        let mut spells = Vec::new();
        for (number, event) in self.events.iter().enumerate() {
            for (at, turn) in event.occurrences() {
                let mut add = |what: &'static str, which: usize, lasting: Span| {
                    spells.push((what, which, at, at + lasting.0, number));
                };
                if let Some(fail) = &event.fail {
                    for endpoint in &fail.endpoints {
                        add("fail", endpoint + turn, fail.lasting);
                    }
                }
                if let Some(misread) = &event.misread {
                    for endpoint in &misread.endpoints {
                        add("misread", endpoint + turn, misread.lasting);
                    }
                }
                if let Some(cut_off) = &event.cut_off {
                    add("cut_off", 0, cut_off.lasting);
                }
            }
        }
        spells.sort_unstable();
        for pair in spells.windows(2) {
            let [(what, which, _, until, first), (next, other, from, _, number)] = pair else { continue };
            if (what, which) == (next, other) && from < until {
                let of = if *what == "cut_off" { String::new() } else { format!(" of endpoint {which}") };
                return Err(format!(
                    "events[{number}].{what}{of} at {:.1} s overlaps with that of events[{first}]; make one of them, or \
                     let one begin when the other is over",
                    from.seconds_since(Timestamp::ZERO)
                ));
            }
        }
        Ok(())
    }

    /// Whether the endpoints that an event names are there when it happens.
    fn check_endpoints_of(&self, place: &str, event: &Event, numbers: &[usize]) -> Checked {
        if numbers.is_empty() {
            return Err(format!("{place} names no endpoint"));
        }
        for (at, turn) in event.occurrences() {
            let count = self.endpoints_before(at);
            if let Some(number) = numbers.iter().map(|number| number + turn).find(|number| *number >= count) {
                return Err(format!(
                    "{place} names endpoint {number}, counted from 0, at {:.1} s; there are {count} by then",
                    at.seconds_since(Timestamp::ZERO)
                ));
            }
        }
        Ok(())
    }

    fn check_nodes(&self) -> Checked {
        let nodes = &self.nodes;
        whole("nodes.count", nodes.count, 1, MOST_NODES)?;
        within("nodes.skew", nodes.skew, 0.0, 5.0)?;
        if nodes.shares.is_empty() {
            return Ok(());
        }
        if nodes.shares.len() != nodes.count {
            return Err(format!(
                "nodes.shares has {} entries for {} nodes; give one for each, or leave it out",
                nodes.shares.len(),
                nodes.count
            ));
        }
        for (number, share) in nodes.shares.iter().enumerate() {
            within(&format!("nodes.shares[{number}]"), *share, 0.0, 1.0)?;
        }
        let sum: f64 = nodes.shares.iter().sum();
        if (sum - 1.0).abs() > 1e-6 {
            return Err(format!("nodes.shares sum to {sum}; they must sum to 1"));
        }
        Ok(())
    }

    fn check_endpoints(&self) -> Checked {
        if self.endpoint_count() == 0 {
            return Err("there must be an endpoint; add a table [[endpoints]] with count = 1".into());
        }
        for (number, group) in self.endpoints.iter().enumerate() {
            let place = format!("endpoints[{number}]");
            within(&format!("{place}.capacity"), group.capacity, 1e-3, 1e6)?;
            if let Some(stated) = group.stated {
                within(&format!("{place}.stated"), stated, 1e-3, 1e6)?;
                if group.hidden {
                    return Err(format!("{place}: a capacity cannot be both stated and hidden; drop one"));
                }
            }
        }
        Ok(())
    }

    fn check_clients(&self, clients: &Clients) -> Checked {
        match (clients.rate, clients.load) {
            (Some(rate), None) => {
                within("clients.rate", rate, 1e-3, HIGHEST_RATE)?;
                let Some(long_part) = clients.long_part else {
                    return Err(
                        "clients.long_part is missing: which part of the connections is long, 0 to 1?".into(),
                    );
                };
                within("clients.long_part", long_part, 0.0, 1.0)?;
                if clients.long_work != 0.0 {
                    return Err("clients.long_work goes with clients.load; with rate use long_part".into());
                }
            }
            (None, Some(load)) => {
                within("clients.load", load, 1e-3, 10.0)?;
                within("clients.long_work", clients.long_work, 0.0, 1.0)?;
                if clients.long_part.is_some() {
                    return Err("clients.long_part goes with clients.rate; with load use long_work".into());
                }
                if self.work.is_none() {
                    return Err("clients.load needs a table [work] that says what a request costs".into());
                }
            }
            _ => return Err("clients must have either rate or load".into()),
        }
        positive("clients.short_life", clients.short_life)?;
        positive("clients.long_life", clients.long_life)?;
        within("clients.long_sigma", clients.long_sigma, 0.0, 3.0)
    }

    /// Whether as many connections as the clients make can be simulated.
    fn check_arrivals(&self) -> Checked {
        let (rate, long_part) = self.arrivals();
        if rate > HIGHEST_RATE {
            return Err(format!(
                "clients.load makes {rate:.0} connections per second, more than can be simulated ({HIGHEST_RATE}); lower \
                 it, or let a request cost more"
            ));
        }
        let open = rate * long_part * self.clients.long_life.0.as_secs_f64();
        if open > MOST_OPEN {
            return Err(format!(
                "clients have {open:.0} long connections open from the beginning, more than can be simulated \
                 ({MOST_OPEN}); lower clients.long_life, the part that is long, or how many connect"
            ));
        }
        Ok(())
    }

    fn check_rest(&self) -> Checked {
        if let Some(signals) = &self.signals {
            if self.work.is_none() {
                return Err("signals need a table [work]: without work there is no CPU to read".into());
            }
            within("signals.noise", signals.noise, 0.0, 1.0)?;
            within("signals.pressure_bias", signals.pressure_bias, 0.0, 1.0)?;
        }
        let mesh = &self.mesh;
        if !(Span::from_millis(100)..=Span::from_secs(2)).contains(&mesh.interval) {
            return Err(format!("mesh.interval = \"{}\" must be from 100ms to 2s", mesh.interval));
        }
        if mesh.most_delay < mesh.least_delay {
            return Err(format!(
                "mesh.most_delay = \"{}\" must not be below least_delay = \"{}\"",
                mesh.most_delay, mesh.least_delay
            ));
        }
        within("mesh.loss", mesh.loss, 0.0, 1.0)?;
        if let Some(bursts) = &self.bursts {
            within("bursts.factor", bursts.factor, 0.0, 1000.0)?;
            positive("bursts.on", bursts.on)?;
            positive("bursts.off", bursts.off)?;
        }
        if let Some(swing) = &self.swing {
            within("swing.depth", swing.depth, 0.0, 1.0)?;
            if swing.period < Span::from_secs(10) {
                return Err(format!("swing.period = \"{}\" must be at least 10s", swing.period));
            }
        }
        Ok(())
    }

    fn check_event(&self, place: &str, event: &Event) -> Checked {
        check_repetition(place, event.every, event.times)?;
        self.check_end(place, event.occurrences().map(|(at, _)| at))?;
        if event.occurrences().any(|(at, _)| at == self.end()) {
            return Err(format!(
                "{place} is at the very end, {}, and would not happen any more; move it or raise `until`",
                self.until
            ));
        }
        let kinds = [
            event.add.is_some(),
            event.remove.is_some(),
            event.slow.is_some(),
            event.fail.is_some(),
            event.misread.is_some(),
            event.redial.is_some(),
            event.cut_off.is_some(),
            event.surge.is_some(),
        ];
        if kinds.iter().filter(|given| **given).count() != 1 {
            return Err(format!(
                "{place} must have exactly one of add, remove, slow, fail, misread, redial, cut_off and surge"
            ));
        }
        let known = |what: &str, numbers: &[usize]| {
            self.check_endpoints_of(&format!("{place}.{what}"), event, numbers)
        };
        let node = |what: &str, node: usize| {
            let count = self.nodes.count;
            if node < count {
                Ok(())
            } else {
                Err(format!("{place}.{what} names node {node}, counted from 0; there are {count}"))
            }
        };
        if let Some(add) = &event.add {
            whole(&format!("{place}.add.count"), add.count, 1, MAX_ENDPOINTS)?;
            within(&format!("{place}.add.capacity"), add.capacity, 1e-3, 1e6)?;
            within(&format!("{place}.add.cold_speed"), add.cold_speed, 1e-3, 10.0)?;
        }
        if let Some(remove) = &event.remove {
            known("remove.endpoint", &[remove.endpoint])?;
        }
        if let Some(slow) = &event.slow {
            known("slow.endpoints", &slow.endpoints)?;
            within(&format!("{place}.slow.speed"), slow.speed, 1e-3, 10.0)?;
        }
        if let Some(fail) = &event.fail {
            known("fail.endpoints", &fail.endpoints)?;
            if fail.how == Failure::Error && self.work.is_none() {
                return Err(format!(
                    "{place}.fail: how = \"error\" needs a table [work]: without requests nothing is answered"
                ));
            }
        }
        if let Some(misread) = &event.misread {
            known("misread.endpoints", &misread.endpoints)?;
            if self.signals.is_none() {
                return Err(format!("{place}.misread needs a table [signals]: nothing is read without"));
            }
        }
        if let Some(redial) = &event.redial {
            node("redial.node", redial.node)?;
            within(&format!("{place}.redial.part"), redial.part, 0.0, 1.0)?;
        }
        if let Some(cut_off) = &event.cut_off {
            cut_off.nodes.iter().try_for_each(|&number| node("cut_off.nodes", number))?;
        }
        if let Some(surge) = &event.surge {
            within(&format!("{place}.surge.factor"), surge.factor, 1e-3, 1000.0)?;
        }
        Ok(())
    }

    fn check_end(&self, place: &str, mut times: impl Iterator<Item = Timestamp>) -> Checked {
        match times.find(|at| *at > self.end()) {
            Some(at) => Err(format!(
                "{place} reaches {:.1} s, after the end at {}; move it or raise `until`",
                at.seconds_since(Timestamp::ZERO),
                self.until
            )),
            None => Ok(()),
        }
    }
}

fn check_work(work: &Work) -> Checked {
    positive("work.demand", work.demand)?;
    if let Some(sigma) = work.demand_sigma {
        within("work.demand_sigma", sigma, 0.0, 3.0)?;
    }
    within("work.requests_per_second", work.requests_per_second, 1e-3, 1e4)?;
    within("work.requests_sigma", work.requests_sigma, 0.0, 3.0)?;
    within("work.parallel", work.parallel, 0.1, 1000.0)
}

fn check_repetition(place: &str, every: Option<Span>, times: u32) -> Checked {
    match every {
        Some(every) if every.0.is_zero() => Err(format!("{place}.every must be above 0s")),
        None if times != 1 => Err(format!("{place}.times = {times} needs `every`, the time in between")),
        _ if !(1..=MOST_TIMES).contains(&times) => {
            Err(format!("{place}.times = {times} must be from 1 to {MOST_TIMES}"))
        }
        _ => Ok(()),
    }
}

fn within(name: &str, value: f64, least: f64, most: f64) -> Checked {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{name} = {value} must be from {least} to {most}"))
    }
}

fn whole(name: &str, value: usize, least: usize, most: usize) -> Checked {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{name} = {value} must be from {least} to {most}"))
    }
}

fn positive(name: &str, value: Span) -> Checked {
    if value.0.is_zero() { Err(format!("{name} must be above 0s")) } else { Ok(()) }
}
