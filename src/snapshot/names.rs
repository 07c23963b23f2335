//! The names in a directory, and opening what they lead to.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::attr;
use crate::sys::fs::lstat_at;

/// What is to be said of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is there.
    Here,
    /// It was there before.
    Gone,
    /// Nothing.
    Nothing,
}

/// The names of one directory, in one piece of memory: a directory may have
/// millions.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    names: Vec<Name>,
}

/// Where the file type is in a mode.
const TYPE_SHIFT: u32 = 12;

#[derive(Debug, Clone, Copy)]
struct Name {
    at: u32,
    len: u16,
    /// The file type's bits of a mode, in the lowest four.
    kind: u8,
    mark: Mark,
}

impl Names {
    /// The names in an open directory, sorted.
    pub(super) fn read(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let mut names = Self::default();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => attr::file_type(&lstat_at(dir, OsStr::from_bytes(name))?),
                kind => kind,
            };
            names.push(name, kind, Mark::Here)?;
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn push(&mut self, name: &[u8], kind: FileType, mark: Mark) -> io::Result<()> {
        let (Ok(at), Ok(len)) = (u32::try_from(self.bytes.len()), u16::try_from(name.len())) else {
            return Err(io::Error::other("it has too many names"));
        };
        self.bytes.extend_from_slice(name);
        self.names.push(Name {
            at,
            len,
            kind: (kind.as_raw_mode() >> TYPE_SHIFT) as u8,
            mark,
        });
        Ok(())
    }

    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        let text = |n: &Name| &bytes[n.at as usize..][..usize::from(n.len)];
        self.names.sort_unstable_by(|a, b| text(a).cmp(text(b)));
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn bytes(&self, n: usize) -> &[u8] {
        let name = &self.names[n];
        &self.bytes[name.at as usize..][..usize::from(name.len)]
    }

    pub(super) fn name(&self, n: usize) -> &OsStr {
        OsStr::from_bytes(self.bytes(n))
    }

    pub(super) fn kind(&self, n: usize) -> FileType {
        FileType::from_raw_mode(u32::from(self.names[n].kind) << TYPE_SHIFT)
    }

    pub(super) fn mark(&self, n: usize) -> Mark {
        self.names[n].mark
    }

    pub(super) fn set_mark(&mut self, n: usize, mark: Mark) {
        self.names[n].mark = mark;
    }

    /// Whether `name` is one of the first `among`, which are sorted.
    pub(super) fn has(&self, name: &[u8], among: usize) -> bool {
        let bytes = |n: &Name| &self.bytes[n.at as usize..][..usize::from(n.len)];
        let sorted = &self.names[..among];
        sorted.binary_search_by(|n| bytes(n).cmp(name)).is_ok()
    }

    /// How many have `mark`.
    pub(super) fn count(&self, mark: Mark) -> usize {
        self.names.iter().filter(|n| n.mark == mark).count()
    }
}

/// Opens `path` below `root` without following any link. A path may be longer
/// than the kernel takes at once.
pub(super) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let whole = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    for _ in 0..16 {
        match rustix::fs::openat2(root, whole, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => break,
            Err(e) => return Err(e.into()),
        }
    }
    let mut here: Option<OwnedFd> = None;
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut components = whole.components().peekable();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => OsStr::new("."),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let dir = here.as_ref().map_or(root, |fd| fd.as_fd());
        let flags = if components.peek().is_some() {
            step
        } else {
            flags
        };
        here = Some(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    }
    here.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
