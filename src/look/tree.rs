//! Paths of an image with what each layer made of them.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::diff::Aspects;
use crate::digest::Sha256;
use crate::layer::{Kind, Meta};

/// A path that some layer had something at. Parents have smaller numbers than
/// what is below them; [`Tree::ROOT`] is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

/// What was at a path; hard links lead to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub(super) u32);

/// Nothing, where a number is a place in a list.
pub(super) const NONE: u32 = u32::MAX;
/// Links followed on the way to one entry, as the kernel has it.
pub(super) const MAX_LINKS: usize = 40;

/// A file, directory or other thing in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is. [`Kind::Hardlink`] only where its target does not exist.
    pub kind: Kind,
    /// Its attributes.
    pub meta: Meta,
    /// Of a file that is not empty.
    pub digest: Option<Sha256>,
    /// The layer that gave it, counted from 0.
    pub layer: usize,
    /// Where it is in that layer; `None` for a directory that no layer has an
    /// entry for: it is made 0755 root:root.
    pub origin: Option<Origin>,
}

/// Where an entry is in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its number among the elements of the layer, from 0.
    pub entry: u64,
    /// Where its first header begins in the tar.
    pub header: u64,
    /// Where its stored bytes begin.
    pub data: u64,
    /// It has holes, so that the stored bytes are not its content.
    pub sparse: bool,
}

impl Inode {
    /// Bytes of a file; 0 for all else.
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size } => size,
            _ => 0,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) name: Arc<[u8]>,
    /// The newest.
    pub(super) version: u32,
}

/// What a layer made of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    /// The one before.
    pub(super) before: u32,
    pub(super) layer: u32,
    /// [`NONE`] where it was removed.
    pub(super) inode: u32,
}

/// What a layer did to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The path.
    pub node: NodeId,
    /// What was there.
    pub before: Option<InodeId>,
    /// What is there now.
    pub after: Option<InodeId>,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// There was nothing.
    Added,
    /// There was something else.
    Changed,
    /// There is nothing any more.
    Removed,
    /// The layer has an entry that says what was known already, or (for a
    /// directory) only another time.
    Same,
}

