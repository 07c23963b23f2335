//! One filesystem delta and its tar: entries, changes, and how they are
//! written, compressed, read and applied.
//!
//! A delta is a stream of [`Change`]s in path order ([`Changes`]). [`pipeline`]
//! turns it into a layer blob in one pass; [`tar_read`] and [`unpack`] are the way back.
//! Paths are relative, without `.` and `..`, and are bytes: nothing here
//! assumes UTF-8.
//!
//! # Specification
//! image-spec `layer.md`.

pub mod archive;
pub(crate) mod bits;
pub(crate) mod chains;
pub(crate) mod code;
pub mod compress;
pub(crate) mod first_names;
pub(crate) mod frames;
pub mod ids;
pub mod index;
pub mod listing;
pub mod merge;
pub mod notes;
pub mod originals;
mod pax;
pub mod pile;
pub mod pipeline;
pub mod records;
pub mod stack;
pub mod tar_read;
pub mod tar_write;
pub(crate) mod texts;
pub mod unpack;
mod ustar;
pub mod whiteout;
pub mod workers;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that the tar of one layer may have where layers are read: stops bombs.
pub const MAX_TAR_BYTES: u64 = 100 << 30;
/// Entries that one layer may have.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// A point in time as file systems and tar have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Seconds since 1970, may be negative.
    pub secs: i64,
    /// Nanoseconds past `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// What an entry has beside its name and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: Mtime,
    /// Extended attributes, name to value.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes.
    File {
        /// Number of bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link with its target, verbatim.
    Symlink {
        /// The link's text.
        target: PathBuf,
    },
    /// Another name of an entry that came earlier in the same layer.
    Hardlink {
        /// Path of that entry, relative to the root.
        target: PathBuf,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path; empty for the root itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its attributes.
    pub meta: Meta,
}

/// Where the bytes of a regular file are.
pub enum Content {
    /// There are none: every kind but a non-empty file.
    None,
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file that is opened when its turn comes.
    Open(Box<dyn FnOnce() -> io::Result<File> + Send>),
    /// Somewhere else; opened when its turn comes, and read to its end.
    Read(OpenReader),
}

/// Opens what a [`Content`] is read from.
pub type OpenReader = Box<dyn FnOnce() -> io::Result<Box<dyn ContentReader>> + Send>;

/// What a [`Content`] is read from.
pub trait ContentReader: io::Read + Send {
    /// The file, if what is read is a whole one, from its beginning.
    fn file(&self) -> Option<&File> {
        None
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bytes(b) => write!(f, "Bytes({})", b.len()),
            Self::Open(_) => f.write_str("Open"),
            Self::Read(_) => f.write_str("Read"),
        }
    }
}

/// One element of a filesystem delta.
#[derive(Debug)]
pub enum Change {
    /// The entry is new or replaces what was there.
    Put(Entry, Content),
    /// What was there, with all below it, is gone.
    Whiteout(PathBuf),
    /// What lower layers have in this directory is gone. Comes right after the
    /// directory's own [`Put`](Change::Put).
    Opaque(PathBuf),
}

/// The order of paths: by their components, so that a directory comes just
/// before what is in it.
pub fn path_order(a: &Path, b: &Path) -> Ordering {
    let (a, b) = (a.as_os_str().as_bytes(), b.as_os_str().as_bytes());
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let rank = |byte: Option<&u8>| match byte {
        None => 0,
        Some(b'/') => 1,
        Some(byte) => u16::from(*byte) + 2,
    };
    rank(a.get(same)).cmp(&rank(b.get(same)))
}

/// A delta while it is being found: [`Change`]s in path order.
///
/// A layer may have millions of them, so nothing holds all at once. An error
/// ends it; what was made of it until then is worth nothing.
pub type Changes = Box<dyn Iterator<Item = io::Result<Change>> + Send>;

impl Change {
    /// The path it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Put(entry, _) => &entry.path,
            Self::Whiteout(path) | Self::Opaque(path) => path,
        }
    }
}
