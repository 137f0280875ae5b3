//! IPVS' shortest expected delay with the core's stocks as weights, which the agent writes every tick.

use std::time::Duration;

use plimsoll_core::selection::stock::Stocks;
use plimsoll_core::time::Timestamp;

use super::least::Least;
use super::young::Young;
use super::{Selection, Weight};
use crate::dice::Dice;

/// The weight of the endpoint with the largest stock: the largest that IPVS takes.
const LARGEST: f64 = 65_535.0;

pub(super) struct Stock {
    least: Least,
    tick: Duration,
    /// When weights were written last; `None`: they have to be written now.
    written: Option<Timestamp>,
    /// The policy's.
    weights: Vec<Weight>,
    /// Their parts of the whole.
    shares: Vec<f64>,
    stocks: Stocks,
    /// Those that are not booked yet.
    young: Young,
}

impl Stock {
    pub(super) fn new(tick: Duration) -> Stock {
        Stock {
            least: Least::delay(),
            tick,
            written: None,
            weights: Vec::new(),
            shares: Vec::new(),
            stocks: Stocks::default(),
            young: Young::default(),
        }
    }

    fn write(&mut self, now: Timestamp, own: &[u32], dice: &mut Dice) {
        let until = now.before(self.tick);
        let endpoints = || self.weights.iter().map(|weight| weight.endpoint);
        let kept: Vec<f64> =
            endpoints().map(|endpoint| self.young.count_before(endpoint, until) as f64).collect();
        self.stocks.settle(&self.shares, &kept);
        endpoints().for_each(|endpoint| self.young.forget(endpoint, until));
        let fresh: Vec<f64> = endpoints().map(|endpoint| self.young.count(endpoint) as f64).collect();
        let open = |(endpoint, fresh): (usize, &f64)| (f64::from(own[endpoint]) - fresh).max(0.0);
        let settled: Vec<f64> = endpoints().zip(&fresh).map(open).collect();
        let stocks = self.stocks.stocks(&self.shares, &settled, fresh.iter().sum());
        let most = stocks.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let weight = |(weight, stock): (&Weight, &f64)| Weight {
            weight: libm::round(stock / most * LARGEST).max(1.0) as u32,
            ..*weight
        };
        let weights: Vec<Weight> = self.weights.iter().zip(&stocks).map(weight).collect();
        self.least.set(now, &weights, dice);
    }
}

impl Selection for Stock {
    fn set(&mut self, _now: Timestamp, weights: &[Weight], dice: &mut Dice) {
        let debt = |weight: &Weight| {
            let before = self.weights.binary_search_by_key(&weight.endpoint, |weight| weight.endpoint);
            before.map_or_else(|_| dice.between(-0.5, 0.5), |at| self.stocks.owed()[at])
        };
        self.stocks = Stocks::new(weights.iter().map(debt).collect());
        let sum: f64 = weights.iter().map(|weight| f64::from(weight.weight)).sum();
        self.shares = weights.iter().map(|weight| f64::from(weight.weight) / sum).collect();
        self.weights = weights.to_vec();
        self.written = None;
    }

    fn choose(&mut self, now: Timestamp, own: &[u32], dice: &mut Dice) -> Option<usize> {
        if self.written.is_none_or(|written| now.since(written) >= self.tick) {
            self.write(now, own, dice);
            self.written = Some(now);
        }
        self.least.choose(now, own, dice)
    }

    fn opened(&mut self, now: Timestamp, endpoint: usize) {
        self.young.opened(now, endpoint);
    }

    fn closed(&mut self, _now: Timestamp, endpoint: usize, opened: Timestamp) {
        self.young.closed(endpoint, opened);
    }
}
