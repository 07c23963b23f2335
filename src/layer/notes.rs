//! What a directory on disk cannot have: owners, devices and capabilities
//! where the process may not make them.
//!
//! The notes of a layer directory are a file beside it. In a layer that was
//! unpacked by a process that has one user id, everything on disk is that
//! user's and stands for `0:0`; the notes have the others.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hashbrown::HashTable;

use super::code::{Input, field};
use super::{Kind, Meta};

/// The file, beside the directory.
const FILE: &str = "notes";
/// Name of the extended attribute that few may write.
pub const CAPABILITY: &[u8] = b"security.capability";

/// What is noted of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Noted {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device that an empty file stands for.
    pub device: Option<Kind>,
    /// The value of [`CAPABILITY`].
    pub capability: Option<Vec<u8>>,
}

/// The notes of one directory.
///
/// There may be millions: they are packed, and found by a table.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Owners on disk mean nothing.
    owners: bool,
    /// Directories that have noted entries, and their numbers.
    dirs: Vec<PathBuf>,
    dir_numbers: HashMap<PathBuf, u32>,
    /// What is noted, and the numbers of what is no more than an owner.
    noted: Vec<Noted>,
    plain: HashMap<(u32, u32), u32>,
    /// Of each entry the numbers of its directory and of what is noted of it,
    /// four bytes each, and its name.
    records: Vec<u8>,
    /// Where the records begin that count.
    places: HashTable<u32>,
    hasher: RandomState,
}

impl PartialEq for Notes {
    fn eq(&self, other: &Self) -> bool {
        self.owners == other.owners
            && self.places.len() == other.places.len()
            && self
                .sorted()
                .all(|(path, noted)| other.get(&path) == Some(noted))
    }
}

impl Eq for Notes {}

/// Directory and name of an entry; the name is empty for the root.
fn parts(path: &Path) -> (&Path, &[u8]) {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => (dir, name.as_bytes()),
        _ => (Path::new(""), path.as_os_str().as_bytes()),
    }
}

impl Notes {
    /// None yet. `owners` says whether owners on disk mean nothing.
    pub fn new(owners: bool) -> Self {
        Self {
            owners,
            ..Self::default()
        }
    }

    /// Notes what the entry `path` should have, or that there is nothing to
    /// note of it.
    pub fn set(&mut self, path: &Path, noted: Noted) {
        let plain = noted.device.is_none() && noted.capability.is_none();
        if plain && (!self.owners || (noted.uid, noted.gid) == (0, 0)) {
            self.remove(path);
        } else {
            self.insert(path, noted);
        }
    }

    fn key(&self, dir: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((dir, name))
    }

    /// What the record at `at` says: directory, number of what is noted, name.
    fn record(records: &[u8], at: u32) -> Option<(u32, u32, &[u8])> {
        let mut input = Input(records.get(at as usize..)?);
        let dir = u32::from_le_bytes(input.array()?);
        let noted = u32::from_le_bytes(input.array()?);
        Some((dir, noted, input.field()?))
    }

    /// Where the record of an entry is.
    fn find(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let is_it = |at: &u32| {
            let record = Self::record(&self.records, *at);
            record.is_some_and(|(d, _, n)| d == dir && n == name)
        };
        self.places.find(self.key(dir, name), is_it).copied()
    }

    fn get(&self, path: &Path) -> Option<&Noted> {
        if self.places.is_empty() {
            return None;
        }
        let (dir, name) = parts(path);
        let at = self.find(*self.dir_numbers.get(dir)?, name)?;
        let (_, noted, _) = Self::record(&self.records, at)?;
        self.noted.get(noted as usize)
    }

    fn remove(&mut self, path: &Path) {
        let (dir, name) = parts(path);
        let Some(dir) = self.dir_numbers.get(dir).copied() else {
            return;
        };
        if let Some(at) = self.find(dir, name)
            && let Ok(found) = self.places.find_entry(self.key(dir, name), |a| *a == at)
        {
            found.remove();
        }
    }

    fn insert(&mut self, path: &Path, noted: Noted) {
        let (dir, name) = parts(path);
        let dir = match self.dir_numbers.get(dir) {
            Some(number) => *number,
            None => {
                let number = self.dirs.len() as u32;
                self.dirs.push(dir.to_owned());
                self.dir_numbers.insert(dir.to_owned(), number);
                number
            }
        };
        let noted = self.number(noted).to_le_bytes();
        if let Some(at) = self.find(dir, name) {
            let at = at as usize + 4;
            if let Some(place) = self.records.get_mut(at..at + 4) {
                place.copy_from_slice(&noted);
            }
            return;
        }
        // More than four gigabytes of names are more than a layer may have.
        let at = self.records.len() as u32;
        self.records.extend_from_slice(&dir.to_le_bytes());
        self.records.extend_from_slice(&noted);
        field(&mut self.records, name);
        let (records, hasher) = (&self.records, &self.hasher);
        let hash = |at: &u32| {
            let record = Self::record(records, *at);
            let (dir, _, name) = record.unwrap_or_default();
            hasher.hash_one((dir, name))
        };
        self.places.insert_unique(hash(&at), at, hash);
    }

    /// The number of what is noted.
    fn number(&mut self, noted: Noted) -> u32 {
        let plain = noted.device.is_none() && noted.capability.is_none();
        let owner = (noted.uid, noted.gid);
        let new = self.noted.len() as u32;
        if plain {
            let number = *self.plain.entry(owner).or_insert(new);
            if number != new {
                return number;
            }
        }
        self.noted.push(noted);
        new
    }

