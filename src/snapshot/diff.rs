//! The difference between two trees, as a stream of changes.
//!
//! Two sides find it: [`overlay::changes`](super::overlay::changes) reads an
//! upper directory, and [`copy::Table::changes`](super::copy::Table::changes)
//! compares a tree with what it was before. Both report, for each directory,
//! which entries are new or may have changed and which are gone, and the rest
//! is done here, so that the stream depends on the two trees alone and not on
//! how the change came about:
//!
//! - An entry is left out when kind, mode, owner, mtime (in seconds, as a layer
//!   has it), extended attributes and content are those of the lower tree. A
//!   directory like that is in the stream when something below it is; so are
//!   all names of a file of which one name is in it, and they are linked.
//! - What is gone is a whiteout. Where all of a directory's former entries
//!   (two or more) are gone, one opaque marker says so. A socket can't be in a
//!   layer; it counts as nothing.
//! - The root is in the stream only if mode, owner or attributes differ.
//! - The order is that of the path's components, byte by byte.
//!
//! A link made between two files that otherwise stayed as they were is no
//! difference. Overlayfs copies a file up under one name only, so where a lower
//! layer's file has several names, a change through one of them leaves the
//! others as they were; in a plain tree all change.
//!
//! # Memory
//! Changes come as the tree is walked, so what is held does not grow with the
//! number of entries, but for the names of one directory (about 25 bytes
//! each) and the first names of files with several. Only when an unchanged
//! name of such a file is met is the tree walked once more, to find out
//! whether another of its names has changed.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::attr;
use super::kept::Kept;
use super::names::{self, Mark, Names};
use super::walk::{Visit, Visitor, Walk};
use crate::context::{Node, Tree};
use crate::layer::first_names::FirstNames;
use crate::layer::notes::Notes;
use crate::layer::{Change, Content, Entry, Kind, Meta};

/// Entries of a directory that are looked at in one visit.
const CHUNK: usize = 512;

/// A file, on whatever file system.
pub(super) type Inode = (u64, u64);

/// An entry that may be part of the difference.
pub(super) struct Item {
    pub(super) name: OsString,
    pub(super) kind: Kind,
    pub(super) meta: Meta,
    pub(super) inode: Inode,
    pub(super) links: u64,
    pub(super) changed: bool,
}

impl Item {
    /// An entry without its extended attributes; `None` for a socket.
    // The field types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(super) fn read(dir: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<Option<Self>> {
        let Some(kind) = attr::kind(dir.as_fd(), name, stat)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            name: name.to_owned(),
            kind,
            meta: attr::meta(stat),
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            links: stat.st_nlink as u64,
            changed: true,
        }))
    }

    /// Whether it may be one name of several.
    fn is_linked(&self) -> bool {
        self.links > 1 && self.kind != Kind::Dir
    }

    /// Whether `lower` has the very same at `path`. `content` opens the bytes
    /// on this side.
    pub(super) fn equals(
        &self,
        lower: &dyn Tree,
        path: &Path,
        node: &Node,
        content: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<bool> {
        let attributes = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.mtime.secs);
        if self.kind != node.kind || attributes(&self.meta) != attributes(&node.meta) {
            return Ok(false);
        }
        if lower.xattrs(path)? != self.meta.xattrs {
            return Ok(false);
        }
        match self.kind {
            Kind::File { size } if size > 0 => lower.has_content(path, content()?),
            _ => Ok(true),
        }
    }
}

/// The tree that changed files are read from.
#[derive(Clone)]
pub(super) struct Source(pub(super) Arc<OwnedFd>, pub(super) Arc<Kept>);

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| at(path, e.into()))?;
        let kept = Notes::of(path)?.map_or(Kept::OnDisk, Kept::Noted);
        Ok(Self(Arc::new(fd), Arc::new(kept)))
    }

    /// The same, where `kept` says what stands for what on the disk.
    pub(super) fn kept(self, kept: Kept) -> Self {
        Self(self.0, Arc::new(kept))
    }

    /// The number of the root's file system.
    // The field types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&*self.0)?.st_dev as u64)
    }

    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        names::open_beneath(self.0.as_fd(), path, flags).map_err(|e| at(path, e))
    }

    /// Opens a regular file, if it is still the one that was found.
    // The field types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(super) fn open_file(&self, path: &Path, inode: Inode, size: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = names::open_beneath(self.0.as_fd(), path, flags).map_err(|e| at(path, e))?;
        let stat = rustix::fs::fstat(&fd)?;
        let same = (stat.st_dev as u64, stat.st_ino as u64) == inode
            && u64::try_from(stat.st_size) == Ok(size)
            && attr::file_type(&stat) == FileType::RegularFile;
        if !same {
            return Err(at(
                path,
                io::Error::other("it was changed or replaced while the layer was made"),
            ));
        }
        Ok(File::from(fd))
    }
}

