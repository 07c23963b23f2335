//! Laying layers over each other as an unpacker does.
//!
//! What [`unpack`](mod@crate::layer::unpack) says of links, missing parents,
//! entries of one name, and whiteouts holds here too. Hostile layers cost no
//! more than their entries: what is removed leaves the lists that removals walk
//! through, and a directory's lower entries are removed once in each layer.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::names::{Sorted, Table};
use super::tree::{MAX_LINKS, Nodes, Tree, components};
use super::versions::Version;
use crate::layer::bits::Bits;
use crate::layer::frames::{Frames, NONE};
use crate::layer::index::{Indexed, LayerIndex};
use crate::layer::pile::Spools;
use crate::layer::tar_read::Item;
use crate::layer::{Entry, Kind};

/// Problems that are kept.
const MAX_PROBLEMS: usize = 1000;
/// Directories that one path may lead through.
const MAX_DEPTH: usize = 4096;
/// Paths, and things at them, that one image may have: as many as are unpacked
/// of several full layers.
pub(super) const MAX_NODES: usize = 50_000_000;

impl Tree {
    /// Lays the layers over each other, the lowest first. Names lie in one of
    /// `spools`.
    ///
    /// # Errors
    /// When an index can't be read any more.
    pub fn build(
        layers: impl IntoIterator<Item = Arc<LayerIndex>>,
        spools: Spools,
    ) -> io::Result<Self> {
        let mut builder = Builder::new(spools);
        for index in layers {
            builder.apply(index)?;
        }
        Ok(builder.finish())
    }
}

/// Why an element is not applied.
enum Fault {
    /// It makes no sense.
    Reason(String),
    /// An index can't be read.
    Read(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Reason(reason.into())
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

/// The last in a list of children.
const LAST: u32 = NONE;
/// In no list.
const UNLISTED: u32 = NONE - 1;

struct Builder {
    tree: Tree,
    table: Table,
    /// Of each node the first in the list of what is there now below it. Some
    /// may have gone again; they leave when someone comes by.
    first: Frames,
    /// Of each node the next one in its parent's list.
    after: Frames,
    /// Directories below which this layer has removed all that lower ones had.
    cleared: Bits,
    /// Directories in which it has something, if only a whiteout: they do not
    /// go with what lower layers have.
    entered: Bits,
    /// Nodes with a version of this layer.
    touched: Frames,
    layer: u32,
    /// The directory of the last entry, as long as its path leads to it.
    last: Option<(std::path::PathBuf, u32)>,
}

impl Builder {
    fn new(spools: Spools) -> Self {
        let mut builder = Self {
            tree: Tree {
                nodes: Nodes::new(spools),
                touched: Vec::new(),
                problems: Vec::new(),
                sorted: Sorted::default(),
            },
            table: Table::default(),
            first: Frames::default(),
            after: Frames::default(),
            cleared: Bits::default(),
            entered: Bits::default(),
            touched: Frames::default(),
            layer: 0,
            last: None,
        };
        builder.nodes().names.push(NONE, b"");
        builder.added();
        builder
    }

    fn nodes(&mut self) -> &mut Nodes {
        &mut self.tree.nodes
    }

    /// Makes room for what is known of a node that is new.
    fn added(&mut self) {
        self.tree.nodes.newest.push(NONE);
        self.first.push(LAST);
        self.after.push(UNLISTED);
    }

    fn apply(&mut self, index: Arc<LayerIndex>) -> io::Result<()> {
        self.last = None;
        self.cleared = Bits::default();
        self.entered = Bits::default();
        self.nodes().inodes.begin_layer(Arc::clone(&index));
        if self.layer == 0 {
            self.imply(0);
        }
        for indexed in index.entries() {
            let indexed = indexed?;
            match self.element(&indexed) {
                Ok(()) => {}
                Err(Fault::Reason(reason)) => self.problem(&indexed, &reason),
                Err(Fault::Read(error)) => return Err(error),
            }
        }
        self.tree.touched.push(std::mem::take(&mut self.touched));
        self.layer += 1;
        Ok(())
    }

    fn problem(&mut self, indexed: &Indexed, reason: &str) {
        let problems = &mut self.tree.problems;
        if problems.len() < MAX_PROBLEMS {
            let path = indexed.path().as_os_str().as_encoded_bytes();
            let text = format!("{}: {reason}", path.escape_ascii());
            problems.push((self.layer as usize, text));
        }
    }

    fn element(&mut self, indexed: &Indexed) -> Result<(), Fault> {
        let nodes = self.nodes();
        let most = nodes.inodes.len().max(nodes.versions.len());
        let inode = match &indexed.item {
            Item::Put(entry) => nodes.inodes.push(entry),
            Item::Whiteout(_) | Item::Opaque(_) => {
                nodes.inodes.pass();
                NONE
            }
        };
        if most > MAX_NODES || nodes.names.is_full(MAX_NODES) {
            return Err("the image has too many paths".into());
        }
        match &indexed.item {
            Item::Put(entry) => self.put(entry, inode),
            Item::Whiteout(path) => {
                let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
                    return Err("the root can't be removed".into());
                };
                let parent = self.make(parent)?;
                if let Some(node) = self.existing(parent, name.as_encoded_bytes())
                    && self.inode_of(node).is_some()
                {
                    self.prune(node, true);
                }
                Ok(())
            }
            Item::Opaque(path) => {
                let dir = self.make(path)?;
                self.prune(dir, false);
                Ok(())
            }
        }
    }

    fn put(&mut self, entry: &Entry, inode: u32) -> Result<(), Fault> {
        let path = &entry.path;
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            self.set(0, inode);
            return Ok(());
        };
        let parent = match &self.last {
            Some((known, node)) if known == parent => *node,
            _ => {
                let node = self.make(parent)?;
                self.last = Some((parent.to_owned(), node));
                node
            }
        };
        let node = self.child(parent, name.as_encoded_bytes());
        let inode = match &entry.kind {
            Kind::Hardlink { target } => match self.target(target, node) {
                Ok(inode) => inode,
                Err(reason) => {
                    self.kill(node);
                    self.set(node, inode);
                    return Err(reason);
                }
            },
            _ => inode,
        };
        let keeps = entry.kind == Kind::Dir && self.is_dir(node);
        if !keeps {
            self.kill(node);
        }
        self.set(node, inode);
        Ok(())
    }

