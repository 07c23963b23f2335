//! A directory on disk as a [`Tree`].
//!
//! Every path is resolved inside the directory, links included. What an ignore
//! file leaves out does not exist here: it can't be looked up, listed, opened
//! or reached through a link. An ignored directory exists where a `!` pattern
//! brings back something below it, and is not even opened where none can.
//!
//! Nobody vouches for the files, and they may change while they are read; the
//! walk goes from descriptor to descriptor and never follows a link that it
//! has not read itself.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::ignore::Ignore;
use super::stats::{Stamp, Stats};
use super::{DirNames, Node, Tree};
use crate::digest::Sha256;
use crate::layer::{Kind, Meta, Mtime};
use crate::sys::fs::{Root, components, lstat_at, proc_fd};
use crate::sys::xattr::{xattrs, xattrs_at};

/// The kernel's limit on links followed in one resolution.
const MAX_LINKS: usize = 40;

/// Deepest directory that is looked into for something brought back.
const MAX_DEPTH: usize = 1024;

/// A directory on disk.
#[derive(Debug)]
pub struct LocalTree {
    root: Root,
    ignore: Ignore,
    hidden: HashSet<PathBuf>,
    owner: Option<(u32, u32)>,
    stats: Option<Arc<Stats>>,
    /// Ignored directories, and whether something in them is not.
    revived: Mutex<HashMap<PathBuf, bool>>,
}

impl LocalTree {
    /// Opens the build context `dir`. All its files belong to root, whoever
    /// owns them here, so that a build gives the same on every machine.
    pub fn open(dir: &Path, ignore: Option<Ignore>) -> io::Result<Self> {
        let mut tree = Self::from_root(Root::open(dir)?);
        tree.ignore = ignore.unwrap_or_default();
        tree.owner = Some((0, 0));
        Ok(tree)
    }

    /// Opens `dir` with the owners it has, as for a root filesystem.
    pub fn open_owned(dir: &Path) -> io::Result<Self> {
        Ok(Self::from_root(Root::open(dir)?))
    }

    /// Takes an open root, with nothing left out and the owners it has.
    pub fn from_root(root: Root) -> Self {
        Self {
            root,
            ignore: Ignore::default(),
            hidden: HashSet::new(),
            owner: None,
            stats: None,
            revived: Mutex::default(),
        }
    }

    /// Leaves out `paths` too, with all below them; no `!` brings them back.
    #[must_use]
    pub fn hide(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let plain = |path: PathBuf| path.components().filter(is_name).collect::<PathBuf>();
        self.hidden.extend(paths.into_iter().map(plain));
        self
    }

    /// Asks `stats` for digests of files, and tells it those that were found.
    #[must_use]
    pub fn remembering(mut self, stats: Arc<Stats>) -> Self {
        self.stats = Some(stats);
        self
    }

    fn filters(&self) -> bool {
        !self.ignore.is_empty() || !self.hidden.is_empty()
    }

    /// Whether `path`, which has no links in it, may be passed through.
    fn passable(&self, path: &Path) -> bool {
        !self.hidden.contains(path)
            && (!self.ignore.ignored(path) || self.ignore.may_reinclude_below(path))
    }

    /// Whether the entry `name` of the open directory `dir` exists.
    fn visible(&self, dir: &OwnedFd, name: &OsStr, path: &Path, depth: usize) -> io::Result<bool> {
        if self.hidden.contains(path) {
            return Ok(false);
        }
        if !self.ignore.ignored(path) {
            return Ok(true);
        }
        if !self.ignore.may_reinclude_below(path) || depth > MAX_DEPTH {
            return Ok(false);
        }
        if let Ok(known) = self.revived.lock()
            && let Some(known) = known.get(path)
        {
            return Ok(*known);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            // No directory, so nothing can be below it.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::NXIO) => return Ok(false),
            Err(e) => return Err(named(e.into(), path)),
        };
        let mut found = false;
        for name in names(&inside).map_err(|e| named(e, path))? {
            if self.visible(&inside, &name, &path.join(&name), depth + 1)? {
                found = true;
                break;
            }
        }
        if let Ok(mut known) = self.revived.lock() {
            known.insert(path.to_owned(), found);
        }
        Ok(found)
    }

