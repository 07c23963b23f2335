//! Sets of very many numbers.

use std::collections::HashSet;

/// So many are hashed at least before they are put in order.
const FEW: usize = 1 << 15;
/// Of those in order at most this part is hashed beside them.
const PART: usize = 16;

/// Numbers in any order, some nine bytes of each: a hash table has twice that,
/// and three times while it grows.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    sorted: Vec<u64>,
    new: HashSet<u64>,
    /// Those in `sorted` that were removed.
    gone: HashSet<u64>,
}

impl Numbers {
    fn is_sorted_in(&self, number: u64) -> bool {
        self.sorted.binary_search(&number).is_ok()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.new.contains(&number) || self.is_sorted_in(number) && !self.gone.contains(&number)
    }

    /// Adds one; whether it was not there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if self.is_sorted_in(number) {
            return self.gone.remove(&number);
        }
        let is_new = self.new.insert(number);
        self.order();
        is_new
    }

    pub(super) fn remove(&mut self, number: u64) {
        if !self.new.remove(&number) && self.is_sorted_in(number) {
            self.gone.insert(number);
            self.order();
        }
    }

    /// Puts all in order, if enough have come or gone.
    fn order(&mut self) {
        if self.new.len() + self.gone.len() < FEW.max(self.sorted.len() / PART) {
            return;
        }
        if !self.gone.is_empty() {
            self.sorted.retain(|number| !self.gone.contains(number));
            self.gone.clear();
        }
        let mut new: Vec<u64> = self.new.drain().collect();
        new.sort_unstable();
        // From the end on, where there is room.
        let mut from = self.sorted.len();
        self.sorted.reserve_exact(new.len());
        self.sorted.resize(from + new.len(), 0);
        let mut to = self.sorted.len();
        while let Some(next) = new.last().copied() {
            to -= 1;
            match from.checked_sub(1).map(|last| (last, self.sorted[last])) {
                Some((last, number)) if number > next => {
                    self.sorted[to] = number;
                    from = last;
                }
                _ => {
                    self.sorted[to] = next;
                    new.pop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_in_a_set() {
        let (mut numbers, mut set) = (Numbers::default(), HashSet::new());
        let mut random = 1_u64;
        for step in 0..20 * FEW {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Many of them come again and again.
            let number = ((random >> 33) % (10 * FEW as u64)) << (step % 3 * 20);
            match random >> 60 {
                0..5 => {
                    numbers.remove(number);
                    set.remove(&number);
                }
                _ => assert_eq!(numbers.insert(number), set.insert(number)),
            }
            let other = number ^ 1;
            assert_eq!(numbers.contains(number), set.contains(&number));
            assert_eq!(numbers.contains(other), set.contains(&other));
        }
        assert!(numbers.sorted.len() > FEW && numbers.sorted.is_sorted());
    }
}
