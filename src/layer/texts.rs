//! Texts that are kept: names, and where links lead.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::Range;

use super::code::{self, Input};
use super::pile::{Pile, Spools};

/// So many are put in order as they are.
const FEW: usize = 64;
/// Bytes of texts that are in memory while they are put in order.
const RUN: usize = 4 << 20;
/// So many are put in order at a time at most.
const MOST: usize = 1 << 17;

/// Texts, each behind its length, and each found by its place. They may be as
/// long as they like: most are in a file.
#[derive(Debug)]
pub(crate) struct Texts(Pile);

impl Texts {
    pub(crate) fn new(spools: Spools) -> Self {
        Self(Pile::new(spools))
    }

    /// Where the next one would be.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// Its place.
    pub(crate) fn push(&mut self, text: &[u8]) -> u64 {
        self.0.settle();
        let place = self.len();
        code::field(self.0.out(), text);
        place
    }

    /// The text at a place; empty where there is none.
    pub(crate) fn get(&self, place: u64) -> &[u8] {
        Input(self.0.from(place)).field().unwrap_or_default()
    }

    /// Puts `text` in the place of another one that is not wanted any more, if
    /// there is room.
    pub(crate) fn replace(&mut self, place: u64, text: &[u8]) -> bool {
        if text.len() > self.get(place).len() {
            return false;
        }
        let mut bytes = Vec::with_capacity(text.len() + 4);
        code::field(&mut bytes, text);
        self.0.set(place, &bytes)
    }
}

/// Puts `list` in the order of its texts, which are read few times: each may
/// have to come from a file. Equal ones are in the order of the list's numbers.
pub(crate) fn sort<'a, T: Copy + Ord>(
    list: &mut [T],
    text: impl Fn(T) -> &'a [u8],
    order: fn(&[u8], &[u8]) -> Ordering,
) {
    let compare = |a: (&[u8], T), b: (&[u8], T)| order(a.0, b.0).then_with(|| a.1.cmp(&b.1));
    let whole = |item: &T| (text(*item), *item);
    if list.is_sorted_by(|a, b| compare(whole(a), whole(b)).is_le()) {
        return;
    }
    if list.len() <= FEW {
        list.sort_unstable_by(|a, b| compare(whole(a), whole(b)));
        return;
    }
    // Runs, each with its texts in memory, are put in order and then merged.
    let mut begins = vec![0];
    let mut begin = 0;
    while begin < list.len() {
        let mut bytes = Vec::new();
        let mut run = Vec::new();
        for item in &list[begin..] {
            let from = bytes.len();
            bytes.extend_from_slice(text(*item));
            run.push((from..bytes.len(), *item));
            if bytes.len() >= RUN || run.len() >= MOST {
                break;
            }
        }
        let in_memory = |(range, item): &(Range<usize>, T)| (&bytes[range.clone()], *item);
        run.sort_unstable_by(|a, b| compare(in_memory(a), in_memory(b)));
        for (place, (_, item)) in list[begin..].iter_mut().zip(&run) {
            *place = *item;
        }
        begin += run.len();
        begins.push(begin);
    }
    if begins.len() == 2 {
        return;
    }
    let all = list.to_vec();
    let runs = begins.windows(2).map(|ends| ends[0]..ends[1]);
    let head = |run: Range<usize>, mut bytes: Vec<u8>| {
        let item = *all.get(run.start).filter(|_| run.start < run.end)?;
        bytes.clear();
        bytes.extend_from_slice(text(item));
        Some(Reverse(Head {
            text: bytes,
            item,
            rest: run.start + 1..run.end,
            order,
        }))
    };
    let mut heads: BinaryHeap<_> = runs.filter_map(|run| head(run, Vec::new())).collect();
    for place in list {
        let Some(Reverse(first)) = heads.pop() else {
            return;
        };
        *place = first.item;
        heads.extend(head(first.rest, first.text));
    }
}

/// The first of a run, and where the others are.
struct Head<T> {
    text: Vec<u8>,
    item: T,
    rest: Range<usize>,
    order: fn(&[u8], &[u8]) -> Ordering,
}

impl<T: Ord> Ord for Head<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = (self.order)(&self.text, &other.text);
        order.then_with(|| self.item.cmp(&other.item))
    }
}

impl<T: Ord> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for Head<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::index::Spool;
    use crate::layer::pile::HELD;

    #[test]
    fn many_are_put_in_order() {
        for (count, repeat) in [(10, 1), (1000, 1), (60_000, 20), (60_000, 0)] {
            let text = |n: u32| format!("{}", n.wrapping_mul(0x9e37_79b9)).repeat(repeat);
            let texts: Vec<String> = (0..count).map(text).collect();
            let mut list: Vec<u32> = (0..count).collect();
            list.reverse();
            sort(&mut list, |n| texts[n as usize].as_bytes(), <[u8]>::cmp);
            assert!(list.is_sorted_by_key(|n| (&texts[*n as usize], *n)));
            list.sort_unstable();
            assert!(list.into_iter().eq(0..count));
        }
    }

    #[test]
    fn texts_are_found_wherever_they_are() {
        let file = || Spool::file(tempfile::tempfile().unwrap());
        for (spools, is_file) in [(Spools::default(), false), (Spools::new(file), true)] {
            let mut texts = Texts::new(spools);
            let text = |n: usize| format!("{n}").repeat(n % 200).into_bytes();
            let places: Vec<u64> = (0..20_000).map(|n| texts.push(&text(n))).collect();
            assert_eq!(texts.0.begin() > 3 * HELD as u64, is_file);
            for (n, place) in places.iter().enumerate() {
                assert_eq!(texts.get(*place), text(n), "{n}");
            }
            for n in [150, 19_999] {
                assert!(texts.replace(places[n], b"short") && !texts.replace(places[n], &[0; 9]));
                assert_eq!(texts.get(places[n]), b"short");
                assert_eq!(texts.get(places[n - 1]), text(n - 1));
            }
            assert!(texts.get(texts.len()).is_empty());
        }
    }
}
