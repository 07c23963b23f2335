//! First names of files that have several.
//!
//! A layer may have a million of them, and each is asked for when another name
//! of the file comes; so a name takes a few bytes behind its directory, which
//! is there once for all names that come one after the other in it. Numbers of
//! files mostly follow each other, so they wait in pages: eight bytes for each.

use std::collections::BTreeMap;
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
    /// The files by their device and all but the lowest bits of their inode;
    /// sorted by those.
    pages: BTreeMap<FileId, Vec<First>>,
    /// Directories: a field. Names: how far back their directory is, a field.
    bytes: Vec<u8>,
    /// Where the directory of the last name is.
    dir: usize,
}

/// From above: the lowest bits of the inode, where the name is, and how many
/// more names the file may have, at most [`MANY`].
#[derive(Debug, Clone, Copy)]
struct First(u64);

/// Bits of an inode that tell the files of a page apart.
const LOW_BITS: u32 = 9;
const LEFT_BITS: u32 = 20;
/// Stands for any number from here on.
const MANY: u64 = (1 << LEFT_BITS) - 1;

impl First {
    fn new(low: u64, at: usize, left: u64) -> Self {
        // 32 GiB of names are more than there is memory for.
        let at = (at as u64) << (LOW_BITS + LEFT_BITS) >> LOW_BITS;
        Self(low << (u64::BITS - LOW_BITS) | at | left.min(MANY))
    }

    fn low(self) -> u64 {
        self.0 >> (u64::BITS - LOW_BITS)
    }

    fn at(self) -> usize {
        (self.0 << LOW_BITS >> (LOW_BITS + LEFT_BITS)) as usize
    }

    fn left(self) -> u64 {
        self.0 & MANY
    }
}

impl FirstNames {
    /// The first name of `file`, of which `path` is another. `None` when it is
    /// the first; it is then remembered until as many have come as `names`.
    pub(crate) fn link(&mut self, file: FileId, path: &Path, names: u64) -> Option<PathBuf> {
        let page = (file.0, file.1 >> LOW_BITS);
        let low = file.1 & ((1 << LOW_BITS) - 1);
        let known = self.pages.get_mut(&page).and_then(|files| {
            let place = files.binary_search_by_key(&low, |first| first.low());
            place.ok().map(|place| (files, place))
        });
        let Some((files, place)) = known else {
            let left = names.saturating_sub(1);
            if left > 0 {
                let first = First::new(low, self.push(path), left);
                let files = self.pages.entry(page).or_default();
                let place = files.partition_point(|other| other.low() < low);
                files.insert(place, first);
            }
            return None;
        };
        let first = files.get_mut(place)?;
        let at = first.at();
        match first.left() {
            MANY => {}
            1 => {
                files.remove(place);
                if files.is_empty() {
                    self.pages.remove(&page);
                }
            }
            left => *first = First::new(low, at, left - 1),
        }
        let path = self.path(at);
        if self.pages.is_empty() {
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
        assert_eq!(names.pages.len(), 1);
    }

    #[test]
    fn any_number_and_any_order_will_do() {
        let mut names = FirstNames::default();
        let numbers = [u64::MAX, 0, 511, 512, u64::MAX - 1, 510, 1 << 40, 1];
        for number in numbers {
            let path = PathBuf::from(format!("d/{number}"));
            assert_eq!(names.link((number, number), &path, 1 << 30), None);
        }
        for number in numbers {
            let found = names.link((number, number), Path::new("x"), 2);
            assert_eq!(found, Some(PathBuf::from(format!("d/{number}"))));
        }
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
            assert_eq!((names.pages.len(), names.bytes.len()), (0, 0));
        }
    }
}
