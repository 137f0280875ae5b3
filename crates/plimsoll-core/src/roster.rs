//! Numbers for the endpoints there are, so that what is kept of each lies in a vector: a look-up per event, none
//! per decision.

// Its order, which differs from run to run, is never looked at.
#[allow(clippy::disallowed_types)]
use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::service::EndpointId;

/// Which endpoint has which number. Numbers are small, and used again; they follow from the calls alone.
#[derive(Clone, Debug, Default)]
#[allow(clippy::disallowed_types)]
pub(crate) struct Roster {
    numbers: HashMap<EndpointId, usize, FixedState>,
    free: Vec<usize>,
}

impl Roster {
    /// The endpoint's number, if it has one.
    pub(crate) fn number(&self, endpoint: &EndpointId) -> Option<usize> {
        self.numbers.get(endpoint).copied()
    }

    /// The endpoint's number, a free one or the next if it had none.
    pub(crate) fn enter(&mut self, endpoint: EndpointId) -> usize {
        let next = self.numbers.len() + self.free.len();
        *self.numbers.entry(endpoint).or_insert_with(|| self.free.pop().unwrap_or(next))
    }

    /// Takes the endpoint's number from it; the number is free then.
    pub(crate) fn leave(&mut self, endpoint: &EndpointId) -> Option<usize> {
        let number = self.numbers.remove(endpoint)?;
        self.free.push(number);
        Some(number)
    }
}
