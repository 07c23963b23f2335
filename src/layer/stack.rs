//! The tree that layers make when they are applied one on another: which entry
//! of which layer is where in the end, without contents and on no disk.
//!
//! Rules are [`unpack`](super::unpack)'s: paths lead through links, inside the
//! root; a parent that is missing, or is no directory, is made; the last of two
//! entries of one name wins; a directory on a directory keeps what is in it;
//! whiteouts concern what lower layers have. A hard link is another name of the
//! file that has its target's name at that moment, whatever becomes of that
//! name.
//!
//! Layers up to [`Stack::split`] can be told from those above it, so that the
//! tree also says what the upper ones change.
//!
//! Memory is a hundred bytes or so for each name; the number of names and the
//! length of a path are limited.
//!
//! # Specification
//! image-spec `layer.md`, "Applying Changesets".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::tar_read::Item;
use super::{Entry, Kind, Meta};
use crate::sys::fs::components;

/// Links followed on the way to one directory, as the kernel has it.
const MAX_LINKS: usize = 40;
/// The longest text of a link, in bytes, as the kernel has it.
const MAX_LINK: usize = 4095;
/// The most names that a tree may have.
const MAX_NAMES: usize = 20_000_000;
/// The longest path without links, in bytes: eight times what a system call
/// takes.
const MAX_PATH: usize = 32 << 10;

/// Why an entry can't be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.as_os_str().as_bytes().escape_ascii())]
pub struct StackError {
    /// The entry's path in its layer.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

/// An entry of a layer: the layer's number from below, and the entry's in it,
/// both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The layer.
    pub layer: u32,
    /// The entry; whiteouts count too.
    pub entry: u32,
}

/// A name in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(u32);

/// What has one name or several, but is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NameId {
    /// A small number of its own, below [`Stack::capacity`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

const ROOT: NameId = NameId(0);

#[derive(Debug)]
struct Name {
    parent: NameId,
    name: Box<[u8]>,
    /// Bytes of the path.
    length: u32,
    /// The layer that put it here, or made it on the way to something else.
    layer: u32,
    /// Whether lower layers have the same name, and it is the same thing.
    is_old: bool,
    what: What,
}

#[derive(Debug)]
enum What {
    Dir(Box<Dir>),
    Node(NodeId),
    /// The place is free.
    Gone,
}

/// A directory.
#[derive(Debug, Default)]
pub struct Dir {
    children: BTreeMap<Box<[u8]>, NameId>,
    /// The last entry for it, with its attributes; none where it was made on
    /// the way to something else.
    stated: Option<(Origin, Meta)>,
    /// Names that layers below the split have in it, and that are gone.
    removed: BTreeSet<Box<[u8]>>,
    /// Nothing of what layers below the split have in it is left.
    is_opaque: bool,
    /// The layer that has pruned it.
    pruned: Option<u32>,
}

#[derive(Debug)]
struct Node {
    origin: Origin,
    link: Option<Box<[u8]>>,
}

/// Layers, applied one on another.
#[derive(Debug)]
pub struct Stack {
    names: Vec<Name>,
    nodes: Vec<Node>,
    free: Vec<NameId>,
    layer: u32,
    entry: u32,
    split: Option<u32>,
    /// What hard links above the split say of their files.
    linked: HashMap<NameId, Meta>,
}

