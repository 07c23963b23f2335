//! Where images live, and copying between those places.
//!
//! A [`Source`] is a value: the descriptor and bytes of a manifest or index,
//! and a way to read what it names. [`copy`] walks it into a [`Plan`], an
//! ordered list without duplicates, and carries the plan out on a
//! [`Destination`]: blobs first, several at a time, then manifests from the
//! leaves to the root, and the name last.
//!
//! | place | reading | writing |
//! |---|---|---|
//! | registry | [`registry::open`] | [`registry::RegistryDestination`] |
//! | OCI layout directory | [`layout::open`] | [`layout::LayoutDestination`] |
//! | OCI layout in a tar | [`layout::open_archive`] | [`archive::OciArchive`] |
//! | `docker save` tar | [`docker_archive::open`] | [`docker_save::DockerArchive`] |
//! | plain directory (skopeo's) | [`dir::open`] | [`dir::DirDestination`] |
//! | the local store | [`local::open`] | [`local::LocalDestination`] |
//!
//! [`endpoint`] finds the right one for a [`Location`].
//!
//! # Invariants
//! - A destination never gets a manifest whose blobs it does not have, and a
//!   name never leads to an incomplete image.
//! - Files and directories that are read are not trusted: nothing outside of
//!   them is opened, only regular files are read, digests are verified.
//! - An archive appears under its name when it is complete.

pub mod archive;
mod convert;
pub mod copy;
pub mod dir;
pub mod docker_archive;
pub mod docker_save;
pub mod early;
pub mod endpoint;
pub mod index;
pub mod layout;
pub mod local;
mod location;
pub mod plan;
pub mod registry;
pub mod reshape;
pub mod scratch;
pub mod tar_index;
mod tar_out;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::image::FirstOf;
pub use convert::Recompress;
pub use copy::{CopyOptions, Destination, Fate, Preview, copy, copy_all, copy_to_each, preview};
pub use location::{Location, LocationError};
pub use plan::{Plan, Rewrite, Selection};
pub use tar_out::Output;

use crate::digest::Digest;
use crate::image::{BlobSource, Descriptor, Document, Image, ImageError, media_type};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{RegistryError, Repository};

/// The annotation under which a layout keeps the names of its images.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image, or several under an index, and where its parts can be read.
#[derive(Clone)]
pub struct Source {
    /// What people call it.
    pub name: String,
    /// Names the manifest or index.
    pub descriptor: Descriptor,
    /// The bytes of the manifest or index.
    pub bytes: Vec<u8>,
    /// Reads everything else.
    pub blobs: Arc<dyn BlobSource>,
    /// Repositories that (also) have blobs of it: a destination on the same
    /// registry takes them from there.
    pub repositories: Vec<Repository>,
    /// The names that it carries, as archives do.
    pub references: Vec<Reference>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// What `descriptor` names: `bytes`, with the rest in `blobs`.
    pub fn new(
        name: impl Into<String>,
        descriptor: Descriptor,
        bytes: Vec<u8>,
        blobs: Arc<dyn BlobSource>,
    ) -> Self {
        Self {
            name: name.into(),
            descriptor,
            bytes,
            blobs,
            repositories: Vec::new(),
            references: Vec::new(),
        }
    }

    /// An image in memory.
    pub fn image(name: impl Into<String>, image: &Image) -> Self {
        Self::new(
            name,
            image.descriptor.clone(),
            image.manifest_bytes.clone(),
            Arc::clone(&image.blobs),
        )
    }

    /// The manifest or index that `descriptor` names, out of `blobs`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn load(
        name: impl Into<String>,
        descriptor: Descriptor,
        blobs: Arc<dyn BlobSource>,
    ) -> Result<Self, TransportError> {
        let limit = crate::image::MAX_MANIFEST_BYTES;
        let bytes = crate::image::read_blob(&*blobs, &descriptor, limit).map_err(|source| {
            TransportError::Blob {
                digest: descriptor.digest.clone(),
                source,
            }
        })?;
        Ok(Self::new(name, descriptor, bytes, blobs))
    }

    /// The image itself; of several under an index the one for `platform`.
    ///
    /// # Errors
    /// When there is none for it, or its documents can't be read.
    pub fn load_image(&self, platform: &Platform) -> Result<Image, TransportError> {
        let mut descriptor = self.descriptor.clone();
        let mut bytes = self.bytes.clone();
        for _ in 0..=plan::MAX_DEPTH {
            let document = Document::parse(&bytes).map_err(|e| TransportError::Malformed {
                place: format!("{} ({})", self.name, descriptor.digest),
                reason: e.to_string(),
            })?;
            let Document::Index(index) = document else {
                return Ok(Image::load(descriptor, bytes, Arc::clone(&self.blobs))?);
            };
            descriptor = plan::choose(&self.name, &index, platform)?;
            bytes = Self::load(&self.name, descriptor.clone(), Arc::clone(&self.blobs))?.bytes;
        }
        Err(TransportError::Malformed {
            place: self.name.clone(),
            reason: "indexes are nested too deeply".into(),
        })
    }

    /// Adds repositories that have blobs of it.
    pub fn with_repositories(mut self, repositories: Vec<Repository>) -> Self {
        self.repositories = repositories;
        self
    }
}

/// Why an image could not be read or copied.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file or directory failed.
    #[error("can't {what} {}: {source}", path.display())]
    File {
        /// What was tried, `read` or `write`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob could not be copied.
    #[error("can't copy {digest}: {source}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A place does not hold what it should.
    #[error("{place} is malformed: {reason}")]
    Malformed {
        /// The place or document.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A place does not have the image, or has several.
    #[error("{place} has no image {wanted:?}; {}", names(.available))]
    NoImage {
        /// The place.
        place: String,
        /// The name that was asked for; empty for "the only one".
        wanted: String,
        /// What it has.
        available: Vec<String>,
    },
    /// An index has nothing for the platform.
    #[error("{name} has no image for {wanted}; {}", names(.available))]
    Platform {
        /// The index.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// The platforms that it has.
        available: Vec<String>,
    },
    /// The destination can't hold the image.
    #[error("{place} can't hold {name}: {reason}")]
    Unfit {
        /// The destination.
        place: String,
        /// The image.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The documents of an image don't belong together.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A place can only be read, or only be written.
    #[error("{0}")]
    Place(String),
    /// Someone asked to stop.
    #[error("the copy was cancelled")]
    Cancelled,
}

fn names(available: &[String]) -> String {
    match available {
        [] => "it has none".to_owned(),
        some if some.len() > 20 => format!("it has {}, …", some[..20].join(", ")),
        some => format!("it has {}", some.join(", ")),
    }
}

impl TransportError {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn blob(descriptor: &Descriptor) -> impl Fn(io::Error) -> Self + use<> {
        let digest = descriptor.digest.clone();
        move |source| Self::Blob {
            digest: digest.clone(),
            source,
        }
    }
}

/// Whether the descriptor names a manifest or an index.
pub(crate) fn is_document(descriptor: &Descriptor) -> bool {
    let kind = &descriptor.media_type;
    media_type::is_manifest(kind) || media_type::is_index(kind)
}

#[cfg(test)]
mod tests;
