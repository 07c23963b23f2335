//! Numbers by their hashes.
//!
//! A table that doubles has half of itself again beside it while it grows, and
//! is half empty afterwards. This one grows by one chain at a time (linear
//! hashing), and takes some five bytes of a number.

/// No number.
const NONE: u32 = u32::MAX;
/// So many numbers are in a chain, on the average.
const LENGTH: usize = 3;

/// A set of small numbers, of which each has a hash that its owner knows.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// The first number of each chain.
    heads: Vec<u32>,
    /// The number behind each number.
    next: Vec<u32>,
    count: usize,
}

impl Chains {
    /// The chain of a hash: the one that its lower bits say or, as long as that
    /// one is missing, the one that it will be parted from.
    fn chain(&self, hash: u64) -> Option<usize> {
        let all = self.heads.len();
        let mask = all.next_power_of_two() - 1;
        let at = hash as usize & mask;
        (all > 0).then_some(if at < all { at } else { at & (mask >> 1) })
    }

    /// The numbers of a chain.
    fn all(&self, chain: Option<usize>) -> impl Iterator<Item = u32> + '_ {
        let mut here = chain.map_or(NONE, |chain| self.heads[chain]);
        std::iter::from_fn(move || {
            let number = (here != NONE).then_some(here)?;
            here = self.next[number as usize];
            Some(number)
        })
    }

    /// The number with this hash that `is_it` takes.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.all(self.chain(hash)).find(|number| is_it(*number))
    }

    /// Adds a number that is not there yet. `hash` is for all numbers.
    pub(crate) fn insert(&mut self, number: u32, hash: impl Fn(u32) -> u64) {
        if self.count >= self.heads.len() * LENGTH {
            self.grow(&hash);
        }
        if self.next.len() <= number as usize {
            self.next.resize(number as usize + 1, NONE);
        }
        self.count += 1;
        self.push(number, hash(number));
    }

    fn push(&mut self, number: u32, hash: u64) {
        if let Some(chain) = self.chain(hash) {
            self.next[number as usize] = std::mem::replace(&mut self.heads[chain], number);
        }
    }

    /// Adds a chain, which gets its numbers from the one they were in so far.
    fn grow(&mut self, hash: &impl Fn(u32) -> u64) {
        let new = self.heads.len();
        self.heads.push(NONE);
        let from = new & !((new + 1).next_power_of_two() / 2);
        let mut here = std::mem::replace(&mut self.heads[from], NONE);
        while here != NONE {
            let after = self.next[here as usize];
            self.push(here, hash(here));
            here = after;
        }
    }

    /// Takes out a number that has this hash.
    pub(crate) fn remove(&mut self, number: u32, hash: u64) {
        let chain = self.chain(hash);
        let before = self.all(chain).find(|n| self.next[*n as usize] == number);
        let after = self.next[number as usize];
        match (before, chain) {
            (Some(before), _) => self.next[before as usize] = after,
            (None, Some(chain)) if self.heads[chain] == number => self.heads[chain] = after,
            (None, _) => return,
        }
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Chains;

    proptest! {
        #[test]
        fn what_is_put_in_is_there(
            changes in prop::collection::vec((any::<bool>(), 0u32..300), 0..2000),
            hashes in 1u64..1000,
        ) {
            let hash = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) % hashes;
            let mut chains = Chains::default();
            let mut set = BTreeSet::new();
            for (is_new, number) in changes {
                match is_new {
                    true if set.insert(number) => chains.insert(number, hash),
                    false if set.remove(&number) => chains.remove(number, hash(number)),
                    _ => {}
                }
                let found = chains.find(hash(number), |n| n == number);
                prop_assert_eq!(found.is_some(), set.contains(&number));
            }
            for number in 0..300 {
                let found = chains.find(hash(number), |n| n == number);
                prop_assert_eq!(found.is_some(), set.contains(&number));
            }
        }
    }
}
