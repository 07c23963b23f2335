//! The names in a directory, one behind the other.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// Names of one directory: a few bytes more than the names have.
#[derive(Debug, Default)]
pub struct DirNames {
    bytes: Vec<u8>,
    /// Where each name is: its beginning and its length.
    places: Vec<(u32, u16)>,
}

impl DirNames {
    /// Adds a name.
    pub fn push(&mut self, name: &OsStr) {
        // No directory has 4 GiB of names, and no name 64 KiB.
        let begin = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.places.push((begin, length));
        self.bytes.extend_from_slice(name.as_bytes());
    }

    /// Sorts the names by their bytes.
    pub fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|a, b| self.at(*a).cmp(self.at(*b)));
        self.places = places;
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
        let places = self.places.get(range).unwrap_or_default();
        places
            .iter()
            .map(|place| OsStr::from_bytes(self.at(*place)))
    }

    fn at(&self, (begin, length): (u32, u16)) -> &[u8] {
        let begin = begin as usize;
        (self.bytes.get(begin..begin + usize::from(length))).unwrap_or_default()
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
}
