//! The difference between two trees, as a list of changes.
//!
//! Two walkers find it: [`overlay`] reads an upper directory, and
//! [`copy::Table::changes`](super::copy::Table::changes) compares a tree with
//! what it was before. Both report, for each directory, which entries are
//! new or may have changed and which are gone, and the rest is done here, so
//! that the list depends on the two trees alone and not on how the change came
//! about:
//!
//! - An entry is left out when kind, mode, owner, mtime, extended attributes
//!   and content are those of the lower tree. A directory like that is in the
//!   list when something below it is; so are all names of a file of which one
//!   name is in it, and they are linked.
//! - What is gone is a whiteout. Where all of a directory's former entries
//!   (two or more) are gone, one opaque marker says so. A socket can't be in a
//!   layer; it counts as nothing.
//! - The root is in the list only if mode, owner or attributes differ.
//! - The order is that of the path's components, byte by byte.
//!
//! A link made between two files that otherwise stayed as they were is no
//! difference. Overlayfs copies a file up under one name only, so where a lower
//! layer's file has several names, a change through one of them leaves the
//! others as they were; in a plain tree all change.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attr::{self, overlay_attr};
use super::walk::{self, Visit, Visited};
use crate::context::{Node, Tree};
use crate::layer::{Change, Content, Entry, Kind, Meta};

/// With fewer entries in an upper directory, each is looked up by itself.
const WORTH_LISTING: usize = 8;

/// What a walker found in one directory.
#[derive(Default)]
pub(super) struct Found {
    /// Entries, in the order of their names; those that are neither changed
    /// nor a directory nor a name of several may be left out.
    pub(super) items: Vec<Item>,
    /// Names that are gone, sorted.
    pub(super) gone: Vec<OsString>,
    /// Whether all names of the lower directory are gone.
    pub(super) all_gone: bool,
}

/// An entry that a walker found.
pub(super) struct Item {
    pub(super) name: OsString,
    pub(super) kind: Kind,
    pub(super) meta: Meta,
    pub(super) inode: (u64, u64),
    pub(super) links: u64,
    pub(super) changed: bool,
    /// Which of the visit's children it is, for a directory.
    pub(super) child: Option<usize>,
}

impl Item {
    /// An entry with all its attributes; `None` for a socket.
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
            child: None,
        }))
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
        let attributes = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.mtime);
        if self.kind != node.kind || attributes(&self.meta) != attributes(&node.meta) {
            return Ok(false);
        }
        if lower.xattrs(path)? != self.meta.xattrs {
            return Ok(false);
        }
        match self.kind {
            Kind::File { size } if size > 0 => same_bytes(content()?, lower.open(path)?),
            _ => Ok(true),
        }
    }
}

fn same_bytes(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right[..1])? == 0);
        }
        match b.read_exact(&mut right[..n]) {
            Ok(()) if left[..n] == right[..n] => {}
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}

/// The tree that changed files are read from.
#[derive(Clone)]
pub(super) struct Source(pub(super) Arc<OwnedFd>);

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| at(path, e.into()))?;
        Ok(Self(Arc::new(fd)))
    }

    pub(super) fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        walk::open_beneath(self.0.as_fd(), path, flags).map_err(|e| at(path, e))
    }

    /// Opens a regular file, if it is still the one that was found.
    // The field types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(super) fn open_file(&self, path: &Path, inode: (u64, u64), size: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = walk::open_beneath(self.0.as_fd(), path, flags).map_err(|e| at(path, e))?;
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

/// Makes the list of changes of what the walker found. `root` is the root
/// directory's entry, if that changed.
pub(super) fn assemble(
    source: &Source,
    mut found: Vec<Visited<Found>>,
    root: Option<Entry>,
) -> Vec<Change> {
    mark_links(&mut found);
    let alive = alive(&found);
    let mut changes = Vec::new();
    changes.extend(root.map(|entry| Change::Put(entry, Content::None)));
    // First names of files with several.
    let mut first: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut stack = Vec::new();
    if let Some(top) = found.first_mut() {
        stack.push(Cursor::new(top, PathBuf::new(), &mut changes));
    }
    while let Some(cursor) = stack.last_mut() {
        let Some(step) = cursor.steps.next() else {
            stack.pop();
            continue;
        };
        let (item, first_child) = match step {
            Step::Gone(name) => {
                changes.push(Change::Whiteout(cursor.path.join(name)));
                continue;
            }
            Step::Item(item) => (item, cursor.first_child),
        };
        let child = item.child.map(|n| first_child + n);
        let needed = child.is_some_and(|n| alive.get(n).copied().unwrap_or(false));
        if !item.changed && !needed {
            continue;
        }
        let path = cursor.path.join(&item.name);
        changes.push(put(source, item, path.clone(), &mut first));
        if needed && let Some(below) = child.and_then(|n| found.get_mut(n)) {
            stack.push(Cursor::new(below, path, &mut changes));
        }
    }
    changes
}