    /// Walks to `path` and gives its descriptor (`O_PATH`) and its name
    /// without links. Where something is left out, or with `follow` false, no
    /// link is trusted to the kernel.
    fn walk(&self, path: &Path, follow: bool) -> io::Result<(OwnedFd, PathBuf)> {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut todo: VecDeque<OsString> = components(path);
        let mut stack = vec![
            self.root
                .open_at(Path::new(""), OFlags::PATH, Mode::empty())?,
        ];
        let mut here = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                    here.pop();
                }
                continue;
            }
            let dir = stack.last().ok_or(Errno::NOENT)?;
            here.push(&name);
            if self.filters() && !self.passable(&here) {
                return Err(Errno::NOENT.into());
            }
            let next = rustix::fs::openat(dir, &*name, step, Mode::empty())?;
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
            let last = todo.is_empty();
            if last && self.filters() && !self.visible(dir, &name, &here, 0)? {
                return Err(Errno::NOENT.into());
            }
            if kind == FileType::Symlink && (follow || !last) {
                // A link that is left out leads nowhere.
                if self.filters() && self.ignore.ignored(&here) {
                    return Err(Errno::NOENT.into());
                }
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&next, c"", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                here.pop();
                if target.has_root() {
                    stack.truncate(1);
                    here.clear();
                }
                for part in components(target).into_iter().rev() {
                    todo.push_front(part);
                }
                continue;
            }
            if !last && kind != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
            stack.push(next);
        }
        let fd = stack.pop().ok_or(Errno::NOENT)?;
        Ok((fd, here))
    }

    /// [`walk`](Self::walk), or the kernel's own where it does the same.
    fn reach(&self, path: &Path, follow: bool) -> io::Result<(OwnedFd, Option<PathBuf>)> {
        if self.filters() {
            return self.walk(path, follow).map(|(fd, path)| (fd, Some(path)));
        }
        let flags = if follow {
            OFlags::PATH
        } else {
            OFlags::PATH | OFlags::NOFOLLOW
        };
        Ok((self.root.open_at(path, flags, Mode::empty())?, None))
    }

    /// The entries of the open directory `dir`, which is at `path`, sorted;
    /// with `canonical`, its path without links, those that are left out are.
    fn entries(
        &self,
        dir: &OwnedFd,
        path: &Path,
        canonical: Option<&Path>,
    ) -> io::Result<Vec<(OsString, Node)>> {
        let names = self.visible_names(dir, path, canonical)?;
        self.stated(dir, path, names.range(0..names.len()))
    }

    /// The names in the open directory `dir`, those that are left out are.
    fn visible_names(
        &self,
        dir: &OwnedFd,
        path: &Path,
        canonical: Option<&Path>,
    ) -> io::Result<DirNames> {
        let mut out = DirNames::default();
        self.each_visible(dir, path, canonical, &mut |name| out.push(name))?;
        out.sort();
        Ok(out)
    }

    /// Calls `each` with those names, in any order.
    fn each_visible(
        &self,
        dir: &OwnedFd,
        path: &Path,
        canonical: Option<&Path>,
        each: &mut dyn FnMut(&OsStr),
    ) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(dir).map_err(|e| named(e.into(), path))? {
            let entry = entry.map_err(|e| named(e.into(), path))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name);
            if let Some(canonical) = canonical
                && !self.visible(dir, name, &canonical.join(name), 0)?
            {
                continue;
            }
            each(name);
        }
        Ok(())
    }

    /// What the open directory `dir` has under some of its names.
    fn stated<'a>(
        &self,
        dir: &OwnedFd,
        path: &Path,
        names: impl Iterator<Item = &'a OsStr>,
    ) -> io::Result<Vec<(OsString, Node)>> {
        let mut out = Vec::with_capacity(names.size_hint().0);
        for name in names {
            let stat = match lstat_at(dir.as_fd(), name) {
                Ok(stat) => stat,
                // Gone since it was listed: as if it had never been there.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(named(e, &path.join(name))),
            };
            let target = || link_target(dir, name);
            match self.node(&stat, target) {
                Ok(Some(node)) => out.push((name.to_owned(), node)),
                Ok(None) => {}
                Err(e) => return Err(named(e, &path.join(name))),
            }
        }
        Ok(out)
    }

    /// Opens a directory that was found by listing the ones above it.
    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.root
            .open_plain(path, flags)
            .map_err(|e| named(e, path))
    }

    /// Opens the directory at `path` (followed); with its path without links,
    /// as far as that is known.
    fn open_followed(&self, path: &Path) -> io::Result<(OwnedFd, Option<PathBuf>)> {
        let (handle, canonical) = self.reach(path, true).map_err(|e| named(e, path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&handle, c".", flags, Mode::empty());
        Ok((dir.map_err(|e| named(e.into(), path))?, canonical))
    }

    fn node(
        &self,
        stat: &Stat,
        target: impl FnOnce() -> io::Result<PathBuf>,
    ) -> io::Result<Option<Node>> {
        let Some(kind) = kind(stat, target)? else {
            return Ok(None);
        };
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Ok(Some(Node {
            kind,
            meta: Meta {
                mode: stat.st_mode & 0o7777,
                uid,
                gid,
                mtime: Mtime {
                    secs: stat.st_mtime,
                    nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
                },
                xattrs: BTreeMap::new(),
            },
            ctime: Mtime {
                secs: stat.st_ctime,
                nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            },
            inode: (stat.st_dev, stat.st_ino),
            links: stat.st_nlink,
            digest: None,
        }))
    }
}

