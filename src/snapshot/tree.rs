//! Makes one plain tree of layer directories, for the
//! [directory snapshot](super::copy).
//!
//! Every name becomes a file of its own, also where a layer has several names
//! of one file: a change through one of them must not change the others, as it
//! does not in an overlay.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attr;
use super::diff::at;
use super::names::Names;
use crate::layer::notes::{CAPABILITY, Notes};
use crate::layer::{Kind, Meta, Mtime};
use crate::sys::fs::{lstat_at, proc_fd};

/// What the tree has on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Owners.
    pub owners: bool,
    /// Devices.
    pub devices: bool,
    /// No later mtime, in seconds: what layers say is kept in this way.
    pub latest: Option<i64>,
}

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Applies `layer`, a directory in overlay form, to the tree `dest`.
///
/// # Errors
/// When something can't be read or made; the tree is then of no use.
pub fn apply(layer: &Path, dest: &Path, manner: Manner) -> io::Result<()> {
    let from = rustix::fs::open(layer, DIR, Mode::empty()).map_err(|e| at(layer, e.into()))?;
    let to = rustix::fs::open(dest, DIR, Mode::empty()).map_err(|e| at(dest, e.into()))?;
    let applier = Applier {
        notes: Notes::of(layer)?,
        manner,
    };
    if attr::dir_marks(from.as_fd())?.opaque {
        empty(&to)?;
    }
    applier.children(&from, &to, Path::new(""))
}

/// Brings a later time back.
pub(super) fn clamp(mtime: &mut Mtime, latest: i64) {
    if mtime.secs >= latest {
        *mtime = Mtime {
            secs: latest,
            nanos: 0,
        };
    }
}

struct Applier {
    notes: Option<Notes>,
    manner: Manner,
}

impl Applier {
    fn children(&self, from: &OwnedFd, to: &OwnedFd, path: &Path) -> io::Result<()> {
        let marks = attr::dir_marks(from.as_fd())?;
        let names = Names::read(from.as_fd())?;
        for n in 0..names.len() {
            let name = names.name(n);
            let path = path.join(name);
            let stat = lstat_at(from.as_fd(), name).map_err(|e| at(&path, e))?;
            let hides = attr::is_whiteout(&stat)
                || (marks.xattr_whiteouts && attr::is_xattr_whiteout(from.as_fd(), name, &stat)?);
            let done = if hides {
                remove(to.as_fd(), name)
            } else {
                self.entry(from, to, &path, (name, &stat))
            };
            done.map_err(|e| match e.get_ref() {
                // It has its path already.
                Some(_) => e,
                None => at(&path, e),
            })?;
        }
        Ok(())
    }

    fn entry(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        (name, stat): (&OsStr, &Stat),
    ) -> io::Result<()> {
        let Some(mut kind) = attr::kind(from.as_fd(), name, stat)? else {
            return remove(to.as_fd(), name);
        };
        let on_disk = kind.clone();
        let mut meta = attr::meta(stat);
        if let Some(latest) = self.manner.latest {
            clamp(&mut meta.mtime, latest);
        }
        meta.xattrs = attr::xattrs(from.as_fd(), name)?;
        meta.xattrs.retain(|name, _| attr::is_content(name));
        if let Some(notes) = &self.notes {
            notes.correct(path, &mut kind, &mut meta);
            if let Some(value) = notes.capability(path) {
                meta.xattrs.insert(CAPABILITY.to_vec(), value.to_vec());
            }
        }
        if kind == Kind::Dir {
            return self.dir(from, to, path, (name, &meta));
        }
        remove(to.as_fd(), name)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let node = |kind, major, minor| {
            let number = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(to, name, kind, mode, number)
        };
        match kind {
            Kind::Symlink { target } => rustix::fs::symlinkat(&target, to, name)?,
            Kind::Fifo => node(FileType::Fifo, 0, 0)?,
            Kind::Char { major, minor } if self.manner.devices => {
                node(FileType::CharacterDevice, major, minor)?;
            }
            Kind::Block { major, minor } if self.manner.devices => {
                node(FileType::BlockDevice, major, minor)?;
            }
            _ => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(to, name, flags, mode)?);
                if matches!(on_disk, Kind::File { size } if size > 0) {
                    let source = open_file(from, name, stat)?;
                    copy(&source, &file)?;
                }
            }
        }
        self.attributes(to.as_fd(), name, &meta, stat)
    }

    fn dir(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        (name, meta): (&OsStr, &Meta),
    ) -> io::Result<()> {
        let source = rustix::fs::openat(from, name, DIR, Mode::empty())?;
        let dest = match rustix::fs::openat(to, name, DIR, Mode::empty()) {
            Ok(dest) => {
                if attr::dir_marks(source.as_fd())?.opaque {
                    empty(&dest)?;
                }
                dest
            }
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(to, name, Mode::RWXU, AtFlags::empty())?;
                rustix::fs::openat(to, name, DIR, Mode::empty())?
            }
            Err(_) => {
                remove(to.as_fd(), name)?;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                rustix::fs::openat(to, name, DIR, Mode::empty())?
            }
        };
        // Whatever it was: there is something to do in it.
        rustix::fs::fchmod(&dest, Mode::RWXU)?;
        self.children(&source, &dest, path)?;
        for attribute in attr::xattrs(dest.as_fd(), OsStr::new(""))?.keys() {
            if attr::is_content(attribute) && !meta.xattrs.contains_key(attribute) {
                rustix::fs::fremovexattr(&dest, OsStr::from_bytes(attribute))?;
            }
        }
        let stat = rustix::fs::fstat(&source)?;
        self.attributes(to.as_fd(), name, meta, &stat)
    }

    /// Owner first: a change of it takes modes and capmanner away.
    fn attributes(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        meta: &Meta,
        stat: &Stat,
    ) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.manner.owners {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), nofollow)?;
        }
        for (attribute, value) in &meta.xattrs {
            let path = proc_fd(dir).join(name);
            let none = rustix::fs::XattrFlags::empty();
            match rustix::fs::lsetxattr(&path, OsStr::from_bytes(attribute), value, none) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(Errno::PERM) if !self.manner.owners => {}
                Err(e) => return Err(e.into()),
            }
        }
        if attr::file_type(stat) != FileType::Symlink {
            let mode = Mode::from_raw_mode(meta.mode);
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
        }
        let time = Timespec {
            tv_sec: meta.mtime.secs,
            tv_nsec: meta.mtime.nanos.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        Ok(rustix::fs::utimensat(dir, name, &times, nofollow)?)
    }
}

