//! Removing trees of any depth and size with two descriptors and no recursion.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::sys::fs::proc_fd;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Names in one piece of memory: a directory may have millions. Each ends in 0.
pub(super) struct Names(Vec<u8>);

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = &OsStr> {
        let names = self.0.split_inclusive(|byte| *byte == 0);
        names.map(|name| OsStr::from_bytes(&name[..name.len() - 1]))
    }
}

/// The names in an open directory.
pub(super) fn names(dir: impl AsFd) -> io::Result<Names> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes_with_nul();
        if name != b".\0" && name != b"..\0" {
            names.extend_from_slice(name);
        }
    }
    Ok(Names(names))
}

/// Removes the entry `name` of `dir`, with all below it where it is a
/// directory. What does not exist is removed already.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    if !unlink(dir, name)? {
        return Ok(());
    }
    // It has entries. Directories in it are emptied one at a time, their own
    // directories being moved up to wait for their turn.
    let top = open(dir, name)?;
    let mut counter: u64 = 0;
    loop {
        let names = names(&top)?;
        if names.0.is_empty() {
            break;
        }
        for name in names.iter() {
            if unlink(top.as_fd(), name)? {
                flatten(&top, name, &mut counter)?;
            }
        }
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes the directory `name` of `top`; its directories come into `top`.
fn flatten(top: &OwnedFd, name: &OsStr, counter: &mut u64) -> io::Result<()> {
    let dir = open(top.as_fd(), name)?;
    for child in names(&dir)?.iter() {
        if !unlink(dir.as_fd(), child)? {
            continue;
        }
        loop {
            let free = format!(".{counter}");
            *counter += 1;
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&dir, child, top, &*free, flags) {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(Errno::EXIST) => {}
                // A directory that may not be written can't change its parent.
                Err(Errno::ACCESS) => drop(open(dir.as_fd(), child)?),
                Err(e) => return Err(e.into()),
            }
        }
    }
    unlink(top.as_fd(), name).map(drop)
}

/// Removes a file or an empty directory; true when it has entries.
fn unlink(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Opens a directory to empty it, making it writable where it is not.
fn open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let fd = match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            rustix::fs::chmod(proc_fd(handle.as_fd()), Mode::RWXU)?;
            rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?
        }
        Err(e) => return Err(e.into()),
    };
    if rustix::fs::fstat(&fd)?.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&fd, Mode::RWXU)?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn deep_and_odd_trees_go() {
        let dir = tempfile::tempdir().unwrap();
        let top = rustix::fs::open(dir.path(), DIRECTORY, Mode::empty()).unwrap();
        fs::create_dir_all(dir.path().join("t/a/b/c")).unwrap();
        fs::write(dir.path().join("t/a/b/f"), "x").unwrap();
        fs::create_dir(dir.path().join("t/.0")).unwrap();
        fs::write(dir.path().join("t/.0/f"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("t/a/link")).unwrap();
        // Deeper than the path limit and the descriptor limit.
        let mut here = open(top.as_fd(), OsStr::new("t")).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "deep", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&here, "side", Mode::from_raw_mode(0)).unwrap();
            here = open(here.as_fd(), OsStr::new("deep")).unwrap();
        }
        remove(top.as_fd(), OsStr::new("t")).unwrap();
        assert_eq!(names(&top).unwrap().iter().next(), None);
        remove(top.as_fd(), OsStr::new("t")).unwrap();
    }
}
