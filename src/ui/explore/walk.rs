//! The entries of an image as columns, in the order of a walk: what a page and
//! a program are given.

use serde::Serialize;
use shiplap::layer::Kind;
use shiplap::look::{ChangeKind, Inode, NodeId, Tree};

use super::picture::Contents;

/// All entries that ever were, the root first, each before what is below it,
/// by name. One number in each column is an entry's; those that repeat a lot
/// are differences from the one before, or places in a table.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Columns {
    /// Last components of the paths.
    pub(crate) names: Vec<String>,
    /// How many directories lead to each.
    pub(crate) depths: Vec<u16>,
    /// A letter each: `f`, `d`, `l`, `h` (a hard link without target), `c`,
    /// `b`, `p`.
    pub(crate) kinds: String,
    /// Bytes of files.
    pub(crate) sizes: Vec<u64>,
    /// Modes, users and groups that there are.
    pub(crate) attributes: Vec<(u32, u32, u32)>,
    /// Which of them each has.
    pub(crate) attribute: Vec<u32>,
    /// Seconds since 1970, less those of the entry before.
    pub(crate) mtimes: Vec<i64>,
    /// Number of the layer that it is from, from 0.
    pub(crate) layers: Vec<u32>,
    /// For what is not in the finished image: the layer that removed it, and
    /// one; else 0.
    pub(crate) gone: Vec<u32>,
    /// Targets of links, by number of entry.
    pub(crate) links: std::collections::BTreeMap<u32, String>,
}

/// What one layer did, as numbers of entries in ascending order, each less
/// the one before.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LayerChanges {
    added: Vec<u32>,
    changed: Vec<u32>,
    removed: Vec<u32>,
    /// Sizes that files had then, where another is in [`Columns::sizes`].
    sizes: Vec<(u32, u64)>,
}

/// Entries as columns, and where each node of the tree is among them.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) columns: Columns,
    /// By number of node; `u32::MAX` where nothing ever was.
    places: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl Walk {
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut walk = Self {
            columns: Columns::default(),
            places: vec![NOWHERE; tree.nodes().count()],
        };
        let mut attributes = std::collections::HashMap::new();
        let mut mtime = 0;
        let mut todo = vec![(Tree::ROOT, 0_u16)];
        while let Some((node, depth)) = todo.pop() {
            let Some((inode, gone)) = ever(tree, node) else {
                continue;
            };
            let columns = &mut walk.columns;
            let place = columns.names.len() as u32;
            walk.places[node.index()] = place;
            let name = String::from_utf8_lossy(tree.name(node));
            columns.names.push(name.into_owned());
            columns.depths.push(depth);
            columns.kinds.push(kind_letter(&inode.kind));
            columns.sizes.push(inode.size());
            let meta = &inode.meta;
            let attribute = (meta.mode, meta.uid, meta.gid);
            let known = attributes.entry(attribute).or_insert_with(|| {
                columns.attributes.push(attribute);
                columns.attributes.len() as u32 - 1
            });
            columns.attribute.push(*known);
            columns.mtimes.push(meta.mtime.secs.wrapping_sub(mtime));
            mtime = meta.mtime.secs;
            columns.layers.push(inode.layer as u32);
            let removed = tree.versions(node).next().filter(|_| gone);
            columns
                .gone
                .push(removed.map_or(0, |(layer, _)| layer as u32 + 1));
            if let Some(target) = link_target(&inode.kind) {
                columns.links.insert(place, target);
            }
            let below = tree.children(node).iter().rev();
            todo.extend(below.map(|child| (*child, depth.saturating_add(1))));
        }
        walk
    }

    /// The number of an entry.
    pub(crate) fn place(&self, node: NodeId) -> Option<u32> {
        Some(self.places[node.index()]).filter(|place| *place != NOWHERE)
    }

    pub(crate) fn changes(&self, contents: &Contents, layer: usize) -> LayerChanges {
        let tree = &contents.tree;
        let mut changes = LayerChanges::default();
        for change in tree.changes(layer) {
            let Some(place) = self.place(change.node) else {
                continue;
            };
            match tree.kind(change).0 {
                ChangeKind::Added => changes.added.push(place),
                ChangeKind::Changed => changes.changed.push(place),
                ChangeKind::Removed => changes.removed.push(place),
                ChangeKind::Same => continue,
            }
            let size = change.after.map(|id| tree.inode(id)).map(Inode::size);
            let known = self.columns.sizes.get(place as usize).copied();
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
        changes
    }
}

/// What is at a path, or was last; and whether it is gone.
pub(crate) fn ever(tree: &Tree, node: NodeId) -> Option<(&Inode, bool)> {
    let now = tree.now(node);
    let last = now.or_else(|| tree.versions(node).find_map(|(_, inode)| inode))?;
    Some((tree.inode(last), now.is_none()))
}

/// The letter that stands for a kind of entry.
fn kind_letter(kind: &Kind) -> char {
    match kind {
        Kind::File { .. } => 'f',
        Kind::Dir => 'd',
        Kind::Symlink { .. } => 'l',
        Kind::Hardlink { .. } => 'h',
        Kind::Char { .. } => 'c',
        Kind::Block { .. } => 'b',
        Kind::Fifo => 'p',
    }
}

/// Where a link leads to.
fn link_target(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Symlink { target } | Kind::Hardlink { target } => {
            Some(target.to_string_lossy().into_owned())
        }
        _ => None,
    }
}
