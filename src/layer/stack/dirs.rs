//! The directories of a tree.

use std::ffi::OsStr;

use super::{NO_LAYER, NameId, NodeId, Origin, Stack};
use crate::layer::Meta;
use crate::layer::frames::NONE;

/// What is known of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirData {
    /// The first of the names in it, with those that layers below the split
    /// have in it and that are gone, and some free places.
    pub(super) first: u32,
    /// The last entry for it, by its number among those of all layers, and the
    /// number of its attributes; none where it was made on the way to something
    /// else.
    pub(super) stated: u32,
    pub(super) meta: u32,
    /// The last layer that has pruned it, and the last one that has something
    /// in it, which may be a whiteout.
    pub(super) pruned: u16,
    pub(super) entered: u16,
}

pub(super) const EMPTY: DirData = DirData {
    first: NONE,
    stated: NONE,
    meta: NONE,
    pruned: NO_LAYER,
    entered: NO_LAYER,
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
        self.stack.names.sorted(self.data.first, true)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        let mut there = self.stack.names.list(self.data.first, true);
        there.next().is_none()
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
    /// in the order of bytes. Not all of them where the directory
    /// [hides](Stack::needs_opaque) the others.
    pub fn removed(&self) -> impl Iterator<Item = &'a OsStr> + use<'a> {
        let names = &self.stack.names;
        let gone = names.sorted(self.data.first, false);
        gone.into_iter().map(move |name| names.name(name))
    }
}
