//! When clients connect, through which node, and what they want: the same for every policy.

use plimsoll_core::time::Timestamp;

use crate::dice::Dice;
use crate::scenario::Scenario;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// One request of this demand, in core-seconds.
    Request(f64),
    /// A connection that lasts this many seconds, with so many requests per second.
    Connection {
        /// Whether it is a long one.
        long: bool,
        seconds: f64,
        requests_per_second: f64,
    },
}

/// Draws arrivals.
pub(super) struct Arrivals {
    dice: Dice,
    rate: f64,
    long_part: f64,
    shares: Vec<f64>,
    /// How many times as many arrive, by node, and at all.
    factors: Vec<f64>,
    factor: f64,
    swing: f64,
    /// Running sums of what arrives per second, by node.
    sums: Vec<f64>,
    next: Timestamp,
    wishes: Wishes,
}

/// Draws what clients want.
struct Wishes {
    /// The mean CPU of a request in core-seconds, and the deviation of its logarithm; none: connections cost nothing.
    demand: Option<(f64, Option<f64>)>,
    requests_per_second: f64,
    requests_sigma: f64,
    short_life: f64,
    long_life: f64,
    long_sigma: f64,
}

impl Arrivals {
    pub(super) fn new(scenario: &Scenario, dice: Dice) -> Arrivals {
        let (rate, long_part) = scenario.arrivals();
        let shares = scenario.node_shares();
        let work = scenario.work.as_ref();
        let clients = &scenario.clients;
        let mut arrivals = Arrivals {
            dice,
            rate,
            long_part,
            factors: vec![1.0; shares.len()],
            factor: 1.0,
            swing: 1.0,
            sums: vec![0.0; shares.len()],
            shares,
            next: Timestamp::ZERO,
            wishes: Wishes {
                demand: work.map(|work| (work.demand.0.as_secs_f64(), work.demand_sigma)),
                requests_per_second: work.map_or(0.0, |work| work.requests_per_second),
                requests_sigma: work.map_or(0.0, |work| work.requests_sigma),
                short_life: clients.short_life.0.as_secs_f64(),
                long_life: clients.long_life.0.as_secs_f64(),
                long_sigma: clients.long_sigma,
            },
        };
        arrivals.refresh(Timestamp::ZERO);
        arrivals
    }

    /// When the next client connects.
    pub(super) fn next_at(&self) -> Timestamp {
        self.next
    }

    /// The next client: its node and what it wants.
    pub(super) fn take(&mut self) -> (usize, Wish) {
        let node = self.dice.weighted(&self.sums);
        let long = self.dice.unit() < self.long_part;
        let wish = self.wishes.draw(long, &mut self.dice);
        self.draw_next(self.next);
        (node, wish)
    }

    /// The long connections that are open at the beginning, so that there are as many as in the long run: each with
    /// its node and what is left of it.
    pub(super) fn present(&mut self) -> Vec<(usize, Wish)> {
        let expected = self.rate * self.long_part * self.wishes.long_life;
        let present = self.dice.poisson(expected);
        let one = |_| {
            let node = self.dice.weighted(&self.sums);
            (node, self.wishes.met(&mut self.dice))
        };
        (0..present).map(one).collect()
    }

    /// From `now` on, so many times as many connect through a node.
    pub(super) fn set_node_factor(&mut self, now: Timestamp, node: usize, factor: f64) {
        self.factors[node] = factor;
        self.refresh(now);
    }

    /// From `now` on, so many times as many connect as before.
    pub(super) fn multiply(&mut self, now: Timestamp, factor: f64) {
        self.factor *= factor;
        self.refresh(now);
    }

    /// From `now` on, so many times as many connect by the swing.
    pub(super) fn set_swing(&mut self, now: Timestamp, swing: f64) {
        self.swing = swing;
        self.refresh(now);
    }

    /// Arrivals have no memory: when their rate changes the next one can be drawn anew.
    fn refresh(&mut self, now: Timestamp) {
        let mut sum = 0.0;
        for ((place, share), factor) in self.sums.iter_mut().zip(&self.shares).zip(&self.factors) {
            sum += self.rate * self.factor * self.swing * share * factor;
            *place = sum;
        }
        self.draw_next(now);
    }

    fn draw_next(&mut self, now: Timestamp) {
        let rate = self.sums.last().copied().unwrap_or(0.0);
        self.next =
            if rate > 1e-9 { now + nanos(self.dice.exponential(1.0 / rate)) } else { Timestamp::NEVER };
    }
}

impl Wishes {
    fn draw(&self, long: bool, dice: &mut Dice) -> Wish {
        match (self.demand, long) {
            (_, true) => {
                let seconds = dice.log_normal(self.long_life, self.long_sigma);
                Wish::Connection { long, seconds, requests_per_second: self.requests(dice) }
            }
            (Some(demand), false) => Wish::Request(draw_demand(demand, dice)),
            (None, false) => {
                let seconds = dice.exponential(self.short_life);
                Wish::Connection { long, seconds, requests_per_second: 0.0 }
            }
        }
    }

    /// What is left of a long connection that is met at a random moment.
    fn met(&self, dice: &mut Dice) -> Wish {
        let seconds = dice.log_normal_met(self.long_life, self.long_sigma) * dice.unit();
        Wish::Connection { long: true, seconds, requests_per_second: self.requests(dice) }
    }

    fn requests(&self, dice: &mut Dice) -> f64 {
        match self.demand {
            Some(_) => dice.log_normal(self.requests_per_second, self.requests_sigma),
            None => 0.0,
        }
    }
}

/// The CPU that a request needs, in core-seconds.
pub(super) fn draw_demand((mean, sigma): (f64, Option<f64>), dice: &mut Dice) -> f64 {
    match sigma {
        Some(sigma) => dice.log_normal(mean, sigma),
        None => dice.exponential(mean),
    }
}

/// Seconds as a length of virtual time, at least one tick of it.
pub(super) fn nanos(seconds: f64) -> std::time::Duration {
    std::time::Duration::from_nanos((seconds * 1e9).clamp(1.0, 1e18) as u64)
}
