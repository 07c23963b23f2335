//! Numbers by their hashes.
//!
//! A table that doubles has half of itself again beside it while it grows, and
//! is half empty afterwards. This one grows by one chain at a time (linear
//! hashing), and takes some nine bytes of a number: what is hashed need not be
//! looked at again.

use super::frames::NONE;

/// So many numbers are in a chain, on the average.
const LENGTH: usize = 3;

/// A set of small numbers, of which each has a hash.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// The first number of each chain.
    heads: Vec<u32>,
    links: Vec<Link>,
    count: usize,
}

/// What is known of a number.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// The number behind it.
    next: u32,
    hash: u32,
}

impl Chains {
    /// The chain of a hash: the one that its lower bits say or, as long as that
    /// one is missing, the one that it will be parted from.
    fn chain(&self, hash: u32) -> Option<usize> {
        let all = self.heads.len();
        let mask = all.next_power_of_two() - 1;
        let at = hash as usize & mask;
        (all > 0).then_some(if at < all { at } else { at & (mask >> 1) })
    }

    /// The numbers of a chain.
    fn all(&self, chain: Option<usize>) -> impl Iterator<Item = (u32, Link)> + '_ {
        let mut here = chain.map_or(NONE, |chain| self.heads[chain]);
        std::iter::from_fn(move || {
            let number = (here != NONE).then_some(here)?;
            let link = self.links[number as usize];
            here = link.next;
            Some((number, link))
        })
    }

    /// The number with this hash that `is_it` takes.
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut all = self.all(self.chain(hash));
        let found = all.find(|(number, link)| link.hash == hash && is_it(*number));
        found.map(|(number, _)| number)
    }

    /// Adds a number that is not there yet.
    pub(crate) fn insert(&mut self, number: u32, hash: u32) {
        if self.count >= self.heads.len() * LENGTH {
            self.grow();
        }
        if self.links.len() <= number as usize {
            let none = Link {
                next: NONE,
                hash: 0,
            };
            self.links.resize(number as usize + 1, none);
        }
        self.count += 1;
        self.push(number, hash);
    }

    fn push(&mut self, number: u32, hash: u32) {
        if let Some(chain) = self.chain(hash) {
            let next = std::mem::replace(&mut self.heads[chain], number);
            self.links[number as usize] = Link { next, hash };
        }
    }

    /// Adds a chain, which gets its numbers from the one they were in so far.
    fn grow(&mut self) {
        let new = self.heads.len();
        self.heads.push(NONE);
        let from = new & !((new + 1).next_power_of_two() / 2);
        let mut here = std::mem::replace(&mut self.heads[from], NONE);
        while here != NONE {
            let link = self.links[here as usize];
            self.push(here, link.hash);
            here = link.next;
        }
    }

    /// Takes out a number.
    pub(crate) fn remove(&mut self, number: u32) {
        let Some(Link { next, hash }) = self.links.get(number as usize).copied() else {
            return;
        };
        let chain = self.chain(hash);
        let before = self.all(chain).find(|(_, link)| link.next == number);
        match (before, chain) {
            (Some((before, _)), _) => self.links[before as usize].next = next,
            (None, Some(chain)) if self.heads[chain] == number => self.heads[chain] = next,
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
            hashes in 1u32..1000,
        ) {
            let hash = |number: u32| number.wrapping_mul(0x9e37_79b9) % hashes;
            let mut chains = Chains::default();
            let mut set = BTreeSet::new();
            for (is_new, number) in changes {
                match is_new {
                    true if set.insert(number) => chains.insert(number, hash(number)),
                    false if set.remove(&number) => chains.remove(number),
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
