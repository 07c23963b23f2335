//! What differs between two images.

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;

use serde_json::Value;

use super::rows::{Row, Rows, order};
use super::tree::Inode;
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
    pub before: Option<Inode>,
    /// What the second has there.
    pub after: Option<Inode>,
    /// In what they differ, where both have something.
    pub aspects: Aspects,
}

/// Where the finished images `a` and `b` differ, in the order of paths, those
/// left out that differ in `ignore` only. Rows that can't be read any more end
/// it with an error.
pub fn files(a: &Rows, b: &Rows, ignore: Aspects) -> impl Iterator<Item = io::Result<FileChange>> {
    let (mut xs, mut ys) = (a.iter().peekable(), b.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (xs.peek(), ys.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
                (_, Some(Err(_))) | (None, Some(_)) => Ordering::Greater,
                (Some(Ok(x)), Some(Ok(y))) => order(&x.path, &y.path),
            };
            let before = (order.is_le()).then(|| xs.next()).flatten().transpose();
            let after = (order.is_ge()).then(|| ys.next()).flatten().transpose();
            match (before, after) {
                (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
                (Ok(before), Ok(after)) => {
                    if let Some(change) = change(before, after, ignore) {
                        return Some(Ok(change));
                    }
                }
            }
        }
    })
}

/// What differs between two things at one path.
fn change(before: Option<Row>, after: Option<Row>, ignore: Aspects) -> Option<FileChange> {
    let mut aspects = Aspects::default();
    if let (Some(x), Some(y)) = (&before, &after) {
        aspects = Aspects::between(&x.inode, &y.inode);
        aspects.add_if(Aspect::Hardlink, x.first_name != y.first_name);
        aspects = aspects.without(ignore);
        if aspects.is_empty() {
            return None;
        }
    }
    let path = before.as_ref().or(after.as_ref())?.path.clone();
    Some(FileChange {
        path,
        before: before.map(|row| row.inode),
        after: after.map(|row| row.inode),
        aspects,
    })
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