/// The error with the path that it is about.
pub(super) fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// One way to find what changed.
pub(super) trait Side: Send + Sync + Sized + 'static {
    /// What is known of a directory before it is opened.
    type Dir: Send + 'static;
    /// What is known of it while its entries are looked at.
    type State: Send + 'static;

    /// What is known of the root.
    fn root(&self) -> Self::Dir;

    /// A side that finds the same again, and does nothing else.
    fn again(&self) -> Self;

    /// The names in a directory and those that are gone from it, sorted and
    /// marked, and whether all that it had are gone.
    fn list(
        &self,
        place: &Place<'_>,
        dir: Self::Dir,
        names: &mut Names,
    ) -> io::Result<(Self::State, bool)>;

    /// Looks at the next name that is there. `None` when it is surely
    /// unchanged and no directory; what is known of it for a directory.
    fn look(
        &self,
        place: &Place<'_>,
        state: &mut Self::State,
        name: &OsStr,
    ) -> io::Result<Option<(Item, Option<Self::Dir>)>>;

    /// All names of the directory have been looked at.
    fn end(&self, state: Self::State) -> io::Result<()>;
}

/// Where a side looks.
pub(super) struct Place<'a> {
    /// The tree as it is now.
    pub(super) source: &'a Source,
    /// What it was made from.
    pub(super) lower: &'a dyn Tree,
    /// The directory, relative to the root.
    pub(super) path: &'a Path,
    /// The directory itself.
    pub(super) fd: &'a OwnedFd,
}

/// Visits directories for one side.
pub(super) struct Differ<S> {
    source: Source,
    lower: Arc<dyn Tree>,
    pub(super) side: S,
}

impl<S: Side> Differ<S> {
    pub(super) fn new(source: Source, lower: Arc<dyn Tree>, side: S) -> Self {
        Self {
            source,
            lower,
            side,
        }
    }

    pub(super) fn walk(self: &Arc<Self>) -> Walk<Self> {
        let first = Task::Dir(PathBuf::new(), self.side.root());
        Walk::new(Arc::clone(self), first)
    }
}

/// A directory, or what is left of one.
pub(super) enum Task<S: Side> {
    Dir(PathBuf, S::Dir),
    Rest(Box<Listing<S>>),
}

pub(super) struct Listing<S: Side> {
    path: PathBuf,
    names: Names,
    state: S::State,
    opaque: bool,
    next: usize,
}

/// What a visit found, in order.
pub(super) struct Found {
    steps: Vec<Step>,
    /// The directory goes on in a further visit, after those of its
    /// directories.
    more: bool,
}

enum Step {
    /// What the lower tree has in this directory is gone. Comes first.
    Opaque,
    Gone(OsString),
    /// With whether a visit of its own follows.
    Item(Item, bool),
}

impl<S: Side> Visitor for Differ<S> {
    type Task = Task<S>;
    type Found = Found;

