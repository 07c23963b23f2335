//! Stacked layers as one tree, without a mount.

mod list;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attr::{self, DirMarks, Xattrs};
use crate::context::{DirNames, Node, Tree};
use crate::layer::Kind;
use crate::layer::notes::{CAPABILITY, Notes};
use crate::sys::fs::{components, lstat_at};

/// The kernel's limit on links followed in one resolution.
const MAX_LINKS: usize = 40;
/// Descriptors that the cache of directories may hold.
const MAX_CACHED_FDS: usize = 192;

/// A read-only view of layer directories in overlay form, each hiding what is
/// below it as overlayfs does.
///
/// The directories must not change while it is in use.
#[derive(Debug)]
pub struct Merged {
    paths: Vec<PathBuf>,
    root: Arc<MergedDir>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    dirs: HashMap<PathBuf, Arc<MergedDir>>,
    fds: usize,
}

/// A directory of the union: the directories that it consists of, highest
/// first.
#[derive(Debug)]
struct MergedDir {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    fd: OwnedFd,
    marks: DirMarks,
    notes: Option<Arc<Notes>>,
}

/// Where a path leads.
enum Place {
    /// The root itself.
    Root,
    /// An entry of a directory, there or not.
    Entry {
        dir: Arc<MergedDir>,
        /// Resolved path of the entry.
        path: PathBuf,
        name: OsString,
        found: Option<(usize, Stat)>,
    },
    /// Below something that is no directory, or is not there; with the path
    /// that remains, `..` applied.
    Nowhere(PathBuf),
}

impl Merged {
    /// A view of `layers`, lowest first.
    ///
    /// # Errors
    /// When a directory can't be opened.
    pub fn new(layers: Vec<PathBuf>) -> io::Result<Self> {
        let mut parts = Vec::new();
        for path in layers.iter().rev() {
            let open = rustix::fs::open(path, DIR_FLAGS, Mode::empty());
            let fd = open.map_err(|e| at(path, e.into()))?;
            let marks = attr::dir_marks(fd.as_fd()).map_err(|e| at(path, e))?;
            let notes = Notes::of(path).map_err(|e| at(path, e))?.map(Arc::new);
            parts.push(Part { fd, marks, notes });
            if marks.opaque {
                break;
            }
        }
        Ok(Self {
            paths: layers,
            root: Arc::new(MergedDir { parts }),
            cache: Mutex::default(),
        })
    }

    /// The layers' directories, lowest first.
    pub fn layers(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The directory `name` in `dir`; `path` is its resolved path.
    fn enter(&self, dir: &MergedDir, path: &Path) -> io::Result<Option<Arc<MergedDir>>> {
        let cached = |cache: &Mutex<Cache>| {
            let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.dirs.get(path).cloned()
        };
        if let Some(found) = cached(&self.cache) {
            return Ok(Some(found));
        }
        let Some(name) = path.file_name() else {
            return Ok(Some(self.root.clone()));
        };
        let Some(entered) = dir.enter(name)? else {
            return Ok(None);
        };
        let entered = Arc::new(entered);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let fds = entered.parts.len();
        if cache.fds + fds > MAX_CACHED_FDS {
            cache.dirs.clear();
            cache.fds = 0;
        }
        if fds <= MAX_CACHED_FDS && cache.dirs.insert(path.into(), entered.clone()).is_none() {
            cache.fds += fds;
        }
        Ok(Some(entered))
    }

    /// The parent directory straight from the cache, for a path that was
    /// resolved before.
    fn cached_parent(&self, path: &Path) -> Option<Arc<MergedDir>> {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if !path.components().all(plain) {
            return None;
        }
        let parent = path.parent()?;
        if parent.as_os_str().is_empty() {
            return Some(self.root.clone());
        }
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.dirs.get(parent).cloned()
    }

    fn locate(&self, path: &Path, follow: bool) -> io::Result<Place> {
        // The usual case: the next entry of a directory that was just read.
        if let Some(dir) = self.cached_parent(path)
            && let Some(name) = path.file_name()
        {
            let found = dir.find(name)?;
            let is_link = found.is_some_and(|(_, s)| attr::file_type(&s) == FileType::Symlink);
            if !(is_link && follow) {
                let (path, name) = (path.components().collect(), name.to_owned());
                return Ok(Place::Entry {
                    dir,
                    path,
                    name,
                    found,
                });
            }
        }
        self.walk(path, follow)
    }

    fn walk(&self, path: &Path, follow: bool) -> io::Result<Place> {
        let mut todo = components(path);
        // `dir` is the directory at the resolved path `here`.
        let mut here = PathBuf::new();
        let mut dir = self.root.clone();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                here.pop();
                dir = self.reopen(&here)?;
                continue;
            }
            let found = dir.find(&name)?;
            let last = todo.is_empty();
            let kind = found.as_ref().map(|(_, stat)| attr::file_type(stat));
            if let Some((part, _)) = found
                && kind == Some(FileType::Symlink)
                && (!last || follow)
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(at(path, Errno::LOOP.into()));
                }
                let target = rustix::fs::readlinkat(&dir.parts[part].fd, &*name, Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                if target.has_root() {
                    here.clear();
                    dir = self.root.clone();
                }
                for part in components(target).into_iter().rev() {
                    todo.push_front(part);
                }
                continue;
            }
            here.push(&name);
            if last {
                return Ok(Place::Entry {
                    dir,
                    path: here,
                    name,
                    found,
                });
            }
            let entered = match kind {
                Some(FileType::Directory) => self.enter(&dir, &here)?,
                _ => None,
            };
            let Some(entered) = entered else {
                for rest in todo {
                    if rest == ".." {
                        here.pop();
                    } else {
                        here.push(rest);
                    }
                }
                return Ok(Place::Nowhere(here));
            };
            dir = entered;
        }
        // It ended in `..`, or in a link to a path that does.
        let Some(name) = here.file_name().map(OsStr::to_owned) else {
            return Ok(Place::Root);
        };
        let dir = self.reopen(here.parent().unwrap_or(Path::new("")))?;
        let found = dir.find(&name)?;
        Ok(Place::Entry {
            dir,
            path: here,
            name,
            found,
        })
    }

    /// The directory at a resolved path. One descriptor at a time, so that a
    /// tree of any depth can be walked.
    fn reopen(&self, path: &Path) -> io::Result<Arc<MergedDir>> {
        let mut here = PathBuf::new();
        let mut dir = self.root.clone();
        for component in path.components() {
            here.push(component);
            dir = self
                .enter(&dir, &here)?
                .ok_or_else(|| at(&here, Errno::NOENT.into()))?;
        }
        Ok(dir)
    }

    /// The directory at `path`, followed, and its path without links.
    fn dir(&self, path: &Path) -> io::Result<(Arc<MergedDir>, PathBuf)> {
        match self.locate(path, true)? {
            Place::Root => Ok((self.root.clone(), PathBuf::new())),
            Place::Entry {
                dir,
                path: resolved,
                found: Some((_, stat)),
                ..
            } if attr::file_type(&stat).is_dir() => self
                .enter(&dir, &resolved)?
                .map(|dir| (dir, resolved))
                .ok_or_else(|| at(path, Errno::NOTDIR.into())),
            Place::Entry { found: Some(_), .. } => Err(at(path, Errno::NOTDIR.into())),
            Place::Entry { .. } | Place::Nowhere(_) => Err(at(path, Errno::NOENT.into())),
        }
    }
}

