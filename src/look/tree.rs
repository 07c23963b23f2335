//! Paths of an image with what each layer made of them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::diff::Aspects;
use super::inodes::Inodes;
use super::names::{Names, Sorted};
use super::versions::{Version, Versions};
use crate::digest::Sha256;
use crate::layer::frames::{Frames, NONE};
use crate::layer::pile::Spools;
use crate::layer::{Kind, Meta};

/// A path that some layer had something at. Parents have smaller numbers than
/// what is below them; [`Tree::ROOT`] is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

/// What was at a path; hard links lead to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub(super) u32);

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

pub(super) fn size_of(kind: &Kind) -> u64 {
    match kind {
        Kind::File { size } => *size,
        _ => 0,
    }
}

impl Inode {
    /// Bytes of a file; 0 for all else.
    pub fn size(&self) -> u64 {
        size_of(&self.kind)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
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

/// What the layers made of all paths.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) names: Names,
    /// The newest version of each node.
    pub(super) newest: Frames,
    pub(super) versions: Versions,
    pub(super) inodes: Inodes,
}

impl Nodes {
    /// None. Names lie in one of `spools`.
    pub(super) fn new(spools: Spools) -> Self {
        Self {
            names: Names::new(spools),
            newest: Frames::default(),
            versions: Versions::default(),
            inodes: Inodes::default(),
        }
    }

    /// The version with this number.
    pub(super) fn version(&self, number: u32) -> Option<Version> {
        self.versions.get(number, &self.inodes)
    }

    /// What is at a node now.
    pub(super) fn now(&self, node: u32) -> Option<u32> {
        self.versions.inode(self.newest.get(node as usize))
    }
}

/// All paths of an image, and their history.
///
/// It has some tens of bytes for each path. Of what is there it knows kind and
/// size, and looks all else up in the indexes, which is cheap in the order that
/// they have it in.
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: Nodes,
    /// For each layer the nodes that it touched.
    pub(super) touched: Vec<Frames>,
    pub(super) problems: Vec<(usize, String)>,
    /// Nodes by parent and name.
    pub(super) sorted: Sorted,
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// How many layers it was made of.
    pub fn layers(&self) -> usize {
        self.touched.len()
    }

