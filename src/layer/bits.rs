//! Sets of small numbers, a bit for each.

/// A set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// Adds one; whether it was not there.
    pub(crate) fn insert(&mut self, n: u32) -> bool {
        let (at, bit) = (n as usize / 64, 1 << (n % 64));
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        let is_new = self.0[at] & bit == 0;
        self.0[at] |= bit;
        is_new
    }

    pub(crate) fn has(&self, n: u32) -> bool {
        let word = self.0.get(n as usize / 64);
        word.is_some_and(|word| word & (1 << (n % 64)) != 0)
    }
}

/// A set that has a place for each of its numbers, in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Ranked {
    bits: Bits,
    /// How many numbers are in the words before each.
    before: Vec<u32>,
    len: usize,
}

impl Ranked {
    pub(crate) fn of(bits: Bits) -> Self {
        let mut len = 0;
        let before = bits.0.iter().map(|word| {
            let before = len;
            len += word.count_ones();
            before
        });
        Self {
            before: before.collect(),
            len: len as usize,
            bits,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The place of a number, if it is in the set.
    pub(crate) fn place(&self, n: u32) -> Option<usize> {
        let at = n as usize / 64;
        let (word, bit) = (*self.bits.0.get(at)?, 1_u64 << (n % 64));
        let lower = (word & (bit - 1)).count_ones();
        (word & bit != 0).then(|| (self.before[at] + lower) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_places() {
        let numbers = [0, 1, 63, 64, 127, 1000];
        let mut bits = Bits::default();
        assert!(numbers.iter().all(|n| bits.insert(*n)));
        assert!(!bits.insert(63) && bits.has(63) && !bits.has(62) && !bits.has(5000));
        let ranked = Ranked::of(bits);
        assert_eq!(ranked.len(), numbers.len());
        for (place, n) in numbers.into_iter().enumerate() {
            assert_eq!(ranked.place(n), Some(place));
        }
        assert_eq!((ranked.place(2), ranked.place(5000)), (None, None));
    }
}
