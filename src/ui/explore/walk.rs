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
    /// Modes, users and groups that there are.
    attributes: Vec<(u32, u32, u32)>,
    /// Which of them each entry has.
    attribute: Vec<u32>,
}

/// What one layer did, as numbers of entries in ascending order, each less
/// the one before.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LayerChanges {
    added: Vec<u32>,
    changed: Vec<u32>,
    removed: Vec<u32>,
    /// Sizes that files had then, where another is in the column.
    sizes: Vec<(u32, u64)>,
}

const NOWHERE: u32 = u32::MAX;

impl<'a> Columns<'a> {
    /// # Errors
    /// As [`Tree::inode`].
    pub(crate) fn of(tree: &'a Tree) -> io::Result<Self> {
        let mut columns = Self {
            tree,
            places: vec![NOWHERE; tree.nodes().len()],
            attributes: Vec::new(),
            attribute: Vec::new(),
        };
        let mut known = HashMap::new();
        for (place, entry) in (0..).zip(entries(tree)) {
            columns.places[entry.node.index()] = place;
            let meta = tree.inode(entry.inode)?.meta;
            let attribute = (meta.mode, meta.uid, meta.gid);
            let number = *known.entry(attribute).or_insert_with(|| {
                columns.attributes.push(attribute);
                columns.attributes.len() as u32 - 1
            });
            columns.attribute.push(number);
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
    pub(crate) fn changes(&self, layer: usize) -> io::Result<LayerChanges> {
        let tree = self.tree;
        let mut changes = LayerChanges::default();
        for change in tree.changes(layer) {
            let Change { node, after, .. } = change;
            let place = self.places[node.index()];
            if place == NOWHERE {
                continue;
            }
            match tree.kind(&change)?.0 {
                ChangeKind::Added => changes.added.push(place),
                ChangeKind::Changed => changes.changed.push(place),
                ChangeKind::Removed => changes.removed.push(place),
                ChangeKind::Same => continue,
            }
            let known = Ever::of(tree, node, 0).map(|entry| tree.size(entry.inode));
            let size = after.map(|id| tree.size(id));
            if let Some(size) = size.filter(|size| Some(*size) != known) {
                changes.sizes.push((place, size));
            }
        }
        for list in [
            &mut changes.added,
            &mut changes.changed,
            &mut changes.removed,
        ] {
            list.sort_unstable();
            let mut last = 0;
            for place in list.iter_mut() {
                let step = *place - last;
                last = std::mem::replace(place, step);
            }
        }
        Ok(changes)
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
        // A letter each, as the tree has it.
        let kinds = entries(tree).map(|e| char::from(tree.letter(e.inode)));
        out.serialize_field("kinds", &kinds.collect::<String>())?;
        // Bytes of files.
        out.serialize_field("sizes", &self.each(|e| tree.size(e.inode)))?;
        out.serialize_field("attributes", &self.attributes)?;
        out.serialize_field("attribute", &self.attribute)?;
        out.serialize_field("mtimes", &Lazy(|| self.mtimes()))?;
        // Number of the layer that each is from, from 0.
        out.serialize_field("layers", &self.each(|e| tree.layer(e.inode)))?;
        out.serialize_field("gone", &self.each(|e| self.gone(e)))?;
        out.serialize_field("links", &Links(tree))?;
        out.end()
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
