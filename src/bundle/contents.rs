//! What the files of an image have in them, by digest.
//!
//! It is asked only where the status of a file has changed and nothing else of
//! it has, so nothing is read before that: then the indexes of the layers, or
//! the layers themselves where there are none yet.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::{DiffId, Digest, Sha256};
use crate::image::media_type::layer_compression;
use crate::image::{Descriptor, Image};
use crate::layer::index::LayerIndex;
use crate::layer::stack::{Found, Origin, Stack};
use crate::snapshot::Contents;
use crate::store::Store;

/// The files of one image.
#[derive(Debug)]
pub struct ImageContents {
    image: Image,
    store: Store,
    found: Mutex<Option<Arc<Files>>>,
}

type Files = HashMap<PathBuf, Sha256>;

impl ImageContents {
    /// Those of `image`. Indexes are looked for in `store` and kept there.
    pub fn new(image: &Image, store: &Store) -> Self {
        Self {
            image: image.clone(),
            store: store.clone(),
            found: Mutex::new(None),
        }
    }

    fn files(&self) -> io::Result<Arc<Files>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*found {
            return Ok(Arc::clone(files));
        }
        let files = Arc::new(self.read()?);
        *found = Some(Arc::clone(&files));
        Ok(files)
    }

    fn read(&self) -> io::Result<Files> {
        let mut stack = Stack::new();
        let mut digests = HashMap::new();
        let layers = &self.image.manifest.layers;
        let diff_ids = &self.image.config.rootfs.diff_ids;
        for (layer, (blob, diff_id)) in (0..).zip(layers.iter().zip(diff_ids)) {
            if layer > 0 {
                stack.next_layer();
            }
            let index = self.index(blob, diff_id)?;
            for (entry, indexed) in (0..).zip(index.entries()) {
                let indexed = indexed?;
                stack.apply(&indexed.item).map_err(io::Error::other)?;
                if let Some(digest) = indexed.digest {
                    digests.insert(Origin { layer, entry }, digest);
                }
            }
        }
        let mut files = Files::new();
        for name in stack.names() {
            if let Some(Found::Node(node)) = stack.get(name)
                && let Some(digest) = digests.get(&stack.origin_of(node))
            {
                files.insert(stack.path(name), *digest);
            }
        }
        Ok(files)
    }

    fn index(&self, blob: &Descriptor, diff_id: &DiffId) -> io::Result<LayerIndex> {
        if let Some(index) = self.store.index_get(&blob.digest) {
            return Ok(index);
        }
        let no_layer = || io::Error::other(format!("{} is no layer", blob.media_type));
        let compression = layer_compression(&blob.media_type).ok_or_else(no_layer)?;
        let packed = self.image.blobs.open(blob)?;
        let index = self
            .store
            .index_make(packed, compression)
            .map_err(io::Error::other)?;
        if index.diff_id != *diff_id {
            return Err(io::Error::other(format!(
                "layer {} holds {}, and not {diff_id} as the config says",
                blob.digest, index.diff_id
            )));
        }
        // Without it the layer is read again another time.
        let _ = self.store.index_put(&blob.digest, &index);
        Ok(index)
    }
}

impl Contents for ImageContents {
    fn digest(&self, path: &Path) -> io::Result<Option<Digest>> {
        Ok(self.files()?.get(path).copied().map(Digest::from))
    }
}