enum Step {
    Item(Item),
    Gone(OsString),
}

struct Cursor {
    path: PathBuf,
    first_child: usize,
    steps: std::vec::IntoIter<Step>,
}

impl Cursor {
    /// Begins a directory; an opaque marker comes before its entries.
    fn new(visited: &mut Visited<Found>, path: PathBuf, changes: &mut Vec<Change>) -> Self {
        let found = std::mem::take(&mut visited.result);
        let opaque = found.all_gone && found.gone.len() >= 2;
        let mut steps: Vec<Step> = found.items.into_iter().map(Step::Item).collect();
        if opaque {
            changes.push(Change::Opaque(path.clone()));
        } else if !found.gone.is_empty() {
            steps.extend(found.gone.into_iter().map(Step::Gone));
            steps.sort_by(|a, b| a.name().cmp(b.name()));
        }
        Self {
            path,
            first_child: visited.first_child,
            steps: steps.into_iter(),
        }
    }
}

impl Step {
    fn name(&self) -> &OsStr {
        match self {
            Self::Item(item) => &item.name,
            Self::Gone(name) => name,
        }
    }
}

/// One name of a file that changed makes all its names change.
fn mark_links(found: &mut [Visited<Found>]) {
    let is_linked = |item: &Item| item.links > 1 && item.kind != Kind::Dir;
    let mut changed: HashMap<(u64, u64), bool> = HashMap::new();
    for item in found.iter().flat_map(|v| &v.result.items) {
        if is_linked(item) {
            *changed.entry(item.inode).or_default() |= item.changed;
        }
    }
    for item in found.iter_mut().flat_map(|v| &mut v.result.items) {
        if is_linked(item) {
            item.changed = changed.get(&item.inode).copied().unwrap_or(true);
        }
    }
}

/// For each directory, whether anything below it is in the list.
fn alive(found: &[Visited<Found>]) -> Vec<bool> {
    let mut alive = vec![false; found.len()];
    // Children come after their parents.
    for (number, visited) in found.iter().enumerate().rev() {
        let below = |item: &Item| {
            let child = item.child.map(|n| visited.first_child + n);
            child.is_some_and(|n| alive.get(n).copied().unwrap_or(false))
        };
        let items = &visited.result.items;
        alive[number] =
            !visited.result.gone.is_empty() || items.iter().any(|item| item.changed || below(item));
    }
    alive
}

fn put(
    source: &Source,
    item: Item,
    path: PathBuf,
    first: &mut HashMap<(u64, u64), PathBuf>,
) -> Change {
    let (mut kind, inode) = (item.kind, item.inode);
    if item.links > 1 && kind != Kind::Dir {
        match first.get(&inode) {
            Some(target) => {
                let target = target.clone();
                kind = Kind::Hardlink { target };
            }
            None => {
                first.insert(inode, path.clone());
            }
        }
    }
    let content = match kind {
        Kind::File { size } if size > 0 => {
            let (source, path) = (source.clone(), path.clone());
            Content::Open(Box::new(move || source.open_file(&path, inode, size)))
        }
        _ => Content::None,
    };
    let meta = item.meta;
    Change::Put(Entry { path, kind, meta }, content)
}

/// The root's entry, if something else than its mtime differs.
pub(super) fn root_change(source: &Source, lower: &dyn Tree) -> io::Result<Option<Entry>> {
    let stat = rustix::fs::fstat(&*source.0)?;
    let mut meta = attr::meta(&stat);
    meta.xattrs = attr::xattrs(source.0.as_fd(), OsStr::new(""))?;
    meta.xattrs.retain(|name, _| attr::is_content(name));
    let root = Path::new("");
    if let Some(node) = lower.lookup(root, true)? {
        let attributes = |m: &Meta| (m.mode, m.uid, m.gid);
        if attributes(&meta) == attributes(&node.meta) && lower.xattrs(root)? == meta.xattrs {
            return Ok(None);
        }
    }
    Ok(Some(Entry {
        path: PathBuf::new(),
        kind: Kind::Dir,
        meta,
    }))
}

/// The changes that the upper directory `upper` makes to `lower`.
///
/// The overlay must be unmounted, or at least at rest, until the contents have
/// been read: they are opened one after the other, and one that is no longer
/// the file that was found is an error.
///
/// # Errors
/// When something can't be read, or `upper` was made with overlayfs features
/// (`redirect_dir`, `metacopy`) that hide content in other places.
pub fn overlay(upper: &Path, lower: &dyn Tree) -> io::Result<Vec<Change>> {
    let source = Source::open(upper)?;
    let root = root_change(&source, lower)?;
    let marks = attr::dir_marks(source.0.as_fd())?;
    let first = UpperDir {
        path: PathBuf::new(),
        in_lower: true,
        opaque: marks.opaque,
        xattr_whiteouts: marks.xattr_whiteouts,
    };
    let found = walk::visit_all(first, |dir| visit_upper(&source, lower, dir))?;
    Ok(assemble(&source, found, root))
}

