//! Where clients come from: drawn as a scenario describes them, or replayed as they were recorded.

use std::sync::Arc;

use plimsoll_core::time::Timestamp;

use super::arrivals::{Arrivals, Wish};
use crate::dice::Dice;
use crate::scenario::Scenario;
use crate::traffic::{Recorded, Traffic};

/// A connection that is open at the beginning.
pub(super) struct Present {
    pub(super) node: usize,
    pub(super) wish: Wish,
    /// Where it is, if that is known.
    pub(super) endpoint: Option<usize>,
}

/// Where clients come from.
pub(super) enum Source {
    Drawn(Box<Arrivals>),
    Replayed {
        traffic: Arc<Traffic>,
        /// How many have come.
        come: usize,
    },
}

impl Source {
    pub(super) fn new(scenario: &Scenario, dice: Dice) -> Source {
        match &scenario.traffic {
            Some(traffic) => Source::Replayed { traffic: Arc::clone(traffic), come: 0 },
            None => Source::Drawn(Box::new(Arrivals::new(scenario, dice))),
        }
    }

    /// When the next client connects.
    pub(super) fn next_at(&self) -> Timestamp {
        match self {
            Source::Drawn(arrivals) => arrivals.next_at(),
            Source::Replayed { traffic, come } => {
                traffic.arrivals.get(*come).map_or(Timestamp::NEVER, |recorded| recorded.at)
            }
        }
    }

    /// The next client: its node and what it wants.
    pub(super) fn take(&mut self) -> Option<(usize, Wish)> {
        match self {
            Source::Drawn(arrivals) => Some(arrivals.take()),
            Source::Replayed { traffic, come } => {
                let recorded = traffic.arrivals.get(*come)?;
                *come += 1;
                Some((usize::from(recorded.node), wish(recorded)))
            }
        }
    }

    /// The connections that are open at the beginning.
    pub(super) fn present(&mut self) -> Vec<Present> {
        match self {
            Source::Drawn(arrivals) => {
                let drawn = arrivals.present().into_iter();
                drawn.map(|(node, wish)| Present { node, wish, endpoint: None }).collect()
            }
            Source::Replayed { traffic, .. } => {
                let present = |recorded: &Recorded| Present {
                    node: usize::from(recorded.node),
                    wish: wish(recorded),
                    endpoint: Some(recorded.endpoint as usize),
                };
                traffic.present.iter().map(present).collect()
            }
        }
    }

    /// Those that are drawn, whose rate can change.
    pub(super) fn drawn(&mut self) -> Option<&mut Arrivals> {
        match self {
            Source::Drawn(arrivals) => Some(arrivals),
            Source::Replayed { .. } => None,
        }
    }
}

/// A connection that lasts as long as it did. What was still open at the end outlasts every replay.
fn wish(recorded: &Recorded) -> Wish {
    Wish::Connection {
        long: false,
        seconds: recorded.ends.seconds_since(recorded.at),
        requests_per_second: 0.0,
    }
}