    /// What a hard link leads to.
    fn target(&mut self, target: &Path, from: u32) -> Result<u32, Fault> {
        let missing = |reason| {
            let target = target.as_os_str().as_encoded_bytes();
            Fault::Reason(format!("its target {} {reason}", target.escape_ascii()))
        };
        let (Some(name), Some(parent)) = (target.file_name(), target.parent()) else {
            return Err(missing("is the root"));
        };
        let dir = self.walk(parent, false)?;
        let node = dir.and_then(|dir| self.existing(dir, name.as_encoded_bytes()));
        let inode = node.and_then(|node| Some((node, self.inode_of(node)?)));
        match inode {
            None => Err(missing("does not exist")),
            Some((node, _)) if node == from => Err(missing("is itself")),
            // It goes with what the link replaces.
            Some((node, _)) if self.is_below(node, from) => Err(missing("does not exist")),
            Some((node, _)) if self.is_dir(node) => Err(missing("is a directory")),
            Some((_, inode)) => Ok(inode),
        }
    }

    /// Makes `node` a directory that no layer has an entry for.
    fn imply(&mut self, node: u32) {
        let inode = self.nodes().inodes.imply();
        self.set(node, inode);
    }

    fn inode_of(&self, node: u32) -> Option<u32> {
        self.tree.nodes.now(node)
    }

    /// The letter of the kind of what is at `node`.
    fn kind_of(&self, node: u32) -> Option<u8> {
        Some(self.tree.nodes.inodes.letter(self.inode_of(node)?))
    }

    fn is_below(&self, node: u32, above: u32) -> bool {
        let names = &self.tree.nodes.names;
        let parent = |n: &u32| Some(names.parent(*n)).filter(|p| *p != NONE);
        std::iter::successors(Some(node), parent).any(|n| n == above)
    }

    fn is_dir(&self, node: u32) -> bool {
        self.kind_of(node) == Some(b'd')
    }

    /// Whether this layer has put it there.
    fn is_own(&self, node: u32) -> bool {
        let nodes = &self.tree.nodes;
        let version = nodes.version(nodes.newest.get(node as usize));
        version.is_some_and(|v| v.layer == self.layer)
    }

    fn existing(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.table.get(&self.tree.nodes.names, parent, name)
    }

    fn child(&mut self, parent: u32, name: &[u8]) -> u32 {
        let names = &mut self.tree.nodes.names;
        let (node, is_new) = self.table.get_or_add(names, parent, name);
        if is_new {
            self.added();
        }
        node
    }

    /// Says what this layer makes of `node`; [`NONE`] removes it.
    fn set(&mut self, node: u32, inode: u32) {
        let at = node as usize;
        let nodes = &mut self.tree.nodes;
        let number = nodes.newest.get(at);
        let known = nodes.version(number);
        let own = known.filter(|version| version.layer == self.layer);
        let before = own.map_or(number, |version| version.before);
        let version = Version {
            before,
            layer: self.layer,
            inode,
        };
        let old = own.map(|_| number);
        let new = nodes.versions.put(version, old, &nodes.inodes);
        if new != number {
            nodes.newest.set(at, new);
        }
        let parent = nodes.names.parent(node);
        if own.is_none() {
            self.touched.push(node);
        }
        if inode != NONE && parent != NONE && self.after.get(at) == UNLISTED {
            let first = self.first.replace(parent as usize, node);
            self.after.set(at, first);
        }
    }