/// What an entry was about, once it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It put something here.
    Put(NameId),
    /// It gave what has the second name the first name too.
    Linked(NameId, NameId),
    /// It removed what lower layers have of this name in this directory.
    Removed(NameId, OsString),
    /// It removed what lower layers have in this directory.
    Emptied(NameId),
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// A directory.
    Dir(&'a Dir),
    /// Anything else.
    Node(NodeId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Nothing,
    Anything,
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

impl Stack {
    /// An empty tree; entries that come belong to layer 0.
    pub fn new() -> Self {
        let root = Name {
            parent: ROOT,
            name: Box::default(),
            length: 0,
            layer: 0,
            is_old: true,
            what: What::Dir(Box::default()),
        };
        Self {
            names: vec![root],
            nodes: Vec::new(),
            free: Vec::new(),
            layer: 0,
            entry: 0,
            split: None,
            linked: HashMap::new(),
        }
    }

    /// Ends the current layer.
    pub fn next_layer(&mut self) {
        self.layer += 1;
        self.entry = 0;
    }

    /// What is there now is what lies below; what comes changes it.
    pub fn split(&mut self) {
        self.split = Some(self.layer);
        for name in &mut self.names {
            name.is_old = true;
        }
    }

    /// Applies the next entry of the current layer.
    ///
    /// # Errors
    /// When an unpacker would refuse it.
    pub fn apply(&mut self, item: &Item) -> Result<Applied, StackError> {
        let done = match item {
            Item::Put(entry) => self.put(entry),
            Item::Whiteout(path) => self.whiteout(path),
            Item::Opaque(path) => self.opaque(path),
        };
        self.entry += 1;
        done.map_err(|reason| StackError {
            path: match item {
                Item::Put(entry) => entry.path.clone(),
                Item::Whiteout(path) | Item::Opaque(path) => path.clone(),
            },
            reason,
        })
    }

    fn origin(&self) -> Origin {
        Origin {
            layer: self.layer,
            entry: self.entry,
        }
    }

    fn name(&self, id: NameId) -> &Name {
        &self.names[id.0 as usize]
    }

    fn name_mut(&mut self, id: NameId) -> &mut Name {
        &mut self.names[id.0 as usize]
    }

    /// The directory that has this name.
    pub fn dir(&self, id: NameId) -> Option<&Dir> {
        match &self.name(id).what {
            What::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn dir_mut(&mut self, id: NameId) -> Option<&mut Dir> {
        match &mut self.name_mut(id).what {
            What::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn child(&self, dir: NameId, name: &OsStr) -> Option<NameId> {
        self.dir(dir)?.children.get(name.as_bytes()).copied()
    }

    fn put(&mut self, entry: &Entry) -> Result<Applied, String> {
        let origin = self.origin();
        let layer = self.layer;
        let stated = |entry: &Entry| Some((origin, entry.meta.clone()));
        let path = &entry.path;
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            let root = self.name_mut(ROOT);
            root.layer = layer;
            if let What::Dir(dir) = &mut root.what {
                dir.stated = stated(entry);
            }
            return Ok(Applied::Put(ROOT));
        };
        let parent = self.make(parent)?;
        let link = match &entry.kind {
            Kind::Dir => {
                let id = match self.child(parent, name) {
                    Some(id) if self.dir(id).is_some() => id,
                    _ => self.add(parent, name, What::Dir(Box::default()))?,
                };
                self.name_mut(id).layer = layer;
                if let Some(dir) = self.dir_mut(id) {
                    dir.stated = stated(entry);
                }
                return Ok(Applied::Put(id));
            }
            Kind::Hardlink { target } => {
                let (id, target) = self.hard_link(parent, name, target)?;
                if self.split.is_some() {
                    self.linked.insert(id, entry.meta.clone());
                }
                return Ok(Applied::Linked(id, target));
            }
            Kind::Char { major: 0, minor: 0 } => {
                return Err(
                    "it is a character device 0:0, which overlayfs takes for a whiteout".into(),
                );
            }
            Kind::Symlink { target } if target.as_os_str().len() > MAX_LINK => {
                return Err(format!("its target has more than {MAX_LINK} bytes"));
            }
            Kind::Symlink { target } => Some(target.as_os_str().as_bytes().into()),
            Kind::File { .. } | Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => None,
        };
        let node = NodeId(u32::try_from(self.nodes.len()).map_err(|_| too_many())?);
        self.nodes.push(Node { origin, link });
        self.add(parent, name, What::Node(node)).map(Applied::Put)
    }

    fn hard_link(
        &mut self,
        parent: NameId,
        name: &OsStr,
        target: &Path,
    ) -> Result<(NameId, NameId), String> {
        let text = target.as_os_str().as_bytes().escape_ascii();
        let missing = |reason: &str| Err(format!("its target {text} {reason}"));
        let (Some(target_name), Some(target_parent)) = (target.file_name(), target.parent()) else {
            return missing("is the root");
        };
        let found = match self.walk(target_parent, Make::Nothing)? {
            Some(dir) => self.child(dir, target_name),
            None => None,
        };
        let Some(found) = found else {
            return missing("does not exist");
        };
        let What::Node(node) = self.name(found).what else {
            return missing("is a directory");
        };
        let place = self.child(parent, name);
        if place == Some(found) {
            return missing("is itself");
        }
        // What is in the way is removed, with all below it.
        if place.is_some_and(|place| self.is_below(found, place)) {
            return missing("does not exist");
        }
        Ok((self.add(parent, name, What::Node(node))?, found))
    }

    fn is_below(&self, mut id: NameId, above: NameId) -> bool {
        while id != ROOT {
            if id == above {
                return true;
            }
            id = self.name(id).parent;
        }
        above == ROOT
    }

    /// Puts something at `name` in `parent`, in the place of what is there.
    fn add(&mut self, parent: NameId, name: &OsStr, what: What) -> Result<NameId, String> {
        if let Some(old) = self.child(parent, name) {
            self.remove(old);
        }
        let above = self.name(parent).length as usize;
        let length = above + usize::from(above > 0) + name.len();
        if length > MAX_PATH {
            return Err(format!("its path is longer than {MAX_PATH} bytes"));
        }
        let new = Name {
            parent,
            name: name.as_bytes().into(),
            length: u32::try_from(length).map_err(|_| too_many())?,
            layer: self.layer,
            is_old: false,
            what,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.names[id.0 as usize] = new;
                id
            }
            None if self.names.len() >= MAX_NAMES => return Err(too_many()),
            None => {
                let id = u32::try_from(self.names.len()).map_err(|_| too_many())?;
                self.names.push(new);
                NameId(id)
            }
        };
        if let Some(dir) = self.dir_mut(parent) {
            dir.children.insert(name.as_bytes().into(), id);
        }
        Ok(id)
    }

    /// Removes a name with all below it.
    fn remove(&mut self, id: NameId) {
        let (parent, is_old) = (self.name(id).parent, self.name(id).is_old);
        let name = self.name(id).name.clone();
        let split = self.split.is_some();
        if let Some(dir) = self.dir_mut(parent) {
            dir.children.remove(&name);
            if split && is_old {
                dir.removed.insert(name);
            }
        }
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            if let What::Dir(dir) = std::mem::replace(&mut self.name_mut(id).what, What::Gone) {
                todo.extend(dir.children.into_values());
            }
            self.free.push(id);
        }
    }

    /// The directory `path`, which is made if there is none.
    fn make(&mut self, path: &Path) -> Result<NameId, String> {
        let made = self.walk(path, Make::Anything)?;
        made.ok_or_else(|| "its parent does not exist".into())
    }

    fn walk(&mut self, path: &Path, make: Make) -> Result<Option<NameId>, String> {
        let mut todo = components(path);
        let mut here = ROOT;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                here = self.name(here).parent;
                continue;
            }
            let child = self.child(here, &name);
            let found = child.map(|id| (id, &self.name(id).what));
            here = match found {
                Some((id, What::Dir(_))) => id,
                Some((_, What::Node(node))) => {
                    if let Some(link) = &self.nodes[node.0 as usize].link {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err("its path leads through too many links".into());
                        }
                        let target = PathBuf::from(OsStr::from_bytes(link));
                        if target.has_root() {
                            here = ROOT;
                        }
                        for part in components(&target).into_iter().rev() {
                            todo.push_front(part);
                        }
                        continue;
                    }
                    match make {
                        Make::Nothing => return Ok(None),
                        Make::Anything if links > 0 => {
                            return Err("a link in its path leads to what is no directory".into());
                        }
                        Make::Anything => self.add(here, &name, What::Dir(Box::default()))?,
                    }
                }
                Some((_, What::Gone)) | None => match make {
                    Make::Nothing => return Ok(None),
                    Make::Anything => self.add(here, &name, What::Dir(Box::default()))?,
                },
            };
        }
        Ok(Some(here))
    }

    fn whiteout(&mut self, path: &Path) -> Result<Applied, String> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err("the root can't be removed".into());
        };
        let parent = self.make(parent)?;
        if let Some(id) = self.child(parent, name) {
            self.prune(id);
        }
        Ok(Applied::Removed(parent, name.to_owned()))
    }

    fn opaque(&mut self, path: &Path) -> Result<Applied, String> {
        let id = self.make(path)?;
        let children = self.dir(id).map(|dir| dir.children.values().copied());
        for child in children
            .map(Iterator::collect::<Vec<_>>)
            .unwrap_or_default()
        {
            self.prune(child);
        }
        let is_old = self.name(id).is_old;
        let split = self.split.is_some();
        if let Some(dir) = self.dir_mut(id)
            && split
            && is_old
        {
            dir.is_opaque = true;
        }
        Ok(Applied::Emptied(id))
    }

    /// Removes what lower layers have at a name and below it; what is the
    /// current layer's own stays, and the directories that lead to it.
    fn prune(&mut self, top: NameId) {
        let mut order = Vec::new();
        let mut todo = vec![top];
        let layer = self.layer;
        while let Some(id) = todo.pop() {
            let Some(dir) = self.dir_mut(id) else {
                order.push(id);
                continue;
            };
            // What came into it since then is the layer's own.
            if dir.pruned.replace(layer) != Some(layer) {
                todo.extend(dir.children.values().copied());
                order.push(id);
            }
        }
        // Children come before their directories.
        for id in order.into_iter().rev() {
            let is_own = self.name(id).layer == layer;
            match self.dir(id) {
                Some(dir) if !is_own && !dir.children.is_empty() => {
                    // It goes and comes back as what leads to the own ones.
                    self.name_mut(id).layer = layer;
                }
                _ if !is_own => self.remove(id),
                _ => {}
            }
        }
    }

    /// The path of a name, without links.
    pub fn path(&self, mut id: NameId) -> PathBuf {
        let mut parts: Vec<&[u8]> = Vec::new();
        while id != ROOT {
            let name = self.name(id);
            parts.push(&name.name);
            id = name.parent;
        }
        parts.reverse();
        OsString::from_vec(parts.join(&b'/')).into()
    }

    /// What is at `path`, in which no link is followed.
    pub fn at(&self, path: &Path) -> Option<NameId> {
        let mut here = ROOT;
        for part in path.iter() {
            here = self.child(here, part)?;
        }
        Some(here)
    }

    /// The directory that a name is in; the root is in itself.
    pub fn parent(&self, id: NameId) -> NameId {
        self.name(id).parent
    }

    /// What a name stands for.
    pub fn get(&self, id: NameId) -> Option<Found<'_>> {
        match &self.name(id).what {
            What::Dir(dir) => Some(Found::Dir(dir)),
            What::Node(node) => Some(Found::Node(*node)),
            What::Gone => None,
        }
    }

    /// The entry that brought it.
    pub fn origin_of(&self, node: NodeId) -> Origin {
        self.nodes[node.0 as usize].origin
    }

    /// Whether a symbolic link.
    pub fn is_link(&self, node: NodeId) -> bool {
        self.nodes[node.0 as usize].link.is_some()
    }

    /// What the hard link that made this name above the split says of its file.
    pub fn linked(&self, id: NameId) -> Option<&Meta> {
        self.linked.get(&id)
    }

    /// The numbers of names are below this.
    pub fn capacity(&self) -> usize {
        self.names.len()
    }

    /// Whether a layer above the [split](Self::split) put it, or said again
    /// what it is.
    pub fn is_new(&self, id: NameId) -> bool {
        let name = self.name(id);
        !name.is_old || self.split.is_none_or(|split| name.layer >= split)
    }

    /// Whether lower layers have the same there.
    pub fn is_old(&self, id: NameId) -> bool {
        self.name(id).is_old && self.split.is_some()
    }

    /// All names, a directory before what is in it, in the order of bytes.
    pub fn names(&self) -> Names<'_> {
        Names {
            stack: self,
            todo: vec![ROOT],
        }
    }

    /// Whether the name hides something that lower layers have there, but does
    /// not do so by what it is.
    pub fn needs_opaque(&self, id: NameId) -> bool {
        let Some(dir) = self.dir(id) else {
            return false;
        };
        dir.is_opaque || self.replaces(id)
    }

    /// Whether layers below the split have something else of this name.
    pub fn replaces(&self, id: NameId) -> bool {
        let name = self.name(id);
        let above = self.dir(name.parent);
        !name.is_old && above.is_some_and(|above| above.removed.contains(&name.name))
    }
}

