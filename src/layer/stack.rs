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
//! Memory is some twenty bytes for each name, however many entries there are of
//! it. Texts, of names and of each symbolic link that there was, lie in a file;
//! the number of names and the length of a path are limited.
//!
//! # Specification
//! image-spec `layer.md`, "Applying Changesets".

mod dirs;
mod nodes;
mod packed;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use self::dirs::Dir;
use self::dirs::{DirData, EMPTY};
use self::nodes::Nodes;
pub use self::packed::Metas;
use self::packed::{Lower, Name, Packed, What};
use super::pile::Spools;
use super::tar_read::Item;
use super::{Entry, Kind, Meta};
use crate::sys::fs::components;

/// Links followed on the way to one directory, as the kernel has it.
const MAX_LINKS: usize = 40;
/// The longest text of a link, in bytes, as the kernel has it.
const MAX_LINK: usize = 4095;
/// The most places for names that a tree may have.
const MAX_NAMES: usize = 20_000_000;
/// No number of a layer.
const NO_LAYER: u16 = u16::MAX;
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

    /// The one with this [`index`](Self::index).
    pub(crate) fn at(index: usize) -> Self {
        Self(index as u32)
    }
}

impl NodeId {
    /// A small number of its own; it rises with the entries.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

const ROOT: NameId = NameId(0);

/// Layers, applied one on another.
#[derive(Debug)]
pub struct Stack {
    names: Packed,
    dirs: Vec<DirData>,
    free_dirs: Vec<u32>,
    nodes: Nodes,
    metas: Metas,
    layer: u16,
    entry: u32,
    split: Option<u16>,
    /// What hard links above the split say of their files.
    linked: HashMap<NameId, u32>,
    /// The directory of the last entry, as long as its path leads to it.
    last: Option<(PathBuf, Place)>,
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
    Dir(Dir<'a>),
    /// Anything else.
    Node(NodeId),
}

/// A directory, and the bytes of its path with the slash behind it.
#[derive(Debug, Clone, Copy)]
struct Place {
    dir: NameId,
    length: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Nothing,
    Anything,
}

impl Stack {
    /// An empty tree; entries that come belong to layer 0. Its names lie in one
    /// of `spools`.
    pub fn new(spools: Spools) -> Self {
        let root = Name {
            what: What::Dir(0),
            layer: 0,
            lower: Lower::Same,
        };
        Self {
            names: Packed::new(root, spools),
            dirs: vec![EMPTY],
            free_dirs: Vec::new(),
            nodes: Nodes::new(),
            metas: Metas::default(),
            layer: 0,
            entry: 0,
            split: None,
            linked: HashMap::new(),
            last: None,
        }
    }

    /// Ends the current layer. There may be 65,535 of them.
    pub fn next_layer(&mut self) {
        self.layer = self.layer.saturating_add(1);
        self.nodes.next_layer(self.entry);
        self.entry = 0;
    }

    /// What is there now is what lies below; what comes changes it.
    pub fn split(&mut self) {
        self.split = Some(self.layer);
        for id in 0..self.names.len() {
            self.names.set_lower(NameId::at(id), Lower::Same);
        }
    }

