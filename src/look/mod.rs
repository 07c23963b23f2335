//! What is in an image, without unpacking it.
//!
//! [`indexes`] gets the index of each layer: from the store, or by reading the
//! layer once. A [`Tree`] lays the indexes over each other and knows for each
//! path which layer gave it what, changed or removed it; [`waste`], [`summary`],
//! [`steps`] and [`diff`](mod@diff) say what follows. [`content`] reads a single
//! file.
//!
//! ```text
//! image ──indexes──▶ [LayerIndex] ──Tree::build──▶ Tree ──▶ summary, waste
//!                          │                        └─rows──▶ Rows ──▶ diff
//!                          └──────────content──────────────▶ bytes of one file
//! ```
//!
//! An image may have a million files. In memory is what the tree has of each
//! path, some tens of bytes with its name; attributes and digests stay in the files
//! of the indexes and are read when they are asked for, and two images are
//! compared as [`rows`] that lie in files. So asking for them can fail.

mod apply;
pub mod content;
pub mod diff;
pub mod indexes;
mod inodes;
mod names;
pub mod rows;
pub mod steps;
mod summary;
mod tree;
mod versions;
pub mod waste;

pub use diff::{Aspect, Aspects};
pub use indexes::{Indexer, LookError};
pub use rows::Rows;
pub use summary::{LayerSummary, summary};
pub use tree::{Change, ChangeKind, Inode, InodeId, NodeId, Origin, Sums, Tree};

#[cfg(test)]
mod tests;
