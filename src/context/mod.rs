//! Named trees that COPY and ADD may read.
//!
//! [`Tree`] is the one way to look at files that nobody vouches for: a build
//! context, a stage's root filesystem, an unpacked archive. Every path is
//! resolved inside the tree, links included.

pub mod auth;
pub mod checksum;
mod digests;
pub mod entries;
pub mod git;
pub mod glob;
pub mod http;
pub mod ignore;
pub mod local;
pub mod names;
pub mod pattern;
mod picked;
pub mod select;
mod similar;
pub mod source;
mod stat_table;
pub mod stats;
pub mod tar;
mod walk;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use names::DirNames;

use crate::digest::Sha256;
use crate::layer::{Kind, Meta, Mtime};

/// What a tree says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is; never [`Kind::Hardlink`]. A socket is not shown at all.
    pub kind: Kind,
    /// Its attributes; extended attributes are empty, see [`Tree::xattrs`] and
    /// [`Tree::list`].
    pub meta: Meta,
    /// Time of the last change of anything in it.
    pub ctime: Mtime,
    /// Device and inode: equal for two names of one file.
    pub inode: (u64, u64),
    /// How many names the file has.
    pub links: u64,
    /// The digest of its content where the tree knows it.
    pub digest: Option<Sha256>,
}

/// Files to read from.
///
/// Paths are relative to the tree's root; a leading `/` and `..` above the
/// root are taken as the root. Links are resolved as if the tree were `/`.
pub trait Tree: Send + Sync {
    /// The entry at `path`, `None` where there is none. With `follow` a link
    /// at the end is followed too.
    fn lookup(&self, path: &Path, follow: bool) -> io::Result<Option<Node>>;
    /// The entries of the directory `path` (followed), sorted by name's bytes.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>>;
    /// Calls `each` with the name of every entry of the directory `path`
    /// (followed), in any order.
    fn each_name(&self, path: &Path, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        for (name, _) in self.read_dir(path)? {
            each(&name);
        }
        Ok(())
    }
    /// [`read_dir`](Self::read_dir) with extended attributes and the digests
    /// that are known, for a directory that was found by listing the ones above
    /// it: one with a link in `path` is an error.
    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let mut entries = self.read_dir(path)?;
        for (name, node) in &mut entries {
            if !matches!(node.kind, Kind::Symlink { .. }) {
                node.meta.xattrs = self.xattrs(&path.join(name))?;
            }
        }
        Ok(entries)
    }
    /// The names in a directory that was found by listing the ones above it,
    /// for [`list_some`](Self::list_some); `None` where only all of it can be
    /// listed at once.
    fn names(&self, path: &Path) -> io::Result<Option<DirNames>> {
        let _ = path;
        Ok(None)
    }
    /// What [`list`](Self::list) says of the entries `some` of `names`.
    fn list_some(
        &self,
        path: &Path,
        names: &DirNames,
        some: Range<usize>,
    ) -> io::Result<Vec<(OsString, Node)>> {
        let _ = (names, some);
        self.list(path)
    }
    /// Opens the regular file at `path` (followed); nothing but a regular file
    /// is ever opened.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Whether the regular file at `path` (followed) has the bytes of `other`,
    /// which is read from where it stands to its end.
    fn has_content(&self, path: &Path, other: File) -> io::Result<bool> {
        same_bytes(other, self.open(path)?)
    }
    /// [`open`](Self::open) for a file that was found by listing the directories above it:
    /// one with a link in `path` is an error.
    fn open_listed(&self, path: &Path) -> io::Result<File> {
        self.open(path)
    }
    /// Takes note of the digest of a file that has no extended attributes to
    /// copy, was read from the instant `read` on, and had this status before and
    /// after.
    fn learn(&self, stamp: &stats::Stamp, digest: Sha256, read: SystemTime) {
        let _ = (stamp, digest, read);
    }
    /// Extended attributes of the entry (not followed), sorted by name, those
    /// of overlayfs left out.
    fn xattrs(&self, path: &Path) -> io::Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>;
    /// `path` with all links in it resolved, the last component included; what
    /// does not exist is kept as it is (with `..` applied).
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// Whether there is something at `path` that the tree leaves out on
    /// purpose; only for messages.
    fn is_left_out(&self, path: &Path) -> bool {
        let _ = path;
        false
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

/// A tree with nothing in it: what `FROM scratch` starts from.
#[derive(Debug, Clone, Copy)]
pub struct Empty;

impl Tree for Empty {
    fn lookup(&self, path: &Path, _: bool) -> io::Result<Option<Node>> {
        let is_name = |c| matches!(c, std::path::Component::Normal(_));
        Ok((!path.components().any(is_name)).then(|| Node {
            kind: Kind::Dir,
            meta: Meta {
                mode: 0o755,
                ..Meta::default()
            },
            ctime: Mtime::default(),
            inode: (0, 0),
            links: 1,
            digest: None,
        }))
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        match self.lookup(path, true)? {
            Some(_) => Ok(Vec::new()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn open(&self, _: &Path) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn xattrs(&self, _: &Path) -> io::Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>> {
        Ok(std::collections::BTreeMap::new())
    }
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(ignore::tidy(path))
    }
}
