//! How loaded the endpoints are, as this node measures it: counts from the kernel and samples from signal
//! sources, filtered into one [`Load`] per endpoint.

use std::time::Duration;

use crate::service::EndpointId;
use crate::time::Timestamp;

/// How many age slots are told apart; what is older than all of them has no age.
pub const AGE_SLOTS: usize = 16;

/// What the dataplane counted for one endpoint since it began to count it. Totals never fall, except to start
/// again from zero when the endpoint left and came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Whose connections.
    pub endpoint: EndpointId,
    /// Connections open now.
    pub open: u32,
    /// Connections opened so far.
    pub opened: u64,
    /// Connections that the endpoint's host refused (RST to a SYN) so far.
    pub refused: u64,
    /// Connections that nobody answered so far, known when conntrack gives them up.
    pub unanswered: u64,
    /// Opened in each age slot, newest first, as in [`Counts::slots`].
    pub opened_by_age: [u32; AGE_SLOTS],
    /// Of those, still open.
    pub open_by_age: [u32; AGE_SLOTS],
}

impl Count {
    /// No connections.
    pub const fn none(endpoint: EndpointId) -> Count {
        Count {
            endpoint,
            open: 0,
            opened: 0,
            refused: 0,
            unanswered: 0,
            opened_by_age: [0; AGE_SLOTS],
            open_by_age: [0; AGE_SLOTS],
        }
    }
}

/// Everything the dataplane counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// How many seconds ago each age slot began, newest first, rising; infinity for slots that never were.
    pub slots: [f32; AGE_SLOTS],
    /// All connections of the endpoints this node hosts, whoever opened them. Sorted by endpoint.
    pub hosted: Vec<Count>,
    /// Connections that were sent to an endpoint from this node. Sorted by endpoint; those without any are left
    /// out.
    pub sent: Vec<Count>,
}

/// A figure of an endpoint's load from a signal source; `None` where the source does not know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Whose load.
    pub endpoint: EndpointId,
    /// When it was measured.
    pub at: Timestamp,
    /// CPU in use, in cores.
    pub cpu: Option<f64>,
    /// Share of time in which some task waited for CPU (PSI "some"), 0 to 1.
    pub pressure: Option<f64>,
}

/// The load of one endpoint as one node knows it, ready to be reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Open connections.
    pub open: f64,
    /// Of those, younger than the horizon.
    pub young: f64,
    /// Of those, with an age of one to two horizons.
    pub middle: f64,
    /// Connections opened per second, filtered.
    pub opens_per_second: f64,
    /// Connections refused or never answered per second, filtered.
    pub failures_per_second: f64,
    /// CPU in use, in cores.
    pub cpu: Option<f64>,
    /// CPU pressure, 0 to 1.
    pub pressure: Option<f64>,
}

/// How counts and samples become loads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// The horizon `h` that divides young from old.
    pub horizon: Duration,
    /// The time constant `tau` of rates and samples.
    pub time_constant: Duration,
    /// A sample older than this is as good as none.
    pub sample_expiry: Duration,
}

/// The time constant of a node's own rate of opened connections.
const NODE_RATE_TIME_CONSTANT: f64 = 10.0;

/// The loads this node measures: of the endpoints it hosts, and of what it sent to any endpoint.
#[derive(Clone, Debug)]
pub struct Loads {
    filter: Filter,
    hosted: Meters,
    sent: Meters,
    updated: Option<Timestamp>,
    opens_per_second: f64,
}

impl Loads {
    /// Nothing measured yet.
    pub fn new(filter: Filter) -> Loads {
        Loads {
            filter,
            hosted: Meters::default(),
            sent: Meters::default(),
            updated: None,
            opens_per_second: 0.0,
        }
    }

