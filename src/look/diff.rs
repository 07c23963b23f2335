//! What differs between two images.

use std::path::PathBuf;

use serde_json::Value;

use super::tree::{Inode, InodeId, NodeId, Tree};
use crate::image::{Descriptor, Image};
use crate::layer::Kind;

/// In what two things at one path can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// One is a file, the other a directory, and so on.
    Kind,
    /// Content of a file, or its size.
    Content,
    /// Target of a link.
    Link,
    /// Number of a device.
    Device,
    /// Permissions.
    Mode,
    /// Owner or group.
    Owner,
    /// Time of the last change.
    Mtime,
    /// Extended attributes.
    Xattr,
    /// Which names lead to one file.
    Hardlink,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Kind,
        Self::Content,
        Self::Link,
        Self::Device,
        Self::Mode,
        Self::Owner,
        Self::Mtime,
        Self::Xattr,
        Self::Hardlink,
    ];

    /// What it is called in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Link => "link",
            Self::Device => "device",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Mtime => "mtime",
            Self::Xattr => "xattr",
            Self::Hardlink => "hardlink",
        }
    }
}

/// A set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Aspects(u16);

impl Aspects {
    /// In what the two differ, but for [`Aspect::Hardlink`].
    pub fn between(a: &Inode, b: &Inode) -> Self {
        let mut found = Self::default();
        match (&a.kind, &b.kind) {
            (Kind::File { size: x }, Kind::File { size: y }) => {
                found.add_if(Aspect::Content, x != y || a.digest != b.digest);
            }
            (Kind::Symlink { target: x }, Kind::Symlink { target: y })
            | (Kind::Hardlink { target: x }, Kind::Hardlink { target: y }) => {
                found.add_if(Aspect::Link, x != y);
            }
            (x @ Kind::Char { .. }, y @ Kind::Char { .. })
            | (x @ Kind::Block { .. }, y @ Kind::Block { .. }) => {
                found.add_if(Aspect::Device, x != y);
            }
            (x, y) => found.add_if(Aspect::Kind, x != y),
        }
        let (a, b) = (&a.meta, &b.meta);
        found.add_if(Aspect::Mode, a.mode != b.mode);
        found.add_if(Aspect::Owner, (a.uid, a.gid) != (b.uid, b.gid));
        found.add_if(Aspect::Mtime, a.mtime != b.mtime);
        found.add_if(Aspect::Xattr, a.xattrs != b.xattrs);
        found
    }

    fn add_if(&mut self, aspect: Aspect, differs: bool) {
        if differs {
            self.add(aspect);
        }
    }

    /// Adds one.
    pub fn add(&mut self, aspect: Aspect) {
        self.0 |= 1 << aspect as u16;
    }

    /// Whether it has `aspect`.
    pub fn has(self, aspect: Aspect) -> bool {
        self.0 & (1 << aspect as u16) != 0
    }

    /// Those that `other` has not.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn is_only_mtime(self) -> bool {
        self.0 == 1 << Aspect::Mtime as u16
    }

    /// All that it has.
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |a| self.has(*a))
    }
}

impl FromIterator<Aspect> for Aspects {
    fn from_iter<I: IntoIterator<Item = Aspect>>(aspects: I) -> Self {
        let mut all = Self::default();
        aspects.into_iter().for_each(|a| all.add(a));
        all
    }
}

/// A path at which two images differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The path, relative.
    pub path: PathBuf,
    /// What the first has there.
    pub before: Option<InodeId>,
    /// What the second has there.
    pub after: Option<InodeId>,
    /// In what they differ, where both have something.
    pub aspects: Aspects,
}

/// Where the finished images `a` and `b` differ, in the order of paths, those
/// left out that differ in `ignore` only.
pub fn files(a: &Tree, b: &Tree, ignore: Aspects) -> Vec<FileChange> {
    let (links_a, links_b) = (first_names(a), first_names(b));
    let mut changes = Vec::new();
    let mut todo = vec![(Some(Tree::ROOT), Some(Tree::ROOT))];
    while let Some((x, y)) = todo.pop() {
        let before = x.and_then(|n| a.now(n));
        let after = y.and_then(|n| b.now(n));
        let mut aspects = Aspects::default();
        if let (Some(p), Some(q)) = (before, after) {
            aspects = Aspects::between(a.inode(p), b.inode(q));
            let (p, q) = (links_a[p.0 as usize], links_b[q.0 as usize]);
            if !same_path(a, p, b, q) {
                aspects.add(Aspect::Hardlink);
            }
            aspects = aspects.without(ignore);
        }
        if before.is_some() != after.is_some() || !aspects.is_empty() {
            changes.push(FileChange {
                path: match (x, y) {
                    (Some(x), _) => a.path(x),
                    (None, Some(y)) => b.path(y),
                    (None, None) => PathBuf::new(),
                },
                before,
                after,
                aspects,
            });
        }
        pairs(a, x, b, y, &mut todo);
    }
    changes
}

