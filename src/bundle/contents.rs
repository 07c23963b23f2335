//! What the files of an image have in them, by digest.
//!
//! It is asked only where the status of a file has changed and nothing else of
//! it has, so nothing is read before that: then the indexes of the layers, or
//! the layers themselves where there are none yet.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::digest::{DiffId, Digest, Sha256};
use crate::image::media_type::layer_compression;
use crate::image::{Descriptor, Image};
use crate::layer::index::{LayerIndex, Lookup};
use crate::layer::stack::{Found, Origin, Stack};
use crate::snapshot::Contents;
use crate::store::Store;

/// The files of one image.
#[derive(Debug)]
pub struct ImageContents {
    image: Image,
    store: Store,
    found: Mutex<Option<Files>>,
}

/// Where files are, and what says their digests.
#[derive(Debug)]
struct Files {
    stack: Stack,
    indexes: Vec<(LayerIndex, Lookup)>,
}

impl Files {
    fn digest(&mut self, path: &Path) -> io::Result<Option<Sha256>> {
        let found = self.stack.at(path).and_then(|name| self.stack.get(name));
        let Some(Found::Node(node)) = found else {
            return Ok(None);
        };
        let Origin { layer, entry } = self.stack.origin_of(node);
        let Some((index, lookup)) = self.indexes.get_mut(layer as usize) else {
            return Ok(None);
        };
        let found = lookup.get(index, entry.into())?;
        Ok(found.and_then(|indexed| indexed.digest))
    }
}

impl ImageContents {
    /// Those of `image`. Indexes are looked for in `store` and kept there.
    pub fn new(image: &Image, store: &Store) -> Self {
        Self {
            image: image.clone(),
            store: store.clone(),
            found: Mutex::new(None),
        }
    }

    fn read(&self) -> io::Result<Files> {
        let mut stack = Stack::new(self.store.spools());
        let mut indexes = Vec::new();
        let layers = &self.image.manifest.layers;
        let diff_ids = &self.image.config.rootfs.diff_ids;
        for (blob, diff_id) in layers.iter().zip(diff_ids) {
            if !indexes.is_empty() {
                stack.next_layer();
            }
            let index = self.index(blob, diff_id)?;
            for indexed in index.entries() {
                stack.apply(&indexed?.item).map_err(io::Error::other)?;
            }
            indexes.push((index, Lookup::default()));
        }
        Ok(Files { stack, indexes })
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
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match &mut *found {
            Some(files) => files,
            none => none.insert(self.read()?),
        };
        Ok(files.digest(path)?.map(Digest::from))
    }
}