    /// Takes in what the dataplane counted at `now`; `changed` is called for each hosted endpoint where
    /// anything opened, closed or failed.
    pub fn count(&mut self, now: Timestamp, counts: &Counts, changed: impl FnMut(&EndpointId)) {
        let elapsed = self.updated.map(|before| now.seconds_since(before));
        self.updated = Some(now);
        let opened_before = self.sent.opened();
        self.hosted.update(&counts.hosted, &counts.slots, &self.filter, elapsed, changed);
        self.sent.update(&counts.sent, &counts.slots, &self.filter, elapsed, |_| {});
        if let Some(elapsed) = elapsed.filter(|elapsed| *elapsed > 0.0) {
            let rate = self.sent.opened().saturating_sub(opened_before) as f64 / elapsed;
            self.opens_per_second += gain(elapsed, NODE_RATE_TIME_CONSTANT) * (rate - self.opens_per_second);
        }
    }

    /// Takes in a sample. What is not a sensible figure counts as missing.
    pub fn sample(&mut self, sample: &Sample) {
        let Some(meter) = self.hosted.get_mut(&sample.endpoint) else { return };
        let elapsed = meter.sampled.map_or(f64::INFINITY, |before| sample.at.seconds_since(before));
        let gain = gain(elapsed, self.filter.time_constant.as_secs_f64());
        let sane = |figure: &f64| figure.is_finite() && *figure >= 0.0;
        blend(&mut meter.load.cpu, sample.cpu.filter(sane), gain);
        blend(&mut meter.load.pressure, sample.pressure.filter(sane).map(|p| p.min(1.0)), gain);
        meter.sampled = Some(sample.at);
    }

    /// Forgets samples that are too old at `now`.
    pub fn expire(&mut self, now: Timestamp) {
        for meter in &mut self.hosted.0 {
            if meter.sampled.is_some_and(|at| now.since(at) > self.filter.sample_expiry) {
                meter.sampled = None;
                meter.load.cpu = None;
                meter.load.pressure = None;
            }
        }
    }

    /// The endpoints this node hosts.
    pub fn hosted(&self) -> impl Iterator<Item = (EndpointId, &Load)> {
        self.hosted.0.iter().map(|meter| (meter.endpoint, &meter.load))
    }

    /// The load of one endpoint that this node hosts.
    pub fn hosted_load(&self, endpoint: &EndpointId) -> Option<&Load> {
        self.hosted.get(endpoint).map(|meter| &meter.load)
    }

    /// What this node sent, by endpoint; endpoints it never sent anything to are absent.
    pub fn sent(&self) -> impl Iterator<Item = (EndpointId, &Load)> {
        self.sent.0.iter().map(|meter| (meter.endpoint, &meter.load))
    }

    /// What this node sent to one endpoint.
    pub fn sent_load(&self, endpoint: &EndpointId) -> Option<&Load> {
        self.sent.get(endpoint).map(|meter| &meter.load)
    }

    /// Connections this node opened per second, to all endpoints, filtered with 10 s.
    pub fn opens_per_second(&self) -> f64 {
        self.opens_per_second
    }

    /// When counts were taken in last.
    pub fn updated(&self) -> Option<Timestamp> {
        self.updated
    }
}

/// One endpoint's load and what is needed to go on filtering it.
#[derive(Clone, Debug)]
struct Meter {
    endpoint: EndpointId,
    load: Load,
    opened: u64,
    failed: u64,
    opens: Rate,
    failures: Rate,
    sampled: Option<Timestamp>,
}

impl Meter {
    fn new(endpoint: EndpointId) -> Meter {
        Meter {
            endpoint,
            load: Load::default(),
            opened: 0,
            failed: 0,
            opens: Rate::default(),
            failures: Rate::default(),
            sampled: None,
        }
    }

    fn follow(&mut self, count: &Count, slots: &[f32; AGE_SLOTS], filter: &Filter, elapsed: Option<f64>) {
        let failed = count.refused.saturating_add(count.unanswered);
        let (young, middle) = by_age(count, slots, filter.horizon.as_secs_f64());
        if let Some(elapsed) = elapsed {
            let gain = gain(elapsed, filter.time_constant.as_secs_f64());
            // A total that fell began anew: the endpoint left and came back.
            let opens = count.opened.saturating_sub(self.opened) as f64 / elapsed;
            let failures = failed.saturating_sub(self.failed) as f64 / elapsed;
            self.load.opens_per_second = self.opens.follow(opens, gain);
            self.load.failures_per_second = self.failures.follow(failures, gain);
        }
        self.opened = count.opened;
        self.failed = failed;
        self.load.open = f64::from(count.open);
        self.load.young = young.min(self.load.open);
        self.load.middle = middle.min(self.load.open - self.load.young);
    }
}