    /// All paths that ever were, parents first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.names.len() as u32).map(NodeId)
    }

    /// What is below the directory `node` or ever was, by name. Ask
    /// [`now`](Self::now) or [`at`](Self::at) what is still there.
    pub fn children(&self, node: NodeId) -> &[NodeId] {
        self.sorted.of(node.0)
    }

    /// All paths that ever were, in order: each before what is below it, by
    /// name. The root, which comes first, has depth 0.
    pub fn walk(&self) -> impl Iterator<Item = (NodeId, usize)> {
        let mut root = Some(Self::ROOT);
        let mut above: Vec<std::slice::Iter<'_, NodeId>> = Vec::new();
        std::iter::from_fn(move || {
            let node = match root.take() {
                Some(root) => root,
                None => loop {
                    match above.last_mut()?.next() {
                        Some(node) => break *node,
                        None => above.pop(),
                    };
                },
            };
            let depth = above.len();
            above.push(self.children(node).iter());
            Some((node, depth))
        })
    }

    /// The directory that `node` is in; `None` for the root.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        (node != Self::ROOT).then(|| NodeId(self.nodes.names.parent(node.0)))
    }

    /// How many directories lead to `node`; 0 for the root.
    pub fn depth(&self, node: NodeId) -> usize {
        std::iter::successors(self.parent(node), |above| self.parent(*above)).count()
    }

    /// The last component of the path; empty for the root.
    pub fn name(&self, node: NodeId) -> &[u8] {
        self.nodes.names.name(node.0)
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
        self.nodes.now(node.0).map(InodeId)
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
        let mut next = self.nodes.newest.get(node.index());
        std::iter::from_fn(move || {
            let version = self.nodes.version(next)?;
            next = version.before;
            Some((version.layer as usize, live(version.inode)))
        })
    }

    /// What is known of an inode.
    ///
    /// # Errors
    /// When the index of its layer can't be read any more.
    pub fn inode(&self, id: InodeId) -> io::Result<Inode> {
        self.nodes.inodes.get(id.0)
    }

    /// Bytes of a file; 0 for all else.
    pub fn size(&self, id: InodeId) -> u64 {
        self.nodes.inodes.size(id.0)
    }

    /// The layer that gave an inode, counted from 0.
    pub fn layer(&self, id: InodeId) -> usize {
        self.nodes.inodes.layer(id.0) as usize
    }

    /// The letter that stands for a kind of inode: `f` for files, `d` for
    /// directories, `l` and `h` for links, `c` and `b` for devices, `p` for
    /// pipes.
    pub fn letter(&self, id: InodeId) -> u8 {
        self.nodes.inodes.letter(id.0)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self, id: InodeId) -> bool {
        self.letter(id) == b'd'
    }

    /// What `layer` did, in the order in which its entries first touched the
    /// paths; what it put below a directory that it replaced among it.
    pub fn changes(&self, layer: usize) -> impl Iterator<Item = Change> {
        let nodes = self.touched.get(layer).into_iter().flat_map(Frames::iter);
        nodes.filter_map(move |node| {
            let node = NodeId(node);
            let mut versions = self.versions(node).skip_while(|(by, _)| *by > layer);
            let (_, after) = versions.next()?;
            let before = versions.next().and_then(|(_, inode)| inode);
            let change = Change {
                node,
                before,
                after,
            };
            (before.is_some() || after.is_some()).then_some(change)
        })
    }

    /// Which kind of change it is, and in what the two differ.
    ///
    /// # Errors
    /// As [`inode`](Self::inode).
    pub fn kind(&self, change: &Change) -> io::Result<(ChangeKind, Aspects)> {
        Ok(match (change.before, change.after) {
            (None, None) => (ChangeKind::Same, Aspects::default()),
            (None, Some(_)) => (ChangeKind::Added, Aspects::default()),
            (Some(_), None) => (ChangeKind::Removed, Aspects::default()),
            (Some(before), Some(after)) => {
                let (before, after) = (self.inode(before)?, self.inode(after)?);
                let aspects = Aspects::between(&before, &after);
                let same = after.is_dir() && aspects.is_only_mtime();
                match same || aspects.is_empty() {
                    true => (ChangeKind::Same, aspects),
                    false => (ChangeKind::Changed, aspects),
                }
            }
        })
    }

    /// What made no sense in layers, as an unpacker would refuse it: the
    /// layer, and what is wrong.
    pub fn problems(&self) -> &[(usize, String)] {
        &self.problems
    }

    /// The node at `path` in the finished image, links on the way followed,
    /// and the last one too if `follow` says so.
    ///
    /// # Errors
    /// As [`inode`](Self::inode).
    pub fn find(&self, path: &Path, follow: bool) -> io::Result<Option<NodeId>> {
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
            let Some(here) = stack.last().copied() else {
                break;
            };
            let node = self.child(here, name.as_bytes());
            let Some((node, inode)) = node.and_then(|n| Some((n, self.now(n)?))) else {
                return Ok(None);
            };
            match self.letter(inode) {
                b'l' if follow || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(None);
                    }
                    if let Kind::Symlink { target } = self.inode(inode)?.kind {
                        if target.has_root() {
                            stack.truncate(1);
                        }
                        todo.extend(components(&target));
                    }
                }
                letter if letter != b'd' && !todo.is_empty() => return Ok(None),
                _ => stack.push(node),
            }
        }
        Ok(stack.pop())
    }

    /// What is or was at `name` in a directory.
    pub fn child(&self, node: NodeId, name: &[u8]) -> Option<NodeId> {
        let children = self.children(node);
        let at = children
            .binary_search_by(|c| self.name(*c).cmp(name))
            .ok()?;
        Some(children[at])
    }

    /// Bytes at and below each node: `own` are those at one, which count for
    /// the directory that it is in, with all below it, if `counts` says so.
    pub fn sums(
        &self,
        own: impl Fn(NodeId) -> u64,
        counts: impl Fn(NodeId, NodeId) -> bool,
    ) -> Sums {
        let mut sums = vec![0_u64; self.parents()];
        for node in self.nodes().rev() {
            let mut sum = own(node);
            if let Some(place) = self.place(node) {
                sum = sum.saturating_add(sums[place]);
                sums[place] = sum;
            }
            if let Some(parent) = self.parent(node)
                && counts(node, parent)
                && let Some(place) = self.place(parent)
            {
                sums[place] = sums[place].saturating_add(sum);
            }
        }
        Sums(sums)
    }

    /// A small number for each node that something is below, now or ever; below
    /// [`parents`](Self::parents).
    pub fn place(&self, node: NodeId) -> Option<usize> {
        self.sorted.parents.place(node.0)
    }

    /// How many nodes something is below, now or ever.
    pub fn parents(&self) -> usize {
        self.sorted.parents.len()
    }

    /// The sum at `node`; `None` where nothing is below it, now or ever, so
    /// that it is only its own.
    pub fn sum(&self, sums: &Sums, node: NodeId) -> Option<u64> {
        sums.0.get(self.place(node)?).copied()
    }
}

/// What [`Tree::sums`] found.
#[derive(Debug, Clone, Default)]
pub struct Sums(Vec<u64>);

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
