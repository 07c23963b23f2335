//! Root filesystems from layers, and the difference a step made.
//!
//! A layer unpacked in the store is a directory in *overlay form*: the tree
//! that the layer adds, a character device 0:0 where it removes something, and
//! an extended attribute on directories that hide what is below them. From
//! such directories a root filesystem is made in one of two ways:
//!
//! - [`overlay`]: the kernel stacks them; the upper directory of a step **is**
//!   its difference, and the lower directory of the next step.
//! - [`copy`]: one plain tree, for where nothing can be mounted; the
//!   difference is found by comparing the status of every entry with a
//!   [table](copy::Table) from before.
//!
//! Both give the same stream of changes for the same work ([`diff`] has what
//! they share). [`Merged`] looks at stacked layers without a mount, which is
//! all that COPY, USER and the differ need; [`Layered`] does it for layers that
//! were never unpacked.
//!
//! # A directory over a link
//! Where a layer holds the entry `a/b` and a lower layer has a link at `a`,
//! the directory `a` of the upper layer replaces the link, as overlayfs has
//! it: each layer is a tree of its own. Both snapshots and [`Merged`] do the
//! same, because all read the same directories.
//!
//! # Specification
//! image-spec `layer.md`; the kernel's `Documentation/filesystems/overlayfs.rst`
//! ("whiteouts and opaque directories").

mod attr;
pub mod copy;
pub mod diff;
mod kept;
mod listed;
mod merged;
mod names;
pub mod overlay;
mod record;
mod rows;
pub mod tree;
pub mod users;
mod walk;

pub use kept::{Clamped, Guess, Kept, note};
pub use listed::Layered;
pub use merged::Merged;
pub use record::{Contents, Record};