    fn visit(&self, task: Task<S>) -> io::Result<Visit<Task<S>, Found>> {
        let (mut steps, mut next) = (Vec::new(), Vec::new());
        let (fd, mut listing) = match task {
            Task::Rest(listing) => (self.source.open_dir(&listing.path)?, listing),
            Task::Dir(path, dir) => {
                let fd = self.source.open_dir(&path)?;
                let place = self.place(&path, &fd);
                let fail = |e| at(&path, e);
                let mut names = Names::read(fd.as_fd()).map_err(fail)?;
                let (state, all_gone) = self.side.list(&place, dir, &mut names)?;
                let opaque = all_gone && names.count(Mark::Gone) >= 2;
                if opaque {
                    steps.push(Step::Opaque);
                }
                let listing = Listing {
                    path,
                    names,
                    state,
                    opaque,
                    next: 0,
                };
                (fd, Box::new(listing))
            }
        };
        let Listing {
            path,
            names,
            state,
            opaque,
            next: begin,
        } = &mut *listing;
        let place = self.place(path, &fd);
        let end = names.len().min(*begin + CHUNK);
        for n in *begin..end {
            match names.mark(n) {
                Mark::Nothing => {}
                Mark::Gone if *opaque => {}
                Mark::Gone => steps.push(Step::Gone(names.name(n).to_owned())),
                Mark::Here => {
                    let name = names.name(n);
                    let looked = self.side.look(&place, state, name)?;
                    let Some((item, dir)) = looked else { continue };
                    let enter = dir.is_some();
                    next.extend(dir.map(|dir| Task::Dir(path.join(name), dir)));
                    steps.push(Step::Item(item, enter));
                }
            }
        }
        *begin = end;
        let more = end < names.len();
        if more {
            next.push(Task::Rest(listing));
        } else {
            self.side.end(listing.state)?;
        }
        Ok(Visit {
            found: Found { steps, more },
            next,
        })
    }
}

impl<S: Side> Differ<S> {
    fn place<'a>(&'a self, path: &'a Path, fd: &'a OwnedFd) -> Place<'a> {
        Place {
            source: &self.source,
            lower: &*self.lower,
            path,
            fd,
        }
    }
}

/// The changes, as they are found.
pub(super) struct Diff<S: Side> {
    differ: Arc<Differ<S>>,
    walk: Walk<Differ<S>>,
    /// The directories from the root to where the walk is.
    frames: Vec<Frame>,
    path: PathBuf,
    ready: VecDeque<Change>,
    /// First names of files with several.
    first: FirstNames,
    /// Files with several names of which one has changed, once that is asked.
    changed: Option<HashSet<Inode>>,
    failed: bool,
}

struct Frame {
    steps: std::vec::IntoIter<Step>,
    more: bool,
    /// The directory's own entry, if it is only wanted when something below
    /// it is.
    pending: Option<Item>,
    /// Bytes of its path.
    path_len: usize,
}

impl<S: Side> Diff<S> {
    /// Begins; `root` is the root directory's entry, if that changed.
    pub(super) fn new(differ: Arc<Differ<S>>, root: Option<Entry>) -> io::Result<Self> {
        let walk = differ.walk();
        let root = root.map(|entry| Change::Put(entry, Content::None));
        let mut diff = Self {
            differ,
            walk,
            frames: Vec::new(),
            path: PathBuf::new(),
            ready: root.into_iter().collect(),
            first: FirstNames::default(),
            changed: None,
            failed: false,
        };
        diff.enter(None)?;
        Ok(diff)
    }

    /// The side, when all has been found.
    pub(super) fn into_side(self) -> Option<Arc<Differ<S>>> {
        let ended = self.frames.is_empty() && self.ready.is_empty();
        (ended && !self.failed).then_some(self.differ)
    }

    fn take(&mut self) -> io::Result<Found> {
        let lost = || Err(io::Error::other("a directory was not visited"));
        self.walk.take().unwrap_or_else(lost)
    }

    fn enter(&mut self, pending: Option<Item>) -> io::Result<()> {
        let Found { steps, more } = self.take()?;
        self.frames.push(Frame {
            steps: steps.into_iter(),
            more,
            pending,
            path_len: self.path.as_os_str().len(),
        });
        Ok(())
    }