impl Dir {
    /// What is in it.
    pub fn children(&self) -> impl Iterator<Item = NameId> + '_ {
        self.children.values().copied()
    }

    /// The last entry for it, and its attributes.
    pub fn stated(&self) -> Option<&(Origin, Meta)> {
        self.stated.as_ref()
    }

    /// Names below the split that are gone and that nothing took the place of.
    pub fn removed(&self) -> impl Iterator<Item = &OsStr> {
        let names = self.removed.iter();
        let gone = names.filter(|name| !self.is_opaque && !self.children.contains_key(*name));
        gone.map(|name| OsStr::from_bytes(name))
    }
}

/// See [`Stack::names`].
#[derive(Debug)]
pub struct Names<'a> {
    stack: &'a Stack,
    todo: Vec<NameId>,
}

impl Names<'_> {
    /// Passes what is in the directory that came last.
    pub fn skip_below(&mut self, id: NameId) {
        let count = self.stack.dir(id).map_or(0, |dir| dir.children.len());
        let kept = self.todo.len().saturating_sub(count);
        self.todo.truncate(kept);
    }
}

impl Iterator for Names<'_> {
    type Item = NameId;

    fn next(&mut self) -> Option<NameId> {
        let id = self.todo.pop()?;
        if let Some(dir) = self.stack.dir(id) {
            self.todo.extend(dir.children.values().rev().copied());
        }
        Some(id)
    }
}

fn too_many() -> String {
    format!("the layers have more than {MAX_NAMES} names")
}
