//! The objects that a list and a watch have told of.

use std::collections::{BTreeMap, BTreeSet};

use super::object;

/// One step of a list and a watch of objects.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step<T> {
    /// A list begins: what does not follow until [`Step::Listed`] is gone.
    Begin,
    /// An object is there, or changed.
    Set(T),
    /// An object is gone, by its name.
    Gone(Box<str>),
    /// The list is complete.
    Listed,
}

/// Something with a name that is its own.
pub(super) trait Named {
    /// Its name, with its namespace if it has one.
    fn name(&self) -> &str;
}

impl Named for object::Service {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for object::Slice {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for object::Agents {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for object::Namespace {
    fn name(&self) -> &str {
        &self.name
    }
}

/// The objects of a kind that are there.
#[derive(Debug)]
pub(super) struct Known<T> {
    objects: BTreeMap<Box<str>, T>,
    /// Those that came since a list began.
    seen: Option<BTreeSet<Box<str>>>,
    is_listed: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Known<T> {
        Known { objects: BTreeMap::new(), seen: None, is_listed: false }
    }
}

impl<T: Named + PartialEq> Known<T> {
    /// Takes a step; `changed` is called with each object that came, went or changed, as it was and as it is.
    pub(super) fn take(&mut self, step: Step<T>, mut changed: impl FnMut(Option<&T>, Option<&T>)) {
        match step {
            Step::Begin => self.seen = Some(BTreeSet::new()),
            Step::Set(object) => {
                let name: Box<str> = object.name().into();
                if let Some(seen) = &mut self.seen {
                    seen.insert(name.clone());
                }
                let before = self.objects.get(&name);
                if before != Some(&object) {
                    changed(before, Some(&object));
                    self.objects.insert(name, object);
                }
            }
            Step::Gone(name) => {
                if let Some(before) = self.objects.remove(&name) {
                    changed(Some(&before), None);
                }
            }
            Step::Listed => {
                self.is_listed = true;
                let Some(seen) = self.seen.take() else { return };
                for (_, gone) in self.objects.extract_if(.., |name, _| !seen.contains(name)) {
                    changed(Some(&gone), None);
                }
            }
        }
    }

    /// Whether there was a complete list.
    pub(super) const fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.objects.get(name)
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    /// Those whose names begin so.
    pub(super) fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a T> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let all = self.objects.range::<str, _>(from);
        all.take_while(move |(name, _)| name.starts_with(prefix)).map(|(_, object)| object)
    }
}
