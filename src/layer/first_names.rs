//! First names of files that have several.
//!
//! A layer may have a million of them, and each is asked for when another name
//! of the file comes; so a name takes a few bytes behind its directory, which
//! is there once for all names that come one after the other in it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::code::{Input, field, number};

/// What tells files apart: a device and an inode, or two other numbers of
/// which the first has few values.
pub(crate) type FileId = (u64, u64);

/// The names that came first.
#[derive(Debug, Default)]
pub(crate) struct FirstNames {
    files: BTreeMap<u64, HashMap<u64, First>>,
    /// How many files there are.
    count: usize,
    /// Directories: a field. Names: how far back their directory is, a field.
    bytes: Vec<u8>,
    /// Where the directory of the last name is.
    dir: usize,
}

/// Where a name is, and below that how many more names the file may have, at
/// most [`MANY`].
#[derive(Debug, Clone, Copy)]
struct First(u64);

const LEFT_BITS: u32 = 24;
/// Stands for any number from here on.
const MANY: u64 = (1 << LEFT_BITS) - 1;

impl First {
    fn new(at: usize, left: u64) -> Self {
        Self((at as u64) << LEFT_BITS | left.min(MANY))
    }

    fn at(self) -> usize {
        (self.0 >> LEFT_BITS) as usize
    }

    fn left(self) -> u64 {
        self.0 & MANY
    }
}

impl FirstNames {
    /// The first name of `file`, of which `path` is another. `None` when it is
    /// the first; it is then remembered until as many have come as `names`.
    pub(crate) fn link(&mut self, file: FileId, path: &Path, names: u64) -> Option<PathBuf> {
        let group = self.files.entry(file.0).or_default();
        let Some(first) = group.get_mut(&file.1) else {
            let left = names.saturating_sub(1);
            if left > 0 {
                let first = First::new(self.push(path), left);
                self.files.entry(file.0).or_default().insert(file.1, first);
                self.count += 1;
            }
            return None;
        };
        let at = first.at();
        match first.left() {
            MANY => {}
            1 => {
                group.remove(&file.1);
                self.count -= 1;
            }
            left => *first = First::new(at, left - 1),
        }
        let path = self.path(at);
        if self.count == 0 {
            self.bytes.clear();
        }
        path
    }

    /// Adds a name; says where it is.
    fn push(&mut self, path: &Path) -> usize {
        let dir = path.parent().unwrap_or(Path::new("")).as_os_str();
        let last = self.bytes.get(self.dir..);
        let last = last.and_then(|bytes| Input(bytes).field());
        if last != Some(dir.as_bytes()) {
            self.dir = self.bytes.len();
            field(&mut self.bytes, dir.as_bytes());
        }
        let at = self.bytes.len();
        number(&mut self.bytes, (at - self.dir) as u64);
        let name = path.file_name().unwrap_or_default();
        field(&mut self.bytes, name.as_bytes());
        at
    }

    fn path(&self, at: usize) -> Option<PathBuf> {
        let mut input = Input(self.bytes.get(at..)?);
        let back = usize::try_from(input.number()?).ok()?;
        let name = input.field()?;
        let dir = Input(self.bytes.get(at.checked_sub(back)?..)?).field()?;
        Some(Path::new(OsStr::from_bytes(dir)).join(OsStr::from_bytes(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_is_remembered() {
        let mut names = FirstNames::default();
        let name = |dir: u64, file: u64| PathBuf::from(format!("d/{dir}/a file {file}"));
        for dir in 0..30 {
            for file in 0..30 {
                assert_eq!(
                    names.link((dir % 2, 100 * dir + file), &name(dir, file), 2),
                    None
                );
            }
        }
        assert_eq!(names.link((7, 0), Path::new("top"), u64::MAX), None);
        for file in 0..30 {
            for dir in 0..30 {
                let found = names.link((dir % 2, 100 * dir + file), Path::new("x"), 2);
                assert_eq!(found, Some(name(dir, file)));
            }
        }
        for _ in 0..5 {
            let found = names.link((7, 0), Path::new("x"), u64::MAX);
            assert_eq!(found.as_deref(), Some(Path::new("top")));
        }
        assert_eq!(names.count, 1);
    }

    #[test]
    fn a_file_is_forgotten_with_its_last_name() {
        let mut names = FirstNames::default();
        for round in 0..3 {
            for names_left in [1, 2, 3] {
                let file = (0, names_left);
                let first = PathBuf::from(format!("a/{round}{names_left}"));
                assert_eq!(names.link(file, &first, names_left), None);
                for _ in 1..names_left {
                    assert_eq!(names.link(file, Path::new("b"), 9), Some(first.clone()));
                }
            }
            assert_eq!((names.count, names.bytes.len()), (0, 0));
        }
    }
}