    /// Whether something is in `node` now. What has gone leaves the list.
    fn is_empty(&mut self, node: u32) -> bool {
        loop {
            let here = self.first.get(node as usize);
            if here == LAST {
                return true;
            }
            if self.inode_of(here).is_some() {
                return false;
            }
            let after = self.after.replace(here as usize, UNLISTED);
            self.first.set(node as usize, after);
        }
    }

    /// Adds those that are there now, of the children of `node`. What has gone
    /// leaves the list.
    fn live(&mut self, node: u32, found: &mut Vec<u32>) {
        if self.is_empty(node) {
            return;
        }
        let mut here = self.first.get(node as usize);
        loop {
            found.push(here);
            let next = loop {
                let next = self.after.get(here as usize);
                if next == LAST || self.inode_of(next).is_some() {
                    break next;
                }
                let after = self.after.replace(next as usize, UNLISTED);
                self.after.set(here as usize, after);
            };
            if next == LAST {
                return;
            }
            here = next;
        }
    }

    /// Removes what is at `node` with all below it, whoever put it there.
    fn kill(&mut self, node: u32) {
        if self.inode_of(node).is_none() {
            return;
        }
        if matches!(self.kind_of(node), Some(b'd' | b'l')) {
            self.last = None;
        }
        let mut todo = vec![node];
        let mut at = 0;
        while let Some(here) = todo.get(at).copied() {
            at += 1;
            self.live(here, &mut todo);
        }
        for here in todo {
            self.set(here, NONE);
        }
    }

    /// Removes what lower layers have below `node`, and at it if `itself` says
    /// so and nothing of this layer is left below.
    fn prune(&mut self, node: u32, itself: bool) {
        self.last = None;
        if self.layer == 0 {
            return;
        }
        let mut found = vec![node];
        let mut at = 0;
        while let Some(here) = found.get(at).copied() {
            at += 1;
            if self.first.get(here as usize) != LAST && self.cleared.insert(here) {
                self.live(here, &mut found);
            }
        }
        // What is below comes after what is above.
        for here in found.into_iter().rev() {
            let keep = here == node && !itself;
            if !keep && !self.entered.has(here) && !self.is_own(here) && self.is_empty(here) {
                self.set(here, NONE);
            }
        }
    }

    /// Goes to a directory through links. What is missing on the way, or is no
    /// directory, is made if `make` says so; else there is nothing.
    fn walk(&mut self, path: &Path, make: bool) -> Result<Option<u32>, Fault> {
        let mut todo = components(path);
        if todo.len() > MAX_DEPTH {
            return Err("its path is too long".into());
        }
        let mut stack = vec![0];
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
            let bytes = name.as_encoded_bytes();
            let known = self.existing(here, bytes);
            let node = match known.and_then(|node| Some((node, self.kind_of(node)?))) {
                Some((node, b'd')) => node,
                Some((node, b'l')) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("too many links lead to it".into());
                    }
                    if let Some(target) = self.link(node)? {
                        if target.has_root() {
                            stack.truncate(1);
                        }
                        todo.extend(components(&target));
                    }
                    continue;
                }
                _ if !make => return Ok(None),
                Some(_) if links > 0 => {
                    return Err("a link on the way to it leads to no directory".into());
                }
                other => {
                    let node = match other {
                        Some((node, _)) => node,
                        None => self.child(here, bytes),
                    };
                    self.kill(node);
                    self.imply(node);
                    node
                }
            };
            stack.push(node);
        }
        let found = stack.pop();
        if let Some(node) = found {
            self.enter(node);
        }
        Ok(found)
    }

    /// Where the symbolic link at `node` leads.
    fn link(&self, node: u32) -> io::Result<Option<std::path::PathBuf>> {
        let Some(inode) = self.inode_of(node) else {
            return Ok(None);
        };
        Ok(match self.tree.nodes.inodes.get(inode)?.kind {
            Kind::Symlink { target } => Some(target),
            _ => None,
        })
    }

    /// Notes that the layer has something in this directory.
    fn enter(&mut self, node: u32) {
        if self.layer > 0 {
            self.entered.insert(node);
        }
    }

    /// Goes to a directory, making it and what leads to it.
    fn make(&mut self, path: &Path) -> Result<u32, Fault> {
        match self.walk(path, true)? {
            Some(node) => Ok(node),
            None => Err("it has no directory".into()),
        }
    }

    fn finish(self) -> Tree {
        let mut tree = self.tree;
        // Its room is for what follows.
        drop((self.table, self.first, self.after));
        tree.sorted = tree.nodes.names.sorted();
        tree
    }
}
