//! An endpoint's CPU: its cores are divided evenly among the requests it works on (processor sharing).
//!
//! With a virtual clock that runs as fast as one request is served, a request of demand `d` that comes at virtual
//! time `v` is done at `v + d`, whatever comes and goes meanwhile: so an arrival and a departure cost a step in a
//! heap. Source: L. Kleinrock, "Time-shared systems: a theoretical treatment", Journal of the ACM 14, 1967 (the
//! discipline); A. Parekh and R. Gallager, "A generalized processor sharing approach to flow control in integrated
//! services networks", IEEE/ACM Transactions on Networking 1, 1993 (virtual time).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use plimsoll_core::time::Timestamp;

/// A request that is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// When it is done, on the processor's virtual clock; the bits of a number that is not negative, which sort as it
    /// does.
    finish: u64,
    /// When it came.
    pub began: Timestamp,
    /// Its connection.
    pub connection: u32,
    /// The node that sent its connection.
    pub node: u16,
    /// The connection closes when it is answered.
    pub last: bool,
}

/// What was read off a processor's meters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// CPU used so far, in core-seconds.
    pub busy: f64,
    /// Seconds so far in which some request waited for CPU.
    pub waiting: f64,
}

/// An endpoint's CPU.
#[derive(Clone, Debug)]
pub struct Processor {
    cores: f64,
    /// How many cores one request can use.
    parallel: f64,
    /// Core-seconds that each request has been given since the clock began.
    clock: f64,
    updated: Timestamp,
    requests: BinaryHeap<Reverse<Request>>,
    reading: Reading,
}

impl Processor {
    /// An idle one.
    pub fn new(cores: f64, parallel: f64) -> Processor {
        Processor {
            cores,
            parallel,
            clock: 0.0,
            updated: Timestamp::ZERO,
            requests: BinaryHeap::new(),
            reading: Reading::default(),
        }
    }

    /// How many requests it works on.
    pub fn running(&self) -> usize {
        self.requests.len()
    }

    /// Its cores.
    pub fn cores(&self) -> f64 {
        self.cores
    }

    /// Changes its cores.
    pub fn set_cores(&mut self, now: Timestamp, cores: f64) {
        self.advance(now);
        self.cores = cores;
    }

    /// Cores that each request gets.
    fn speed(&self) -> f64 {
        (self.cores / self.requests.len() as f64).min(self.parallel)
    }

    fn advance(&mut self, now: Timestamp) {
        self.reading = self.reading(now);
        if self.requests.is_empty() {
            self.clock = 0.0;
        } else {
            self.clock += now.seconds_since(self.updated) * self.speed();
        }
        self.updated = now;
    }

    /// The meters at `now`.
    pub fn reading(&self, now: Timestamp) -> Reading {
        let Reading { mut busy, mut waiting } = self.reading;
        let elapsed = now.seconds_since(self.updated);
        let wanted = self.requests.len() as f64 * self.parallel;
        busy += elapsed * wanted.min(self.cores);
        if wanted > self.cores {
            waiting += elapsed;
        }
        Reading { busy, waiting }
    }

    /// Begins to work on a request that needs this much CPU, in core-seconds.
    pub fn begin(&mut self, now: Timestamp, demand: f64, connection: u32, node: u16, last: bool) {
        self.advance(now);
        let finish = (self.clock + demand).to_bits();
        self.requests.push(Reverse(Request { finish, began: now, connection, node, last }));
    }

    /// When the next request is done, if none comes before.
    pub fn next_done(&self) -> Timestamp {
        let Some(Reverse(next)) = self.requests.peek() else { return Timestamp::NEVER };
        let left = (f64::from_bits(next.finish) - self.clock).max(0.0) / self.speed();
        // Rounded up, so that it is done by then. A century is as good as never.
        let nanos = libm::ceil(left.min(3e9) * 1e9) as u64;
        Timestamp::from_nanos(self.updated.as_nanos().saturating_add(nanos))
    }

    /// Takes the request that is done at `now`, which [`Processor::next_done`] named.
    pub fn finish(&mut self, now: Timestamp) -> Option<Request> {
        self.advance(now);
        let Reverse(done) = self.requests.pop()?;
        self.clock = self.clock.max(f64::from_bits(done.finish));
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_nanos((seconds * 1e9) as u64)
    }

    #[test]
    fn cores_are_divided_evenly() {
        let mut processor = Processor::new(2.0, 1.0);
        processor.begin(at(0.0), 1.0, 1, 0, true);
        assert_eq!(processor.next_done(), at(1.0), "one request uses one core at most");
        processor.begin(at(0.0), 2.0, 2, 0, true);
        processor.begin(at(0.0), 2.0, 3, 0, true);
        assert_eq!(processor.next_done(), at(1.5), "two cores for three");
        assert_eq!(processor.finish(at(1.5)).unwrap().connection, 1);
        assert_eq!(processor.next_done(), at(2.5), "a core for each");
        assert_eq!(processor.reading(at(2.5)), Reading { busy: 5.0, waiting: 1.5 });
        processor.set_cores(at(2.0), 1.0);
        assert_eq!(processor.next_done(), at(3.0));
        assert!(processor.finish(at(3.0)).is_some() && processor.finish(at(3.0)).is_some());
        assert_eq!((processor.running(), processor.next_done()), (0, Timestamp::NEVER));
    }

    #[test]
    fn mean_time_is_that_of_theory() {
        // One core, load 0.7, exponential or not: a request of mean demand d takes d / (1 - 0.7) on average.
        for sigma in [None, Some(1.0)] {
            let mut dice = crate::dice::Dice::new(5, 0);
            let mut processor = Processor::new(1.0, 1.0);
            let (mut arrival, mut sum, mut count) = (0.0, 0.0, 0);
            while count < 200_000 {
                let next = at(arrival);
                while processor.next_done() <= next {
                    let now = processor.next_done();
                    sum += now.seconds_since(processor.finish(now).unwrap().began);
                    count += 1;
                }
                let demand = match sigma {
                    Some(sigma) => dice.log_normal(0.02, sigma),
                    None => dice.exponential(0.02),
                };
                processor.begin(next, demand, 0, 0, true);
                arrival += dice.exponential(0.02 / 0.7);
            }
            let mean = sum / f64::from(count);
            assert!((mean / (0.02 / 0.3) - 1.0).abs() < 0.05, "{sigma:?}: {mean}");
        }
    }
}