/// Adds the children of the two, by name, the first on top.
fn pairs(
    a: &Tree,
    x: Option<NodeId>,
    b: &Tree,
    y: Option<NodeId>,
    todo: &mut Vec<(Option<NodeId>, Option<NodeId>)>,
) {
    let live = |tree: &Tree, node: Option<NodeId>| -> Vec<NodeId> {
        let children = node.map_or(&[][..], |n| tree.children(n));
        let there = children.iter().filter(|n| tree.now(**n).is_some());
        there.copied().collect()
    };
    let (mut xs, mut ys) = (live(a, x), live(b, y));
    // From the end, as what is pushed last comes first.
    loop {
        let order = match (xs.last(), ys.last()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Greater,
            (None, Some(_)) => std::cmp::Ordering::Less,
            (Some(p), Some(q)) => a.name(*p).cmp(b.name(*q)),
        };
        todo.push(match order {
            std::cmp::Ordering::Greater => (xs.pop(), None),
            std::cmp::Ordering::Less => (None, ys.pop()),
            std::cmp::Ordering::Equal => (xs.pop(), ys.pop()),
        });
    }
}

/// The first name of each file that has several.
fn first_names(tree: &Tree) -> Vec<Option<NodeId>> {
    let mut first: Vec<Option<NodeId>> = vec![None; tree.inodes.len()];
    let mut several = vec![false; tree.inodes.len()];
    for node in in_order(tree) {
        if let Some(inode) = tree.now(node) {
            let at = inode.0 as usize;
            several[at] = first[at].is_some();
            first[at].get_or_insert(node);
        }
    }
    let names = first.into_iter().zip(several);
    names.map(|(f, several)| f.filter(|_| several)).collect()
}

/// All nodes in the order of paths.
pub(super) fn in_order(tree: &Tree) -> impl Iterator<Item = NodeId> {
    let mut todo = vec![Tree::ROOT];
    std::iter::from_fn(move || {
        let node = todo.pop()?;
        todo.extend(tree.children(node).iter().rev());
        Some(node)
    })
}

fn same_path(a: &Tree, x: Option<NodeId>, b: &Tree, y: Option<NodeId>) -> bool {
    let (mut x, mut y) = match (x, y) {
        (None, None) => return true,
        (Some(x), Some(y)) => (x, y),
        _ => return false,
    };
    loop {
        if a.name(x) != b.name(y) {
            return false;
        }
        match (a.parent(x), b.parent(y)) {
            (None, None) => return true,
            (Some(p), Some(q)) => (x, y) = (p, q),
            _ => return false,
        }
    }
}

/// A field that differs: where it is, and its value in either.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldChange {
    /// Names and numbers on the way to it, joined with dots.
    pub field: String,
    /// In the first; `None` where it has no such field.
    pub before: Option<Value>,
    /// In the second.
    pub after: Option<Value>,
}

/// Where two documents differ. Lists of different lengths are compared as a
/// whole, unless they hold objects or one is the beginning of the other.
pub fn fields(a: &Value, b: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare(String::new(), Some(a), Some(b), &mut changes);
    changes
}

fn compare(field: String, a: Option<&Value>, b: Option<&Value>, out: &mut Vec<FieldChange>) {
    let below = |name: &str| match field.as_str() {
        "" => name.to_owned(),
        _ => format!("{field}.{name}"),
    };
    match (a, b) {
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            let mut names: Vec<&String> = x.keys().chain(y.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                compare(below(name), x.get(name), y.get(name), out);
            }
        }
        (Some(Value::Array(x)), Some(Value::Array(y)))
            if x.len() == y.len()
                || x.iter().chain(y).any(Value::is_object)
                || x.starts_with(y)
                || y.starts_with(x) =>
        {
            for n in 0..x.len().max(y.len()) {
                compare(below(&n.to_string()), x.get(n), y.get(n), out);
            }
        }
        _ if a == b => {}
        _ => out.push(FieldChange {
            field,
            before: a.cloned(),
            after: b.cloned(),
        }),
    }
}

/// Layers of two images side by side: those that both have, in order, and
/// those that only one has.
pub fn layers(a: &[Descriptor], b: &[Descriptor]) -> Vec<(Option<usize>, Option<usize>)> {
    let shared = a.iter().zip(b).take_while(|(x, y)| x.digest == y.digest);
    let shared = shared.count();
    let both = (0..shared).map(|n| (Some(n), Some(n)));
    let first = (shared..a.len()).map(|n| (Some(n), None));
    let second = (shared..b.len()).map(|n| (None, Some(n)));
    both.chain(first).chain(second).collect()
}

/// The config of an image as a document, without its history and layers.
pub fn config(image: &Image) -> Value {
    let mut config: Value = serde_json::from_slice(&image.config_bytes).unwrap_or_default();
    if let Value::Object(fields) = &mut config {
        fields.remove("history");
        fields.remove("rootfs");
    }
    config
}

/// The history of an image as a document.
pub fn history(image: &Image) -> Value {
    let config: Value = serde_json::from_slice(&image.config_bytes).unwrap_or_default();
    config
        .get("history")
        .cloned()
        .unwrap_or_else(|| Value::Array(Vec::new()))
}