    /// Goes on until there is a change or all is found.
    fn advance(&mut self) -> io::Result<()> {
        while self.ready.is_empty() {
            let Some(frame) = self.frames.last_mut() else {
                return Ok(());
            };
            match frame.steps.next() {
                Some(Step::Opaque) => {
                    self.reach();
                    self.ready.push_back(Change::Opaque(self.path.clone()));
                }
                Some(Step::Gone(name)) => {
                    self.reach();
                    let path = self.path.join(name);
                    self.ready.push_back(Change::Whiteout(path));
                }
                Some(Step::Item(item, enter)) => self.item(item, enter)?,
                None if frame.more => {
                    let found = self.take()?;
                    if let Some(frame) = self.frames.last_mut() {
                        frame.steps = found.steps.into_iter();
                        frame.more = found.more;
                    }
                }
                None => {
                    self.frames.pop();
                    self.path.pop();
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, item: Item, enter: bool) -> io::Result<()> {
        let changed = item.changed || (item.is_linked() && self.has_changed_name(item.inode)?);
        let path = (changed || enter).then(|| self.path.join(&item.name));
        let mut pending = None;
        if changed {
            self.reach();
            let change = self.put(item, path.clone().unwrap_or_default());
            self.ready.push_back(change);
        } else if enter {
            pending = Some(item);
        }
        if enter {
            self.path = path.unwrap_or_default();
            self.enter(pending)?;
        }
        Ok(())
    }

    /// Something in this directory is in the stream, so the directories that
    /// lead to it are.
    fn reach(&mut self) {
        let pending = |frame: &Frame| frame.pending.is_some();
        let from = self.frames.iter().rposition(|f| !pending(f));
        for n in from.map_or(0, |n| n + 1)..self.frames.len() {
            let len = self.frames[n].path_len;
            let path = OsStr::from_bytes(&self.path.as_os_str().as_bytes()[..len]);
            if let Some(item) = self.frames[n].pending.take() {
                let change = self.put(item, path.into());
                self.ready.push_back(change);
            }
        }
    }

    fn put(&mut self, item: Item, path: PathBuf) -> Change {
        let inode = item.inode;
        let is_linked = item.is_linked();
        let mut kind = item.kind;
        if is_linked && let Some(target) = self.first.link(inode, &path, item.links) {
            kind = Kind::Hardlink { target };
        }
        let content = match kind {
            Kind::File { size } if size > 0 => {
                let (source, path) = (self.differ.source.clone(), path.clone());
                Content::Open(Box::new(move || source.open_file(&path, inode, size)))
            }
            _ => Content::None,
        };
        let meta = item.meta;
        Change::Put(Entry { path, kind, meta }, content)
    }

    /// Whether any name of the file has changed. The first time it is asked
    /// the whole tree is walked.
    fn has_changed_name(&mut self, inode: Inode) -> io::Result<bool> {
        if let Some(changed) = &self.changed {
            return Ok(changed.contains(&inode));
        }
        let Differ {
            source,
            lower,
            side,
        } = &*self.differ;
        let again = Differ::new(source.clone(), Arc::clone(lower), side.again());
        let mut walk = Arc::new(again).walk();
        let mut changed = HashSet::new();
        while let Some(found) = walk.take() {
            for step in found?.steps {
                if let Step::Item(item, _) = step
                    && item.changed
                    && item.is_linked()
                {
                    changed.insert(item.inode);
                }
            }
        }
        let has = changed.contains(&inode);
        self.changed = Some(changed);
        Ok(has)
    }
}

impl<S: Side> Iterator for Diff<S> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(e) = self.advance() {
            self.frames.clear();
            self.ready.clear();
            self.failed = true;
            return Some(Err(e));
        }
        self.ready.pop_front().map(Ok)
    }
}

/// The root's entry, which is `below` in the lower tree.
pub(super) fn root_entry(
    source: &Source,
    lower: &dyn Tree,
    below: Option<&Node>,
) -> io::Result<Entry> {
    let stat = rustix::fs::fstat(&*source.0)?;
    let mut meta = attr::meta(&stat);
    meta.xattrs = attr::xattrs(source.0.as_fd(), OsStr::new(""))?;
    meta.xattrs.retain(|name, _| attr::is_content(name));
    let root = Path::new("");
    let read = (&mut Kind::Dir, &mut meta);
    source.1.correct(lower, root, read, below)?;
    Ok(Entry {
        path: PathBuf::new(),
        kind: Kind::Dir,
        meta,
    })
}

/// The root's entry, if something else than its mtime differs.
pub(super) fn root_change(source: &Source, lower: &dyn Tree) -> io::Result<Option<Entry>> {
    let root = Path::new("");
    let node = lower.lookup(root, true)?;
    let entry = root_entry(source, lower, node.as_ref())?;
    if let Some(node) = node {
        let attributes = |m: &Meta| (m.mode, m.uid, m.gid);
        let same = attributes(&entry.meta) == attributes(&node.meta);
        if same && lower.xattrs(root)? == entry.meta.xattrs {
            return Ok(None);
        }
    }
    Ok(Some(entry))
}

pub(super) fn size(kind: &Kind) -> u64 {
    match kind {
        Kind::File { size } => *size,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
