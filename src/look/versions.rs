//! What layers made of paths, one version after another.

use super::inodes::{IMPLIED, Inodes};
use super::tree::NONE;

/// Set where a number is one of a [`Version`] and not of an inode.
const VERSION: u32 = 1 << 31;
/// Set in what a version is, where that is no inode of its own layer: then the
/// rest is the layer that removed the path, or with [`IMPLIED`] the place in
/// [`Versions::foreign`].
const OTHER: u32 = 1 << 31;

/// What a layer made of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// The one before; see [`Versions`].
    pub(super) before: u32,
    pub(super) layer: u32,
    /// [`NONE`] where it was removed.
    pub(super) inode: u32,
}

/// Versions.
///
/// One is told by a number: none, that of an inode that its layer put there,
/// where nothing was before, or that of what is kept here.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// The number of the one before, and what it is: an inode of its layer, if
    /// not [`OTHER`].
    packed: Vec<[u32; 2]>,
    /// Layers that gave another layer's inode a name more, and the inodes.
    foreign: Vec<(u32, u32)>,
}

impl Versions {
    pub(super) fn len(&self) -> usize {
        self.packed.len()
    }

    /// The version with this number.
    pub(super) fn get(&self, number: u32, inodes: &Inodes) -> Option<Version> {
        if number == NONE {
            return None;
        }
        let own = |before, inode| Version {
            before,
            layer: inodes.layer(inode),
            inode,
        };
        if number & VERSION == 0 {
            return Some(own(NONE, number));
        }
        let [before, what] = *self.packed.get((number & !VERSION) as usize)?;
        Some(match self.other(what) {
            None => own(before, what),
            Some((layer, inode)) => Version {
                before,
                layer,
                inode,
            },
        })
    }

    fn other(&self, what: u32) -> Option<(u32, u32)> {
        match (what & OTHER, what & IMPLIED) {
            (0, _) => None,
            (_, 0) => Some((what & !OTHER, NONE)),
            (_, _) => self
                .foreign
                .get((what & !OTHER & !IMPLIED) as usize)
                .copied(),
        }
    }

    /// The inode of the version with this number, where that is not removed.
    pub(super) fn inode(&self, number: u32) -> Option<u32> {
        if number & VERSION == 0 {
            return Some(number);
        }
        let [_, what] = *self.packed.get((number & !VERSION) as usize)?;
        let inode = self.other(what).map_or(what, |(_, inode)| inode);
        (inode != NONE).then_some(inode)
    }

    /// Keeps a version, in the place of `old` if that is the number of one of
    /// the same layer; its number.
    pub(super) fn put(&mut self, version: Version, old: Option<u32>, inodes: &Inodes) -> u32 {
        let Version {
            before,
            layer,
            inode,
        } = version;
        let is_own = inode != NONE && inodes.layer(inode) == layer;
        if is_own && before == NONE {
            return inode;
        }
        let what = match inode {
            NONE => layer | OTHER,
            _ if is_own => inode,
            _ => {
                self.foreign.push((layer, inode));
                (self.foreign.len() as u32 - 1) | OTHER | IMPLIED
            }
        };
        match old.filter(|old| old & VERSION != 0) {
            Some(old) => {
                self.packed[(old & !VERSION) as usize] = [before, what];
                old
            }
            None => {
                self.packed.push([before, what]);
                (self.packed.len() as u32 - 1) | VERSION
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layer::compress::Compression;
    use crate::layer::index::LayerIndex;
    use crate::layer::{Entry, Kind, Meta};

    #[test]
    fn versions_come_back() {
        let empty = LayerIndex::make(&[0; 1024][..], Compression::Uncompressed).unwrap();
        let empty = Arc::new(empty);
        let mut inodes = Inodes::default();
        let file = Entry {
            path: "f".into(),
            kind: Kind::File { size: 1 << 40 },
            meta: Meta::default(),
        };
        inodes.begin_layer(Arc::clone(&empty));
        let low = inodes.push(&file);
        inodes.begin_layer(empty);
        let high = inodes.push(&file);
        let implied = inodes.imply();
        assert_eq!((inodes.size(low), inodes.size(implied)), (1 << 40, 0));
        let mut versions = Versions::default();
        // Alone, an inode of its own layer is its own number.
        let first = Version {
            before: NONE,
            layer: 0,
            inode: low,
        };
        assert_eq!(versions.put(first, None, &inodes), low);
        assert_eq!(versions.get(low, &inodes), Some(first));
        let mut old = None;
        for inode in [NONE, low, high, implied, NONE] {
            let version = Version {
                before: low,
                layer: 1,
                inode,
            };
            let number = versions.put(version, old, &inodes);
            assert_eq!(versions.get(number, &inodes), Some(version), "{inode:x}");
            let there = (inode != NONE).then_some(inode);
            assert_eq!(versions.inode(number), there, "{inode:x}");
            old = Some(number);
        }
        assert_eq!(versions.len(), 1);
        assert_eq!(versions.get(NONE, &inodes), None);
        assert_eq!(versions.inode(NONE), None);
    }
}
