//! Bytes that an image carries and nobody sees.
//!
//! A layer keeps what later layers overwrite or remove. The score is that of
//! dive: the smallest size that each path ever had (nothing, once it was
//! removed), summed, over all bytes that were written to it, summed; 1 when
//! nothing is wasted. The wasted bytes are those of files that the finished
//! image does not show; dive counts the last one too.

use super::tree::{InodeSet, NodeId, Tree};

/// A path at which bytes are wasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wasted {
    /// The path.
    pub node: NodeId,
    /// How many files were written there and are not seen.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
}

// An image may have millions of them.
const _: () = assert!(size_of::<Wasted>() == 16);

impl Wasted {
    /// Whether it was removed from `tree` in the end.
    pub fn is_removed(&self, tree: &Tree) -> bool {
        tree.now(self.node).is_none()
    }
}

/// What is wasted in an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Waste {
    /// Paths at which bytes are wasted, the most first.
    pub paths: Vec<Wasted>,
    /// All of their bytes.
    pub bytes: u64,
    /// Bytes of all files of all layers.
    pub written: u64,
    /// Bytes of all files of all layers but the first.
    pub user_written: u64,
    /// From 0 to 1.
    pub efficiency: f64,
}

impl Waste {
    /// The part of the bytes written by all layers but the first that is
    /// wasted, from 0 to 1; 0 when they wrote nothing.
    pub fn user_share(&self) -> f64 {
        match self.user_written {
            0 => 0.0,
            written => self.bytes as f64 / written as f64,
        }
    }
}

/// Finds what is wasted.
pub fn waste(tree: &Tree) -> Waste {
    let mut waste = Waste::default();
    let (mut smallest_sum, mut written_sum) = (0_u64, 0_u64);
    // A file with several names has its bytes once, and they are wasted when
    // none of them is left.
    let mut seen = InodeSet::default();
    for inode in tree.nodes().filter_map(|n| tree.now(n)) {
        seen.insert(inode);
    }
    let mut counted = InodeSet::default();
    for (node, _) in tree.walk() {
        let (mut smallest, mut written) = (u64::MAX, 0_u64);
        let mut wasted = Wasted {
            node,
            files: 0,
            bytes: 0,
        };
        for (layer, found) in tree.versions(node) {
            let Some(id) = found else {
                smallest = 0;
                continue;
            };
            let size = tree.size(id);
            smallest = smallest.min(size);
            if size == 0 || tree.layer(id) != layer || !counted.insert(id) {
                continue;
            }
            written = written.saturating_add(size);
            waste.written = waste.written.saturating_add(size);
            if layer > 0 {
                waste.user_written = waste.user_written.saturating_add(size);
            }
            if !seen.has(id) {
                wasted.files = wasted.files.saturating_add(1);
                wasted.bytes = wasted.bytes.saturating_add(size);
            }
        }
        smallest_sum = smallest_sum.saturating_add(smallest.min(written));
        written_sum = written_sum.saturating_add(written);
        if wasted.bytes > 0 {
            waste.bytes = waste.bytes.saturating_add(wasted.bytes);
            waste.paths.push(wasted);
        }
    }
    waste.efficiency = match written_sum {
        0 => 1.0,
        written => smallest_sum as f64 / written as f64,
    };
    waste
        .paths
        .sort_by_key(|path| std::cmp::Reverse(path.bytes));
    waste
}
