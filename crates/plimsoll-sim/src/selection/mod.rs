//! How a node's dataplane turns weights into choices, one file per way, each as coarse as it really is.

mod draw;
mod edf;
mod ipvs;
mod least;
mod smooth;
mod stock;
mod young;

use std::time::Duration;

use plimsoll_core::time::Timestamp;

use crate::dice::Dice;

pub use edf::{Known, Picture};

#[cfg(test)]
mod tests;

/// An endpoint, by index, and its part of the new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Which endpoint.
    pub endpoint: usize,
    /// Its part; parts need not sum to anything. Above 0.
    pub weight: u32,
}

/// One node's way to choose, for one Service.
pub trait Selection: Send {
    /// Takes new weights, sorted by endpoint.
    fn set(&mut self, now: Timestamp, weights: &[Weight], dice: &mut Dice);

    /// Chooses the endpoint of the next connection. `own` are this node's open connections by endpoint.
    fn choose(&mut self, now: Timestamp, own: &[u32], dice: &mut Dice) -> Option<usize>;

    /// A connection of this node opened.
    fn opened(&mut self, _now: Timestamp, _endpoint: usize) {}

    /// A connection of this node closed that opened at `opened`.
    fn closed(&mut self, _now: Timestamp, _endpoint: usize, _opened: Timestamp) {}

    /// Whether it wants to know more than weights, at each report interval.
    fn wants_picture(&self) -> bool {
        false
    }

    /// What the node knows of the cluster.
    fn look(&mut self, _now: Timestamp, _picture: &Picture) {}
}

/// The ways to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A weighted random draw.
    Random,
    /// A counter through bit reversal.
    Counter,
    /// Smooth weighted round robin.
    Wrr,
    /// IPVS' weighted round robin.
    IpvsWrr,
    /// IPVS' weighted least connections, of the node's own.
    Wlc,
    /// IPVS' shortest expected delay, of the node's own.
    Sed,
    /// The better of two weighted draws.
    TwoChoices,
    /// Corrected stride order.
    Edf,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Random,
        Kind::Counter,
        Kind::Wrr,
        Kind::IpvsWrr,
        Kind::Wlc,
        Kind::Sed,
        Kind::TwoChoices,
        Kind::Edf,
    ];

    /// What to call it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Random => "random",
            Kind::Counter => "counter",
            Kind::Wrr => "wrr",
            Kind::IpvsWrr => "ipvs-wrr",
            Kind::Wlc => "wlc",
            Kind::Sed => "sed",
            Kind::TwoChoices => "two-choices",
            Kind::Edf => "edf",
        }
    }

    /// What it is, in a sentence.
    pub const fn about(self) -> &'static str {
        match self {
            Kind::Random => "a weighted random draw, as nftables' numgen random makes it",
            Kind::Counter => "the default of the nftables dataplane: a counter through bit reversal",
            Kind::Wrr => "smooth weighted round robin, as nginx has it; no kernel does",
            Kind::IpvsWrr => {
                "IPVS' wrr with weights of 32 levels: it goes in runs, and each edit resets its cursor"
            }
            Kind::Wlc => "IPVS' wlc: fewest of the node's own connections per weight",
            Kind::Sed => {
                "IPVS' sed: fewest of the node's own connections, with the new one, per weight; agents write stocks"
            }
            Kind::TwoChoices => {
                "two weighted draws, the one with fewer of the node's own connections per weight wins"
            }
            Kind::Edf => {
                "corrected stride order with a ring aperture: for dataplanes that run a program per connection"
            }
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The way of this kind for a node whose agent decides every `tick`.
pub fn with_agent(kind: Kind, with_load: bool, tick: Duration, dice: &mut Dice) -> Box<dyn Selection> {
    match kind {
        Kind::Sed => Box::new(stock::Stock::new(tick)),
        _ => build(kind, with_load, dice),
    }
}

/// The way of this kind for one node. `with_load` says whether the weights follow measured CPU, or counts alone.
pub fn build(kind: Kind, with_load: bool, dice: &mut Dice) -> Box<dyn Selection> {
    match kind {
        Kind::Random => Box::new(draw::Draw::random()),
        Kind::Counter => Box::new(draw::Draw::counter(dice)),
        Kind::Wrr => Box::new(smooth::Smooth::default()),
        Kind::IpvsWrr => Box::new(ipvs::Wrr::default()),
        Kind::Wlc => Box::new(least::Least::connections()),
        Kind::Sed => Box::new(least::Least::delay()),
        Kind::TwoChoices => Box::new(draw::TwoChoices::default()),
        Kind::Edf => Box::new(edf::Edf::new(with_load)),
    }
}
