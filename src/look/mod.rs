//! What is in an image, without unpacking it.
//!
//! [`indexes`] gets the index of each layer: from the store, or by reading the
//! layer once. All else is pure: a [`Tree`] lays the indexes over each other
//! and knows for each path which layer gave it what, changed or removed it;
//! [`waste`], [`summary`], [`steps`] and [`diff`](mod@diff) say what follows.
//! [`content`] reads a single file.
//!
//! ```text
//! image ──indexes──▶ [LayerIndex] ──Tree::build──▶ Tree ──▶ summary, waste, diff
//!                          └──────────content──────────────▶ bytes of one file
//! ```

mod apply;
pub mod content;
pub mod diff;
pub mod indexes;
pub mod steps;
mod summary;
mod tree;
pub mod waste;

pub use diff::{Aspect, Aspects};
pub use indexes::{Indexer, LookError};
pub use summary::{LayerSummary, summary};
pub use tree::{Change, ChangeKind, Inode, InodeId, NodeId, Origin, Tree};

#[cfg(test)]
mod tests;
