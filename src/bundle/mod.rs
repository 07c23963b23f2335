//! Images as directories, and back.
//!
//! [`unpack`] makes a root filesystem of an image, alone or in a bundle that
//! an OCI runtime runs ([`runtime`]); [`repack`] makes an image of it again,
//! with what was changed as one more layer. Between the two lies a file
//! ([`state`]) that says which image it was and what every entry was like:
//!
//! ```text
//! DIR            the root filesystem          DIR/rootfs         in a bundle
//! DIR.shiplap    the file, beside it          DIR/config.json
//!                                             DIR/shiplap.state
//! ```
//! An image is unpacked beside `DIR` under a name of its own and renamed when
//! it is complete; whatever happens before that, there is no `DIR`.
//!
//! [`export`] makes a tar of the files without unpacking anything.
//!
//! # Owners
//! Root gives files to the owners that the layers name, or to those that a map
//! of ids makes of them. For a plain user all files are its own; what they
//! should be is in the file, and stays with them on the way back.
//!
//! # Specification
//! image-spec `layer.md`, `conversion.md`; runtime-spec `bundle.md`.

mod contents;
mod export;
pub mod repack;
pub mod runtime;
pub mod state;
pub mod unpack;

use std::io;
use std::path::{Path, PathBuf};

pub use contents::ImageContents;
pub use export::export;
pub use repack::{Repacked, repack};
pub use state::State;
pub use unpack::{UnpackRequest, unpack};

use crate::layer::unpack::UnpackError;

/// Name of the root filesystem in a bundle.
const ROOTFS: &str = "rootfs";

/// Why there is no directory of an image, or no image of a directory.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is something already.
    #[error("{} is there already, and is no empty directory", .0.display())]
    Occupied(PathBuf),
    /// A layer can't be applied.
    #[error("can't unpack layer {digest}")]
    Layer {
        /// The blob.
        digest: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// A layer can't be read.
    #[error("can't read layer {digest}")]
    Blob {
        /// The blob.
        digest: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no layer of a root filesystem.
    #[error("layer {digest} has the media type {kind:?}, which is none of a layer")]
    Kind {
        /// The blob.
        digest: String,
        /// Its media type.
        kind: String,
    },
    /// The config asks for a user that the image does not have.
    #[error(transparent)]
    User(#[from] crate::snapshot::users::UserError),
    /// A file or directory failed.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing says what the directory was.
    #[error("{} was not unpacked by shiplap: there is no {}", dir.display(), state.display())]
    NoState {
        /// The directory.
        dir: PathBuf,
        /// The file that is missing.
        state: PathBuf,
    },
    /// The file that says what the directory was makes no sense.
    #[error("{} is damaged; unpack the image again", .0.display())]
    Damaged(PathBuf),
    /// The image is another one than the directory was made of.
    #[error("the directory was made of {expected}, and this is {found}")]
    Other {
        /// Digest of the manifest that was unpacked.
        expected: String,
        /// Digest of the manifest that was found.
        found: String,
    },
    /// The new layer can't be made.
    #[error(transparent)]
    Seal(#[from] crate::layer::pipeline::SealError),
    /// The layers can't be put together.
    #[error(transparent)]
    Merge(#[from] crate::layer::merge::MergeError),
    /// What was asked for can't be written.
    #[error("can't write the tar")]
    Output(#[source] io::Error),
    /// Config or manifest can't be stored.
    #[error("can't store the image")]
    Store(#[source] io::Error),
    /// Someone asked to stop.
    #[error("cancelled; nothing was left behind")]
    Cancelled,
}

impl BundleError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
