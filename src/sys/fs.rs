//! Paths inside a root filesystem that nobody vouches for.
//!
//! [`Root`] is the one way to reach anything below such a directory. Symbolic
//! links, absolute ones and `..` included, are resolved as if the directory
//! were `/`, so no path can lead out of it. The kernel does it
//! (`openat2(RESOLVE_IN_ROOT)`); where that call is refused, a walk over
//! `O_PATH` descriptors does the same.
//!
//! To create, change or remove an entry: resolve its *parent* with
//! [`Root::parent`], then use `*at` calls with `AT_SYMLINK_NOFOLLOW` on the
//! last component only.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};

/// The kernel's limit on links followed in one resolution.
const MAX_LINKS: usize = 40;

/// A directory that is the root for every path looked up in it.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    no_openat2: AtomicBool,
}

impl Root {
    /// Opens the directory `path`, which is trusted.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::from_fd(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Takes an open directory.
    pub fn from_fd(dir: OwnedFd) -> Self {
        Self {
            dir,
            no_openat2: AtomicBool::new(false),
        }
    }

    /// Resolves paths by hand from now on, as where `openat2` is refused.
    pub fn walking(self) -> Self {
        self.no_openat2.store(true, Ordering::Relaxed);
        self
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens `path` inside the root with `flags` (`CLOEXEC` is added). With
    /// `NOFOLLOW` the last component is not followed.
    ///
    /// To read a file of unknown kind, use [`open_file`](Self::open_file).
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let relative = relative(path);
        if !self.no_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            for _ in 0..16 {
                match rustix::fs::openat2(&self.dir, &*relative, flags, mode, resolve) {
                    Ok(fd) => return Ok(fd),
                    // A rename beside us made the kernel unsure: ask again.
                    Err(rustix::io::Errno::AGAIN) => {}
                    Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => break,
                    Err(e) => return Err(e.into()),
                }
            }
            if self.openat2_refused() {
                self.no_openat2.store(true, Ordering::Relaxed);
            }
        }
        self.walk(&relative, flags, mode)
    }

    fn openat2_refused(&self) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT;
        rustix::fs::openat2(&self.dir, c".", flags, Mode::empty(), resolve).is_err()
    }

    /// Resolution by hand, for kernels and filters without `openat2`.
    fn walk(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let dup = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let mut todo: VecDeque<OsString> = components(path);
        // The directories entered so far; `..` leaves the last one.
        let mut stack = vec![dup(&self.dir)?];
        let mut links = 0;
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        while let Some(name) = todo.pop_front() {
            let Some(here) = stack.last() else {
                return Err(rustix::io::Errno::NOENT.into());
            };
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let last = todo.is_empty();
            let next = match rustix::fs::openat(here, &*name, step, Mode::empty()) {
                Ok(fd) => fd,
                Err(rustix::io::Errno::NOENT) if last && flags.contains(OFlags::CREATE) => {
                    return Ok(rustix::fs::openat(
                        here,
                        &*name,
                        flags | OFlags::NOFOLLOW,
                        mode,
                    )?);
                }
                Err(e) => return Err(e.into()),
            };
            let stat = rustix::fs::fstat(&next)?;
            let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
            if kind == rustix::fs::FileType::Symlink && !(last && flags.contains(OFlags::NOFOLLOW))
            {
                links += 1;
                if links > MAX_LINKS || is_magic_link(here, &next)? {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&next, c"", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.to_bytes())).to_owned();
                if target.has_root() {
                    stack.truncate(1);
                }
                for part in components(&target).into_iter().rev() {
                    todo.push_front(part);
                }
                continue;
            }
            if last {
                if flags.contains(OFlags::PATH) {
                    if flags.contains(OFlags::DIRECTORY) && kind != rustix::fs::FileType::Directory
                    {
                        return Err(rustix::io::Errno::NOTDIR.into());
                    }
                    return Ok(next);
                }
                return Ok(rustix::fs::openat(
                    here,
                    &*name,
                    flags | OFlags::NOFOLLOW,
                    mode,
                )?);
            }
            if kind != rustix::fs::FileType::Directory {
                return Err(rustix::io::Errno::NOTDIR.into());
            }
            stack.push(next);
        }
        let here = stack.last().unwrap_or(&self.dir);
        let flags = flags - OFlags::CREATE - OFlags::EXCL - OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(here, c".", flags, Mode::empty())?)
    }

    /// Opens `path`, which has neither links nor `..` in it, with `flags`: a link
    /// in it is an error. What the kernel refuses as too long is walked.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        use rustix::io::Errno;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let whole = relative(path);
        if !self.no_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            for _ in 0..16 {
                match rustix::fs::openat2(&self.dir, &*whole, flags, Mode::empty(), resolve) {
                    Ok(fd) => return Ok(fd),
                    Err(Errno::AGAIN) => {}
                    Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => break,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here: Option<OwnedFd> = None;
        let mut components = whole.components().peekable();
        while let Some(component) = components.next() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir => OsStr::new("."),
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            };
            let flags = if components.peek().is_some() {
                step
            } else {
                flags
            };
            let dir = here.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
            here = Some(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        }
        here.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Opens a regular file for reading, following links inside the root.
    ///
    /// # Errors
    /// `InvalidInput` when it is no regular file; nothing else is opened, so a
    /// FIFO does not block and a device is not touched.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let handle = self.open_at(path, OFlags::PATH, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            ));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = self.open_at(path, flags, Mode::empty())?;
        let opened = rustix::fs::fstat(&file)?;
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(io::Error::other(format!(
                "{} was replaced while it was opened",
                path.display()
            )));
        }
        Ok(File::from(file))
    }

    /// Opens the directory that holds `path`'s last component, following
    /// links inside the root, and hands out that component.
    ///
    /// # Errors
    /// `InvalidInput` for a path without a last component (`/`, `..`).
    pub fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} names no entry of a directory", path.display()),
            ));
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = self.open_at(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok((dir, name))
    }

    /// Opens a directory for listing and `*at` calls, following links inside
    /// the root.
    pub fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// The status of `path`; of a link itself when `follow` is false.
    pub fn stat(&self, path: &Path, follow: bool) -> io::Result<Stat> {
        let flags = if follow {
            OFlags::PATH
        } else {
            OFlags::PATH | OFlags::NOFOLLOW
        };
        let fd = self.open_at(path, flags, Mode::empty())?;
        Ok(rustix::fs::fstat(&fd)?)
    }

    /// The text of the symbolic link `path`.
    pub fn read_link(&self, path: &Path) -> io::Result<std::path::PathBuf> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?;
        Ok(OsStr::from_bytes(target.to_bytes()).into())
    }
}

