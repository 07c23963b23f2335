//! What layers made of paths, one version after another.

use super::inodes::Inodes;
use crate::layer::frames::{Frames, NONE};

/// Set where a number is that of a version which is kept, the other bits its
/// place; else they are the number of an inode.
const KEPT: u32 = 1;
/// How many bits tell what kind of thing a version is, and the kinds: an inode
/// of its own layer, nothing (the number of the last inode that the layer had
/// at that time), a place in [`Versions::foreign`].
const KIND_BITS: u32 = 2;
const OWN: u32 = 0;
const REMOVED: u32 = 1;
const FOREIGN: u32 = 2;

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
    /// The number of the one before.
    before: Frames,
    /// What it is.
    what: Frames,
    /// Layers that gave another layer's inode a name more, and the inodes.
    foreign: (Frames, Frames),
}

/// What a number of a version stands for.
enum Number {
    Inode(u32),
    Kept(usize),
}

fn number(number: u32) -> Option<Number> {
    match number {
        NONE => None,
        _ if number & KEPT == 0 => Some(Number::Inode(number >> 1)),
        _ => Some(Number::Kept((number >> 1) as usize)),
    }
}

impl Versions {
    pub(super) fn len(&self) -> usize {
        self.what.len()
    }

    /// The version with this number.
    pub(super) fn get(&self, version: u32, inodes: &Inodes) -> Option<Version> {
        let own = |before, inode| Version {
            before,
            layer: inodes.layer(inode),
            inode,
        };
        let at = match number(version)? {
            Number::Inode(inode) => return Some(own(NONE, inode)),
            Number::Kept(at) => at,
        };
        let before = self.before.get(at);
        let (kind, rest) = self.what(at);
        Some(match kind {
            OWN => own(before, rest),
            REMOVED => Version {
                before,
                layer: inodes.layer(rest),
                inode: NONE,
            },
            _ => Version {
                before,
                layer: self.foreign.0.get(rest as usize),
                inode: self.foreign.1.get(rest as usize),
            },
        })
    }

    /// What kind of thing a version is, and which.
    fn what(&self, at: usize) -> (u32, u32) {
        let what = self.what.get(at);
        (what & ((1 << KIND_BITS) - 1), what >> KIND_BITS)
    }

    /// The inode of the version with this number, where that is not removed.
    pub(super) fn inode(&self, version: u32) -> Option<u32> {
        let at = match number(version)? {
            Number::Inode(inode) => return Some(inode),
            Number::Kept(at) => at,
        };
        let (kind, rest) = self.what(at);
        match kind {
            OWN => Some(rest),
            REMOVED => None,
            _ => Some(self.foreign.1.get(rest as usize)),
        }
    }

    /// Keeps a version, in the place of `old` if that is the number of one of
    /// the same layer, which is the last one; its number.
    pub(super) fn put(&mut self, version: Version, old: Option<u32>, inodes: &Inodes) -> u32 {
        let Version {
            before,
            layer,
            inode,
        } = version;
        let is_own = inode != NONE && inodes.layer(inode) == layer;
        if is_own && before == NONE {
            return inode << 1;
        }
        let what = match inode {
            NONE => inodes.last() << KIND_BITS | REMOVED,
            _ if is_own => inode << KIND_BITS | OWN,
            _ => {
                self.foreign.0.push(layer);
                self.foreign.1.push(inode);
                (self.foreign.0.len() as u32 - 1) << KIND_BITS | FOREIGN
            }
        };
        match old.and_then(number) {
            Some(Number::Kept(at)) => {
                self.before.set(at, before);
                self.what.set(at, what);
                (at as u32) << 1 | KEPT
            }
            _ => {
                self.before.push(before);
                self.what.push(what);
                (self.what.len() as u32 - 1) << 1 | KEPT
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
        let number = versions.put(first, None, &inodes);
        assert_eq!(versions.len(), 0);
        assert_eq!(versions.get(number, &inodes), Some(first));
        let mut old = None;
        for inode in [NONE, low, high, implied, NONE] {
            let version = Version {
                before: number,
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