    /// All entries in the order of their paths.
    fn sorted(&self) -> impl Iterator<Item = (PathBuf, &Noted)> {
        let record = |at: u32| Self::record(&self.records, at).unwrap_or_default();
        let dir = |number: u32| self.dirs.get(number as usize).map_or(Path::new(""), |d| d);
        let mut places: Vec<u32> = self.places.iter().copied().collect();
        let path = move |at: u32| {
            let (number, _, name) = record(at);
            (dir(number), OsStr::from_bytes(name))
        };
        let names = move |at: u32| {
            let (dir, name) = path(at);
            dir.iter().chain((!name.is_empty()).then_some(name))
        };
        places.sort_unstable_by(|a, b| names(*a).cmp(names(*b)));
        places.into_iter().filter_map(move |at| {
            let ((dir, name), (_, noted, _)) = (path(at), record(at));
            let path = match name.is_empty() {
                true => PathBuf::new(),
                false => dir.join(name),
            };
            Some((path, self.noted.get(noted as usize)?))
        })
    }

    /// Corrects what was read from the disk of the entry `path`.
    pub fn correct(&self, path: &Path, kind: &mut Kind, meta: &mut Meta) {
        let noted = self.get(path);
        if self.owners {
            (meta.uid, meta.gid) = noted.map_or((0, 0), |n| (n.uid, n.gid));
        }
        if let Some(device) = noted.and_then(|n| n.device.as_ref()) {
            *kind = device.clone();
        }
    }

    /// The attribute [`CAPABILITY`] of the entry `path`.
    pub fn capability(&self, path: &Path) -> Option<&[u8]> {
        self.get(path)?.capability.as_deref()
    }

    /// The notes of the directory `dir`, if it has some.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(dir.with_file_name(FILE)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "damaged notes of a layer");
        Self::parse(&bytes).ok_or_else(damaged).map(Some)
    }

    /// Writes them beside the directory `dir`.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let file = std::fs::File::create(dir.with_file_name(FILE))?;
        let mut file = BufWriter::new(file);
        write!(file, "owners {}\0", self.owners)?;
        for (path, noted) in self.sorted() {
            let device = match noted.device {
                Some(Kind::Char { major, minor }) => format!("c {major} {minor}"),
                Some(Kind::Block { major, minor }) => format!("b {major} {minor}"),
                _ => "- 0 0".into(),
            };
            let capability = match &noted.capability {
                Some(value) => value.iter().map(|b| format!("{b:02x}")).collect(),
                None => "-".to_owned(),
            };
            let (uid, gid) = (noted.uid, noted.gid);
            write!(file, "{uid} {gid} {device} {capability} ")?;
            file.write_all(path.as_os_str().as_bytes())?;
            file.write_all(&[0])?;
        }
        file.flush()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut records = bytes.strip_suffix(b"\0")?.split(|b| *b == 0);
        let owners = match records.next()? {
            b"owners true" => true,
            b"owners false" => false,
            _ => return None,
        };
        let mut notes = Self::new(owners);
        for record in records {
            let mut fields = record.splitn(7, |b| *b == b' ');
            let mut text = || std::str::from_utf8(fields.next()?).ok();
            let (uid, gid) = (text()?.parse().ok()?, text()?.parse().ok()?);
            let kind = text()?;
            let (major, minor) = (text()?.parse().ok()?, text()?.parse().ok()?);
            let device = match kind {
                "c" => Some(Kind::Char { major, minor }),
                "b" => Some(Kind::Block { major, minor }),
                _ => None,
            };
            let capability = match text()? {
                "-" => None,
                hex => {
                    let digits = hex.as_bytes().chunks(2);
                    let byte = |d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok();
                    Some(digits.map(byte).collect::<Option<Vec<u8>>>()?)
                }
            };
            let path = Path::new(OsStr::from_bytes(fields.next()?));
            let noted = Noted {
                uid,
                gid,
                device,
                capability,
            };
            notes.insert(path, noted);
        }
        Some(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("fs");
        assert_eq!(Notes::of(&layer).unwrap(), None);
        let mut notes = Notes::new(true);
        let name = OsStr::from_bytes(b"a b\n\xff");
        notes.set(
            Path::new(name),
            Noted {
                uid: 7,
                gid: 0,
                device: Some(Kind::Char { major: 1, minor: 3 }),
                capability: Some(vec![0, 255, 16]),
            },
        );
        notes.set(Path::new("plain"), Noted::default());
        notes.write(&layer).unwrap();
        let read = Notes::of(&layer).unwrap().unwrap();
        assert_eq!(read, notes);
        assert_eq!(read.places.len(), 1);
        std::fs::write(layer.with_file_name(FILE), "owners maybe\0").unwrap();
        assert!(Notes::of(&layer).is_err());
    }

    #[test]
    fn what_is_not_noted_is_roots_where_owners_mean_nothing() {
        for (owners, expected) in [(true, (0, 0)), (false, (5, 6))] {
            let mut meta = Meta {
                uid: 5,
                gid: 6,
                ..Meta::default()
            };
            Notes::new(owners).correct(Path::new("x"), &mut Kind::Dir, &mut meta);
            assert_eq!((meta.uid, meta.gid), expected);
        }
    }
}
