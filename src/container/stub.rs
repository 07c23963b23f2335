//! Mount points: finding them, making those that are missing, and removing
//! these again after the end, so that no layer ever shows them.
//!
//! The first process finds and makes (it sees the root filesystem as the
//! command will); shiplap removes, when the container is gone. The command
//! had the root filesystem in between, so removal believes nothing: it walks
//! without following a link, removes only what is still an empty directory or
//! an empty file, and leaves alone what has become something else.
//!
//! A directory in which a mount point was made gets its times back. Where the
//! overlay copied the directory up only for that, and the command did not
//! touch it, it goes as well.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::protocol::{Failure, Tried};
use crate::sys::fs::{Root, proc_fd};

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A directory, links followed inside the root.
    Dir,
    /// A directory that is no link.
    RealDir,
    /// Something else than a directory, links followed inside the root.
    File,
    /// A regular file, or a link: the mount then covers the link itself.
    FileOrLink,
}

impl Want {
    fn is_dir(self) -> bool {
        matches!(self, Self::Dir | Self::RealDir)
    }

    fn flags(self) -> OFlags {
        match self {
            Self::Dir | Self::File => OFlags::PATH,
            Self::RealDir | Self::FileOrLink => OFlags::PATH | OFlags::NOFOLLOW,
        }
    }

    fn check(self, kind: FileType) -> Result<(), &'static str> {
        match (self, kind) {
            (Self::Dir | Self::RealDir, FileType::Directory)
            | (Self::FileOrLink, FileType::RegularFile | FileType::Symlink) => Ok(()),
            (Self::File, kind) if kind != FileType::Directory => Ok(()),
            (Self::RealDir, FileType::Symlink) => {
                Err("must be a directory, but it is a symbolic link")
            }
            (Self::Dir | Self::RealDir, _) => Err("must be a directory"),
            (Self::File, _) => Err("must not be a directory"),
            (Self::FileOrLink, _) => Err("must be a regular file"),
        }
    }
}

