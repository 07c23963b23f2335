//! Random access to the files of a tar archive.
//!
//! The archive is scanned once; its entries are then read in place, by several
//! threads if need be. A compressed archive is unpacked into an unnamed
//! temporary file first. Nothing is ever extracted, so links in the archive
//! can only lead to other entries of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::TransportError;
use crate::image::media_type::Compression;
use crate::layer::compress::decompress;

/// Most entries of an archive.
const MAX_ENTRIES: usize = 1_000_000;
/// Most links followed for one name.
const MAX_LINKS: usize = 8;

/// A tar archive whose files can be read in any order.
#[derive(Debug)]
pub struct TarIndex {
    file: Arc<File>,
    path: PathBuf,
    entries: HashMap<PathBuf, Entry>,
    twice: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum Entry {
    File { offset: u64, size: u64 },
    Link(PathBuf),
}

impl TarIndex {
    /// Scans the archive at `path`.
    ///
    /// # Errors
    /// When it is no regular file, unreadable, or no tar.
    pub fn open(path: &Path) -> Result<Self, TransportError> {
        let fail = || TransportError::file("read", path);
        let file = open_regular(path).map_err(fail())?;
        let mut magic = [0; 6];
        let n = file.read_at(&mut magic, 0).map_err(fail())?;
        let file = match sniff(&magic[..n]) {
            Compression::Uncompressed => file,
            compression => {
                let mut plain = tempfile::tempfile().map_err(fail())?;
                let mut reader = decompress(file, compression).map_err(fail())?;
                io::copy(&mut reader, &mut plain).map_err(fail())?;
                plain
            }
        };
        let mut index = Self {
            file: Arc::new(file),
            path: path.to_owned(),
            entries: HashMap::new(),
            twice: None,
        };
        index.scan().map_err(fail())?;
        Ok(index)
    }

    fn scan(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let start = Section {
            file: Arc::clone(&self.file),
            offset: 0,
            left: length,
        };
        let mut archive = tar::Archive::new(start);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let kind = entry.header().entry_type();
            let Some(name) = normal(&entry.path()?) else {
                continue;
            };
            let found = match kind {
                tar::EntryType::Regular | tar::EntryType::Continuous => Entry::File {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                },
                tar::EntryType::Symlink => {
                    let Some(target) = entry.link_name()? else {
                        continue;
                    };
                    let base = name.parent().unwrap_or(Path::new(""));
                    let Some(target) = normal(&base.join(target)) else {
                        continue;
                    };
                    Entry::Link(target)
                }
                tar::EntryType::Link => {
                    let Some(target) = entry.link_name()?.and_then(|t| normal(&t)) else {
                        continue;
                    };
                    Entry::Link(target)
                }
                _ => continue,
            };
            if let Entry::File { offset, size } = &found
                && offset.checked_add(*size).is_none_or(|end| end > length)
            {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the archive ends in the middle of {}", name.display()),
                ));
            }
            if self.entries.len() >= MAX_ENTRIES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the archive has too many entries",
                ));
            }
            let top = name.components().count() == 1;
            if self.entries.insert(name.clone(), found).is_some() && top {
                self.twice = Some(name);
            }
        }
        Ok(())
    }

    /// The archive's own path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first file at the top that comes twice, so that two readers may
    /// take the archive for different things.
    pub fn ambiguous(&self) -> Option<&Path> {
        self.twice.as_deref()
    }

    /// Whether there is a file `name`.
    pub fn has(&self, name: &Path) -> bool {
        self.find(name).is_some()
    }

    /// Opens the file `name`, through links inside the archive, and says its
    /// size.
    ///
    /// # Errors
    /// `NotFound` when there is no such file.
    pub fn open_file(&self, name: &Path) -> io::Result<(Section, u64)> {
        let (offset, size) = self.find(name).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} has no file {}", self.path.display(), name.display()),
            )
        })?;
        let section = Section {
            file: Arc::clone(&self.file),
            offset,
            left: size,
        };
        Ok((section, size))
    }

    /// Reads the whole file `name`.
    ///
    /// # Errors
    /// When it is missing or larger than `limit` bytes.
    pub fn read(&self, name: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let (section, size) = self.open_file(name)?;
        if size > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} has {size} bytes; at most {limit} are read",
                    name.display()
                ),
            ));
        }
        let mut bytes = Vec::new();
        section.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn find(&self, name: &Path) -> Option<(u64, u64)> {
        let mut name = normal(name)?;
        for _ in 0..=MAX_LINKS {
            match self.entries.get(&name)? {
                Entry::File { offset, size } => return Some((*offset, *size)),
                Entry::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

/// Opens `path` for reading if it is a regular file; never waits for a FIFO.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options()
        .read(true)
        .custom_flags(nonblock)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}

/// The compression that the first bytes of a file tell of.
pub(super) fn sniff(magic: &[u8]) -> Compression {
    if magic.starts_with(&[0x1f, 0x8b]) {
        Compression::Gzip
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Compression::Zstd
    } else {
        Compression::Uncompressed
    }
}

/// A name without `.`, `..` and leading `/`; `None` when it leads out or to
/// nothing.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

/// A part of a file, read by position so that others may read beside it.
#[derive(Debug)]
pub struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Section {
    /// The first `size` bytes of `file`.
    pub(super) fn new(file: Arc<File>, size: u64) -> Self {
        Self {
            file,
            offset: 0,
            left: size,
        }
    }
}

impl Section {
    /// What comes after its first `bytes`.
    pub(super) fn after(mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.left);
        self.offset += bytes;
        self.left -= bytes;
        self
    }
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).map_or(buf.len(), |l| l.min(buf.len()));
        let n = self.file.read_at(&mut buf[..limit], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl io::Seek for Section {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let end = self.offset + self.left;
        let position = match to {
            io::SeekFrom::Start(p) => Some(p),
            io::SeekFrom::Current(d) => self.offset.checked_add_signed(d),
            io::SeekFrom::End(d) => end.checked_add_signed(d),
        };
        let position = position.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a position before the start")
        })?;
        self.left = end.saturating_sub(position);
        self.offset = position;
        Ok(position)
    }
}
