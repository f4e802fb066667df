//! What is remembered of the sessions of many containers, so that none of these pushes out what is
//! another one's.

use std::collections::{HashMap, VecDeque};

/// Items by container, the oldest of each first.
#[derive(Debug)]
pub(super) struct Shares<T> {
    by_place: HashMap<String, VecDeque<T>>,
    count: usize,
}

impl<T> Default for Shares<T> {
    fn default() -> Shares<T> {
        Shares { by_place: HashMap::new(), count: 0 }
    }
}

impl<T: PartialEq> Shares<T> {
    pub(super) fn push(&mut self, place: &str, item: T) {
        // Most containers are known already.
        if let Some(items) = self.by_place.get_mut(place) {
            items.push_back(item);
        } else {
            self.by_place.insert(place.to_owned(), VecDeque::from([item]));
        }
        self.count += 1;
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, place: &str, item: &T) -> bool {
        self.by_place.get(place).is_some_and(|items| items.contains(item))
    }

    /// Drops those that are not wanted any more.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.by_place.retain(|_, items| {
            items.retain(&mut wanted);
            !items.is_empty()
        });
        self.count = self.by_place.values().map(VecDeque::len).sum();
    }

    pub(super) fn remove(&mut self, place: &str, item: &T) {
        let Some(items) = self.by_place.get_mut(place) else { return };
        let before = items.len();
        items.retain(|known| known != item);
        self.count -= before - items.len();
        if items.is_empty() {
            self.by_place.remove(place);
        }
    }

    /// Takes the oldest item of the container that has the most of them.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.pop_by(VecDeque::len)
    }

    /// Takes the oldest item of the container whose items are the most by this measure.
    pub(super) fn pop_by(&mut self, measure: impl Fn(&VecDeque<T>) -> usize) -> Option<T> {
        let (place, _) = self.by_place.iter().max_by_key(|(_, items)| measure(items))?;
        let place = place.clone();
        let items = self.by_place.get_mut(&place)?;
        let oldest = items.pop_front();
        self.count -= usize::from(oldest.is_some());
        if items.is_empty() {
            self.by_place.remove(&place);
        }
        oldest
    }

    /// Sums a measure of all items.
    pub(super) fn sum(&self, measure: impl Fn(&T) -> usize) -> usize {
        self.by_place.values().flatten().map(measure).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_most_gives_the_oldest() {
        let mut shares = Shares::default();
        for (place, item) in [("a", 1), ("b", 2), ("b", 3), ("b", 4), ("c", 5)] {
            shares.push(place, item);
        }
        assert_eq!((shares.pop(), shares.pop()), (Some(2), Some(3)));
        assert_eq!(shares.pop_by(|items| items.iter().sum()), Some(5));
        shares.remove("a", &1);
        assert!(!shares.contains("a", &1) && shares.contains("b", &4));
        assert!(!shares.contains("a", &4));
        assert_eq!((shares.count(), shares.pop(), shares.pop()), (1, Some(4), None));
        assert_eq!(shares.count(), 0);
    }
}
