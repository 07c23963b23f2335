//! Laying layers over each other as an unpacker does.
//!
//! What [`unpack`](mod@crate::layer::unpack) says of links, missing parents,
//! entries of one name, and whiteouts holds here too. Hostile layers cost no
//! more than their entries: what is removed leaves the lists that removals walk
//! through, and a directory's lower entries are removed once in each layer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::tree::{
    Change, Inode, InodeId, MAX_LINKS, NONE, Node, NodeId, Origin, Tree, Version, components,
};
use crate::layer::index::{Indexed, LayerIndex};
use crate::layer::tar_read::Item;
use crate::layer::{Entry, Kind, Meta};

/// Problems that are kept.
const MAX_PROBLEMS: usize = 1000;
/// Directories that one path may lead through.
const MAX_DEPTH: usize = 4096;
/// Paths, and things at them, that one image may have: as many as are unpacked
/// of several full layers.
const MAX_NODES: usize = 50_000_000;

impl Tree {
    /// Lays the layers over each other, the lowest first.
    pub fn build<'a>(layers: impl IntoIterator<Item = &'a LayerIndex>) -> Self {
        let mut builder = Builder::new();
        for index in layers {
            builder.apply(index);
        }
        builder.finish()
    }
}

/// A node's place among those that are there now.
#[derive(Debug, Clone, Copy)]
struct Links {
    first: u32,
    before: u32,
    after: u32,
    /// The layer, plus one, that removed all that lower ones had below it.
    cleared: u32,
    /// The layer, plus one, that has something in this directory, if only a
    /// whiteout: it does not go with what lower layers have.
    entered: u32,
}

const UNLINKED: Links = Links {
    first: NONE,
    before: NONE,
    after: NONE,
    cleared: 0,
    entered: 0,
};

struct Builder {
    tree: Tree,
    links: Vec<Links>,
    names: HashMap<Arc<[u8]>, u32>,
    children: HashMap<(u32, u32), u32>,
    /// Nodes with a version of this layer.
    touched: Vec<u32>,
    layer: u32,
    /// The directory of the last entry, as long as its path leads to it.
    last: Option<(std::path::PathBuf, u32)>,
}

impl Builder {
    fn new() -> Self {
        let mut builder = Self {
            tree: Tree::default(),
            links: Vec::new(),
            names: HashMap::new(),
            children: HashMap::new(),
            touched: Vec::new(),
            layer: 0,
            last: None,
        };
        builder.tree.nodes.push(Node {
            parent: NONE,
            name: Arc::from(&b""[..]),
            version: NONE,
        });
        builder.links.push(UNLINKED);
        builder
    }

    fn apply(&mut self, index: &LayerIndex) {
        self.last = None;
        if self.layer == 0 {
            self.imply(0);
        }
        for (number, indexed) in index.entries().enumerate() {
            if let Err(reason) = self.element(&indexed, number as u64) {
                self.problem(&indexed, &reason);
            }
        }
        self.end_layer();
        self.layer += 1;
    }

    fn problem(&mut self, indexed: &Indexed, reason: &str) {
        let problems = &mut self.tree.problems;
        if problems.len() < MAX_PROBLEMS {
            let path = indexed.path().as_os_str().as_encoded_bytes();
            let text = format!("{}: {reason}", path.escape_ascii());
            problems.push((self.layer as usize, text));
        }
    }