/// A directory of the upper tree.
struct UpperDir {
    path: PathBuf,
    /// Whether the lower tree has a directory there.
    in_lower: bool,
    /// Whether nothing of the lower tree is seen in it.
    opaque: bool,
    xattr_whiteouts: bool,
}

/// What the lower tree has in a directory.
enum Lower<'a> {
    Nothing,
    Listed(Vec<(OsString, Node)>),
    Asked(&'a dyn Tree, &'a Path),
}

impl Lower<'_> {
    fn get(&self, name: &OsStr) -> io::Result<Option<Node>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Listed(entries) => {
                let found = entries.binary_search_by(|(n, _)| n.as_os_str().cmp(name));
                Ok(found.ok().map(|i| entries[i].1.clone()))
            }
            Self::Asked(tree, dir) => tree.lookup(&dir.join(name), false),
        }
    }
}

fn visit_upper(
    source: &Source,
    lower: &dyn Tree,
    dir: UpperDir,
) -> io::Result<Visit<UpperDir, Found>> {
    let fd = source.open_dir(&dir.path)?;
    let entries = walk::list(fd.as_fd()).map_err(|e| at(&dir.path, e))?;
    let removed =
        |stat: &Stat| attr::is_whiteout(stat) || attr::file_type(stat) == FileType::Socket;
    let below = if !dir.in_lower {
        Lower::Nothing
    } else if dir.opaque
        || entries.len() >= WORTH_LISTING
        || entries.iter().filter(|(_, s)| removed(s)).count() >= 2
    {
        Lower::Listed(lower.read_dir(&dir.path)?)
    } else {
        Lower::Asked(lower, &dir.path)
    };
    let mut found = Found::default();
    let mut children = Vec::new();
    for (name, stat) in &entries {
        let node = below.get(name)?;
        let path = dir.path.join(name);
        let item = read_upper(&fd, &dir, name, stat).map_err(|e| at(&path, e))?;
        let Some((mut item, opaque, xattr_whiteouts)) = item else {
            if node.is_some() {
                found.gone.push(name.clone());
            }
            continue;
        };
        if let Some(node) = &node {
            let open = || source.open_file(&path, item.inode, size(&item.kind));
            item.changed = !item.equals(lower, &path, node, open)?;
        }
        if item.kind == Kind::Dir {
            item.child = Some(children.len());
            children.push(UpperDir {
                path,
                in_lower: node.is_some_and(|n| n.kind == Kind::Dir),
                opaque: dir.opaque || opaque,
                xattr_whiteouts,
            });
        }
        found.items.push(item);
    }
    if let Lower::Listed(lower_entries) = &below {
        if dir.opaque {
            let here = |name: &OsString| entries.binary_search_by(|(n, _)| n.cmp(name)).is_ok();
            let names = lower_entries.iter().map(|(n, _)| n);
            found.gone.extend(names.filter(|n| !here(n)).cloned());
            found.gone.sort_unstable();
        }
        found.all_gone = found.gone.len() == lower_entries.len();
    }
    Ok(Visit {
        children,
        result: found,
    })
}

/// An entry of an upper directory, with whether it is opaque and whether it
/// has whiteouts by attribute; `None` for what stands for nothing.
fn read_upper(
    fd: &OwnedFd,
    dir: &UpperDir,
    name: &OsStr,
    stat: &Stat,
) -> io::Result<Option<(Item, bool, bool)>> {
    if attr::is_whiteout(stat) {
        return Ok(None);
    }
    let Some(mut item) = Item::read(fd, name, stat)? else {
        return Ok(None);
    };
    let mut xattrs = attr::xattrs(fd.as_fd(), name)?;
    if dir.xattr_whiteouts
        && item.kind == (Kind::File { size: 0 })
        && overlay_attr(&xattrs, "whiteout").is_some()
    {
        return Ok(None);
    }
    for feature in ["redirect", "metacopy"] {
        if overlay_attr(&xattrs, feature).is_some() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it was written by an overlay with {feature}, whose layers can't be read"),
            ));
        }
    }
    let mark = overlay_attr(&xattrs, "opaque");
    let (opaque, xattr_whiteouts) = (mark == Some(b"y"), mark == Some(b"x"));
    xattrs.retain(|name, _| attr::is_content(name));
    item.meta.xattrs = xattrs;
    Ok(Some((item, opaque, xattr_whiteouts)))
}

pub(super) fn size(kind: &Kind) -> u64 {
    match kind {
        Kind::File { size } => *size,
        _ => 0,
    }
}

/// Whether an error says that something is not there.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR)
    )
}

#[cfg(test)]
mod tests;
