//! Values that are known by a number until they are taken out; the number is used again then.

/// Values by their numbers.
#[derive(Clone, Debug)]
pub(crate) struct Places<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Places<T> {
    fn default() -> Places<T> {
        Places { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    /// Takes a value in; its number.
    pub(crate) fn add(&mut self, value: T) -> usize {
        let place = self.free.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(None);
        }
        self.places[place] = Some(value);
        place
    }

    /// Takes the value of this number out, if there is one.
    pub(crate) fn take(&mut self, place: usize) -> Option<T> {
        let value = self.places[place].take()?;
        self.free.push(place);
        Some(value)
    }

    /// The numbers of those that fit.
    pub(crate) fn find(&self, fits: impl Fn(&T) -> bool) -> Vec<usize> {
        let numbered = self.places.iter().enumerate();
        numbered.filter(|(_, value)| value.as_ref().is_some_and(&fits)).map(|(place, _)| place).collect()
    }
}
