//! Texts that are kept: names, and where links lead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::code::{self, Input};
use super::index::Spool;
use crate::sys::mapped::Mapped;

/// Bytes that are in memory before they go to the file.
const HELD: usize = 1 << 20;
/// So many are put in order as they are.
const FEW: usize = 64;
/// Bytes of texts that are in memory while they are put in order.
const RUN: usize = 1 << 20;

/// Texts, each behind its length, and each found by its place.
///
/// The newest of them are in memory, the others in a file: names may be as long
/// as they like.
#[derive(Debug)]
pub(crate) struct Texts {
    file: Option<Mapped>,
    held: Vec<u8>,
}

impl Texts {
    /// In `spool`, which nothing was written to.
    pub(crate) fn new(spool: Spool) -> Self {
        Self {
            file: spool.into_file().map(Mapped::new),
            held: Vec::new(),
        }
    }

    fn begin(&self) -> u64 {
        self.file.as_ref().map_or(0, Mapped::len)
    }

    /// Where the next one would be.
    pub(crate) fn len(&self) -> u64 {
        self.begin() + self.held.len() as u64
    }

    /// Its place.
    pub(crate) fn push(&mut self, text: &[u8]) -> u64 {
        let full = self.held.len() >= HELD;
        if let Some(file) = self.file.as_mut().filter(|_| full) {
            match file.add(&self.held) {
                Ok(()) => self.held.clear(),
                // The rest stays in memory.
                Err(_) if file.is_empty() => self.file = None,
                Err(_) => {}
            }
        }
        let place = self.len();
        code::field(&mut self.held, text);
        place
    }

    /// The text at a place; empty where there is none.
    pub(crate) fn get(&self, place: u64) -> &[u8] {
        let bytes = match (place.checked_sub(self.begin()), &self.file) {
            (Some(at), _) => self.held.get(at as usize..).unwrap_or_default(),
            (None, Some(file)) => file.from(place),
            (None, None) => &[],
        };
        Input(bytes).field().unwrap_or_default()
    }

    /// Puts `text` in the place of another one that is not wanted any more, if
    /// there is room.
    pub(crate) fn replace(&mut self, place: u64, text: &[u8]) -> bool {
        if text.len() > self.get(place).len() {
            return false;
        }
        let mut bytes = Vec::with_capacity(text.len() + 4);
        code::field(&mut bytes, text);
        let at = place.checked_sub(self.begin()).map(|at| at as usize);
        match (at, &mut self.file) {
            (Some(at), _) => match self.held.get_mut(at..at + bytes.len()) {
                Some(old) => {
                    old.copy_from_slice(&bytes);
                    true
                }
                None => false,
            },
            (None, Some(file)) => file.set(place, &bytes).is_ok(),
            (None, None) => false,
        }
    }
}

/// Puts `list` in the order of its texts, which are read few times: each may
/// have to come from a file.
pub(crate) fn sort<'a, T: Copy>(list: &mut [T], text: impl Fn(T) -> &'a [u8]) {
    if list.is_sorted_by(|a, b| text(*a) <= text(*b)) {
        return;
    }
    if list.len() <= FEW {
        list.sort_unstable_by(|a, b| text(*a).cmp(text(*b)));
        return;
    }
    // Runs, each with its texts in memory, are put in order and then merged.
    let mut ends = Vec::new();
    let mut begin = 0;
    while begin < list.len() {
        let mut bytes = Vec::new();
        let mut run = Vec::new();
        for item in &list[begin..] {
            let from = bytes.len();
            bytes.extend_from_slice(text(*item));
            run.push((from..bytes.len(), *item));
            if bytes.len() >= RUN {
                break;
            }
        }
        run.sort_unstable_by(|(a, _), (b, _)| bytes[a.clone()].cmp(&bytes[b.clone()]));
        for (place, (_, item)) in list[begin..].iter_mut().zip(&run) {
            *place = *item;
        }
        begin += run.len();
        ends.push(begin);
    }
    if ends.len() == 1 {
        return;
    }
    let all = list.to_vec();
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let mut next: BinaryHeap<_> = begins
        .zip(&ends)
        .map(|(begin, end)| Reverse((text(all[begin]).to_vec(), begin, *end)))
        .collect();
    for place in list {
        let Some(mut first) = next.peek_mut() else {
            return;
        };
        let Reverse((bytes, at, end)) = &mut *first;
        *place = all[*at];
        *at += 1;
        if at < end {
            bytes.clear();
            bytes.extend_from_slice(text(all[*at]));
        } else {
            PeekMut::pop(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_put_in_order() {
        for (count, repeat) in [(10, 1), (1000, 1), (60_000, 9), (60_000, 0)] {
            let text = |n: u32| format!("{}", n.wrapping_mul(0x9e37_79b9)).repeat(repeat);
            let texts: Vec<String> = (0..count).map(text).collect();
            let mut list: Vec<u32> = (0..count).collect();
            sort(&mut list, |n| texts[n as usize].as_bytes());
            assert!(list.is_sorted_by_key(|n| &texts[*n as usize]));
            list.sort_unstable();
            assert!(list.into_iter().eq(0..count));
        }
    }

    #[test]
    fn texts_are_found_wherever_they_are() {
        let file = || Spool::file(tempfile::tempfile().unwrap());
        for spool in [Spool::memory(), file()] {
            let mut texts = Texts::new(spool);
            let text = |n: usize| format!("{n}").repeat(n % 200).into_bytes();
            let places: Vec<u64> = (0..20_000).map(|n| texts.push(&text(n))).collect();
            assert!(texts.begin() == 0 || texts.begin() > 3 * HELD as u64);
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