    /// Applies the next entry of the current layer.
    ///
    /// # Errors
    /// When an unpacker would refuse it.
    pub fn apply(&mut self, item: &Item) -> Result<Applied, StackError> {
        let done = match item {
            _ if self.layer == NO_LAYER => Err(format!("there are {NO_LAYER} layers below it")),
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

    /// Lets go of what only further entries would need.
    pub fn finish(&mut self) {
        self.names.finish();
        self.nodes.finish();
        self.free_dirs = Vec::new();
        self.last = None;
    }

    /// The directory that has this name.
    pub fn dir(&self, id: NameId) -> Option<Dir<'_>> {
        match self.names.what(id) {
            What::Dir(dir) => Some(Dir {
                stack: self,
                data: &self.dirs[dir as usize],
            }),
            _ => None,
        }
    }

    fn dir_mut(&mut self, id: NameId) -> Option<&mut DirData> {
        match self.names.what(id) {
            What::Dir(dir) => self.dirs.get_mut(dir as usize),
            _ => None,
        }
    }

    fn child(&self, dir: NameId, name: &OsStr) -> Option<NameId> {
        self.names.child(dir, name.as_bytes())
    }

    fn put(&mut self, entry: &Entry) -> Result<Applied, String> {
        let path = &entry.path;
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            self.state(ROOT, &entry.meta)?;
            return Ok(Applied::Put(ROOT));
        };
        let parent = self.make(parent)?;
        let link = match &entry.kind {
            Kind::Dir => {
                let id = match self.child(parent.dir, name) {
                    Some(id) if self.dir(id).is_some() => id,
                    _ => self.add_dir(parent, name)?,
                };
                self.state(id, &entry.meta)?;
                return Ok(Applied::Put(id));
            }
            Kind::Hardlink { target } => {
                let (id, target) = self.hard_link(parent, name, target)?;
                if self.split.is_some() {
                    let meta = self.metas.intern(&entry.meta);
                    self.linked.insert(id, meta);
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
            Kind::Symlink { target } => Some(self.names.keep(target.as_os_str().as_bytes())?),
            Kind::File { .. } | Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => None,
        };
        let node = self.nodes.of(self.entry)?;
        if let Some(link) = link {
            self.nodes.set_link(node, link);
        }
        self.add(parent, name, What::Node(node)).map(Applied::Put)
    }

    /// The current entry says what a directory is like.
    fn state(&mut self, id: NameId, meta: &Meta) -> Result<(), String> {
        let entry = self.nodes.of(self.entry)?.0;
        let meta = self.metas.intern(meta);
        self.names.set_layer(id, self.layer);
        if let Some(dir) = self.dir_mut(id) {
            (dir.stated, dir.meta) = (entry, meta);
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: Place,
        name: &OsStr,
        target: &Path,
    ) -> Result<(NameId, NameId), String> {
        let text = target.as_os_str().as_bytes().escape_ascii();
        let missing = |reason: &str| Err(format!("its target {text} {reason}"));
        let (Some(target_name), Some(target_parent)) = (target.file_name(), target.parent()) else {
            return missing("is the root");
        };
        let found = match self.walk(target_parent, Make::Nothing)? {
            Some(place) => self.child(place.dir, target_name),
            None => None,
        };
        let Some(found) = found else {
            return missing("does not exist");
        };
        let What::Node(node) = self.names.what(found) else {
            return missing("is a directory");
        };
        let place = self.child(parent.dir, name);
        if place == Some(found) {
            return missing("is itself");
        }
        // What is in the way is removed, with all below it.
        if place.is_some_and(|place| self.leads_below(found, place)) {
            return missing("does not exist");
        }
        Ok((self.add(parent, name, What::Node(node))?, found))
    }

    fn leads_below(&self, mut id: NameId, above: NameId) -> bool {
        while id != ROOT {
            if id == above {
                return true;
            }
            id = self.names.parent(id);
        }
        above == ROOT
    }

    fn add_dir(&mut self, parent: Place, name: &OsStr) -> Result<NameId, String> {
        let dir = match self.free_dirs.pop() {
            Some(dir) => dir,
            None => {
                let dir = u32::try_from(self.dirs.len()).map_err(|_| too_many())?;
                self.dirs.push(EMPTY);
                dir
            }
        };
        self.add(parent, name, What::Dir(dir))
    }

    /// Puts something at `name` in `parent`, in the place of what is there.
    fn add(&mut self, place: Place, name: &OsStr, what: What) -> Result<NameId, String> {
        if place.length + name.len() > MAX_PATH {
            return Err(format!("its path is longer than {MAX_PATH} bytes"));
        }
        let parent = place.dir;
        let Some(found) = self.names.find(parent, name.as_bytes()) else {
            let What::Dir(dir) = self.names.what(parent) else {
                return Err("its parent is no directory".into());
            };
            let new = Name {
                what,
                layer: self.layer,
                lower: Lower::Nothing,
            };
            let first = &mut self.dirs[dir as usize].first;
            return self.names.add(parent, name.as_bytes(), new, first);
        };
        self.clear(found);
        let is_split = self.split.is_some();
        let new = Name {
            what,
            layer: self.layer,
            lower: match self.names.lower(found) {
                Lower::Same | Lower::Emptied | Lower::Other if is_split => Lower::Other,
                _ => Lower::Nothing,
            },
        };
        self.names.set(found, new);
        Ok(found)
    }

    /// Removes a name with all below it.
    fn remove(&mut self, id: NameId) {
        self.clear(id);
        if self.split.is_some() && self.names.lower(id) != Lower::Nothing {
            self.names.set_what(id, What::Removed);
        } else if self.names.remove(id) {
            for dir in &mut self.dirs {
                self.names.sweep(&mut dir.first, true);
            }
        }
    }

    /// Removes all that is below a name, whatever it is: paths may have led
    /// through it.
    fn clear(&mut self, id: NameId) {
        self.last = None;
        let mut todo = Vec::from_iter(match self.names.what(id) {
            What::Dir(dir) => Some(dir),
            _ => None,
        });
        while let Some(dir) = todo.pop() {
            let data = std::mem::replace(&mut self.dirs[dir as usize], EMPTY);
            self.free_dirs.push(dir);
            self.names.clear(data.first, &mut todo);
        }
    }

    /// The directory `path`, which is made if there is none.
    fn make(&mut self, path: &Path) -> Result<Place, String> {
        let layer = self.layer;
        let made = match &self.last {
            Some((known, place)) if known.as_os_str() == path.as_os_str() => *place,
            _ => {
                let made = self.walk(path, Make::Anything)?;
                let made = made.ok_or("its parent does not exist")?;
                self.last = Some((path.to_owned(), made));
                made
            }
        };
        if let Some(dir) = self.dir_mut(made.dir) {
            dir.entered = layer;
        }
        Ok(made)
    }

    fn walk(&mut self, path: &Path, make: Make) -> Result<Option<Place>, String> {
        const TOP: Place = Place {
            dir: ROOT,
            length: 0,
        };
        let mut todo = components(path);
        let mut here = TOP;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                if here.dir != ROOT {
                    here.length -= self.names.text(here.dir).len() + 1;
                    here.dir = self.names.parent(here.dir);
                }
                continue;
            }
            let child = self.child(here.dir, &name);
            let found = child.map(|id| (id, self.names.what(id)));
            let dir = match found {
                Some((id, What::Dir(_))) => id,
                Some((_, What::Node(node))) => {
                    if let Some(link) = self.link(node) {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err("its path leads through too many links".into());
                        }
                        let target = PathBuf::from(OsStr::from_bytes(link));
                        if target.has_root() {
                            here = TOP;
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
                        Make::Anything => self.add_dir(here, &name)?,
                    }
                }
                Some((_, What::Removed | What::Free)) | None => match make {
                    Make::Nothing => return Ok(None),
                    Make::Anything => self.add_dir(here, &name)?,
                },
            };
            here = Place {
                dir,
                length: here.length + name.len() + 1,
            };
        }
        Ok(Some(here))
    }

    fn whiteout(&mut self, path: &Path) -> Result<Applied, String> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err("the root can't be removed".into());
        };
        let parent = self.make(parent)?.dir;
        if let Some(id) = self.child(parent, name) {
            self.prune(id);
        }
        Ok(Applied::Removed(parent, name.to_owned()))
    }

