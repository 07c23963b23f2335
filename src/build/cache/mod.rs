//! The cache that travels: results of steps and contents of cache mounts, kept
//! where other machines find them.
//!
//! | place | one artifact holds | found by |
//! |---|---|---|
//! | `type=registry`, `type=local` | one build: all steps (`max`), or those of the result (`min`) | the name that the user gives |
//! | `type=inline` | the steps of the result | the image's own config |
//! | `type=repository` | one step | its key, as a tag of the repository |
//!
//! An artifact is an OCI manifest: the config is an [index](format::CacheIndex)
//! of keys, the layers are the steps' layers as they are in images. Importing
//! reads the index alone; a layer is fetched when a step has to see it. All of
//! it is somebody else's word: digests and diffIDs are verified, an artifact
//! that can't be read is a warning, and a build that meets a bad layer goes on
//! without imports.
//!
//! # Specification
//! image-spec `manifest.md`, "Guidelines for artifact usage".

pub(super) mod export;
pub mod format;
pub(super) mod import;
mod mounts;

use std::path::PathBuf;
use std::time::Duration;

use crate::reference::Reference;

pub(super) use import::Opened;

/// Where results of earlier builds are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheFrom {
    /// An artifact, or an image with an inline cache, in a registry.
    Registry(Reference),
    /// An artifact in a directory with an OCI layout.
    Local {
        /// The directory.
        path: PathBuf,
        /// The artifact's name or digest there.
        name: String,
    },
    /// A repository with an artifact for each step.
    Repository {
        /// The repository; a tag does not matter.
        reference: Reference,
        /// Older artifacts are not used.
        ttl: Option<Duration>,
    },
}

impl std::fmt::Display for CacheFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => f.write_str(&reference.familiar()),
            Self::Local { path, name } => write!(f, "{} ({name})", path.display()),
            Self::Repository { reference, .. } => f.write_str(&reference.familiar_name()),
        }
    }
}

/// Where the results of this build go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTo {
    /// The place.
    pub place: CachePlace,
    /// Which steps.
    pub mode: CacheMode,
    /// A failure is only a warning.
    pub ignore_error: bool,
    /// Cache mounts that go along.
    pub mounts: CacheMounts,
}

/// A place for results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A name in a registry.
    Registry(Reference),
    /// A directory with an OCI layout.
    Local {
        /// The directory.
        path: PathBuf,
        /// The artifact's name there.
        name: String,
    },
    /// The image itself.
    Inline,
    /// A repository with an artifact for each step.
    Repository(Reference),
}

/// Which steps are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Those whose layers are in the result.
    #[default]
    Min,
    /// All.
    Max,
}

/// Which cache mounts are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheMounts {
    /// All that the Dockerfile names.
    pub all: bool,
    /// Those with these ids.
    pub ids: Vec<String>,
    /// A mount with more bytes in its files is left out.
    pub max_bytes: u64,
}

impl CacheMounts {
    /// The bound unless another is given.
    pub const DEFAULT_MAX_BYTES: u64 = 2 << 30;

    fn wants(&self, id: &str) -> bool {
        self.all || self.ids.iter().any(|i| i == id)
    }
}
