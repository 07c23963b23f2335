//! The names in a directory, one behind the other.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// Names of one directory: a few bytes more than the names have.
#[derive(Debug, Default)]
pub struct DirNames {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where a name is.
#[derive(Debug, Clone, Copy)]
struct Place {
    begin: u32,
    length: u16,
    tag: u16,
}

impl DirNames {
    /// Adds a name.
    pub fn push(&mut self, name: &OsStr) {
        self.push_tagged(name, 0);
    }

    /// Adds a name with a number that whoever lists the directory understands.
    pub fn push_tagged(&mut self, name: &OsStr, tag: u16) {
        // No directory has 4 GiB of names, and no name 64 KiB.
        let begin = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.places.push(Place { begin, length, tag });
        self.bytes.extend_from_slice(name.as_bytes());
    }

    /// Sorts the names by their bytes. Of a name that is there several times
    /// the one with the lowest number stays.
    pub fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        let order = |a: &Place, b: &Place| self.at(*a).cmp(self.at(*b)).then(a.tag.cmp(&b.tag));
        places.sort_unstable_by(order);
        places.dedup_by(|b, a| self.at(*a) == self.at(*b));
        self.places = places;
    }

    /// Those that `wanted` says so of, in their order and with their numbers.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&OsStr) -> bool) -> Self {
        let mut some = Self::default();
        for (name, tag) in self.tagged(0..self.len()).filter(|(name, _)| wanted(name)) {
            some.push_tagged(name, tag);
        }
        some
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Some of them, by their places in the order.
    pub fn range(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = &OsStr> {
        self.tagged(range).map(|(name, _)| name)
    }

    /// The same with their numbers.
    pub fn tagged(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = (&OsStr, u16)> {
        let places = self.places.get(range).unwrap_or_default();
        places
            .iter()
            .map(|place| (OsStr::from_bytes(self.at(*place)), place.tag))
    }

    fn at(&self, place: Place) -> &[u8] {
        let begin = place.begin as usize;
        (self.bytes.get(begin..begin + usize::from(place.length))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_sorted() {
        let mut names = DirNames::default();
        for name in ["b", "", "a-much-longer-name", "B", "\u{fc}"] {
            names.push(OsStr::new(name));
        }
        names.sort();
        let all: Vec<&OsStr> = names.range(0..names.len()).collect();
        assert_eq!(all, ["", "B", "a-much-longer-name", "b", "\u{fc}"]);
        assert_eq!(names.range(1..3).len(), 2);
        assert_eq!(names.range(4..9).len(), 0);
    }

    #[test]
    fn of_one_name_the_lowest_number_stays() {
        let mut names = DirNames::default();
        for (name, tag) in [("a", 4), ("b", 2), ("a", 0), ("b", 3), ("c", 6), ("a", 2)] {
            names.push_tagged(OsStr::new(name), tag);
        }
        names.sort();
        let all: Vec<_> = names.tagged(0..names.len()).collect();
        assert_eq!(
            all,
            [("a".as_ref(), 0), ("b".as_ref(), 2), ("c".as_ref(), 6)]
        );
        let some = names.only(|name| name != "a");
        let some: Vec<_> = some.tagged(0..some.len()).collect();
        assert_eq!(some, all[1..]);
    }
}