const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The error with the path that it is about.
fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl MergedDir {
    /// The entry `name` with the part that it is in; `None` where there is
    /// none, or it was removed, or is a socket.
    fn find(&self, name: &OsStr) -> io::Result<Option<(usize, Stat)>> {
        for (index, part) in self.parts.iter().enumerate() {
            let stat = match lstat_at(part.fd.as_fd(), name) {
                Ok(stat) => stat,
                Err(e) => match Errno::from_io_error(&e) {
                    Some(Errno::NOENT | Errno::NAMETOOLONG) => continue,
                    _ => return Err(e),
                },
            };
            let hidden = part.hides(name, &stat)? || attr::file_type(&stat) == FileType::Socket;
            return Ok((!hidden).then_some((index, stat)));
        }
        Ok(None)
    }

    /// The directory `name` of the union; `None` where it is none.
    fn enter(&self, name: &OsStr) -> io::Result<Option<Self>> {
        let mut parts = Vec::new();
        for part in &self.parts {
            let fd = match rustix::fs::openat(&part.fd, name, DIR_FLAGS, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                // A whiteout, or an entry that hides the directories below.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                // Its entries can be looked up all the same.
                Err(Errno::ACCESS) => {
                    let flags = (DIR_FLAGS - OFlags::RDONLY) | OFlags::PATH;
                    rustix::fs::openat(&part.fd, name, flags, Mode::empty())?
                }
                Err(e) => return Err(e.into()),
            };
            let marks = match attr::dir_marks(fd.as_fd()) {
                Err(e) if Errno::from_io_error(&e) == Some(Errno::BADF) => DirMarks::default(),
                other => other?,
            };
            let notes = part.notes.clone();
            parts.push(Part { fd, marks, notes });
            if marks.opaque {
                break;
            }
        }
        Ok((!parts.is_empty()).then_some(Self { parts }))
    }

    /// The entry at `path`, of which `name` is the last component.
    fn node(
        &self,
        (path, name): (&Path, &OsStr),
        part: usize,
        stat: &Stat,
    ) -> io::Result<Option<Node>> {
        let Some(kind) = attr::kind(self.parts[part].fd.as_fd(), name, stat)? else {
            return Ok(None);
        };
        Ok(Some(self.parts[part].correct(path, node(kind, stat))))
    }
}

impl Part {
    fn correct(&self, path: &Path, mut node: Node) -> Node {
        if let Some(notes) = &self.notes {
            notes.correct(path, &mut node.kind, &mut node.meta);
        }
        node
    }