    fn opaque(&mut self, path: &Path) -> Result<Applied, String> {
        let id = self.make(path)?.dir;
        for child in self.not_pruned(id) {
            self.prune(child);
        }
        if self.split.is_some() && self.names.lower(id) == Lower::Same {
            self.names.set_lower(id, Lower::Emptied);
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
            order.push(id);
            todo.extend(self.not_pruned(id));
        }
        // Children come before their directories.
        for id in order.into_iter().rev() {
            let is_own = self.names.layer(id) == layer;
            match self.dir(id) {
                Some(dir) if !is_own && (dir.data.entered == layer || !dir.is_empty()) => {
                    // It goes and comes back as what the own ones are in.
                    self.names.set_layer(id, layer);
                }
                _ if !is_own => self.remove(id),
                _ => {}
            }
        }
    }

    /// What is in a directory, unless the current layer has pruned that: what
    /// came into it since then is the layer's own. It has from now on.
    fn not_pruned(&mut self, id: NameId) -> Vec<NameId> {
        let What::Dir(dir) = self.names.what(id) else {
            return Vec::new();
        };
        let shows_through = self.names.lower(id) == Lower::Same;
        let dir = &mut self.dirs[dir as usize];
        if dir.pruned == self.layer {
            return Vec::new();
        }
        dir.pruned = self.layer;
        // So that each of those that are gone is passed once.
        self.names.sweep(&mut dir.first, shows_through);
        self.names.list(dir.first, true).collect()
    }