impl Tree for LocalTree {
    fn lookup(&self, path: &Path, follow: bool) -> io::Result<Option<Node>> {
        let (fd, _) = match self.reach(path, follow) {
            Ok(found) => found,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(named(e, path)),
        };
        let stat = rustix::fs::fstat(&fd)?;
        let mut node = self
            .node(&stat, || link_target(&fd, c""))
            .map_err(|e| named(e, path))?;
        if let (Some(node), Some(stats)) = (&mut node, &self.stats) {
            node.digest = stats.get(node);
        }
        Ok(node)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let (dir, canonical) = self.open_followed(path)?;
        self.entries(&dir, path, canonical.as_deref())
    }

    fn each_name(&self, path: &Path, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        let (dir, canonical) = self.open_followed(path)?;
        self.each_visible(&dir, path, canonical.as_deref(), each)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let names = self.names(path)?.unwrap_or_default();
        self.list_some(path, &names, 0..names.len())
    }

    fn names(&self, path: &Path) -> io::Result<Option<DirNames>> {
        let dir = self.open_dir(path)?;
        let canonical = self.filters().then_some(path);
        self.visible_names(&dir, path, canonical).map(Some)
    }

    fn list_some(
        &self,
        path: &Path,
        names: &DirNames,
        some: Range<usize>,
    ) -> io::Result<Vec<(OsString, Node)>> {
        let dir = self.open_dir(path)?;
        let mut entries = self.stated(&dir, path, names.range(some))?;
        for (name, node) in &mut entries {
            if matches!(node.kind, Kind::Symlink { .. }) {
                continue;
            }
            node.digest = self.stats.as_ref().and_then(|s| s.get(node));
            if node.digest.is_some() {
                continue;
            }
            match xattrs_at(dir.as_fd(), name) {
                Ok(xattrs) => node.meta.xattrs = content_xattrs(xattrs),
                // Gone since it was listed; whoever opens it will say so.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(named(e, &path.join(name))),
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        if !self.filters() {
            return self.root.open_file(path).map_err(|e| named(e, path));
        }
        let (handle, _) = self.walk(path, true).map_err(|e| named(e, path))?;
        let stat = rustix::fs::fstat(&handle)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            let message = format!("{} is not a regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // The magic link leads to the very file that was walked to.
        File::open(proc_fd(handle.as_fd())).map_err(|e| named(e, path))
    }

    fn open_listed(&self, path: &Path) -> io::Result<File> {
        // Whether it is left out was seen when it was listed; what a link made
        // since then would lead to was not.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = self.root.open_plain(path, flags);
        let file = File::from(file.map_err(|e| named(e, path))?);
        if !file.metadata()?.is_file() {
            let message = format!("{} is not a regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(file)
    }

    fn learn(&self, stamp: &Stamp, digest: Sha256, read: SystemTime) {
        if let Some(stats) = &self.stats {
            stats.learn(stamp, digest, read);
        }
    }

    fn xattrs(&self, path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let (fd, _) = self.reach(path, false).map_err(|e| named(e, path))?;
        let all = xattrs(fd.as_fd()).map_err(|e| named(e, path))?;
        Ok(content_xattrs(all))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut left: Vec<Component<'_>> = Vec::new();
        let mut known = path;
        // The longest beginning that exists, then the rest by its text.
        loop {
            match self.walk(known, true) {
                Ok((_, mut resolved)) => {
                    for part in left.into_iter().rev() {
                        match part {
                            Component::ParentDir => {
                                resolved.pop();
                            }
                            Component::Normal(name) => resolved.push(name),
                            _ => {}
                        }
                    }
                    return Ok(resolved);
                }
                Err(e) if is_absent(&e) => {
                    let mut components = known.components();
                    let Some(last) = components.next_back() else {
                        return Err(named(e, path));
                    };
                    left.push(last);
                    known = components.as_path();
                }
                Err(e) => return Err(named(e, path)),
            }
        }
    }

    fn is_left_out(&self, path: &Path) -> bool {
        self.filters()
            && self
                .root
                .stat(path, false)
                .is_ok_and(|_| matches!(self.lookup(path, false), Ok(None)))
    }
}

/// Without those of overlayfs.
fn content_xattrs(all: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let foreign =
        |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    all.into_iter().filter(|(name, _)| !foreign(name)).collect()
}

/// What the status says the entry is; `None` for a socket.
fn kind(stat: &Stat, target: impl FnOnce() -> io::Result<PathBuf>) -> io::Result<Option<Kind>> {
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink { target: target()? },
        FileType::CharacterDevice => Kind::Char { major, minor },
        FileType::BlockDevice => Kind::Block { major, minor },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket | FileType::Unknown => return Ok(None),
    }))
}

fn link_target(dir: &OwnedFd, name: impl rustix::path::Arg) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    Ok(OsStr::from_bytes(target.to_bytes()).into())
}

/// All names in an open directory, in the order the kernel has them.
fn names(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(out)
}

fn is_name(component: &Component<'_>) -> bool {
    matches!(component, Component::Normal(_))
}

/// Errors that say that there is no such entry.
fn is_absent(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG)
    )
}

/// The error with the path in front, its kind kept.
fn named(error: io::Error, path: &Path) -> io::Error {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
