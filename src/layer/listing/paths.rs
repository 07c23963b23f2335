//! Many paths in little memory.

use std::path::{Path, PathBuf};

use super::Listed;
use super::packed::{Packed, Walk};
use crate::layer::pile::Spools;
use crate::layer::{Kind, Meta};

/// Paths, each as what differs from the one before it: some bytes for each.
///
/// They come in any order, and have to be [settled](Self::settle) before one is
/// looked for.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Paths(Packed);

impl Paths {
    /// None. They lie in one of `spools`.
    pub fn new(spools: Spools) -> Self {
        Self(Packed::new(spools))
    }

    /// Adds one. `None` when there are too many.
    pub fn push(&mut self, path: &Path) -> Option<()> {
        let nothing = Listed {
            kind: Kind::Dir,
            meta: Meta::default(),
            content: None,
        };
        self.0.add(path, &nothing)
    }

    /// Whether `path` is the one that was added last.
    pub(super) fn is_last(&self, path: &Path) -> bool {
        self.0.is_last(path)
    }

    /// Puts them in path order, each once. `None` when there are too many.
    pub fn settle(&mut self) -> Option<()> {
        self.0.settle()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `path` is one of them, once they are settled.
    pub fn contains(&self, path: &Path) -> bool {
        self.0.find(path).is_some()
    }

    /// All of them, in the order that they came in or, once they are settled, in
    /// path order.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.walk())
    }
}

impl<'a> IntoIterator for &'a Paths {
    type Item = PathBuf;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// See [`Paths::iter`].
#[derive(Debug)]
pub struct Iter<'a>(Walk<'a>);

impl Iterator for Iter<'_> {
    type Item = PathBuf;

    fn next(&mut self) -> Option<PathBuf> {
        self.0.next_record()?;
        Some(self.0.path().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn paths_are_as_in_a_set(
            names in prop::collection::vec("([ab-]{1,2}(/[ab]){0,3})?", 0..60),
            more in prop::collection::vec("([ab-]{1,2}(/[ab]){0,3})?", 0..9),
        ) {
            let mut paths = Paths::default();
            names.iter().for_each(|name| paths.push(Path::new(name)).unwrap());
            prop_assert!(paths.iter().eq(names.iter().map(PathBuf::from)));
            paths.settle().unwrap();
            more.iter().for_each(|name| paths.push(Path::new(name)).unwrap());
            paths.settle().unwrap();
            let set: BTreeSet<PathBuf> = names.iter().chain(&more).map(PathBuf::from).collect();
            prop_assert_eq!(paths.len(), set.len());
            prop_assert!(paths.iter().eq(set.iter().cloned()));
            for name in ["", "a", "b/a", "-", "ab/b/b", "c"] {
                prop_assert_eq!(paths.contains(Path::new(name)), set.contains(Path::new(name)));
            }
        }
    }
}