/// What tells whether a directory was changed, and what to give back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    atime: (i64, i64),
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl From<&Stat> for State {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            atime: (stat.st_atime, stat.st_atime_nsec as i64),
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

impl State {
    /// Reading a directory changes its atime, and that is no change.
    pub(super) fn same(&self, other: &Self) -> bool {
        let ignored = other.atime;
        Self {
            atime: ignored,
            ..*self
        } == *other
    }

    pub(super) fn restore(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let time = |(tv_sec, tv_nsec): (i64, i64)| Timespec {
            tv_sec,
            tv_nsec: tv_nsec as _,
        };
        let times = Timestamps {
            last_access: time(self.atime),
            last_modification: time(self.mtime),
        };
        Ok(rustix::fs::futimens(dir, &times)?)
    }
}

/// A directory in which something was made, or that was copied up for it.
#[derive(Debug, Serialize, Deserialize)]
struct Touched {
    /// Below the root, links resolved.
    #[serde(with = "super::spec::path")]
    path: PathBuf,
    /// What was made in it: a name, and whether it is a directory.
    made: Vec<Made>,
    before: State,
    after: State,
    /// The upper directory had it before.
    stays: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Made {
    #[serde(with = "super::spec::path")]
    name: PathBuf,
    directory: bool,
}

/// What was made, to be removed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stubs(Vec<Touched>);

/// Finds and makes mount points in one root filesystem.
#[derive(Debug)]
pub(super) struct MountPoints<'a> {
    root: &'a Root,
    /// Where the overlay puts changes; `None` when the root is changed in place.
    upper: Option<OwnedFd>,
    touched: Vec<(Touched, OwnedFd)>,
}

impl<'a> MountPoints<'a> {
    /// Nothing made yet. `upper` is the overlay's, for an overlay.
    pub(super) fn new(root: &'a Root, upper: Option<OwnedFd>) -> Self {
        Self {
            root,
            upper,
            touched: Vec::new(),
        }
    }

    /// Finds the mount point `path`, and makes what is missing of it.
    pub(super) fn find(&mut self, path: &Path, want: Want) -> Result<OwnedFd, Failure> {
        match self.look(path, want)? {
            Some(found) => return Ok(found),
            None => self.make(path, want.is_dir())?,
        }
        self.look(path, want)?.ok_or_else(|| Failure::Root {
            path: path.display().to_string(),
            reason: "vanished while it was made".into(),
        })
    }

    /// As [`find`](Self::find), but where `path` would have to be made in
    /// something mounted, it is `None`.
    pub(super) fn find_own(&mut self, path: &Path, want: Want) -> Result<Option<OwnedFd>, Failure> {
        if let Some(found) = self.look(path, want)? {
            return Ok(Some(found));
        }
        if let Some(parent) = path.parent()
            && let Ok(parent) = self.root.open_at(parent, OFlags::PATH, Mode::empty())
            && !self.is_own(parent.as_fd())
        {
            return Ok(None);
        }
        self.find(path, want).map(Some)
    }

    /// What was made, for [`Stubs::remove`].
    pub(super) fn finish(self) -> Result<Stubs, Failure> {
        let mut all = Vec::new();
        for (mut touched, dir) in self.touched {
            let stat = rustix::fs::fstat(&dir).tried("looking at a mount point")?;
            touched.after = State::from(&stat);
            all.push(touched);
        }
        Ok(Stubs(all))
    }

    fn look(&self, path: &Path, want: Want) -> Result<Option<OwnedFd>, Failure> {
        let bad = |reason: &str| Failure::Root {
            path: path.display().to_string(),
            reason: reason.into(),
        };
        let found = match self.root.open_at(path, want.flags(), Mode::empty()) {
            Ok(found) => found,
            Err(e) => {
                return match Errno::from_io_error(&e) {
                    Some(Errno::NOENT) => Ok(None),
                    Some(Errno::NOTDIR) => Err(bad("is below something that is no directory")),
                    Some(Errno::LOOP) => Err(bad("is a loop of symbolic links")),
                    _ => Err(e).tried(format!("looking at {}", path.display())),
                };
            }
        };
        let stat = rustix::fs::fstat(&found).tried("looking at a mount point")?;
        want.check(FileType::from_raw_mode(stat.st_mode))
            .map_err(bad)?;
        Ok(Some(found))
    }

    fn make(&mut self, path: &Path, directory: bool) -> Result<(), Failure> {
        let mut here = PathBuf::from("/");
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let std::path::Component::Normal(name) = part else {
                continue;
            };
            let parent = here.clone();
            here.push(name);
            let last = parts.peek().is_none();
            match self.root.open_at(&here, OFlags::PATH, Mode::empty()) {
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).tried(format!("looking at {}", here.display())),
            }
            let Err(e) = self.make_one(&parent, name, !last || directory) else {
                continue;
            };
            let errno = Errno::from_io_error(&e);
            // In a cache that several steps have, another may have made it.
            if errno == Some(Errno::EXIST)
                && self
                    .root
                    .open_at(&here, OFlags::PATH, Mode::empty())
                    .is_ok()
            {
                continue;
            }
            return Err(match errno {
                Some(Errno::EXIST) => Failure::Root {
                    path: here.display().to_string(),
                    reason: "is a symbolic link to nothing".into(),
                },
                Some(Errno::ROFS) => Failure::Root {
                    path: here.display().to_string(),
                    reason: "does not exist, and what is mounted there is read-only".into(),
                },
                errno => Failure::Setup {
                    what: format!("making the mount point {}", here.display()),
                    errno: errno.map_or(libc::EIO, Errno::raw_os_error),
                },
            });
        }
        Ok(())
    }

    fn make_one(&mut self, parent: &Path, name: &OsStr, directory: bool) -> io::Result<()> {
        let dir = self.root.open_dir(parent)?;
        let index = match self.is_own(dir.as_fd()) {
            true => Some(self.touch(dir.as_fd())?),
            // What is mounted here is in no layer and keeps the mount point.
            false => None,
        };
        if directory {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o644))?;
        }
        if let Some((touched, _)) = index.and_then(|i| self.touched.get_mut(i)) {
            touched.made.push(Made {
                name: name.into(),
                directory,
            });
        }
        Ok(())
    }

    /// Remembers `dir` and its parents as they are now; the index of `dir`.
    fn touch(&mut self, dir: BorrowedFd<'_>) -> io::Result<usize> {
        let place = |fd: BorrowedFd<'_>| std::fs::read_link(proc_fd(fd));
        let path = place(dir)?;
        let path = path
            .strip_prefix(place(self.root.fd())?)
            .map_err(io::Error::other)?;
        for ancestor in path.ancestors() {
            if self.touched.iter().any(|(t, _)| t.path == ancestor) {
                continue;
            }
            let stays = match &self.upper {
                Some(upper) => open_plain(upper.as_fd(), ancestor).is_some(),
                None => true,
            };
            if stays && ancestor != path {
                continue;
            }
            let fd = self.root.open_at(ancestor, OFlags::PATH, Mode::empty())?;
            let state = State::from(&rustix::fs::fstat(&fd)?);
            let touched = Touched {
                path: ancestor.into(),
                made: Vec::new(),
                before: state,
                after: state,
                stays,
            };
            self.touched.push((touched, fd));
        }
        let index = self.touched.iter().position(|(t, _)| t.path == path);
        index.ok_or_else(|| io::Error::other("a mount point moved"))
    }

    /// Whether `dir` is on the root's own mount. Kernels that cannot tell the
    /// mount tell the filesystem.
    fn is_own(&self, dir: BorrowedFd<'_>) -> bool {
        let place = |fd: BorrowedFd<'_>| {
            let device = rustix::fs::fstat(fd).ok()?.st_dev;
            let mount = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
                .ok()
                .filter(|s| s.stx_mask & StatxFlags::MNT_ID.bits() != 0)
                .map(|s| s.stx_mnt_id);
            Some((device, mount))
        };
        match (place(self.root.fd()), place(dir)) {
            (Some(root), Some(dir)) => root == dir,
            _ => false,
        }
    }
}

