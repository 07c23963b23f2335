//! Images made of images: a manifest, a config and a few layers become others.
//!
//! Each function takes an [`Image`] and returns one. New blobs go to the
//! caller's sink; nothing gets a name here. Layers that don't change keep their
//! bytes and their digest. What is made depends on the images and the arguments
//! alone: times come from the caller.
//!
//! | function | what it makes |
//! |---|---|
//! | [`flatten`](flatten::flatten) | one layer of several |
//! | [`append`](append::append), [`append_tar`](append::append_tar) | one layer more |
//! | [`rebase`](rebase::rebase) | the same on another base |
//! | [`edit`](config::edit) | another config |
//! | [`clamp`](time::clamp) | no time after an instant |
//! | [`hide`](strip::hide), [`purge`](strip::purge) | without some files |
//!
//! # History
//! A history says the truth afterwards: as many entries that made a layer as
//! there are layers, in the same order ([`history`]).
//!
//! # Specification
//! image-spec `manifest.md`, `config.md`.

pub mod append;
pub mod config;
pub mod flatten;
pub mod history;
pub mod rebase;
pub mod strip;
pub mod time;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::image::media_type::{self, Compression, Format};
use crate::image::{
    BlobSink, BlobSource, Descriptor, FirstOf, Image, ImageConfig, MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES, Manifest,
};
use crate::layer::merge::{Headers, Known, LayerBlob, MergeError};
use crate::layer::pile::Spools;
use crate::layer::pipeline::{SealError, SealOptions, Sealed};
use crate::layer::tar_read::TarError;
use crate::layer::tar_write::WriteError;

/// The field of a config in which a build's cache lies; it speaks of layers.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// Where new blobs go, and how layers are made.
pub struct NewBlobs {
    /// Takes them.
    pub sink: Arc<dyn BlobSink>,
    /// Reads what the sink has, and everything that the images before have.
    pub blobs: Arc<Places>,
    /// Finds the indexes of layers: those that have one need not be read for
    /// their headers.
    pub known: Option<Box<Known>>,
    /// Makes places for what is kept of layers while they are looked through.
    pub spools: Spools,
    /// How layers are made; the form is the image's own.
    pub seal: SealOptions,
    /// How layers are compressed; like the image's last one when `None`.
    pub compression: Option<Compression>,
}

impl std::fmt::Debug for NewBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewBlobs")
            .field("seal", &self.seal)
            .finish_non_exhaustive()
    }
}

impl NewBlobs {
    /// How the headers of an image's layers are read.
    fn headers<'a>(&'a self, image: &'a Image) -> Headers<'a> {
        Headers {
            blobs: &*image.blobs,
            threads: self.seal.workers.threads(),
            known: self.known.as_deref(),
            spools: &self.spools,
        }
    }

    /// How to make a layer for `image`.
    fn seal_for(&self, image: &Image) -> SealOptions {
        let last = image.manifest.layers.last();
        let own = last.and_then(|layer| media_type::layer_compression(&layer.media_type));
        SealOptions {
            format: image.manifest.format(),
            compression: self.compression.or(own).unwrap_or(Compression::Gzip),
            ..self.seal.clone()
        }
    }

    /// How to write a layer of `image` anew: in the form it has.
    fn seal_like(&self, image: &Image, layer: &LayerBlob) -> SealOptions {
        let own = media_type::layer_compression(&layer.blob.media_type);
        SealOptions {
            compression: self.compression.or(own).unwrap_or(Compression::Gzip),
            ..self.seal_for(image)
        }
    }

    /// Puts a document into the sink.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn put(&self, descriptor: &Descriptor, bytes: &[u8]) -> io::Result<()> {
        if self.sink.has(&descriptor.digest) {
            return Ok(());
        }
        let mut writer = self.sink.create()?;
        writer.write_all(bytes)?;
        writer.commit(&descriptor.digest)
    }
}

/// Places that have blobs, of which more may become known.
pub struct Places(Mutex<Vec<Arc<dyn BlobSource>>>);

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Places")
    }
}

impl Places {
    /// Begins with `places`; the first that has a blob is asked for it.
    pub fn new(places: Vec<Arc<dyn BlobSource>>) -> Self {
        Self(Mutex::new(places))
    }

    fn add(&self, place: Arc<dyn BlobSource>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.push(place);
    }
}

impl BlobSource for Places {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn io::Read + Send>> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = FirstOf(places.clone());
        places.open(d)
    }
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum MutateError {
    /// Layers can't be read or merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A layer can't be written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// An archive is malformed.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry can't be part of a layer.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A blob or an archive can't be read.
    #[error("can't read what the new layer is made of")]
    Read(#[source] io::Error),
    /// The new documents can't be stored.
    #[error("can't store the new image")]
    Store(#[source] io::Error),
    /// What is asked for is not possible with this image.
    #[error("{0}")]
    Unfit(String),
}

/// An image while it is changed.
#[derive(Debug, Clone)]
struct Draft<'a> {
    image: &'a Image,
    manifest: Manifest,
    config: ImageConfig,
}

impl<'a> Draft<'a> {
    /// Begins with `image`; its history becomes true if it was not.
    fn new(image: &'a Image) -> Self {
        let mut config = image.config.clone();
        history::align(&mut config.history, image.manifest.layers.len());
        Self {
            image,
            manifest: image.manifest.clone(),
            config,
        }
    }

    /// Puts other layers in the place of all.
    fn set_layers(&mut self, layers: Vec<LayerBlob>) {
        self.config.other.remove(INLINE_CACHE);
        let (blobs, ids) = layers.into_iter().map(|l| (l.blob, l.diff_id)).unzip();
        self.manifest.layers = blobs;
        self.config.rootfs.diff_ids = ids;
    }

    /// The new image; the old one where nothing has changed.
    fn finish(mut self, new: &NewBlobs) -> Result<Image, MutateError> {
        if self.manifest == self.image.manifest && self.config == self.image.config {
            return Ok(self.image.clone());
        }
        let config_bytes = self.config.to_bytes();
        let kind = match self.manifest.format() {
            Format::Oci => media_type::OCI_CONFIG,
            Format::Docker => media_type::DOCKER_CONFIG,
        };
        self.manifest.config = Descriptor::of(kind, &config_bytes);
        let manifest_bytes = self.manifest.to_bytes();
        let kind = match self.manifest.media_type.as_str() {
            "" => media_type::OCI_MANIFEST,
            kind => kind,
        };
        let descriptor = Descriptor::of(kind, &manifest_bytes);
        for (what, bytes, most) in [
            ("config", &config_bytes, MAX_CONFIG_BYTES),
            ("manifest", &manifest_bytes, MAX_MANIFEST_BYTES),
        ] {
            if bytes.len() as u64 > most {
                let reason = format!("the image's {what} would have more than {most} bytes");
                return Err(MutateError::Unfit(reason));
            }
        }
        new.put(&self.manifest.config, &config_bytes)
            .and_then(|()| new.put(&descriptor, &manifest_bytes))
            .map_err(MutateError::Store)?;
        Ok(Image {
            descriptor,
            manifest_bytes,
            manifest: self.manifest,
            config_bytes,
            config: self.config,
            blobs: Arc::clone(&new.blobs) as _,
        })
    }
}

impl From<Sealed> for LayerBlob {
    fn from(sealed: Sealed) -> Self {
        Self {
            blob: sealed.descriptor,
            diff_id: sealed.diff_id,
        }
    }
}