/// Meters, sorted by endpoint.
#[derive(Clone, Debug, Default)]
struct Meters(Vec<Meter>);

impl Meters {
    fn get(&self, endpoint: &EndpointId) -> Option<&Meter> {
        self.0.binary_search_by_key(endpoint, |meter| meter.endpoint).ok().map(|place| &self.0[place])
    }

    fn get_mut(&mut self, endpoint: &EndpointId) -> Option<&mut Meter> {
        self.0.binary_search_by_key(endpoint, |meter| meter.endpoint).ok().map(|place| &mut self.0[place])
    }

    /// Opened so far, at all endpoints; a counter that went wild must not stop the agent.
    fn opened(&self) -> u64 {
        self.0.iter().fold(0, |sum, meter| sum.saturating_add(meter.opened))
    }

    /// One meter for each count, which are sorted.
    fn update(
        &mut self,
        counts: &[Count],
        slots: &[f32; AGE_SLOTS],
        filter: &Filter,
        elapsed: Option<f64>,
        mut changed: impl FnMut(&EndpointId),
    ) {
        let elapsed = elapsed.filter(|elapsed| *elapsed > 0.0);
        let mut before = std::mem::take(&mut self.0).into_iter().peekable();
        self.0.reserve_exact(counts.len());
        for count in counts {
            while let Some(gone) = before.next_if(|meter| meter.endpoint < count.endpoint) {
                changed(&gone.endpoint);
            }
            let present = before.next_if(|meter| meter.endpoint == count.endpoint);
            // The rates of a new one begin with the second count.
            let elapsed = elapsed.filter(|_| present.is_some());
            let figures = |meter: &Meter| (meter.load.open, meter.opened, meter.failed);
            let before = present.as_ref().map(figures);
            let mut meter = present.unwrap_or_else(|| Meter::new(count.endpoint));
            meter.follow(count, slots, filter, elapsed);
            if before != Some(figures(&meter)) {
                changed(&meter.endpoint);
            }
            self.0.push(meter);
        }
        before.for_each(|gone| changed(&gone.endpoint));
    }
}

/// How many open connections are younger than `horizon`, and how many have one to two times that age. Within a
/// slot ages are taken as spread evenly.
fn by_age(count: &Count, slots: &[f32; AGE_SLOTS], horizon: f64) -> (f64, f64) {
    let younger_than = |age: f64| {
        let mut sum = 0.0;
        let mut from = 0.0;
        for (open, until) in count.open_by_age.iter().zip(slots) {
            let until = f64::from(*until);
            if until <= age {
                sum += f64::from(*open);
            } else {
                if until.is_finite() && age > from {
                    sum += f64::from(*open) * (age - from) / (until - from);
                }
                break;
            }
            from = until;
        }
        sum
    };
    let young = younger_than(horizon);
    (young, younger_than(2.0 * horizon) - young)
}

/// A filtered rate that is right from its first value on: the filter's start from zero is divided out. A rate that
/// crept up from zero while young connections are counted at once would make them look as if they stayed for ever.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    sum: f64,
    weight: f64,
}

impl Rate {
    fn follow(&mut self, value: f64, gain: f64) -> f64 {
        self.sum += gain * (value - self.sum);
        self.weight += gain * (1.0 - self.weight);
        self.sum / self.weight
    }
}

/// The weight of a new value in a first-order filter after `elapsed` seconds.
pub(crate) fn gain(elapsed: f64, time_constant: f64) -> f64 {
    1.0 - libm::exp(-elapsed / time_constant)
}

fn blend(filtered: &mut Option<f64>, figure: Option<f64>, gain: f64) {
    if let Some(figure) = figure {
        *filtered = Some(filtered.map_or(figure, |before| before + gain * (figure - before)));
    }
}

#[cfg(test)]
mod tests;
