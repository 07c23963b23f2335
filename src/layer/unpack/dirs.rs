//! The directories of a root that a layer is applied to: finding, making,
//! remembering them.
//!
//! Open directories are cached by path; the cache is dropped whenever a
//! directory or link is removed, as any path may lead through it. What
//! directories shall have in the end is kept by inode and set last, to the
//! very directory it is meant for; before a link goes, it is found out where
//! those are without links. Where there are very many it is set in
//! between: who works in one later on notes what it has and sets that again.

mod finals;
mod implied;
mod numbers;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Gid, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use self::finals::Final;
pub(super) use self::finals::set;
use self::implied::Implied;
use self::numbers::Numbers;
use super::error::Step;
use super::lower::{adopt, shows_through};
use super::{Form, Lower, UnpackError, UnpackOptions, remove};
use crate::layer::{Entry, Kind, Meta, Mtime};
use crate::sys::capability::{self, DAC_OVERRIDE};
use crate::sys::fs::{Root, components, lstat_at, proc_fd};

/// Open directories that are kept.
const CACHE: usize = 256;
/// Links followed on the way to one directory, as the kernel has it.
const MAX_LINKS: usize = 40;
/// Mode of a directory while it is worked in.
const WORKING: Mode = Mode::RWXU;

/// Paths of directories that are kept for [`Dirs::place`].
const PLACES: usize = 1 << 12;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) ino: u64,
}

pub(super) struct Dirs<'a> {
    root: &'a Root,
    form: Form,
    lower: Option<&'a dyn Lower>,
    /// Modes of directories keep this process out.
    limited: bool,
    /// The process's group.
    gid: u32,
    cache: HashMap<PathBuf, Rc<Dir>>,
    finals: HashMap<u64, Final>,
    /// Those of them whose paths may lead through links.
    loose: HashSet<u64>,
    /// How many of them there may be before they are set, but for those that
    /// stay; and with those.
    kept: usize,
    most: usize,
    implied: Implied,
    /// Paths of directories without links, by inode.
    places: HashMap<u64, PathBuf>,
    used_lower: bool,
    forgotten: u64,
    /// Fingerprints of the places of links that only lower layers have and that
    /// paths have led through.
    passed: HashSet<u64>,
    /// Flat form: fingerprints of the layer's own entries, and directories
    /// that it has some or whiteouts in, however deep.
    own: Numbers,
    touched: Numbers,
    fingerprint: RandomState,
}

/// Whether it is overlayfs's whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == 0
}