/// Gives every file in `paths`, which are other names of files of `root`, a
/// file of its own with the same content and attributes.
///
/// # Errors
/// When something can't be read or made.
pub fn split(
    root: &Path,
    paths: impl Iterator<Item = io::Result<PathBuf>>,
    manner: Manner,
) -> io::Result<()> {
    let root = rustix::fs::open(root, DIR, Mode::empty())?;
    let applier = Applier {
        notes: None,
        manner,
    };
    for path in paths {
        let path = &*path?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let dir = super::names::open_beneath(root.as_fd(), parent, DIR).map_err(|e| at(path, e))?;
        let before = rustix::fs::fstat(&dir)?;
        let stat = lstat_at(dir.as_fd(), name).map_err(|e| at(path, e))?;
        if stat.st_nlink < 2 || attr::file_type(&stat) == FileType::Directory {
            continue;
        }
        // The directory is empty and ours; its name is nobody's.
        let aside = OsString::from(format!(".shiplap-{}", std::process::id()));
        rustix::fs::mkdirat(&dir, &aside, Mode::RWXU)?;
        let place = rustix::fs::openat(&dir, &aside, DIR, Mode::empty())?;
        let copied = applier
            .entry(&dir, &place, path, (name, &stat))
            .and_then(|()| Ok(rustix::fs::renameat(&place, name, &dir, name)?));
        remove(dir.as_fd(), &aside)?;
        copied.map_err(|e| at(path, e))?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: before.st_mtime,
                tv_nsec: before.st_mtime_nsec as _,
            },
        };
        rustix::fs::futimens(&dir, &times)?;
    }
    Ok(())
}

/// Sets the mtime of all `paths` in `root`, none followed, to whole seconds.
///
/// # Errors
/// When one can't be set.
pub fn set_times(
    root: &Path,
    paths: impl Iterator<Item = io::Result<PathBuf>>,
    seconds: i64,
) -> io::Result<()> {
    let root = rustix::fs::open(root, DIR, Mode::empty())?;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    for path in paths {
        let path = &*path?;
        let done = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => super::names::open_beneath(root.as_fd(), parent, DIR)
                .and_then(|dir| {
                    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
                    Ok(rustix::fs::utimensat(&dir, name, &times, nofollow)?)
                }),
            _ => rustix::fs::futimens(&root, &times).map_err(Into::into),
        };
        done.map_err(|e| at(path, e))?;
    }
    Ok(())
}

fn open_file(dir: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(dir, name, flags, Mode::empty());
    let file = match open() {
        // Ours, but without the permission to read it.
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(dir, name, mode | Mode::RUSR, AtFlags::empty())?;
            let opened = open();
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
            opened?
        }
        other => other?,
    };
    Ok(File::from(file))
}

fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    // File systems that can share the blocks.
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    io::copy(&mut from, &mut to).map(drop)
}

fn empty(dir: &OwnedFd) -> io::Result<()> {
    let names = Names::read(dir.as_fd())?;
    for n in 0..names.len() {
        remove(dir.as_fd(), names.name(n))?;
    }
    Ok(())
}

/// Removes what is at `name`, if there is something.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let path = proc_fd(dir).join(name);
    match std::fs::remove_dir_all(&path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(&path)?;
            std::fs::remove_dir_all(&path)
        }
        other => other,
    }
}

/// Gives this user all rights on the directories of a tree.
fn open_up(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