    /// The attributes of `name`, which is at `path`.
    fn content_xattrs(&self, name: &OsStr, path: &Path) -> io::Result<Xattrs> {
        let mut xattrs = attr::xattrs(self.fd.as_fd(), name)?;
        xattrs.retain(|name, _| attr::is_content(name));
        if let Some(value) = self.notes.as_ref().and_then(|n| n.capability(path)) {
            xattrs.insert(CAPABILITY.to_vec(), value.to_vec());
        }
        Ok(xattrs)
    }

    fn hides(&self, name: &OsStr, stat: &Stat) -> io::Result<bool> {
        Ok(attr::is_whiteout(stat)
            || (self.marks.xattr_whiteouts
                && attr::is_xattr_whiteout(self.fd.as_fd(), name, stat)?))
    }
}

// The field types differ between architectures.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn node(kind: Kind, stat: &Stat) -> Node {
    Node {
        kind,
        meta: attr::meta(stat),
        ctime: attr::ctime(stat),
        inode: (stat.st_dev as u64, stat.st_ino as u64),
        links: stat.st_nlink as u64,
        digest: None,
    }
}

impl Tree for Merged {
    fn lookup(&self, path: &Path, follow: bool) -> io::Result<Option<Node>> {
        match self.locate(path, follow)? {
            Place::Root => {
                let Some(top) = self.root.parts.first() else {
                    return Ok(Some(empty_root()));
                };
                let root = node(Kind::Dir, &rustix::fs::fstat(&top.fd)?);
                Ok(Some(top.correct(Path::new(""), root)))
            }
            Place::Entry {
                dir,
                path,
                name,
                found: Some((part, stat)),
            } => dir.node((&path, &name), part, &stat),
            Place::Entry { .. } | Place::Nowhere(_) => Ok(None),
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let (dir, here) = self.dir(path)?;
        let all = |names: DirNames| dir.list(&here, &names, 0..names.len(), false);
        dir.names().and_then(all).map_err(|e| at(path, e))
    }

    fn names(&self, path: &Path) -> io::Result<Option<DirNames>> {
        let names = self.dir(path)?.0.names();
        names.map(Some).map_err(|e| at(path, e))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let names = self.names(path)?.unwrap_or_default();
        self.list_some(path, &names, 0..names.len())
    }

    fn list_some(
        &self,
        path: &Path,
        names: &DirNames,
        some: Range<usize>,
    ) -> io::Result<Vec<(OsString, Node)>> {
        let (dir, here) = self.dir(path)?;
        (dir.list(&here, names, some, true)).map_err(|e| at(path, e))
    }

    fn each_name(&self, path: &Path, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        self.dir(path)?.0.each_name(each).map_err(|e| at(path, e))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let not_regular = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            )
        };
        let (dir, name, part, stat) = match self.locate(path, true)? {
            Place::Root => return Err(not_regular()),
            Place::Entry {
                dir,
                name,
                found: Some((part, stat)),
                ..
            } => (dir, name, part, stat),
            Place::Entry { .. } | Place::Nowhere(_) => return Err(at(path, Errno::NOENT.into())),
        };
        if attr::file_type(&stat) != FileType::RegularFile {
            return Err(not_regular());
        }
        open_checked(dir.parts[part].fd.as_fd(), &name, &stat).map_err(|e| at(path, e))
    }

    fn xattrs(&self, path: &Path) -> io::Result<Xattrs> {
        match self.locate(path, false)? {
            Place::Root => match self.root.parts.first() {
                Some(top) => top.content_xattrs(OsStr::new(""), Path::new("")),
                None => Ok(Xattrs::new()),
            },
            Place::Entry {
                dir,
                path,
                name,
                found: Some((part, _)),
            } => dir.parts[part].content_xattrs(&name, &path),
            Place::Entry { .. } | Place::Nowhere(_) => Err(at(path, Errno::NOENT.into())),
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(match self.walk(path, true)? {
            Place::Root => PathBuf::new(),
            Place::Entry { path, .. } | Place::Nowhere(path) => path,
        })
    }
}

/// The root of no layers at all: `FROM scratch`.
fn empty_root() -> Node {
    Node {
        kind: Kind::Dir,
        meta: crate::layer::Meta {
            mode: 0o755,
            ..Default::default()
        },
        ctime: crate::layer::Mtime::default(),
        inode: (0, 0),
        links: 1,
        digest: None,
    }
}

/// Opens the regular file that `stat` is of, or fails if another one is there
/// by now.
pub(super) fn open_checked(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let opened = rustix::fs::fstat(&fd)?;
    let same = (opened.st_dev, opened.st_ino, opened.st_size)
        == (stat.st_dev, stat.st_ino, stat.st_size)
        && attr::mtime(&opened) == attr::mtime(stat);
    if !same {
        return Err(io::Error::other("it changed while it was being read"));
    }
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests;
