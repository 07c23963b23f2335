//! Mounts where no mount can be made: their content is put into the tree for
//! the time of the run, and taken away again.
//!
//! What is in the way is moved aside, to `work` on the same file system, and
//! comes back afterwards; directories get their times back unless the command
//! changed them. A directory of the host is moved in and out by renames.
//!
//! The command could do to these things what it could not do to a mount. What
//! it moves away or gives another name is an error of the run, so that no
//! layer can have it.
//!
//! All this is done by the keeper, which outlives shiplap if need be.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::devices::DEVICES;
use super::protocol::{Failure, Tried};
use super::spec::{MountKind, RunSpec};
use super::stub::{State, open_plain};
use crate::sys::fs::{Root, proc_fd};

/// Files of `/proc` that say what kind of machine it is, for programs that ask.
const PROC_FILES: [&str; 6] = [
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "uptime",
    "version",
];
/// No file of `/proc` that is copied is longer, in bytes.
const MOST_PROC_BYTES: u64 = 1 << 20;

/// How strictly a thing has to be where it was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The command may replace or remove it.
    Loose,
    /// It has to be there still, under this name only.
    Strict,
}

/// One thing that was put into the tree.
#[derive(Debug)]
struct Put {
    dir: OwnedFd,
    name: OsString,
    /// In the root filesystem, for messages.
    path: PathBuf,
    inode: (u64, u64),
    /// Keeps the inode's number from being given to something else.
    _held: Option<OwnedFd>,
    care: Care,
    /// Where it came from and goes to.
    back: Option<PathBuf>,
    /// What was in the way, by its name in `work`.
    aside: Option<OsString>,
    /// A directory on the way, which stays if something is in it.
    parent: bool,
    /// Its content is nobody's to find: it would have been in memory.
    erased: bool,
}

/// What was put into one tree.
#[derive(Debug)]
pub(super) struct Placed {
    root: Root,
    work: OwnedFd,
    put: Vec<Put>,
    /// Directories in which something changed, with their state before.
    touched: Vec<(OwnedFd, State, State)>,
    serial: u32,
    /// Sockets to be answered: where they are, and the agent's.
    pub(super) relays: Vec<(OwnedFd, PathBuf)>,
}

