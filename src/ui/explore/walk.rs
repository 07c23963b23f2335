//! The entries of an image as columns, in the order of a walk: what a page and
//! a program are given.

use std::collections::HashMap;
use std::io;

use serde::ser::{Error, SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use shiplap::layer::Kind;
use shiplap::look::{Change, ChangeKind, InodeId, NodeId, Tree};

use crate::ui::lazy::Lazy;

/// What is at a path, or was last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ever {
    pub(crate) node: NodeId,
    pub(crate) inode: InodeId,
    /// How many directories lead to it.
    depth: usize,
    /// Whether it is not in the finished image.
    pub(crate) is_gone: bool,
}

impl Ever {
    fn of(tree: &Tree, node: NodeId, depth: usize) -> Option<Self> {
        let now = tree.now(node);
        let last = || tree.versions(node).find_map(|(_, inode)| inode);
        Some(Self {
            node,
            inode: now.or_else(last)?,
            depth,
            is_gone: now.is_none(),
        })
    }
}

/// All entries that ever were, the root first, each before what is below it, by
/// name.
pub(crate) fn entries(tree: &Tree) -> impl Iterator<Item = Ever> {
    let all = tree.walk();
    all.filter_map(|(node, depth)| Ever::of(tree, node, depth))
}

/// The entries as columns. One number in each column is an entry's; those that
/// repeat a lot are differences from the one before, or places in a table. They
/// are made while they are written.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    tree: &'a Tree,
    /// By number of node: the number of the entry; `u32::MAX` where nothing
    /// ever was.
    places: Vec<u32>,
    /// The nodes of the entries.
    nodes: Vec<NodeId>,
    /// Modes, users and groups that there are.
    attributes: Vec<(u32, u32, u32)>,
    /// Which of them each entry has; see [`put_number`].
    attribute: Vec<u8>,
}

/// What one layer did, as numbers of entries in ascending order, each less
/// the one before.
#[derive(Debug, Serialize)]
pub(crate) struct LayerChanges<'a> {
    added: Steps,
    changed: Steps,
    removed: Steps,
    /// Sizes that files had then, where another is in the column; of these the
    /// numbers of entries are whole.
    sizes: Sizes<'a>,
}

/// Numbers, written as what each is more than the one before.
#[derive(Debug, Default)]
struct Steps(Numbers);

#[derive(Debug)]
struct Sizes<'a> {
    columns: &'a Columns<'a>,
    layer: usize,
    of: Numbers,
}

const NOWHERE: u32 = u32::MAX;

impl<'a> Columns<'a> {
    /// # Errors
    /// As [`Tree::inode`].
    pub(crate) fn of(tree: &'a Tree) -> io::Result<Self> {
        let mut columns = Self {
            tree,
            places: vec![NOWHERE; tree.nodes().len()],
            nodes: Vec::new(),
            attributes: Vec::new(),
            attribute: Vec::new(),
        };
        let mut known = HashMap::new();
        for (place, entry) in (0..).zip(entries(tree)) {
            columns.places[entry.node.index()] = place;
            columns.nodes.push(entry.node);
            let meta = tree.inode(entry.inode)?.meta;
            let attribute = (meta.mode, meta.uid, meta.gid);
            let number = *known.entry(attribute).or_insert_with(|| {
                columns.attributes.push(attribute);
                columns.attributes.len() as u32 - 1
            });
            put_number(&mut columns.attribute, number);
        }
        Ok(columns)
    }

    fn each<T: Serialize>(&self, of: impl Fn(Ever) -> T + Copy) -> impl Serialize {
        let tree = self.tree;
        Lazy(move || entries(tree).map(move |entry| Ok(of(entry))))
    }

    /// Seconds since 1970, less those of the entry before.
    fn mtimes(&self) -> impl Iterator<Item = io::Result<i64>> {
        let mut last = 0;
        entries(self.tree).map(move |entry| {
            let secs = self.tree.inode(entry.inode)?.meta.mtime.secs;
            Ok(secs.wrapping_sub(std::mem::replace(&mut last, secs)))
        })
    }

    /// For what is not in the finished image: the layer that removed it, and
    /// one; else 0.
    fn gone(&self, entry: Ever) -> usize {
        let mut versions = self.tree.versions(entry.node);
        let removed = versions.next().filter(|_| entry.is_gone);
        removed.map_or(0, |(layer, _)| layer + 1)
    }

