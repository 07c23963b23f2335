//! Why a layer can't be applied.

use std::io;
use std::path::{Path, PathBuf};

use crate::layer::tar_read::TarError;

/// Why a layer can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar can't be read.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// An entry is one that no layer may have.
    #[error("{path:?} can't be unpacked: {reason}")]
    Refused {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A hard link leads into lower layers, and none were given.
    #[error("{path:?} is a hard link to {target:?}, which is not in the same layer")]
    LowerLink {
        /// The entry.
        path: PathBuf,
        /// What it links to.
        target: PathBuf,
    },
    /// The layer is larger than it may be.
    #[error("the layer has more than the {limit} {what} that are allowed")]
    Budget {
        /// `bytes` or `entries`.
        what: &'static str,
        /// How many may be there.
        limit: u64,
    },
    /// The file system said no.
    #[error("can't {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The entry.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// Says what was tried when an operation failed.
pub(super) trait Step<T> {
    fn step(self, action: &'static str, path: &Path) -> Result<T, UnpackError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, action: &'static str, path: &Path) -> Result<T, UnpackError> {
        self.map_err(|source| UnpackError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> Step<T> for rustix::io::Result<T> {
    fn step(self, action: &'static str, path: &Path) -> Result<T, UnpackError> {
        self.map_err(io::Error::from).step(action, path)
    }
}

pub(super) fn refuse<T>(path: &Path, reason: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Refused {
        path: path.to_owned(),
        reason: reason.into(),
    })
}
