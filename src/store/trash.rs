//! Lazy removal: a rename now, the work when there is time.
//!
//! Removing a large tree slows down whatever makes files right after it, so
//! nothing is removed while a build runs: it goes to `trash/`, and
//! [`Store::empty_trash`] is called when the work is done.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::lock::Session;
use super::{Lock, LockMode, Store, StoreError};

/// Directories nested deeper than this are first moved up, so that a tree of
/// any depth takes a bounded number of descriptors.
const MAX_OPEN: usize = 48;
/// Bytes of names that are in memory of each directory on the way: one may have
/// millions.
const MAX_NAMES: usize = 1 << 20;
/// Ends the name of the file that marks the directory beside it as one that
/// holds secrets.
const SECRETS_MARK: &str = ".secrets";

/// A scratch directory; it goes to the trash when it is dropped.
#[derive(Debug)]
pub struct TempDir {
    store: Store,
    path: PathBuf,
    _session: Arc<Session>,
}

impl TempDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl TempDir {
    /// Says that nobody may find what is in the directory from now on, as long
    /// as the result lives: should this process die before, whoever opens the
    /// store next removes the directory at once, and not when there is time.
    ///
    /// # Errors
    /// When the mark can't be made.
    pub fn hold_secrets(&self) -> Result<SecretsHeld, StoreError> {
        let mut mark = self.path.clone().into_os_string();
        mark.push(SECRETS_MARK);
        let held = SecretsHeld(mark.into());
        std::fs::write(&held.0, b"").map_err(StoreError::io("create", &held.0))?;
        Ok(held)
    }
}

/// The mark beside a directory; see [`TempDir::hold_secrets`].
#[derive(Debug)]
pub struct SecretsHeld(pub(super) PathBuf);

impl Drop for SecretsHeld {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = self.store.trash(&self.path);
    }
}

/// What [`Store::empty_trash`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Entries of the trash that are gone.
    pub removed: u64,
    /// What could not be removed, and why.
    pub left: Vec<(PathBuf, String)>,
}

impl Store {
    /// Makes a scratch directory on the store's file system, mode 0700.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        let session = self.session()?;
        let path = session.path("d");
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(StoreError::io("create", &path))?;
        Ok(TempDir {
            store: self.clone(),
            path,
            _session: session,
        })
    }

    /// A file without a name on the store's disk.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temp_file(&self) -> io::Result<std::fs::File> {
        tempfile::tempfile_in(self.path("tmp"))
    }

    /// Takes `path`, which is inside the store, out of sight. What is not
    /// there is no error.
    ///
    /// # Errors
    /// When it can neither be renamed nor removed.
    pub fn trash(&self, path: &Path) -> Result<(), StoreError> {
        // A full disk may have no room for a session or for the new name.
        let renamed = self.session().and_then(|session| {
            let name = format!("{}-{:x}", session.id, session.number());
            rustix::fs::rename(path, self.path("trash").join(name))
                .map_err(StoreError::io("remove", path))
        });
        match renamed {
            Err(StoreError::Io { source, .. }) => match Errno::from_io_error(&source) {
                Some(Errno::NOENT) => Ok(()),
                Some(Errno::NOSPC | Errno::DQUOT) => {
                    remove_path(path).map_err(StoreError::io("remove", path))
                }
                _ => Err(StoreError::io("remove", path)(source)),
            },
            other => other,
        }
    }

    /// Removes what is in the trash for good; if another process is at it,
    /// does nothing. Never leaves the trash: links are removed, not followed,
    /// and what is mounted somewhere below stays.
    ///
    /// # Errors
    /// When the trash can't be read. What can't be removed is reported in the
    /// result and stays.
    pub fn empty_trash(&self) -> Result<Emptied, StoreError> {
        let trash = self.path("trash");
        let mut emptied = Emptied::default();
        let Some(_lock) = Lock::attempt(&self.path("locks/trash"), LockMode::Exclusive)? else {
            return Ok(emptied);
        };
        for entry in std::fs::read_dir(&trash).map_err(StoreError::io("read", &trash))? {
            let path = entry.map_err(StoreError::io("read", &trash))?.path();
            match remove_path(&path) {
                Ok(()) => emptied.removed += 1,
                Err(e) => emptied.left.push((path, e.to_string())),
            }
        }
        Ok(emptied)
    }
}

/// Removes the directories in `session`, which belongs to nobody any more,
/// that are marked as holding secrets.
pub(super) fn erase_secrets(session: &Path) {
    for entry in std::fs::read_dir(session).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let marked = name.as_bytes().strip_suffix(SECRETS_MARK.as_bytes());
        if let Some(marked) = marked.filter(|m| !m.is_empty()) {
            // What can't be removed now is tried again with the rest.
            let _ = remove_path(&session.join(OsStr::from_bytes(marked)));
        }
    }
}