    /// What a layer did.
    ///
    /// # Errors
    /// As [`Tree::kind`].
    pub(crate) fn changes(&self, layer: usize) -> io::Result<LayerChanges<'_>> {
        let tree = self.tree;
        let mut changes = LayerChanges {
            added: Steps::default(),
            changed: Steps::default(),
            removed: Steps::default(),
            sizes: Sizes {
                columns: self,
                layer,
                of: Numbers::default(),
            },
        };
        for change in tree.changes(layer) {
            let Change { node, after, .. } = change;
            let place = self.places[node.index()];
            if place == NOWHERE {
                continue;
            }
            match tree.kind(&change)?.0 {
                ChangeKind::Added => changes.added.0.insert(place),
                ChangeKind::Changed => changes.changed.0.insert(place),
                ChangeKind::Removed => changes.removed.0.insert(place),
                ChangeKind::Same => continue,
            }
            let known = Ever::of(tree, node, 0).map(|entry| tree.size(entry.inode));
            let size = after.map(|id| tree.size(id));
            if size.is_some() && size != known {
                changes.sizes.of.insert(place);
            }
        }
        Ok(changes)
    }
}

/// Puts a small number behind others, in groups of seven bits.
fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The numbers that were put there.
fn numbers(packed: &[u8]) -> impl Iterator<Item = u32> {
    let mut bytes = packed.iter();
    std::iter::from_fn(move || {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = *bytes.next()?;
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    })
}

/// A set of numbers of entries, a bit for each.
#[derive(Debug, Default)]
struct Numbers(Vec<u64>);

impl Numbers {
    fn insert(&mut self, number: u32) {
        let at = number as usize / 64;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (number % 64);
    }

    /// In ascending order.
    fn iter(&self) -> impl Iterator<Item = u32> {
        (0..).step_by(64).zip(&self.0).flat_map(|(first, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(first + bit)
            })
        })
    }
}

impl Serialize for Steps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut last = 0;
        let steps = self.0.iter().map(|number| {
            let step = number - last;
            last = number;
            step
        });
        serializer.collect_seq(steps)
    }
}

impl Serialize for Sizes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Columns { tree, nodes, .. } = self.columns;
        serializer.collect_seq(self.of.iter().map(|place| {
            let inode = tree.at(nodes[place as usize], self.layer);
            (place, inode.map_or(0, |id| tree.size(id)))
        }))
    }
}

/// A letter for the kind of each entry, as the tree has it.
struct Kinds<'a>(&'a Tree);

impl std::fmt::Display for Kinds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tree = self.0;
        let mut letters = entries(tree).map(|e| char::from(tree.letter(e.inode)));
        loop {
            let part: String = letters.by_ref().take(1024).collect();
            match part.as_str() {
                "" => return Ok(()),
                part => f.write_str(part)?,
            }
        }
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tree = self.tree;
        let mut out = serializer.serialize_struct("Columns", 10)?;
        // Last components of the paths.
        let name = |e: Ever| String::from_utf8_lossy(tree.name(e.node));
        out.serialize_field("names", &self.each(name))?;
        // How many directories lead to each.
        let depth = |e: Ever| u16::try_from(e.depth).unwrap_or(u16::MAX);
        out.serialize_field("depths", &self.each(depth))?;
        out.serialize_field("kinds", &Text(Kinds(tree)))?;
        // Bytes of files.
        out.serialize_field("sizes", &self.each(|e| tree.size(e.inode)))?;
        out.serialize_field("attributes", &self.attributes)?;
        let attribute = || numbers(&self.attribute).map(Ok);
        out.serialize_field("attribute", &Lazy(attribute))?;
        out.serialize_field("mtimes", &Lazy(|| self.mtimes()))?;
        // Number of the layer that each is from, from 0.
        out.serialize_field("layers", &self.each(|e| tree.layer(e.inode)))?;
        out.serialize_field("gone", &self.each(|e| self.gone(e)))?;
        out.serialize_field("links", &Links(tree))?;
        out.end()
    }
}

/// Text that is made while it is written.
struct Text<T>(T);

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Targets of links, by number of entry.
struct Links<'a>(&'a Tree);

impl Serialize for Links<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tree = self.0;
        let mut out = serializer.serialize_map(None)?;
        for (place, entry) in (0_u32..).zip(entries(tree)) {
            if matches!(tree.letter(entry.inode), b'l' | b'h') {
                let inode = tree.inode(entry.inode).map_err(S::Error::custom)?;
                if let Kind::Symlink { target } | Kind::Hardlink { target } = inode.kind {
                    out.serialize_entry(&place, &target.to_string_lossy())?;
                }
            }
        }
        out.end()
    }
}
