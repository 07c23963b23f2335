//! What can go wrong with the store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::digest::Digest;
use crate::image::ImageError;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("can't {action} {}{}", path.display(), advice(source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Others could read or change the store.
    #[error("the store {} is not safe to use: {reason}", path.display())]
    Unsafe {
        /// The store's root.
        path: PathBuf,
        /// What is wrong and how to put it right.
        reason: String,
    },
    /// The directory has other things in it.
    #[error(
        "{} is no store: it has {found:?} in it; name an empty directory or one that does not exist yet",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something that does not belong into a store.
        found: String,
    },
    /// The store was made by a later version of the program.
    #[error(
        "the store {} has format {found}, this program knows formats up to {known}: use a newer version of it, or another store",
        path.display()
    )]
    Newer {
        /// The store's root.
        path: PathBuf,
        /// Its format, as written in its `version` file.
        found: String,
        /// The latest format that is understood.
        known: u32,
    },
    /// A file of the store does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operation needs the store for itself.
    #[error(
        "the store {} is in use by another process; try again when its builds and transfers are done",
        path.display()
    )]
    InUse {
        /// The store's root.
        path: PathBuf,
    },
    /// There is no such image.
    #[error("no image {text:?} in the store")]
    NoImage {
        /// What was looked for.
        text: String,
    },
    /// An abbreviated id stands for several images.
    #[error("{text:?} could be any of {}; give more of it", candidates.join(", "))]
    AmbiguousId {
        /// What was looked for.
        text: String,
        /// Ids that begin so.
        candidates: Vec<String>,
    },
    /// The index has no image for the platform.
    #[error("{digest} has no image for {wanted}, only for {}", available.join(", "))]
    NoPlatform {
        /// Digest of the index.
        digest: Digest,
        /// The platform asked for.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// A blob that is needed is not there.
    #[error("the blob {digest} is not in the store")]
    NoBlob {
        /// Its digest.
        digest: Digest,
    },
    /// The image's documents are malformed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl StoreError {
    /// Makes the closure for `map_err` that says what was tried on `path`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }

    /// The same error for an interface that knows only [`io::Error`], its kind
    /// kept.
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            Self::Damaged { .. } | Self::Image(_) => io::ErrorKind::InvalidData,
            Self::NoBlob { .. } | Self::NoImage { .. } => io::ErrorKind::NotFound,
            Self::Unsafe { .. } => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

/// What to do about the errors that people meet.
fn advice(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC) => {
            ": no space (or no inode) is left on its file system; prune the store, or choose a root on a larger one"
        }
        Some(Errno::DQUOT) => ": the disk quota is used up; prune the store or choose another root",
        Some(Errno::ROFS) => ": its file system is read-only; choose another root",
        Some(Errno::ACCESS | Errno::PERM) => {
            ": permission is denied; choose a root that this user owns"
        }
        Some(Errno::IO) => ": the disk reports an error",
        Some(Errno::MFILE | Errno::NFILE) => {
            ": too many files are open; raise the limit (ulimit -n)"
        }
        _ => "",
    }
}