/// Whether `link`, found in `dir`, is one of those of `/proc` that lead to an
/// object and not to the path they show. The others are all in its root.
fn is_magic_link(dir: &OwnedFd, link: &OwnedFd) -> io::Result<bool> {
    const PROC_ROOT_INODE: u64 = 1;
    let on_proc = rustix::fs::fstatfs(link)?.f_type == rustix::fs::PROC_SUPER_MAGIC;
    Ok(on_proc && rustix::fs::fstat(dir)?.st_ino != PROC_ROOT_INODE)
}

/// The path without leading slashes; `.` for nothing.
fn relative(path: &Path) -> std::borrow::Cow<'_, Path> {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|b| *b != b'/').unwrap_or(bytes.len());
    let rest = &bytes[start..];
    if rest.is_empty() {
        Path::new(".").into()
    } else {
        Path::new(OsStr::from_bytes(rest)).into()
    }
}

/// The names that a walk goes through, `..` among them, from the root that
/// `path` is taken to begin at.
pub fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The `/proc/self/fd` name of a descriptor.
pub fn proc_fd(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// `fstatat` that never follows a link.
pub fn lstat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("usr/bin/sh"), "sh").unwrap();
        std::fs::write(dir.path().join("canary"), "outside").unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/usr/bin", root.join("abs")).unwrap();
        symlink("../../../..", root.join("etc/up")).unwrap();
        symlink("/canary", root.join("leak")).unwrap();
        symlink("../canary", root.join("leak2")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let root = Root::open(&root).unwrap();
        (dir, root)
    }

    fn both(check: impl Fn(&Root)) {
        let (_dir, root) = tree();
        check(&root);
        root.no_openat2.store(true, Ordering::Relaxed);
        check(&root);
    }

    #[test]
    fn magic_links_are_refused() {
        let root = Root::open(Path::new("/")).unwrap();
        for _ in 0..2 {
            for path in ["/proc/self/fd/0", "/proc/self/root/etc", "/proc/self/cwd"] {
                let got = root.open_at(Path::new(path), OFlags::PATH, Mode::empty());
                let errno = got.unwrap_err().raw_os_error();
                assert_eq!(
                    errno,
                    Some(rustix::io::Errno::LOOP.raw_os_error()),
                    "{path}"
                );
            }
            root.open_dir(Path::new("/proc/self/task")).unwrap();
            root.no_openat2.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn links_stay_inside() {
        both(|root| {
            use std::io::Read;
            let read = |p: &str| -> io::Result<String> {
                let mut s = String::new();
                root.open_file(Path::new(p))?.read_to_string(&mut s)?;
                Ok(s)
            };
            for p in [
                "usr/bin/sh",
                "/bin/sh",
                "abs/sh",
                "etc/up/bin/sh",
                "../../usr/bin/sh",
            ] {
                assert_eq!(read(p).unwrap(), "sh", "{p}");
            }
            for p in [
                "leak",
                "leak2",
                "../canary",
                "etc/up/canary",
                "etc/up/../canary",
            ] {
                assert_eq!(read(p).unwrap_err().kind(), io::ErrorKind::NotFound, "{p}");
            }
            assert!(read("loop").is_err());
            assert!(read("usr").is_err());
            assert_eq!(
                root.read_link(Path::new("leak")).unwrap(),
                Path::new("/canary")
            );
            let (_, name) = root.parent(Path::new("abs/new")).unwrap();
            assert_eq!(name, "new");
            assert!(root.parent(Path::new("/")).is_err());
            assert!(root.open_dir(Path::new("usr/bin/sh")).is_err());
            assert!(root.open_dir(Path::new("/")).is_ok());
        });
    }
}