impl Placed {
    /// Nothing yet. `work` is an empty directory on the file system of `root`.
    pub(super) fn new(root: &Path, work: &Path) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: Root::open(root).tried("opening the root filesystem")?,
            work: rustix::fs::open(work, flags, Mode::empty())
                .tried("opening the work directory")?,
            put: Vec::new(),
            touched: Vec::new(),
            serial: 0,
            relays: Vec::new(),
        })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.fd()
    }

    /// Puts everything that `spec` wants to see into the tree. `bound` are
    /// paths that somebody will bind something to (see `proot`): what is there
    /// matters to no one, and devices are empty files.
    pub(super) fn fill(&mut self, spec: &RunSpec, bound: bool) -> Result<(), Failure> {
        let mut mounts: Vec<_> = spec.mounts.iter().collect();
        mounts.sort_by_key(|m| m.target.components().count());
        let (late, early): (Vec<_>, Vec<_>) = mounts
            .into_iter()
            .partition(|m| m.target.starts_with("/dev"));
        for mount in early {
            self.mount(&mount.target, &mount.kind)?;
        }
        for (name, content) in spec.etc_files() {
            let path = Path::new("/etc").join(name);
            self.file(&path, content.as_bytes(), (0o644, 0, 0), Care::Loose, false)?;
        }
        let proc = self.system_dir("/proc", 0o555)?;
        if !bound {
            proc_files(proc.as_fd()).tried("filling /proc")?;
        }
        self.system_dir("/sys", 0o555)?;
        let dev = self.system_dir("/dev", 0o755)?;
        fill_dev(dev.as_fd(), bound)?;
        for mount in late {
            self.mount(&mount.target, &mount.kind)?;
        }
        // What the command changes from here on is its own.
        for (dir, _, after) in &mut self.touched {
            *after = State::from(&rustix::fs::fstat(&*dir).tried("looking at a directory")?);
        }
        Ok(())
    }

    fn mount(&mut self, target: &Path, kind: &MountKind) -> Result<(), Failure> {
        let what = || format!("preparing {}", target.display());
        match kind {
            MountKind::Tmpfs { .. } => {
                let (dir, name, path) = self.place(target, false)?;
                let aside = self.clear(&dir, &name, &path)?;
                make_dir(dir.as_fd(), &name, 0o1777).tried(what())?;
                self.note(dir, name, path, Care::Strict, None, aside)?;
                if let Some(last) = self.put.last_mut() {
                    last.erased = true;
                }
                Ok(())
            }
            MountKind::File {
                content,
                mode,
                uid,
                gid,
            } => self.file(target, content, (*mode, *uid, *gid), Care::Strict, true),
            MountKind::Overlay { .. } => Err(Errno::OPNOTSUPP).tried(what()),
            MountKind::Bind {
                source, subpath, ..
            } => {
                let mut source = source.clone();
                if let Some(subpath) = subpath {
                    let inside = Root::open(&source).tried(what())?;
                    let found = inside
                        .open_at(subpath, OFlags::PATH, Mode::empty())
                        .tried(what())?;
                    source = fs::read_link(proc_fd(found.as_fd())).tried(what())?;
                }
                let stat = rustix::fs::lstat(&source).tried(what())?;
                let (dir, name, path) = self.place(target, false)?;
                let aside = self.clear(&dir, &name, &path)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                    let socket = super::relay::listen(dir.as_fd(), &name, &stat).tried(what())?;
                    self.relays.push((socket, source));
                    return self.note(dir, name, path, Care::Loose, None, aside);
                }
                rustix::fs::renameat(rustix::fs::CWD, &source, &dir, &*name).tried(what())?;
                self.note(dir, name, path, Care::Strict, Some(source), aside)
            }
        }
    }

    fn file(
        &mut self,
        target: &Path,
        content: &[u8],
        (mode, uid, gid): (u32, u32, u32),
        care: Care,
        follow: bool,
    ) -> Result<(), Failure> {
        let what = || format!("making {}", target.display());
        let (dir, name, path) = self.place(target, !follow)?;
        let aside = self.clear(&dir, &name, &path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&dir, &*name, flags, Mode::RUSR | Mode::WUSR).tried(what())?;
        self.note(dir, name, path, care, None, aside)?;
        let mut made = fs::File::from(made);
        made.write_all(content).tried(what())?;
        // A process with one id can't give it to another, and need not: it is
        // the only one that reads it.
        let _ = rustix::fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode & 0o7777)).tried(what())
    }

    /// `/proc`, `/sys` or `/dev`, new and empty.
    fn system_dir(&mut self, path: &str, mode: u32) -> Result<OwnedFd, Failure> {
        let (dir, name, path) = self.place(Path::new(path), true)?;
        if let Ok(stat) = rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
        {
            return Err(Failure::Root {
                path: path.display().to_string(),
                reason: "must be a directory that is no symbolic link".into(),
            });
        }
        let what = || format!("making {}", path.display());
        let aside = self.clear(&dir, &name, &path)?;
        make_dir(dir.as_fd(), &name, mode | 0o200).tried(what())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&dir, &*name, flags, Mode::empty()).tried(what())?;
        self.note(dir, name, path.clone(), Care::Loose, None, aside)?;
        Ok(made)
    }

    /// The directory and name that `target` stands for, and its path without
    /// links. Missing directories are made. The last link is followed unless
    /// `own`.
    fn place(&mut self, target: &Path, own: bool) -> Result<(OwnedFd, OsString, PathBuf), Failure> {
        let what = || format!("looking at {}", target.display());
        let found = match own {
            true => None,
            false => self.root.open_at(target, OFlags::PATH, Mode::empty()).ok(),
        };
        let path = match found {
            Some(found) => self.inside(found.as_fd()).tried(what())?,
            None => {
                let parent = target.parent().unwrap_or(Path::new("/"));
                let parent = self.make_dirs(parent)?;
                parent.join(target.file_name().unwrap_or_default())
            }
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::BUSY).tried(what());
        };
        let dir = open_plain(self.root.fd(), parent)
            .ok_or(Errno::NOENT)
            .tried(what())?;
        self.touch(&dir).tried(what())?;
        Ok((dir, name.to_owned(), path.clone()))
    }

    /// The path below the root of what is open.
    fn inside(&self, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
        let root = fs::read_link(proc_fd(self.root.fd()))?;
        let path = fs::read_link(proc_fd(fd))?;
        let path = path.strip_prefix(root).map_err(io::Error::other)?;
        Ok(path.to_owned())
    }

    /// Makes the directory `path` with its parents, as far as they are
    /// missing; its path without links.
    fn make_dirs(&mut self, path: &Path) -> Result<PathBuf, Failure> {
        let mut here = PathBuf::new();
        for part in path.components() {
            let std::path::Component::Normal(name) = part else {
                continue;
            };
            let next = Path::new("/").join(&here).join(name);
            let what = || format!("making {}", next.display());
            match self
                .root
                .open_at(&next, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            {
                Ok(found) => here = self.inside(found.as_fd()).tried(what())?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let dir = open_plain(self.root.fd(), &here)
                        .ok_or(Errno::NOENT)
                        .tried(what())?;
                    self.touch(&dir).tried(what())?;
                    if let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
                            return Err(Failure::Root {
                                path: next.display().to_string(),
                                reason: "is a symbolic link to nothing".into(),
                            });
                        }
                        // In a cache that several steps have, another has made it.
                        here.push(name);
                        continue;
                    }
                    make_dir(dir.as_fd(), name, 0o755).tried(what())?;
                    here.push(name);
                    self.note(dir, name.to_owned(), here.clone(), Care::Loose, None, None)?;
                    if let Some(last) = self.put.last_mut() {
                        last.parent = true;
                    }
                }
                Err(e) => {
                    return Err(Failure::Root {
                        path: next.display().to_string(),
                        reason: format!("cannot hold a mount point: {e}"),
                    });
                }
            }
        }
        Ok(here)
    }

    /// Remembers a directory as it is before the first change in it.
    fn touch(&mut self, dir: &OwnedFd) -> io::Result<()> {
        let stat = rustix::fs::fstat(dir)?;
        let same = |(known, ..): &(OwnedFd, State, State)| {
            rustix::fs::fstat(known)
                .is_ok_and(|s| (s.st_dev, s.st_ino) == (stat.st_dev, stat.st_ino))
        };
        if !self.touched.iter().any(same) {
            let state = State::from(&stat);
            self.touched.push((dir.try_clone()?, state, state));
        }
        Ok(())
    }

    /// Moves what is at `name` aside.
    fn clear(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<Option<OsString>, Failure> {
        if rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Ok(None);
        }
        let aside = self.new_name("aside");
        rustix::fs::renameat(dir, name, &self.work, &aside)
            .tried(format!("moving {} aside", path.display()))?;
        Ok(Some(aside))
    }

    fn new_name(&mut self, what: &str) -> OsString {
        self.serial += 1;
        format!("{what}-{}", self.serial).into()
    }

    fn note(
        &mut self,
        dir: OwnedFd,
        name: OsString,
        path: PathBuf,
        care: Care,
        back: Option<PathBuf>,
        aside: Option<OsString>,
    ) -> Result<(), Failure> {
        let stat = rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW);
        // Noted in any case, so that it is taken away whatever comes.
        let inode = stat.as_ref().map_or((0, 0), inode);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::openat(&dir, &*name, flags, Mode::empty()).ok();
        self.put.push(Put {
            _held: held,
            dir,
            name,
            path,
            inode,
            care,
            back,
            aside,
            parent: false,
            erased: false,
        });
        stat.map(|_| ()).tried("looking at what was made")
    }

    /// Takes everything away again. Goes on after a failure and reports the
    /// first one.
    pub(super) fn undo(&mut self) -> Result<(), Failure> {
        // Their states now, before they are changed back.
        let states: Vec<_> = self
            .touched
            .iter()
            .map(|(dir, ..)| rustix::fs::fstat(dir).map(|s| State::from(&s)))
            .collect();
        let mut first = Ok(());
        while let Some(put) = self.put.pop() {
            let done = self.take_away(&put);
            first = first.and(done);
        }
        for ((dir, before, after), now) in self.touched.drain(..).zip(states) {
            let restored = match now {
                Ok(now) if now.same(&after) => before.restore(dir.as_fd()),
                Ok(now) => now.restore(dir.as_fd()),
                Err(e) => Err(e.into()),
            };
            first = first.and(restored.tried("restoring the times of a directory"));
        }
        first
    }

    fn take_away(&mut self, put: &Put) -> Result<(), Failure> {
        let gone = |reason: &str| Failure::Root {
            path: Path::new("/").join(&put.path).display().to_string(),
            reason: reason.into(),
        };
        let what = || format!("taking {} away", put.path.display());
        let now = rustix::fs::statat(&put.dir, &*put.name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let is_dir = |stat: &Stat| FileType::from_raw_mode(stat.st_mode).is_dir();
        if put.parent {
            // Stays where the command put something into it.
            if now.as_ref().is_some_and(is_dir) {
                match rustix::fs::unlinkat(&put.dir, &*put.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                    Err(e) => return Err(e).tried(what()),
                }
            }
            return Ok(());
        }
        let mut done = Ok(());
        let own = now.as_ref().is_some_and(|s| inode(s) == put.inode);
        if put.care == Care::Strict {
            if !own {
                done = Err(gone("was moved or replaced by the command"));
            } else if now.as_ref().is_some_and(|s| !is_dir(s) && s.st_nlink > 1) {
                done = Err(gone("was given another name by the command"));
            }
        }
        if let Some(stat) = &now {
            let removed = match &put.back {
                Some(back) if own => {
                    rustix::fs::renameat(&put.dir, &*put.name, rustix::fs::CWD, back)
                }
                _ if is_dir(stat) => {
                    let name = self.new_name("used");
                    let moved = rustix::fs::renameat(&put.dir, &*put.name, &self.work, &name);
                    if put.erased && moved.is_ok() {
                        // What cannot be removed goes with the rest of `work`.
                        let _ = fs::remove_dir_all(proc_fd(self.work.as_fd()).join(name));
                    }
                    moved
                }
                _ => rustix::fs::unlinkat(&put.dir, &*put.name, AtFlags::empty()),
            };
            done = done.and(removed.tried(what()));
        }
        if let Some(aside) = &put.aside {
            let back = rustix::fs::renameat(&self.work, aside, &put.dir, &*put.name);
            done = done.and(back.tried(format!("putting {} back", put.path.display())));
        }
        done
    }
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn make_dir(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::mkdirat(dir, name, mode)?;
    // The umask had its say.
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
}

/// Copies of what says what the machine is like. Nothing of any process.
fn proc_files(proc: BorrowedFd<'_>) -> io::Result<()> {
    use std::io::Read;
    for name in PROC_FILES {
        let mut content = Vec::new();
        if let Ok(file) = fs::File::open(Path::new("/proc").join(name))
            && file.take(MOST_PROC_BYTES).read_to_end(&mut content).is_ok()
        {
            let path = proc_fd(proc).join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
        }
    }
    Ok(())
}

/// The devices that every program expects. Where none can be made or used,
/// an empty file: what is written to `/dev/null` goes nowhere else either.
fn fill_dev(dev: BorrowedFd<'_>, bound: bool) -> Result<(), Failure> {
    let what = "filling /dev";
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let number = rustix::fs::makedev(major, minor);
        let made = match bound {
            true => Err(Errno::PERM),
            false => rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, number),
        };
        let path = proc_fd(dev).join(name);
        if made.is_err() {
            fs::write(&path, b"").tried(what)?;
        }
        rustix::fs::chmodat(dev, name, mode, AtFlags::empty()).tried(what)?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        make_dir(dev, OsStr::new(name), mode).tried(what)?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        rustix::fs::symlinkat(target, dev, link).tried(what)?;
    }
    Ok(())
}
