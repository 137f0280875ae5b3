//! What is remembered per endpoint from one decision to the next, by identity.

use super::Row;
use crate::service::EndpointId;

/// One `T` per row, in the order of the rows. What belongs to an endpoint that went is forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory<T> {
    endpoints: Vec<EndpointId>,
    values: Vec<T>,
}

/// What became of the rows since the last decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turnover {
    /// Some rows are new.
    pub(crate) came: bool,
    /// Some rows are gone.
    pub(crate) went: bool,
}

impl<T: Clone> Memory<T> {
    pub(crate) const fn new() -> Memory<T> {
        Memory { endpoints: Vec::new(), values: Vec::new() }
    }

    /// Brings the memory into the order of `rows`, which are sorted; what is new starts with `fresh(index)`.
    pub(crate) fn align(&mut self, rows: &[Row], mut fresh: impl FnMut(usize) -> T) -> Turnover {
        if self.is_aligned(rows) {
            return Turnover::default();
        }
        let mut kept = 0;
        let mut values = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            if let Ok(place) = self.endpoints.binary_search(&row.endpoint) {
                kept += 1;
                values.push(self.values[place].clone());
            } else {
                values.push(fresh(index));
            }
        }
        let turnover = Turnover { came: kept < rows.len(), went: kept < self.values.len() };
        self.values = values;
        self.endpoints.clear();
        self.endpoints.extend(rows.iter().map(|row| row.endpoint));
        turnover
    }

    fn is_aligned(&self, rows: &[Row]) -> bool {
        self.endpoints.iter().eq(rows.iter().map(|row| &row.endpoint))
    }

    /// Who is remembered and has no row, in the order of the endpoints.
    pub(crate) fn gone(&self, rows: &[Row]) -> impl Iterator<Item = (EndpointId, &T)> {
        let some_may_be = !self.is_aligned(rows);
        let remembered = self.endpoints.iter().zip(&self.values).filter(move |_| some_may_be);
        let has_row = |endpoint: &EndpointId| rows.binary_search_by_key(endpoint, |row| row.endpoint).is_ok();
        remembered.filter(move |(endpoint, _)| !has_row(endpoint)).map(|(endpoint, value)| (*endpoint, value))
    }

    pub(crate) fn values(&self) -> &[T] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}
