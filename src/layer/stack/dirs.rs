//! The directories of a tree.

use std::ffi::OsStr;

use super::packed::NONE;
use super::{NameId, NodeId, Origin, Stack};
use crate::layer::Meta;

/// What is known of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirData {
    /// The first of the names in it, and of those that layers below the split
    /// have in it and that are gone.
    pub(super) children: u32,
    pub(super) removed: u32,
    /// The last entry for it, by its number among those of all layers, and the
    /// number of its attributes; none where it was made on the way to something
    /// else.
    pub(super) stated: u32,
    pub(super) meta: u32,
    /// The layer that has pruned it, if any.
    pub(super) pruned: u32,
    /// Nothing of what layers below the split have in it is left.
    pub(super) is_opaque: bool,
}

pub(super) const EMPTY: DirData = DirData {
    children: NONE,
    removed: NONE,
    stated: NONE,
    meta: NONE,
    pruned: NONE,
    is_opaque: false,
};

/// A directory.
#[derive(Debug, Clone, Copy)]
pub struct Dir<'a> {
    pub(super) stack: &'a Stack,
    pub(super) data: &'a DirData,
}

impl<'a> Dir<'a> {
    /// What is in it, in the order of bytes.
    pub fn children(&self) -> Vec<NameId> {
        self.stack.names.sorted(self.data.children)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.data.children == NONE
    }

    /// The last entry for it, and its attributes.
    pub fn stated(&self) -> Option<(Origin, &'a Meta)> {
        let entry = self.entry()?;
        let meta = self.stack.metas.get(self.data.meta)?;
        Some((self.stack.nodes.origin(NodeId(entry)), meta))
    }

    /// The number of the last entry for it, among the [`NodeId::index`] of all
    /// others.
    pub(crate) fn entry(&self) -> Option<u32> {
        (self.data.stated != NONE).then_some(self.data.stated)
    }

    /// Names below the split that are gone and that nothing took the place of,
    /// in the order of bytes.
    pub fn removed(&self) -> impl Iterator<Item = &'a OsStr> + use<'a> {
        let names = &self.stack.names;
        let list = match self.data.is_opaque {
            true => Vec::new(),
            false => names.sorted(self.data.removed),
        };
        list.into_iter().map(move |name| names.name(name))
    }
}
