//! What an image is: documents named by digests, and a way to read blobs.
//!
//! Digests are of bytes, so [`Image`] keeps manifest and config as the bytes
//! they came as, beside the parsed view; only making a new image serialises.
//! Pure data: nothing here touches a disk or a network except through
//! [`BlobSource`] and [`BlobSink`].
//!
//! # Specification
//! image-spec `manifest.md`, `image-index.md`, `config.md`, `descriptor.md`;
//! Docker's "Image Manifest Version 2, Schema 2".

pub mod config;
pub mod descriptor;
pub mod manifest;
pub mod media_type;
pub mod validate;

use std::io::{self, Read, Write};
use std::sync::Arc;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use manifest::{Document, Index, Manifest};

use crate::digest::Digest;
use crate::event::Cancel;

/// The largest manifest or index that is read, in bytes (the distribution-spec
/// asks registries to take at least this much).
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The largest image config that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Somewhere blobs can be read from.
pub trait BlobSource: Send + Sync {
    /// Opens the blob that `descriptor` names. What comes out is verified: a
    /// read that reaches the end has seen the promised size and digest, or
    /// fails with [`io::ErrorKind::InvalidData`].
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>>;

    /// Opens the blob at the byte `offset`, without reading what comes before
    /// it. What comes out is *not* verified: it is for those who know the
    /// digest of the part that they read. `None` where only a whole blob can
    /// be read.
    fn open_from(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let _ = (descriptor, offset);
        Ok(None)
    }
}

/// Blobs that fail to be read when someone asked to stop.
pub struct WatchedBlobs {
    inner: Arc<dyn BlobSource>,
    cancel: Cancel,
}

impl WatchedBlobs {
    /// The blobs of `inner`, until `cancel` is asked.
    pub fn new(inner: Arc<dyn BlobSource>, cancel: Cancel) -> Self {
        Self { inner, cancel }
    }
}

impl std::fmt::Debug for WatchedBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedBlobs").finish_non_exhaustive()
    }
}

impl BlobSource for WatchedBlobs {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.cancel.watch(self.inner.open(descriptor)?)))
    }
}

/// Reads a blob from some byte on.
pub type PartReader = Box<dyn Read + Send>;

/// Somewhere blobs can be written to.
pub trait BlobSink: Send + Sync {
    /// Begins a blob whose digest is not known yet.
    fn create(&self) -> io::Result<Box<dyn BlobWriter>>;
    /// Whether the blob is already there, whole.
    fn has(&self, digest: &Digest) -> bool;
}

/// A blob being written. Nothing is visible until
/// [`commit`](BlobWriter::commit); dropping it leaves nothing.
pub trait BlobWriter: Write + Send {
    /// Publishes what was written under `digest`, which the caller has
    /// computed from the very bytes it wrote. Does nothing if it exists.
    fn commit(self: Box<Self>, digest: &Digest) -> io::Result<()>;
}

/// Reads from the first of several places that has the blob.
pub struct FirstOf(pub Vec<Arc<dyn BlobSource>>);

impl std::fmt::Debug for FirstOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FirstOf({})", self.0.len())
    }
}

impl BlobSource for FirstOf {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let mut last = None;
        for source in &self.0 {
            match source.open(descriptor) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => last = Some(e),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| nothing_has(descriptor)))
    }

    fn open_from(&self, d: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let mut last = None;
        for source in &self.0 {
            match source.open_from(d, offset) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => last = Some(e),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| nothing_has(d)))
    }
}

fn nothing_has(descriptor: &Descriptor) -> io::Error {
    let text = format!("nothing has {}", descriptor.digest);
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// Reads a whole small blob (a manifest or a config) into memory.
///
/// # Errors
/// When it is larger than `limit` bytes, unreadable or not what was promised.
pub fn read_blob(source: &dyn BlobSource, d: &Descriptor, limit: u64) -> io::Result<Vec<u8>> {
    if d.size > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} has {} bytes; at most {limit} are read",
                d.digest, d.size
            ),
        ));
    }
    let mut bytes = Vec::new();
    source.open(d)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// One image for one platform: manifest, config, and where its blobs are.
#[derive(Clone)]
pub struct Image {
    /// Names the manifest.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The manifest, parsed.
    pub manifest: Manifest,
    /// The config's bytes.
    pub config_bytes: Vec<u8>,
    /// The config, parsed.
    pub config: ImageConfig,
    /// Where config and layers can be read.
    pub blobs: Arc<dyn BlobSource>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("descriptor", &self.descriptor)
            .field("manifest", &self.manifest)
            .finish_non_exhaustive()
    }
}

/// Why bytes are no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A document does not parse.
    #[error("the {what} {digest} is malformed: {reason}")]
    Malformed {
        /// `manifest`, `index` or `image config`.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A blob could not be read.
    #[error("can't read the {what} {digest}")]
    Read {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Image {
    /// Parses `manifest_bytes`, reads the config it names from `blobs`, and
    /// checks that they belong together.
    pub fn load(
        descriptor: Descriptor,
        manifest_bytes: Vec<u8>,
        blobs: Arc<dyn BlobSource>,
    ) -> Result<Self, ImageError> {
        let malformed = |what, digest: &Digest, reason: String| ImageError::Malformed {
            what,
            digest: digest.clone(),
            reason,
        };
        let manifest = match Document::parse(&manifest_bytes)
            .map_err(|e| malformed("manifest", &descriptor.digest, e.to_string()))?
        {
            Document::Manifest(m) => *m,
            Document::Index(_) => {
                let reason = "it is an index of several images".to_owned();
                return Err(malformed("manifest", &descriptor.digest, reason));
            }
        };
        let config_bytes =
            read_blob(&*blobs, &manifest.config, MAX_CONFIG_BYTES).map_err(|source| {
                ImageError::Read {
                    what: "image config",
                    digest: manifest.config.digest.clone(),
                    source,
                }
            })?;
        let config = ImageConfig::parse(&config_bytes)
            .map_err(|e| malformed("image config", &manifest.config.digest, e.to_string()))?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            let reason = format!(
                "it has {} diff_ids, the manifest has {} layers",
                config.rootfs.diff_ids.len(),
                manifest.layers.len()
            );
            return Err(malformed("image config", &manifest.config.digest, reason));
        }
        Ok(Self {
            descriptor,
            manifest_bytes,
            manifest,
            config_bytes,
            config,
            blobs,
        })
    }
}