/// All paths of an image, and their history.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) inodes: Vec<Inode>,
    pub(super) versions: Vec<Version>,
    pub(super) changes: Vec<Vec<Change>>,
    pub(super) problems: Vec<(usize, String)>,
    /// Nodes by parent and name, and where each parent's begin.
    pub(super) sorted: Vec<NodeId>,
    pub(super) begins: Vec<u32>,
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// How many layers it was made of.
    pub fn layers(&self) -> usize {
        self.changes.len()
    }

    /// All paths that ever were, parents first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// What is below the directory `node` or ever was, by name. Ask
    /// [`now`](Self::now) or [`at`](Self::at) what is still there.
    pub fn children(&self, node: NodeId) -> &[NodeId] {
        let at = |n: u32| self.begins.get(n as usize).map_or(0, |b| *b as usize);
        let range = at(node.0)..at(node.0 + 1);
        self.sorted.get(range).unwrap_or_default()
    }

    /// The directory that `node` is in; `None` for the root.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        (node != Self::ROOT).then(|| NodeId(self.node(node).parent))
    }

    /// The last component of the path; empty for the root.
    pub fn name(&self, node: NodeId) -> &[u8] {
        &self.node(node).name
    }

    /// The path, relative; empty for the root.
    pub fn path(&self, node: NodeId) -> PathBuf {
        let mut parts = Vec::new();
        let mut here = node;
        while let Some(parent) = self.parent(here) {
            parts.push(self.name(here));
            here = parent;
        }
        parts.reverse();
        PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/')))
    }

    /// What is at `node` in the finished image.
    pub fn now(&self, node: NodeId) -> Option<InodeId> {
        let version = self.versions.get(self.node(node).version as usize)?;
        live(version.inode)
    }

    /// What is at `node` when `layer` (counted from 0) and those below it were
    /// applied.
    pub fn at(&self, node: NodeId, layer: usize) -> Option<InodeId> {
        let (_, inode) = self.versions(node).find(|(by, _)| *by <= layer)?;
        inode
    }

    /// What the layers made of `node`, the newest first: the layer, and what
    /// was there then; `None` where the layer removed it.
    pub fn versions(&self, node: NodeId) -> impl Iterator<Item = (usize, Option<InodeId>)> {
        let mut next = self.node(node).version;
        std::iter::from_fn(move || {
            let version = self.versions.get(next as usize)?;
            next = version.before;
            Some((version.layer as usize, live(version.inode)))
        })
    }

    /// What is known of an inode.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }

    /// What `layer` did, in the order in which its entries first touched the
    /// paths; what it put below a directory that it replaced among it.
    pub fn changes(&self, layer: usize) -> &[Change] {
        self.changes.get(layer).map_or(&[], Vec::as_slice)
    }

    /// Which kind of change it is, and in what the two differ.
    pub fn kind(&self, change: &Change) -> (ChangeKind, Aspects) {
        match (change.before, change.after) {
            (None, None) => (ChangeKind::Same, Aspects::default()),
            (None, Some(_)) => (ChangeKind::Added, Aspects::default()),
            (Some(_), None) => (ChangeKind::Removed, Aspects::default()),
            (Some(before), Some(after)) => {
                let (before, after) = (self.inode(before), self.inode(after));
                let aspects = Aspects::between(before, after);
                let same = after.is_dir() && aspects.is_only_mtime();
                match same || aspects.is_empty() {
                    true => (ChangeKind::Same, aspects),
                    false => (ChangeKind::Changed, aspects),
                }
            }
        }
    }

    /// What made no sense in layers, as an unpacker would refuse it: the
    /// layer, and what is wrong.
    pub fn problems(&self) -> &[(usize, String)] {
        &self.problems
    }

    /// The node at `path` in the finished image, links on the way followed,
    /// and the last one too if `follow` says so.
    pub fn find(&self, path: &Path, follow: bool) -> Option<NodeId> {
        let mut stack = vec![Self::ROOT];
        let mut todo = components(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = *stack.last()?;
            let node = self.child(here, name.as_bytes())?;
            match &self.inode(self.now(node)?).kind {
                Kind::Symlink { target } if follow || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.has_root() {
                        stack.truncate(1);
                    }
                    todo.extend(components(target));
                }
                kind if *kind != Kind::Dir && !todo.is_empty() => return None,
                _ => stack.push(node),
            }
        }
        stack.pop()
    }

    /// What is or was at `name` in a directory.
    pub fn child(&self, node: NodeId, name: &[u8]) -> Option<NodeId> {
        let children = self.children(node);
        let at = children
            .binary_search_by(|c| self.name(*c).cmp(name))
            .ok()?;
        Some(children[at])
    }

    /// Bytes of the files at and below each node when `layer` was applied, by
    /// [`NodeId::index`]. A file with several names counts at each of them.
    pub fn sizes(&self, layer: usize) -> Vec<u64> {
        let mut sizes = vec![0_u64; self.nodes.len()];
        for node in self.nodes().rev() {
            if let Some(inode) = self.at(node, layer) {
                let own = sizes[node.index()].saturating_add(self.inode(inode).size());
                sizes[node.index()] = own;
                if let Some(parent) = self.parent(node) {
                    let sum = &mut sizes[parent.index()];
                    *sum = sum.saturating_add(own);
                }
            }
        }
        sizes
    }

    pub(super) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0 as usize]
    }
}

impl NodeId {
    /// Its number, for tables beside the tree.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

fn live(inode: u32) -> Option<InodeId> {
    (inode != NONE).then_some(InodeId(inode))
}

/// The parts of a path, the first one last; `..` among them.
pub(super) fn components(path: &Path) -> Vec<std::ffi::OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut parts: Vec<_> = parts.map(OsStr::to_owned).collect();
    parts.reverse();
    parts
}
