//! Owners, devices and capabilities of trees that do not have them on disk.
//!
//! Where a process has one user id, a step cannot give a file to another user,
//! and what it copies up of a file that belongs to one becomes its own. So
//! what an entry should have is guessed: what the entry had below, and for a
//! new one the owner of a file that the step's user makes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Merged;
use crate::context::{Node, Tree};
use crate::layer::ids::IdMaps;
use crate::layer::notes::{CAPABILITY, Noted, Notes};
use crate::layer::{Kind, Meta};

/// What the disk does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guess {
    /// The owner of what is new, where owners on disk mean nothing.
    pub owner: Option<(u32, u32)>,
}

/// How what was read from the disk becomes what it stands for.
#[derive(Debug, Clone)]
pub enum Kept {
    /// It is all there.
    OnDisk,
    /// There are notes.
    Noted(Notes),
    /// It is guessed.
    Guessed(Guess),
    /// Owners on disk are the host's; of the rest it is as the other says.
    Mapped(IdMaps, Box<Kept>),
}

impl Kept {
    /// Whether [`correct`](Self::correct) needs to know what is below.
    pub(super) fn needs_lower(&self) -> bool {
        match self {
            Self::OnDisk | Self::Noted(_) => false,
            Self::Guessed(_) => true,
            Self::Mapped(_, rest) => rest.needs_lower(),
        }
    }

    /// Corrects what was read of the entry `path`, which is `below` in the
    /// lower tree.
    pub(super) fn correct(
        &self,
        lower: &dyn Tree,
        path: &Path,
        (kind, meta): (&mut Kind, &mut Meta),
        below: Option<&Node>,
    ) -> io::Result<()> {
        match self {
            Self::OnDisk => Ok(()),
            Self::Noted(notes) => {
                notes.correct(path, kind, meta);
                if let Some(value) = notes.capability(path) {
                    meta.xattrs.insert(CAPABILITY.to_vec(), value.to_vec());
                }
                Ok(())
            }
            Self::Guessed(guess) => guess.correct(lower, path, (kind, meta), below),
            Self::Mapped(ids, rest) => {
                let owner = (meta.uid, meta.gid);
                let foreign = || {
                    let (uid, gid) = owner;
                    io::Error::other(format!(
                        "{} belongs to {uid}:{gid}, which the maps of ids don't have",
                        path.display()
                    ))
                };
                (meta.uid, meta.gid) = ids.to_image(owner).ok_or_else(foreign)?;
                rest.correct(lower, path, (kind, meta), below)
            }
        }
    }
}

impl Guess {
    fn correct(
        self,
        lower: &dyn Tree,
        path: &Path,
        (kind, meta): (&mut Kind, &mut Meta),
        below: Option<&Node>,
    ) -> io::Result<()> {
        if let Some(owner) = self.owner {
            (meta.uid, meta.gid) = below.map_or(owner, |n| (n.meta.uid, n.meta.gid));
        }
        let Some(below) = below else { return Ok(()) };
        let same_time = below.meta.mtime.secs == meta.mtime.secs;
        let device = matches!(below.kind, Kind::Char { .. } | Kind::Block { .. });
        if device && same_time && *kind == (Kind::File { size: 0 }) {
            *kind = below.kind.clone();
        }
        if self.owner.is_some()
            && same_time
            && *kind == below.kind
            && let Some(value) = lower.xattrs(path)?.remove(CAPABILITY)
        {
            meta.xattrs.insert(CAPABILITY.to_vec(), value);
        }
        Ok(())
    }
}

/// A tree in which nothing is later than a time.
#[derive(Debug)]
pub struct Clamped {
    tree: Merged,
    latest: i64,
}

impl Clamped {
    /// `tree` with mtimes of `latest`, in seconds, at most.
    pub fn new(tree: Merged, latest: i64) -> Self {
        Self { tree, latest }
    }

    fn node(&self, mut node: Node) -> Node {
        super::tree::clamp(&mut node.meta.mtime, self.latest);
        node
    }
}

impl Tree for Clamped {
    fn lookup(&self, path: &Path, follow: bool) -> io::Result<Option<Node>> {
        let found = self.tree.lookup(path, follow)?;
        Ok(found.map(|node| self.node(node)))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let entries = self.tree.read_dir(path)?.into_iter();
        Ok(entries
            .map(|(name, node)| (name, self.node(node)))
            .collect())
    }

    fn each_name(&self, path: &Path, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        self.tree.each_name(path, each)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.tree.open(path)
    }

    fn xattrs(&self, path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        self.tree.xattrs(path)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.tree.resolve(path)
    }
}

/// Writes the notes of `upper`, the upper directory of a step that is over.
///
/// # Errors
/// When something can't be read or the notes can't be written.
pub fn note(upper: &Path, lower: &dyn Tree, guess: Guess) -> io::Result<()> {
    let top = Merged::new(vec![upper.to_owned()])?;
    let mut notes = Notes::new(guess.owner.is_some());
    let mut todo = vec![PathBuf::new()];
    if let Some(root) = top.lookup(Path::new(""), false)? {
        note_one(lower, PathBuf::new(), root, guess, &mut notes)?;
    }
    while let Some(dir) = todo.pop() {
        for (name, node) in top.read_dir(&dir)? {
            let path = dir.join(name);
            if node.kind == Kind::Dir {
                todo.push(path.clone());
            }
            note_one(lower, path, node, guess, &mut notes)?;
        }
    }
    notes.write(upper)
}

fn note_one(
    lower: &dyn Tree,
    path: PathBuf,
    node: Node,
    guess: Guess,
    notes: &mut Notes,
) -> io::Result<()> {
    let below = lower.lookup(&path, false)?;
    let (mut kind, mut meta) = (node.kind.clone(), node.meta);
    meta.xattrs = BTreeMap::new();
    guess.correct(lower, &path, (&mut kind, &mut meta), below.as_ref())?;
    let noted = Noted {
        uid: meta.uid,
        gid: meta.gid,
        capability: meta.xattrs.remove(CAPABILITY),
        device: (kind != node.kind).then_some(kind),
    };
    notes.set(&path, noted);
    Ok(())
}