/// Opens the directory `path` below `base` without following any link.
pub(super) fn open_plain(base: BorrowedFd<'_>, path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(base, c".", flags, Mode::empty()).ok()?;
    for part in path.components() {
        dir = rustix::fs::openat(&dir, part.as_os_str(), flags, Mode::empty()).ok()?;
    }
    Some(dir)
}

impl Stubs {
    /// Removes everything from `base`, the upper directory or the root that
    /// was changed in place. The container must be gone.
    ///
    /// # Errors
    /// When something that is still there as it was made cannot be removed.
    pub(super) fn remove(&self, base: &Path) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(base, flags, Mode::empty())?;
        let mut work = Vec::new();
        for touched in &self.0 {
            if let Some(dir) = open_plain(base.as_fd(), &touched.path) {
                let now = State::from(&rustix::fs::fstat(&dir)?);
                let untouched = now.same(&touched.after);
                work.push((touched, dir, now, untouched));
            }
        }
        work.sort_by_key(|(t, ..)| std::cmp::Reverse(t.path.components().count()));
        for (touched, dir, now, untouched) in &work {
            for made in touched.made.iter().rev() {
                made.remove(dir.as_fd())?;
            }
            let state = if *untouched { &touched.before } else { now };
            state.restore(dir.as_fd())?;
            if *untouched && !touched.stays {
                remove_copied_up(base.as_fd(), &touched.path)?;
            }
        }
        Ok(())
    }
}