    fn element(&mut self, indexed: &Indexed, number: u64) -> Result<(), String> {
        let tree = &self.tree;
        let most = tree
            .nodes
            .len()
            .max(tree.inodes.len())
            .max(tree.versions.len());
        if most > MAX_NODES {
            return Err("the image has too many paths".into());
        }
        match &indexed.item {
            Item::Put(entry) => self.put(entry, indexed, number),
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

    fn put(&mut self, entry: &Entry, indexed: &Indexed, number: u64) -> Result<(), String> {
        let path = &entry.path;
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            let inode = self.inode(entry, indexed, number);
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
                    let inode = self.inode(entry, indexed, number);
                    self.kill(node);
                    self.set(node, inode);
                    return Err(reason);
                }
            },
            _ => self.inode(entry, indexed, number),
        };
        let keeps = entry.kind == Kind::Dir && self.is_dir(node);
        if !keeps {
            self.kill(node);
        }
        self.set(node, inode);
        Ok(())
    }

    /// What a hard link leads to.
    fn target(&mut self, target: &Path, from: u32) -> Result<u32, String> {
        let missing = |reason| {
            let target = target.as_os_str().as_encoded_bytes();
            format!("its target {} {reason}", target.escape_ascii())
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

    fn inode(&mut self, entry: &Entry, indexed: &Indexed, number: u64) -> u32 {
        self.push_inode(Inode {
            kind: entry.kind.clone(),
            meta: entry.meta.clone(),
            digest: indexed.digest,
            layer: self.layer as usize,
            origin: Some(Origin {
                entry: number,
                header: indexed.header,
                data: indexed.data,
                sparse: indexed.sparse,
            }),
        })
    }

    fn push_inode(&mut self, inode: Inode) -> u32 {
        self.tree.inodes.push(inode);
        self.tree.inodes.len() as u32 - 1
    }

    /// Makes `node` a directory that no layer has an entry for.
    fn imply(&mut self, node: u32) {
        let inode = self.push_inode(Inode {
            kind: Kind::Dir,
            meta: Meta {
                mode: 0o755,
                ..Meta::default()
            },
            digest: None,
            layer: self.layer as usize,
            origin: None,
        });
        self.set(node, inode);
    }

    fn inode_of(&self, node: u32) -> Option<u32> {
        let version = self.tree.nodes[node as usize].version;
        let version = self.tree.versions.get(version as usize)?;
        (version.inode != NONE).then_some(version.inode)
    }

    fn kind_of(&self, node: u32) -> Option<&Kind> {
        Some(&self.tree.inodes[self.inode_of(node)? as usize].kind)
    }

    fn is_below(&self, node: u32, above: u32) -> bool {
        let parent = |n: &u32| Some(self.tree.nodes.get(*n as usize)?.parent);
        std::iter::successors(Some(node), parent)
            .take_while(|n| *n != NONE)
            .any(|n| n == above)
    }

    fn is_dir(&self, node: u32) -> bool {
        self.kind_of(node) == Some(&Kind::Dir)
    }

    /// Whether this layer has put it there.
    fn is_own(&self, node: u32) -> bool {
        let version = self.tree.nodes[node as usize].version;
        let version = self.tree.versions.get(version as usize);
        version.is_some_and(|v| v.layer == self.layer)
    }

    fn existing(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let name = *self.names.get(name)?;
        self.children.get(&(parent, name)).copied()
    }

    fn child(&mut self, parent: u32, name: &[u8]) -> u32 {
        let known = self.names.get_key_value(name);
        let (text, name) = match known {
            Some((text, number)) => (Arc::clone(text), *number),
            None => {
                let text: Arc<[u8]> = Arc::from(name);
                let number = self.names.len() as u32;
                self.names.insert(Arc::clone(&text), number);
                (text, number)
            }
        };
        let next = self.tree.nodes.len() as u32;
        let node = *self.children.entry((parent, name)).or_insert(next);
        if node == next {
            self.tree.nodes.push(Node {
                parent,
                name: text,
                version: NONE,
            });
            self.links.push(UNLINKED);
        }
        node
    }

    /// Says what this layer makes of `node`; [`NONE`] removes it.
    fn set(&mut self, node: u32, inode: u32) {
        let was = self.inode_of(node).is_some();
        let before = self.tree.nodes[node as usize].version;
        match self.tree.versions.get_mut(before as usize) {
            Some(version) if version.layer == self.layer => version.inode = inode,
            _ => {
                self.tree.nodes[node as usize].version = self.tree.versions.len() as u32;
                self.tree.versions.push(Version {
                    before,
                    layer: self.layer,
                    inode,
                });
                self.touched.push(node);
            }
        }
        let parent = self.tree.nodes[node as usize].parent;
        match (was, inode != NONE) {
            (false, true) if parent != NONE => {
                let first = std::mem::replace(&mut self.links[parent as usize].first, node);
                self.links[node as usize].before = NONE;
                self.links[node as usize].after = first;
                if first != NONE {
                    self.links[first as usize].before = node;
                }
            }
            (true, false) if parent != NONE => {
                let Links { before, after, .. } = self.links[node as usize];
                match before {
                    NONE => self.links[parent as usize].first = after,
                    _ => self.links[before as usize].after = after,
                }
                if after != NONE {
                    self.links[after as usize].before = before;
                }
            }
            _ => {}
        }
    }

    /// Those that are there now, of the children of `node`.
    fn live(&self, node: u32) -> impl Iterator<Item = u32> {
        let mut next = self.links[node as usize].first;
        std::iter::from_fn(move || {
            let here = next;
            next = self.links.get(here as usize)?.after;
            Some(here)
        })
    }

    /// Removes what is at `node` with all below it, whoever put it there.
    fn kill(&mut self, node: u32) {
        if self.inode_of(node).is_none() {
            return;
        }
        if matches!(self.kind_of(node), Some(Kind::Dir | Kind::Symlink { .. })) {
            self.last = None;
        }
        let mut todo = vec![node];
        let mut at = 0;
        while let Some(here) = todo.get(at).copied() {
            at += 1;
            todo.extend(self.live(here));
        }
        for here in todo {
            self.set(here, NONE);
        }
    }

    /// Removes what lower layers have below `node`, and at it if `itself` says
    /// so and nothing of this layer is left below.
    fn prune(&mut self, node: u32, itself: bool) {
        self.last = None;
        let stamp = self.layer + 1;
        let mut found = vec![node];
        let mut at = 0;
        while let Some(here) = found.get(at).copied() {
            at += 1;
            if self.links[here as usize].cleared != stamp {
                self.links[here as usize].cleared = stamp;
                found.extend(self.live(here));
            }
        }
        // What is below comes after what is above.
        for here in found.into_iter().rev() {
            let keep = here == node && !itself;
            let empty = self.links[here as usize].first == NONE;
            let entered = self.links[here as usize].entered == stamp;
            if !keep && empty && !entered && !self.is_own(here) {
                self.set(here, NONE);
            }
        }
    }

    /// Goes to a directory through links. What is missing on the way, or is no
    /// directory, is made if `make` says so; else there is nothing.
    fn walk(&mut self, path: &Path, make: bool) -> Result<Option<u32>, &'static str> {
        let mut todo = components(path);
        if todo.len() > MAX_DEPTH {
            return Err("its path is too long");
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
                Some((node, Kind::Dir)) => node,
                Some((_, Kind::Symlink { target })) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("too many links lead to it");
                    }
                    if target.has_root() {
                        stack.truncate(1);
                    }
                    todo.extend(components(target));
                    continue;
                }
                _ if !make => return Ok(None),
                Some(_) if links > 0 => {
                    return Err("a link on the way to it leads to no directory");
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
            self.links[node as usize].entered = self.layer + 1;
        }
        Ok(found)
    }

    /// Goes to a directory, making it and what leads to it.
    fn make(&mut self, path: &Path) -> Result<u32, String> {
        match self.walk(path, true) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err("it has no directory".into()),
            Err(reason) => Err(reason.into()),
        }
    }

    /// Notes what the layer did.
    fn end_layer(&mut self) {
        let mut changes = Vec::with_capacity(self.touched.len());
        let found = |inode: u32| (inode != NONE).then_some(InodeId(inode));
        for node in std::mem::take(&mut self.touched) {
            let version = self.tree.versions[self.tree.nodes[node as usize].version as usize];
            let before = self.tree.versions.get(version.before as usize);
            let change = Change {
                node: NodeId(node),
                before: before.and_then(|v| found(v.inode)),
                after: found(version.inode),
            };
            if change.before.is_some() || change.after.is_some() {
                changes.push(change);
            }
        }
        self.tree.changes.push(changes);
    }

    fn finish(self) -> Tree {
        let mut tree = self.tree;
        let nodes = &tree.nodes;
        let mut sorted: Vec<NodeId> = (1..nodes.len() as u32).map(NodeId).collect();
        sorted.sort_unstable_by(|a, b| {
            let key = |n: &NodeId| {
                let node = &nodes[n.0 as usize];
                (node.parent, &node.name)
            };
            key(a).cmp(&key(b))
        });
        let mut begins = vec![0_u32; nodes.len() + 1];
        for node in &sorted {
            begins[nodes[node.0 as usize].parent as usize + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        tree.sorted = sorted;
        tree.begins = begins;
        tree
    }
}
