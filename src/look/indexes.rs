//! The indexes of an image's layers: from the store, or made by reading them.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Tree;
use crate::digest::Digest;
use crate::event::Cancel;
use crate::image::{BlobSource, Descriptor, Image, media_type};
use crate::layer::index::LayerIndex;
use crate::layer::pile::Spools;
use crate::layer::tar_read::TarError;
use crate::store::Store;

/// Why nothing can be said about an image.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A layer could not be read.
    #[error("can't read the layer {digest}")]
    Read {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer makes no sense.
    #[error("can't read the layer {digest}")]
    Layer {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// A layer is of a kind that is no file system.
    #[error("the layer {digest} is {media_type}, which is no file system layer")]
    MediaType {
        /// Its digest.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
    /// The index says something else than the layer.
    #[error("the layer {digest} is not what its index says: {reason}")]
    Stale {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// An index could be read before, and can't be any more.
    #[error("can't read the index of a layer")]
    Index(#[from] io::Error),
    /// Someone asked to stop.
    #[error("canceled")]
    Canceled,
}

/// Gets indexes of layers.
#[derive(Debug, Clone)]
pub struct Indexer {
    /// Where they are kept; without, all are made anew.
    pub store: Option<Store>,
    /// How many layers are read at once.
    pub jobs: usize,
    /// Stops it.
    pub cancel: Cancel,
}

impl Indexer {
    /// With what is kept in `store`, on all cores.
    pub fn new(store: &Store, cancel: Cancel) -> Self {
        Self {
            store: Some(store.clone()),
            jobs: std::thread::available_parallelism().map_or(2, usize::from),
            cancel,
        }
    }

    /// The indexes of all layers of `image`, the lowest first. Those that are
    /// not known are made, several at a time, and kept.
    ///
    /// # Errors
    /// When a layer can't be read or is none.
    pub fn image(&self, image: &Image) -> Result<Vec<Arc<LayerIndex>>, LookError> {
        let layers = &image.manifest.layers;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut made = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = layers.get(number) else {
                    return Ok(made);
                };
                match self.layer(&image.blobs, layer) {
                    Ok(index) => made.push((number, index)),
                    Err(e) => {
                        next.store(layers.len(), Ordering::Relaxed);
                        return Err(e);
                    }
                }
            }
        };
        let mut made = Vec::with_capacity(layers.len());
        std::thread::scope(|scope| {
            let threads = self.jobs.clamp(1, layers.len().max(1));
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for thread in running {
                let result = thread.join();
                let ended = || io::Error::other("the reading thread has died");
                made.extend(result.unwrap_or_else(|_| {
                    Err(LookError::Read {
                        digest: image.descriptor.digest.clone(),
                        source: ended(),
                    })
                })?);
            }
            Ok::<_, LookError>(())
        })?;
        made.sort_by_key(|(number, _)| *number);
        Ok(made.into_iter().map(|(_, index)| index).collect())
    }

    /// The layers of `image` laid over each other.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub fn tree(&self, image: &Image) -> Result<Tree, LookError> {
        Ok(Tree::build(self.image(image)?, self.spools())?)
    }

    /// Places for what is kept of an image while it is looked at: as
    /// [`Store::spool`], or memory where there is no store.
    pub fn spools(&self) -> Spools {
        self.store.as_ref().map(Store::spools).unwrap_or_default()
    }

    /// The index of one layer.
    ///
    /// # Errors
    /// When it can't be read or is none.
    pub fn layer(
        &self,
        blobs: &Arc<dyn BlobSource>,
        layer: &Descriptor,
    ) -> Result<Arc<LayerIndex>, LookError> {
        let compression = compression(layer)?;
        let known = self.store.as_ref().and_then(|s| s.index_get(&layer.digest));
        // The same blob may go by another media type, and then it is not read
        // as what the index was made of.
        if let Some(index) = known.filter(|index| index.compression == compression) {
            return Ok(Arc::new(index));
        }
        let read = |source| LookError::Read {
            digest: layer.digest.clone(),
            source,
        };
        let blob = Cancelled {
            inner: blobs.open(layer).map_err(read)?,
            cancel: self.cancel.clone(),
        };
        let made = match &self.store {
            Some(store) => store.index_make(blob, compression),
            None => LayerIndex::make(blob, compression),
        };
        let index = made.map_err(|source| match self.cancel.is_cancelled() {
            true => LookError::Canceled,
            false => LookError::Layer {
                digest: layer.digest.clone(),
                source,
            },
        })?;
        if let Some(store) = &self.store {
            // It is made again where it can't be kept.
            let _ = store.index_put(&layer.digest, &index);
        }
        Ok(Arc::new(index))
    }
}

/// How a layer is compressed.
pub(super) fn compression(layer: &Descriptor) -> Result<media_type::Compression, LookError> {
    media_type::layer_compression(&layer.media_type).ok_or_else(|| LookError::MediaType {
        digest: layer.digest.clone(),
        media_type: layer.media_type.clone(),
    })
}

/// Stops reading when someone asks for it.
struct Cancelled<R> {
    inner: R,
    cancel: Cancel,
}

impl<R: Read> Read for Cancelled<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        self.inner.read(buf)
    }
}