fn mtime(stat: &Stat) -> Mtime {
    Mtime {
        secs: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

/// Whether the owner of a directory with this mode can work in it.
fn is_open(mode: u32) -> bool {
    mode & 0o700 == 0o700
}

/// What a walk may change on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    Nothing,
    /// Directories where there is nothing.
    Missing,
    /// These, and directories in the place of what is none.
    Anything,
}

impl<'a> Dirs<'a> {
    /// Modes and times of about `kept` directories are known before they are set.
    pub(super) fn new(
        root: &'a Root,
        options: &UnpackOptions<'a>,
        kept: usize,
    ) -> Result<Self, UnpackError> {
        let mut dirs = Self {
            root,
            form: options.form,
            lower: options.lower,
            limited: !capability::effective().is_ok_and(|held| held & DAC_OVERRIDE != 0),
            gid: rustix::process::getegid().as_raw(),
            cache: HashMap::new(),
            finals: HashMap::new(),
            loose: HashSet::new(),
            kept,
            most: kept,
            places: HashMap::new(),
            implied: Implied::default(),
            used_lower: false,
            forgotten: 0,
            passed: HashSet::new(),
            own: Numbers::default(),
            touched: Numbers::default(),
            fingerprint: RandomState::new(),
        };
        if dirs.form != Form::Flat {
            let top = dirs.root_dir()?;
            dirs.imply(&top, PathBuf::new())?;
        }
        Ok(dirs)
    }

    /// The root itself.
    pub(super) fn root_dir(&mut self) -> Result<Rc<Dir>, UnpackError> {
        self.find(Path::new(""))?.map_or_else(
            || Err(io::Error::from(Errno::NOENT)).step("open", Path::new("/")),
            Ok,
        )
    }

    /// Opens a directory that exists, through links, to work in it.
    pub(super) fn find(&mut self, path: &Path) -> Result<Option<Rc<Dir>>, UnpackError> {
        if let Some(dir) = self.cache.get(path) {
            return Ok(Some(Rc::clone(dir)));
        }
        match self.root.open_dir(path) {
            Ok(fd) => {
                let dir = self.take(fd, path).step("open", path)?;
                self.loose.insert(dir.ino);
                self.touch(&dir).step("open", path)?;
                self.remember(path, &dir);
                Ok(Some(dir))
            }
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::NOENT | Errno::NOTDIR) => Ok(None),
                // Longer than one call takes, but not for a walk.
                Some(Errno::NAMETOOLONG) => {
                    let found = self.walk(path, Make::Nothing)?;
                    if let Some((dir, _)) = &found {
                        self.touch(dir).step("open", path)?;
                    }
                    Ok(found.map(|(dir, _)| dir))
                }
                _ => Err(e).step("open", path),
            },
        }
    }

    /// Opens a directory that exists, through links, to look at what is in it:
    /// that makes it none of the layer's own.
    pub(super) fn look(&mut self, path: &Path) -> Result<Option<Rc<Dir>>, UnpackError> {
        if let Some(dir) = self.cache.get(path) {
            return Ok(Some(Rc::clone(dir)));
        }
        match self.root.open_dir(path) {
            Ok(fd) => {
                let ino = rustix::fs::fstat(&fd).step("look at", path)?.st_ino;
                Ok(Some(Rc::new(Dir { fd, ino })))
            }
            Err(_) => self.find(path),
        }
    }

    /// Opens a directory, making it and what leads to it.
    pub(super) fn make(&mut self, path: &Path) -> Result<Rc<Dir>, UnpackError> {
        if let Some(dir) = self.find(path)? {
            return Ok(dir);
        }
        match self.walk(path, Make::Anything)? {
            Some((dir, _)) => {
                self.touch(&dir).step("open", path)?;
                self.remember(path, &dir);
                Ok(dir)
            }
            None => Err(Errno::NOENT).step("open", path),
        }
    }

    /// Makes those of the directories on the way to `path` that only lower
    /// layers have; says what the path is without links. `None` when something
    /// of this layer is in the way.
    pub(super) fn copy_up(
        &mut self,
        path: &Path,
    ) -> Result<Option<(Rc<Dir>, PathBuf)>, UnpackError> {
        self.walk(path, Make::Missing)
    }

    /// Goes to a directory one component at a time. `None` when it does not
    /// exist and is not to be made.
    fn walk(&mut self, path: &Path, make: Make) -> Result<Option<(Rc<Dir>, PathBuf)>, UnpackError> {
        let mut todo = components(path);
        let top = self.root.open_dir(Path::new("")).step("open", path)?;
        let top = self.take(top, Path::new("")).step("open", path)?;
        let mut stack = vec![top];
        // Of the last one, without links.
        let mut real = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            let Some(here) = stack.last().cloned() else {
                break;
            };
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                    real.pop();
                }
                continue;
            }
            real.push(&name);
            let mut found = self.enter_child(&here, &name, &real);
            let link = match found.as_ref().err().copied() {
                None => None,
                Some(Errno::NOENT) => match self.lower_kind(&real)? {
                    Some(Kind::Symlink { target }) => {
                        self.passed.insert(self.key(here.ino, &name));
                        Some(target)
                    }
                    None | Some(Kind::Dir) => None,
                    Some(_) => {
                        found = Err(Errno::NOTDIR);
                        None
                    }
                },
                Some(Errno::NOTDIR | Errno::LOOP) => {
                    link_target(&here, &name).step("open", path)?
                }
                Some(e) => return Err(e).step("open", path),
            };
            if let Some(target) = link {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP).step("open", path);
                }
                real.pop();
                if target.has_root() {
                    stack.truncate(1);
                    real.clear();
                }
                for part in components(&target).into_iter().rev() {
                    todo.push_front(part);
                }
                continue;
            }
            let dir = match found {
                Ok(dir) => dir,
                Err(_) if make == Make::Nothing => return Ok(None),
                Err(Errno::NOTDIR) if make == Make::Missing => return Ok(None),
                Err(Errno::NOTDIR) if links > 0 && !self.is_whiteout_at(&here, &name) => {
                    return Err(Errno::NOTDIR).step("open", path);
                }
                Err(_) => {
                    let dir = self.make_child(&here, &name, &real)?;
                    self.imply(&dir, real.clone())?;
                    self.own(&here, &name);
                    dir
                }
            };
            stack.push(dir);
        }
        Ok(stack.pop().map(|dir| (dir, real)))
    }

    fn is_whiteout_at(&self, dir: &Dir, name: &OsStr) -> bool {
        self.form != Form::Flat && lstat_at(dir.fd.as_fd(), name).is_ok_and(|s| is_whiteout(&s))
    }

    /// Opens the directory `name` in `dir`, which is no link.
    pub(super) fn open_child(&self, dir: &Dir, name: &OsStr) -> Result<Rc<Dir>, Errno> {
        let fd = rustix::fs::openat(&dir.fd, name, DIRECTORY, Mode::empty())?;
        let ino = rustix::fs::fstat(&fd)?.st_ino;
        Ok(Rc::new(Dir { fd, ino }))
    }

    /// The same for one that was just made: it may have its parent's group.
    fn open_made(&self, dir: &Dir, name: &OsStr) -> Result<Rc<Dir>, Errno> {
        let fd = rustix::fs::openat(&dir.fd, name, DIRECTORY, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_gid != self.gid {
            match rustix::fs::fchown(&fd, None, Some(Gid::from_raw(self.gid))) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                Err(e) => return Err(e),
            }
        }
        let ino = stat.st_ino;
        Ok(Rc::new(Dir { fd, ino }))
    }

    /// [`open_child`](Self::open_child), to work in it.
    pub(super) fn enter_child(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
    ) -> Result<Rc<Dir>, Errno> {
        let fd = rustix::fs::openat(&dir.fd, name, DIRECTORY, Mode::empty())?;
        self.take(fd, path)
    }

    /// Makes the directory `name` in `dir`, in the place of what is there.
    pub(super) fn make_child(
        &mut self,
        dir: &Rc<Dir>,
        name: &OsStr,
        path: &Path,
    ) -> Result<Rc<Dir>, UnpackError> {
        let mut hides = false;
        for _ in 0..super::TRIES {
            match rustix::fs::mkdirat(&dir.fd, name, WORKING) {
                Ok(()) => {
                    let made = self.open_made(dir, name).step("open", path)?;
                    // It may have the number of one that was removed.
                    self.touched.remove(made.ino);
                    if hides {
                        self.set_opaque(&made, path)?;
                    }
                    return Ok(made);
                }
                Err(Errno::EXIST) => {
                    // What the whiteout or the file hid must not show through
                    // the directory.
                    hides = true;
                    self.clear(dir, name, path)?;
                }
                Err(e) => return Err(e).step("create", path),
            }
        }
        Err(Errno::EXIST).step("create", path)
    }

    /// Takes an open directory, noting what it has now where the layer does
    /// not say what it shall have.
    fn take(&mut self, fd: OwnedFd, path: &Path) -> rustix::io::Result<Rc<Dir>> {
        let stat = rustix::fs::fstat(&fd)?;
        let dir = Rc::new(Dir {
            fd,
            ino: stat.st_ino,
        });
        let mode = self.open_up(&dir, &stat)?;
        self.finals.entry(dir.ino).or_insert_with(|| Final {
            path: path.to_owned(),
            mode,
            mtime: mtime(&stat),
        });
        Ok(dir)
    }

    /// Makes a directory that it can be worked in; says what mode it had, if
    /// that was not so.
    fn open_up(&self, dir: &Dir, stat: &Stat) -> rustix::io::Result<Option<u32>> {
        let mode = stat.st_mode & 0o7777;
        if !self.limited || is_open(mode) {
            return Ok(None);
        }
        rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(mode) | WORKING)?;
        Ok(Some(mode))
    }

    /// Keeps a directory open for the entries that follow in it.
    pub(super) fn remember(&mut self, path: &Path, dir: &Rc<Dir>) {
        if self.cache.len() >= CACHE {
            self.cache.clear();
        }
        self.cache.insert(path.to_owned(), Rc::clone(dir));
    }

    /// The layer says what this directory shall have.
    pub(super) fn explicit(&mut self, path: &Path, dir: &Dir, meta: &Meta) {
        self.implied.remove(dir.ino);
        self.loose.insert(dir.ino);
        self.finals.insert(
            dir.ino,
            Final {
                path: path.to_owned(),
                mode: Some(meta.mode),
                mtime: meta.mtime,
            },
        );
    }

    /// The layer has no entry for this directory, which was just made.
    fn imply(&mut self, dir: &Rc<Dir>, path: PathBuf) -> Result<(), UnpackError> {
        let mut meta = Meta {
            mode: 0o755,
            ..Meta::default()
        };
        let below = self.lower_entry(&path)?;
        if let Some(below) = below.filter(|below| below.kind == Kind::Dir) {
            meta = below.meta;
            adopt(dir, &path, &meta)?;
        }
        let last = Final {
            path: path.clone(),
            mode: Some(meta.mode),
            mtime: meta.mtime,
        };
        self.finals.insert(dir.ino, last);
        let added = self.implied.add(dir.ino, &path);
        added
            .ok_or(Errno::OVERFLOW)
            .step("note the directory", &path)
    }

    fn lower_kind(&mut self, real: &Path) -> Result<Option<Kind>, UnpackError> {
        Ok(self.lower_entry(real)?.map(|entry| entry.kind))
    }

    /// What shows through from below at `real`, a path without links.
    pub(super) fn lower_entry(&mut self, real: &Path) -> Result<Option<Entry>, UnpackError> {
        let Some(lower) = self.lower else {
            return Ok(None);
        };
        if !shows_through(self.root, real, lower)? {
            return Ok(None);
        }
        self.used_lower = true;
        lower.entry(real).step("look below the layer at", real)
    }

    /// Makes a directory opaque in overlay form: links that lower layers have in
    /// it go with that.
    pub(super) fn set_opaque(&mut self, dir: &Dir, path: &Path) -> Result<(), UnpackError> {
        if !std::mem::take(&mut self.passed).is_empty() {
            self.forget()?;
        }
        let name = match self.form {
            Form::Overlay { user_xattr: true } => "user.overlay.opaque",
            Form::Overlay { user_xattr: false } => "trusted.overlay.opaque",
            Form::Flat => return Ok(()),
        };
        rustix::fs::fsetxattr(&dir.fd, name, b"y", XattrFlags::empty()).step("make opaque", path)
    }

    /// Removes what is at `name` in `dir`, with all below it.
    pub(super) fn clear(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let kind = match lstat_at(dir.fd.as_fd(), name) {
            Ok(stat) => rustix::fs::FileType::from_raw_mode(stat.st_mode),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).step("look at", path),
        };
        if kind.is_dir() || kind.is_symlink() {
            self.forget()?;
        }
        remove::remove(dir.fd.as_fd(), name).step("replace", path)
    }

    /// Before the layer has something of its own there: a link that only lower
    /// layers have goes with that.
    pub(super) fn hide(&mut self, dir: &Dir, name: &OsStr) -> Result<(), UnpackError> {
        match self.passed.is_empty() || !self.passed.remove(&self.key(dir.ino, name)) {
            true => Ok(()),
            false => self.forget(),
        }
    }

    /// A directory or a link goes: any path may lead through it, and another
    /// directory may get its inode.
    fn forget(&mut self) -> Result<(), UnpackError> {
        self.forgotten += 1;
        self.tie()?;
        self.cache.clear();
        self.places.clear();
        Ok(())
    }

    /// Changes when paths that were known may lead elsewhere.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Where `dir` is, without links.
    pub(super) fn place(&mut self, dir: &Dir) -> io::Result<PathBuf> {
        if let Some(place) = self.places.get(&dir.ino) {
            return Ok(place.clone());
        }
        let root = std::fs::read_link(proc_fd(self.root.fd().as_fd()))?;
        let place = std::fs::read_link(proc_fd(dir.fd.as_fd()))?;
        let place = place.strip_prefix(root).map_err(io::Error::other)?;
        if self.places.len() >= PLACES {
            self.places.clear();
        }
        self.places.insert(dir.ino, place.to_owned());
        Ok(place.to_owned())
    }

    fn key(&self, ino: u64, name: &OsStr) -> u64 {
        self.fingerprint.hash_one((ino, name.as_bytes()))
    }

    /// Notes that `name` in `dir` is the layer's own, for whiteouts after it.
    pub(super) fn own(&mut self, dir: &Dir, name: &OsStr) {
        if self.form == Form::Flat {
            let key = self.key(dir.ino, name);
            self.own.insert(key);
        }
    }

    /// Notes that entries of the layer may come into `dir`.
    fn touch(&mut self, dir: &Dir) -> rustix::io::Result<()> {
        if self.form != Form::Flat || !self.touched.insert(dir.ino) {
            return Ok(());
        }
        let top = rustix::fs::fstat(self.root.fd())?.st_ino;
        let mut ino = dir.ino;
        let mut up: Option<OwnedFd> = None;
        while ino != top {
            let here = up.as_ref().unwrap_or(&dir.fd);
            let parent = rustix::fs::openat(here, c"..", DIRECTORY, Mode::empty())?;
            let parent_ino = rustix::fs::fstat(&parent)?.st_ino;
            // The second is the host's root: someone moved the directory out.
            if parent_ino == ino || !self.touched.insert(parent_ino) {
                break;
            }
            ino = parent_ino;
            up = Some(parent);
        }
        Ok(())
    }

    /// Flat form: removes `name` in `dir` but for what is the layer's own.
    pub(super) fn prune(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), UnpackError> {
        self.forget()?;
        self.prune_entry(dir, name, path)
    }

    /// Flat form: removes what is in `dir` but for what is the layer's own.
    pub(super) fn prune_children(&mut self, dir: &Dir, path: &Path) -> Result<(), UnpackError> {
        self.forget()?;
        for name in remove::names(&dir.fd).step("list", path)?.iter() {
            self.prune_entry(dir, name, &path.join(name))?;
        }
        Ok(())
    }

    /// A directory that the layer has only whiteouts in is its own too: it
    /// implies it, as it does in overlay form.
    fn prune_entry(&mut self, dir: &Dir, name: &OsStr, path: &Path) -> Result<(), UnpackError> {
        let stat = match lstat_at(dir.fd.as_fd(), name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).step("look at", path),
        };
        let own = self.own.contains(self.key(dir.ino, name));
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_dir && (own || self.touched.contains(stat.st_ino)) {
            let child = self.open_child(dir, name).step("open", path)?;
            let mode = self.open_up(&child, &stat).step("open", path)?;
            self.prune_children(&child, path)?;
            if !self.finals.contains_key(&child.ino) {
                set(&child.fd, path, mode, mtime(&stat))?;
            }
            return Ok(());
        }
        if !own {
            remove::remove(dir.fd.as_fd(), name).step("remove", path)?;
        }
        Ok(())
    }
}

/// The text of the link `name` in `dir`; `None` when it is no link.
fn link_target(dir: &Dir, name: &OsStr) -> io::Result<Option<PathBuf>> {
    match rustix::fs::readlinkat(&dir.fd, name, Vec::new()) {
        Ok(text) => Ok(Some(OsStr::from_bytes(text.to_bytes()).into())),
        Err(Errno::INVAL) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