/// Removes what is at `path`, a whole tree if it is a directory.
pub(super) fn remove_path(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    remove_entry(parent.as_fd(), name)
}

fn remove_entry(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let top = enter(parent, name)?;
    // Subtrees that were too deep, moved to the top under these names. Each
    // round gets rid of `MAX_OPEN` levels, so this ends.
    let mut deep = VecDeque::new();
    let mut serial = 0u64;
    let mut move_up = |deep: &mut VecDeque<OsString>, dir: BorrowedFd<'_>, entry: &OsStr| {
        let to = loop {
            let name = OsString::from(format!(".deep-{serial}"));
            serial += 1;
            if rustix::fs::statat(&top, &name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                break name;
            }
        };
        rustix::fs::renameat(dir, entry, &top, &to)?;
        deep.push_back(to);
        Ok(())
    };
    clear(top.as_fd(), &mut |dir, entry| {
        move_up(&mut deep, dir, entry)
    })?;
    while let Some(name) = deep.pop_front() {
        // Where the top was listed again, it is gone.
        let there = rustix::fs::statat(&top, &name, AtFlags::SYMLINK_NOFOLLOW);
        if matches!(there, Err(Errno::NOENT)) {
            continue;
        }
        let sub = enter(top.as_fd(), &name)?;
        clear(sub.as_fd(), &mut |dir, entry| {
            move_up(&mut deep, dir, entry)
        })?;
        rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

struct Level {
    dir: OwnedFd,
    name: OsString,
    todo: Listed,
}

/// Empties the directory `top`. `too_deep` is to move a subdirectory away.
fn clear(
    top: BorrowedFd<'_>,
    too_deep: &mut dyn FnMut(BorrowedFd<'_>, &OsStr) -> io::Result<()>,
) -> io::Result<()> {
    let mut stack = vec![Level {
        dir: rustix::io::fcntl_dupfd_cloexec(top, 3)?,
        name: OsString::new(),
        todo: list(top)?,
    }];
    loop {
        let depth = stack.len();
        let Some(level) = stack.last_mut() else {
            return Ok(());
        };
        let Some((name, is_dir)) = level.todo.next() else {
            if level.todo.more {
                level.todo = list(level.dir.as_fd())?;
                continue;
            }
            let Some(done) = stack.pop() else {
                return Ok(());
            };
            if let Some(parent) = stack.last() {
                rustix::fs::unlinkat(&parent.dir, &done.name, AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        if !is_dir {
            match rustix::fs::unlinkat(&level.dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if depth >= MAX_OPEN {
            too_deep(level.dir.as_fd(), &name)?;
            continue;
        }
        let dir = enter(level.dir.as_fd(), &name)?;
        let todo = list(dir.as_fd())?;
        stack.push(Level { dir, name, todo });
    }
}

/// Some of the entries of a directory, in one piece of memory.
#[derive(Default)]
struct Listed {
    /// Of each: whether it is a directory, its name, 0.
    bytes: Vec<u8>,
    at: usize,
    /// Whether there are others.
    more: bool,
}

impl Listed {
    /// The name of the next, and whether it is a directory.
    fn next(&mut self) -> Option<(OsString, bool)> {
        let (is_dir, rest) = self.bytes.get(self.at..)?.split_first()?;
        let name = rest.split(|b| *b == 0).next()?;
        self.at += name.len() + 2;
        Some((OsStr::from_bytes(name).to_owned(), *is_dir != 0))
    }
}

fn list(dir: BorrowedFd<'_>) -> io::Result<Listed> {
    let mut listed = Listed::default();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes_with_nul();
        if name == b".\0" || name == b"..\0" {
            continue;
        }
        if listed.bytes.len() >= MAX_NAMES {
            listed.more = true;
            break;
        }
        let is_dir = entry.file_type() == FileType::Directory;
        listed.bytes.push(is_dir.into());
        listed.bytes.extend_from_slice(name);
    }
    Ok(listed)
}

/// Opens a directory for clearing; never another mount, never through a link.
fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let mounted = || {
        io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is a mount point", name.display()),
        )
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let open = || rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve);
    let opened = match open() {
        // Ours, but closed to us: a tree made by a step may have such modes.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        other => other,
    };
    let dir = match opened {
        Ok(dir) => dir,
        Err(Errno::XDEV) => return Err(mounted()),
        Err(Errno::NOSYS | Errno::PERM) => {
            let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let (above, here) = (rustix::fs::fstat(parent)?, rustix::fs::fstat(&dir)?);
            if above.st_dev != here.st_dev {
                return Err(mounted());
            }
            dir
        }
        Err(e) => return Err(e.into()),
    };
    if rustix::fs::fstat(&dir)?.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&dir, Mode::RWXU)?;
    }
    Ok(dir)
}
