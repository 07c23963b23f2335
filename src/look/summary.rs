//! What each layer did, as numbers.

use std::io;

use super::inodes::InodeSet;
use super::tree::{ChangeKind, Tree};

/// What one layer did. Directories count, but for those that it only gave
/// another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerSummary {
    /// Entries where there was nothing.
    pub added: u64,
    /// Their bytes.
    pub added_bytes: u64,
    /// Entries in the place of others.
    pub changed: u64,
    /// Bytes of those that have their content from this layer.
    pub changed_bytes: u64,
    /// Entries that are gone.
    pub removed: u64,
    /// Bytes that they had.
    pub removed_bytes: u64,
    /// Entries that say what was known already.
    pub same: u64,
}

/// What each layer did, the lowest first.
///
/// # Errors
/// As [`Tree::kind`].
pub fn summary(tree: &Tree) -> io::Result<Vec<LayerSummary>> {
    (0..tree.layers())
        .map(|layer| {
            let mut sum = LayerSummary::default();
            let mut counted = InodeSet::default();
            for change in tree.changes(layer) {
                let size = |id| tree.size(id);
                // A file with several names has its bytes once.
                let new = change.after.filter(|id| {
                    tree.size(*id) > 0 && tree.layer(*id) == layer && counted.insert(*id)
                });
                let new = new.map_or(0, size);
                match tree.kind(&change)?.0 {
                    ChangeKind::Added => {
                        sum.added += 1;
                        sum.added_bytes = sum.added_bytes.saturating_add(new);
                    }
                    ChangeKind::Changed => {
                        sum.changed += 1;
                        sum.changed_bytes = sum.changed_bytes.saturating_add(new);
                    }
                    ChangeKind::Removed => {
                        sum.removed += 1;
                        let gone = change.before.map_or(0, size);
                        sum.removed_bytes = sum.removed_bytes.saturating_add(gone);
                    }
                    ChangeKind::Same => {
                        sum.same += 1;
                        sum.changed_bytes = sum.changed_bytes.saturating_add(new);
                    }
                }
            }
            Ok(sum)
        })
        .collect()
}
