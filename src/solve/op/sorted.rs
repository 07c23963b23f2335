//! Values in the order of their paths, and of one path in the order that they
//! came in. There may be millions: but for the last ones they are in sorted runs
//! in a file.

use std::io;
use std::path::PathBuf;

use super::spilled::{self, Packed, RECENT, RECENT_BYTES, Values};
use crate::layer::path_order;
use crate::layer::records::{NewFile, Records};

/// Takes the values.
pub(super) struct Sorter<V> {
    recent: Vec<(PathBuf, V)>,
    weight: usize,
    records: Records,
    /// Where each begins, and how many records it has.
    runs: Vec<(u64, u64)>,
}

impl<V: Packed + Send + 'static> Sorter<V> {
    pub(super) fn new() -> Self {
        Self {
            recent: Vec::new(),
            weight: 0,
            records: Records::default(),
            runs: Vec::new(),
        }
    }

    pub(super) fn push(
        &mut self,
        path: PathBuf,
        value: V,
        new_file: NewFile<'_>,
    ) -> io::Result<()> {
        self.weight += path.as_os_str().len() + value.weight();
        self.recent.push((path, value));
        if self.recent.len() >= RECENT || self.weight >= RECENT_BYTES {
            self.spill(new_file)?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.recent.sort_by(|a, b| path_order(&a.0, &b.0));
    }

    fn spill(&mut self, new_file: NewFile<'_>) -> io::Result<()> {
        self.sort();
        self.weight = 0;
        let count = self.recent.len() as u64;
        let mut begin = None;
        for (path, value) in self.recent.drain(..) {
            let at = spilled::push(&mut self.records, &path, &value, new_file)?;
            begin.get_or_insert(at);
        }
        self.runs.extend(begin.map(|begin| (begin, count)));
        Ok(())
    }

    pub(super) fn finish(mut self) -> Values<V> {
        self.sort();
        Values::of_all(self.records, self.runs, self.recent.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::super::spilled::tests::mixed;
    use super::*;

    #[test]
    fn all_come_in_order() {
        for count in [0_u64, 10, 3 * RECENT as u64 + 5] {
            let mut sorter = Sorter::new();
            let mut expected = Vec::new();
            for (path, n) in mixed(count) {
                sorter.push(path.clone(), n, &tempfile::tempfile).unwrap();
                expected.push((path, n));
            }
            assert_eq!(sorter.runs.is_empty(), count < RECENT as u64);
            expected.sort_by(|a, b| path_order(&a.0, &b.0).then(a.1.cmp(&b.1)));
            let all: Vec<(PathBuf, u64)> = sorter.finish().map(Result::unwrap).collect();
            assert!(all == expected);
        }
    }
}
