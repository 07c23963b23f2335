//! What a directory on disk cannot have: owners, devices and capabilities
//! where the process may not make them.
//!
//! The notes of a layer directory are a file beside it. In a layer that was
//! unpacked by a process that has one user id, everything on disk is that
//! user's and stands for `0:0`; the notes have the others.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notes {
    /// Owners on disk mean nothing.
    owners: bool,
    entries: BTreeMap<PathBuf, Noted>,
}

impl Notes {
    /// None yet. `owners` says whether owners on disk mean nothing.
    pub fn new(owners: bool) -> Self {
        Self {
            owners,
            entries: BTreeMap::new(),
        }
    }

    /// Notes what the entry `path` should have, or that there is nothing to
    /// note of it.
    pub fn set(&mut self, path: PathBuf, noted: Noted) {
        let plain = noted.device.is_none() && noted.capability.is_none();
        if plain && (!self.owners || (noted.uid, noted.gid) == (0, 0)) {
            self.entries.remove(&path);
        } else {
            self.entries.insert(path, noted);
        }
    }

    /// Corrects what was read from the disk of the entry `path`.
    pub fn correct(&self, path: &Path, kind: &mut Kind, meta: &mut Meta) {
        let noted = self.entries.get(path);
        if self.owners {
            (meta.uid, meta.gid) = noted.map_or((0, 0), |n| (n.uid, n.gid));
        }
        if let Some(device) = noted.and_then(|n| n.device.as_ref()) {
            *kind = device.clone();
        }
    }

    /// The attribute [`CAPABILITY`] of the entry `path`.
    pub fn capability(&self, path: &Path) -> Option<&[u8]> {
        self.entries.get(path)?.capability.as_deref()
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
        let mut bytes = format!("owners {}\0", self.owners).into_bytes();
        for (path, noted) in &self.entries {
            let device = match noted.device {
                Some(Kind::Char { major, minor }) => format!("c {major} {minor}"),
                Some(Kind::Block { major, minor }) => format!("b {major} {minor}"),
                _ => "- 0 0".into(),
            };
            let capability = match &noted.capability {
                Some(value) => value.iter().map(|b| format!("{b:02x}")).collect(),
                None => "-".to_owned(),
            };
            let line = format!("{} {} {device} {capability} ", noted.uid, noted.gid);
            bytes.extend(line.into_bytes());
            bytes.extend(path.as_os_str().as_bytes());
            bytes.push(0);
        }
        std::fs::write(dir.with_file_name(FILE), bytes)
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
            let path = OsStr::from_bytes(fields.next()?).into();
            let noted = Noted {
                uid,
                gid,
                device,
                capability,
            };
            notes.entries.insert(path, noted);
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
        let name = OsStr::from_bytes(b"a b\n\xff").into();
        notes.set(
            name,
            Noted {
                uid: 7,
                gid: 0,
                device: Some(Kind::Char { major: 1, minor: 3 }),
                capability: Some(vec![0, 255, 16]),
            },
        );
        notes.set("plain".into(), Noted::default());
        notes.write(&layer).unwrap();
        let read = Notes::of(&layer).unwrap().unwrap();
        assert_eq!(read, notes);
        assert_eq!(read.entries.len(), 1);
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
