//! First names of files that have several.
//!
//! A layer may have a million of them, and each is asked for when another name
//! of the file comes; so a name takes a few bytes behind its directory, which
//! is there once for all names that come one after the other in it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::code::{Input, field, number};

/// What tells files apart: a device and an inode, or two other numbers of
/// which the first has few values.
pub(crate) type FileId = (u64, u64);

/// A number of each of many files.
///
/// The numbers of files mostly follow each other, so they are in pages: eight
/// bytes for each.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The files by their device and all but the lowest bits of their inode;
    /// sorted by those.
    pages: BTreeMap<FileId, Vec<Numbered>>,
}

/// From above: the lowest bits of the inode, the file's number, and how many
/// more names it may have, at most [`MANY`].
#[derive(Debug, Clone, Copy)]
struct Numbered(u64);

/// Bits of an inode that tell the files of a page apart.
const LOW_BITS: u32 = 9;
const LEFT_BITS: u32 = 20;
/// Stands for any number from here on.
const MANY: u64 = (1 << LEFT_BITS) - 1;

impl Numbered {
    fn new(low: u64, number: u64, left: u64) -> Self {
        // Beyond 2^35 there is no memory for what is numbered.
        let number = number << (LOW_BITS + LEFT_BITS) >> LOW_BITS;
        Self(low << (u64::BITS - LOW_BITS) | number | left.min(MANY))
    }

    fn low(self) -> u64 {
        self.0 >> (u64::BITS - LOW_BITS)
    }

    fn number(self) -> u64 {
        self.0 << LOW_BITS >> (LOW_BITS + LEFT_BITS)
    }

    fn left(self) -> u64 {
        self.0 & MANY
    }
}

fn page(file: FileId) -> (FileId, u64) {
    let low = file.1 & ((1 << LOW_BITS) - 1);
    ((file.0, file.1 >> LOW_BITS), low)
}

impl Numbers {
    /// The number of `file`, of which one more name was met. With the last one
    /// the file is forgotten.
    pub(crate) fn meet(&mut self, file: FileId) -> Option<u64> {
        let (page, low) = page(file);
        let files = self.pages.get_mut(&page)?;
        let place = files.binary_search_by_key(&low, |file| file.low()).ok()?;
        let known = files.get_mut(place)?;
        let number = known.number();
        match known.left() {
            MANY => {}
            1 => {
                files.remove(place);
                if files.is_empty() {
                    self.pages.remove(&page);
                }
            }
            left => *known = Numbered::new(low, number, left - 1),
        }
        Some(number)
    }

    /// Takes note of the number of a file that has none yet, until `left` more
    /// of its names were met.
    pub(crate) fn add(&mut self, file: FileId, number: u64, left: u64) {
        let (page, low) = page(file);
        let files = self.pages.entry(page).or_default();
        let place = files.partition_point(|other| other.low() < low);
        files.insert(place, Numbered::new(low, number, left));
    }

    fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

/// The names that came first.
#[derive(Debug, Default)]
pub(crate) struct FirstNames {
    /// Where the names of files are.
    files: Numbers,
    /// Directories: a field. Names: how far back their directory is, a field.
    bytes: Vec<u8>,
    /// Where the directory of the last name is.
    dir: usize,
}

impl FirstNames {
    /// The first name of `file`, of which `path` is another. `None` when it is
    /// the first; it is then remembered until as many have come as `names`.
    pub(crate) fn link(&mut self, file: FileId, path: &Path, names: u64) -> Option<PathBuf> {
        let Some(at) = self.files.meet(file) else {
            let left = names.saturating_sub(1);
            if left > 0 {
                let at = self.push(path) as u64;
                self.files.add(file, at, left);
            }
            return None;
        };
        let path = self.path(usize::try_from(at).ok()?);
        if self.files.is_empty() {
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
        assert_eq!(names.files.pages.len(), 1);
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
            assert_eq!((names.files.pages.len(), names.bytes.len()), (0, 0));
        }
    }
}
