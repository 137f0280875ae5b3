//! The Services there are, by name and by number.

use std::collections::BTreeMap;

use crate::service::ServiceId;

use super::balanced::Balanced;

/// The Services there are. A number is a Service's until it is removed, and then another's.
#[derive(Default)]
pub(super) struct Services {
    numbers: BTreeMap<ServiceId, usize>,
    balanced: Vec<Option<Balanced>>,
    free: Vec<usize>,
}

impl Services {
    /// All names, sorted.
    pub(super) fn ids(&self) -> impl Iterator<Item = &ServiceId> {
        self.numbers.keys()
    }

    pub(super) fn number(&self, id: &ServiceId) -> Option<usize> {
        self.numbers.get(id).copied()
    }

    pub(super) fn get(&self, id: &ServiceId) -> Option<&Balanced> {
        self.at(self.number(id)?)
    }

    pub(super) fn at(&self, number: usize) -> Option<&Balanced> {
        self.balanced.get(number)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, number: usize) -> Option<&mut Balanced> {
        self.balanced.get_mut(number)?.as_mut()
    }

    /// All numbers, in the order of the names.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.numbers.values().copied()
    }

    /// All of them, by number.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Balanced> {
        self.balanced.iter_mut().flatten()
    }

    /// Takes up a Service that is not there; its number.
    pub(super) fn insert(&mut self, balanced: Balanced) -> usize {
        let id = balanced.service.id.clone();
        let number = self.free.pop().unwrap_or(self.balanced.len());
        if number == self.balanced.len() {
            self.balanced.push(None);
        }
        self.balanced[number] = Some(balanced);
        self.numbers.insert(id, number);
        number
    }

    /// Removes a Service; it and the number it had.
    pub(super) fn remove(&mut self, id: &ServiceId) -> Option<(usize, Balanced)> {
        let number = self.numbers.remove(id)?;
        self.free.push(number);
        Some((number, self.balanced[number].take()?))
    }
}