    /// The path of a name, without links.
    pub fn path(&self, mut id: NameId) -> PathBuf {
        let mut parts: Vec<&[u8]> = Vec::new();
        while id != ROOT {
            parts.push(self.names.text(id));
            id = self.names.parent(id);
        }
        parts.reverse();
        OsString::from_vec(parts.join(&b'/')).into()
    }

    /// What is at `path`, in which no link is followed; not known once the
    /// stack is [finished](Self::finish).
    pub fn at(&self, path: &Path) -> Option<NameId> {
        let mut here = ROOT;
        for part in path.iter() {
            here = self.child(here, part)?;
        }
        Some(here)
    }

    /// The directory that a name is in; the root is in itself.
    pub fn parent(&self, id: NameId) -> NameId {
        self.names.parent(id)
    }

    /// What a name stands for.
    pub fn get(&self, id: NameId) -> Option<Found<'_>> {
        match self.names.what(id) {
            What::Dir(_) => self.dir(id).map(Found::Dir),
            What::Node(node) => Some(Found::Node(node)),
            What::Removed | What::Free => None,
        }
    }

    /// The entry that brought it.
    pub fn origin_of(&self, node: NodeId) -> Origin {
        self.nodes.origin(node)
    }

    /// The number of a layer's first entry: that of a node is its entry's,
    /// among those of all layers.
    pub(crate) fn first_of(&self, layer: u32) -> u32 {
        self.nodes.first_of(layer)
    }

    /// Whether a layer below the split brought it.
    pub(crate) fn is_below(&self, node: NodeId) -> bool {
        let split = self.split.map(u32::from);
        split.is_some_and(|split| node.0 < self.first_of(split))
    }

    /// Whether a symbolic link.
    pub fn is_link(&self, node: NodeId) -> bool {
        self.link(node).is_some()
    }

    fn link(&self, node: NodeId) -> Option<&[u8]> {
        self.nodes.link(node, &self.names.texts)
    }

    /// What the hard link that made this name above the split says of its file.
    pub fn linked(&self, id: NameId) -> Option<&Meta> {
        self.metas.get(*self.linked.get(&id)?)
    }

    /// The numbers of names are below this.
    pub fn capacity(&self) -> usize {
        self.names.len()
    }

    /// Whether a layer above the [split](Self::split) put it, or said again
    /// what it is.
    pub fn is_new(&self, id: NameId) -> bool {
        let is_same = matches!(self.names.lower(id), Lower::Same | Lower::Emptied);
        !is_same || self.split.is_none_or(|split| self.names.layer(id) >= split)
    }

    /// All names, a directory before what is in it, in the order of bytes.
    pub fn names(&self) -> Names<'_> {
        Names {
            stack: self,
            above: vec![vec![ROOT].into_iter()],
        }
    }

    /// Whether the name hides something that lower layers have there, but does
    /// not do so by what it is.
    pub fn needs_opaque(&self, id: NameId) -> bool {
        let lower = self.names.lower(id);
        matches!(lower, Lower::Emptied | Lower::Other) && self.dir(id).is_some()
    }

    /// Whether layers below the split have something else of this name.
    pub fn replaces(&self, id: NameId) -> bool {
        self.names.lower(id) == Lower::Other
    }
}

/// See [`Stack::names`].
#[derive(Debug)]
pub struct Names<'a> {
    stack: &'a Stack,
    /// What still comes in each directory that leads to the last name, and in
    /// that name if it is one.
    above: Vec<std::vec::IntoIter<NameId>>,
}

impl Names<'_> {
    /// Passes what is in the directory that came last.
    pub fn skip_below(&mut self, id: NameId) {
        if self.stack.dir(id).is_some() {
            self.above.pop();
        }
    }
}

impl Iterator for Names<'_> {
    type Item = NameId;

    fn next(&mut self) -> Option<NameId> {
        let id = loop {
            match self.above.last_mut()?.next() {
                Some(id) => break id,
                None => self.above.pop(),
            };
        };
        if let Some(dir) = self.stack.dir(id) {
            self.above.push(dir.children().into_iter());
        }
        Some(id)
    }
}

fn too_many() -> String {
    format!("the layers have more than {MAX_NAMES} names")
}