/// Removes a directory of the upper that is empty, leaving its parent's times.
fn remove_copied_up(base: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let Some(parent) = open_plain(base, parent) else {
        return Ok(());
    };
    let before = State::from(&rustix::fs::fstat(&parent)?);
    match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => before.restore(parent.as_fd()),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Made {
    fn remove(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let name = OsStr::from_bytes(self.name.as_os_str().as_bytes());
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        let done = match (self.directory, FileType::from_raw_mode(stat.st_mode)) {
            (true, FileType::Directory) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
            (false, FileType::RegularFile) if stat.st_size == 0 => {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())
            }
            _ => Ok(()),
        };
        match done {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn times(path: &Path) -> (i64, i64) {
        let m = std::fs::symlink_metadata(path).unwrap();
        (m.mtime(), m.mtime_nsec())
    }

    fn prepared() -> (tempfile::TempDir, PathBuf, Stubs) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("root");
        std::fs::create_dir_all(base.join("etc")).unwrap();
        symlink("/etc", base.join("conf")).unwrap();
        let root = Root::open(&base).unwrap();
        let mut points = MountPoints::new(&root, None);
        points.find(Path::new("/proc"), Want::RealDir).unwrap();
        points
            .find(Path::new("/conf/hosts"), Want::FileOrLink)
            .unwrap();
        points.find(Path::new("/a/b/c"), Want::Dir).unwrap();
        points.find(Path::new("/a/b/c"), Want::Dir).unwrap();
        assert!(base.join("etc/hosts").is_file());
        let stubs = points.finish().unwrap();
        let text = serde_json::to_string(&stubs).unwrap();
        (dir, base, serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn what_was_made_is_removed_and_times_are_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        std::fs::create_dir(base.join("etc")).unwrap();
        let before = (times(base), times(&base.join("etc")));
        let root = Root::open(base).unwrap();
        let mut points = MountPoints::new(&root, None);
        std::thread::sleep(std::time::Duration::from_millis(20));
        points.find(Path::new("/etc/hosts"), Want::File).unwrap();
        points.find(Path::new("/x/y"), Want::Dir).unwrap();
        let stubs = points.finish().unwrap();
        assert_ne!(times(base), before.0);
        stubs.remove(base).unwrap();
        assert_eq!((times(base), times(&base.join("etc"))), before);
        assert_eq!(std::fs::read_dir(base).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(base.join("etc")).unwrap().count(), 0);
    }

    #[test]
    fn what_the_command_did_stays() {
        let (_dir, base, stubs) = prepared();
        std::fs::write(base.join("etc/hosts"), "mine").unwrap();
        std::fs::write(base.join("a/kept"), "").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let now = times(&base.join("a"));
        stubs.remove(&base).unwrap();
        assert_eq!(std::fs::read(base.join("etc/hosts")).unwrap(), b"mine");
        assert_eq!(times(&base.join("a")), now);
        assert!(base.join("a/kept").exists() && !base.join("a/b").exists());
        assert!(!base.join("proc").exists());
    }

    #[test]
    fn removal_follows_no_link() {
        let (dir, base, stubs) = prepared();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(outside.join("b/c")).unwrap();
        std::fs::write(outside.join("hosts"), "").unwrap();
        std::fs::remove_dir_all(base.join("a")).unwrap();
        std::fs::remove_dir_all(base.join("etc")).unwrap();
        symlink(&outside, base.join("a")).unwrap();
        symlink(&outside, base.join("etc")).unwrap();
        stubs.remove(&base).unwrap();
        assert!(outside.join("b/c").exists() && outside.join("hosts").exists());
    }

    #[test]
    fn traps_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        symlink("etc", base.join("proc")).unwrap();
        std::fs::create_dir(base.join("etc")).unwrap();
        std::fs::write(base.join("sys"), "").unwrap();
        symlink("/nowhere", base.join("dangling")).unwrap();
        std::fs::create_dir(base.join("etc/hosts")).unwrap();
        symlink("/nowhere", base.join("etc/resolv.conf")).unwrap();
        let root = Root::open(base).unwrap();
        let mut points = MountPoints::new(&root, None);
        for (path, want) in [
            ("/proc", Want::RealDir),
            ("/sys", Want::RealDir),
            ("/sys/x", Want::Dir),
            ("/dangling", Want::Dir),
            ("/dangling/x", Want::Dir),
            ("/etc/hosts", Want::FileOrLink),
            ("/etc/hosts", Want::File),
        ] {
            let got = points.find(Path::new(path), want);
            assert!(matches!(got, Err(Failure::Root { .. })), "{path} {got:?}");
        }
        points
            .find(Path::new("/etc/resolv.conf"), Want::FileOrLink)
            .unwrap();
        assert!(!base.join("nowhere").exists());
    }
}
