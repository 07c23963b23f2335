//! Results that are known before a step runs: recorded in the store, or made
//! elsewhere.
//!
//! What was made elsewhere, layers and contents of cache mounts, is used only
//! where the user named its place for this build, and never becomes a record
//! of this store: what is recorded here was made here.

use std::sync::Arc;

use super::layers::{Layer, LayerBlob, LayerError};
use super::{Done, Env, Solver, cache};
use crate::digest::Digest;
use crate::event::Event;
use crate::image::BlobSource;
use crate::image::media_type::layer_compression;
use crate::layer::pipeline::{self, SealOptions};
use crate::store::Store;

/// A layer that was made elsewhere.
#[derive(Clone)]
pub struct Imported {
    /// The layer.
    pub blob: LayerBlob,
    /// Where it can be read.
    pub blobs: Arc<dyn BlobSource>,
    /// When it was made, seconds since 1970.
    pub made: Option<i64>,
}

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Imported").field(&self.blob).finish()
    }
}

/// Somewhere results of other builds are kept.
pub trait Imports: Send + Sync {
    /// The result of the step with `key`: the key that steps on top of it use,
    /// and its layer. Nothing of the layer is fetched.
    fn result(&self, key: &Digest) -> Option<(Digest, Imported)>;

    /// The content of the cache mount `name`, as a layer.
    fn mount(&self, name: &Digest) -> Option<Imported>;
}

impl Solver<'_, '_> {
    /// The result that is recorded for `key`, here or elsewhere, in the wanted
    /// form.
    pub(super) fn known(&self, key: &Digest, parent: &Done) -> Option<Done> {
        if self.env.options.no_cache {
            return None;
        }
        let (outward, layer) = self.recorded(key).or_else(|| self.imported(key))?;
        let mut done = parent.with(outward, Arc::new(layer));
        if *key != done.key {
            done.also.push(key.clone());
        }
        Some(done)
    }

    fn recorded(&self, key: &Digest) -> Option<(Digest, Layer)> {
        let store = self.env.store;
        let mut record = cache::get(store, key)?;
        if record.diff_id.is_none() {
            record = cache::get(store, &record.key)?;
        }
        let form = form(self.env);
        let blob = match cache::blob(&record, &form) {
            Some(blob) => blob,
            None => {
                let other = record.blobs.values().next()?.clone();
                let diff_id = record.diff_id.clone()?;
                let other = LayerBlob {
                    descriptor: other,
                    diff_id,
                };
                let blob = recompress(store, &other, &self.env.options.seal).ok()?;
                let _ = cache::put(store, key, &record.key, &form, &blob, record.made);
                blob
            }
        };
        Some((record.key, Layer::stored(blob).at(record.made)))
    }

    /// The result for `key` that another machine has.
    fn imported(&self, key: &Digest) -> Option<(Digest, Layer)> {
        let env = self.env;
        let (outward, found) = env.imports.iter().find_map(|i| i.result(key))?;
        let layer = Layer::imported(found.blob.clone(), found.blobs).at(found.made);
        let wanted = env.options.seal.compression;
        if layer_compression(&found.blob.descriptor.media_type) == Some(wanted) {
            return Some((outward, layer));
        }
        let other = layer
            .fetch(env.store, &env.events)
            .and_then(|blob| recompress(env.store, &blob, &env.options.seal));
        match other {
            Ok(blob) => Some((outward, Layer::stored(blob).at(found.made))),
            Err(e) => {
                env.events.warn(format!(
                    "the imported layer {} can't be made {}: {e}",
                    found.blob.descriptor.digest.short(),
                    form(env)
                ));
                None
            }
        }
    }
}

/// The name of a way to compress in cache records.
pub(super) fn form(env: &Env<'_>) -> String {
    let options = &env.options.seal;
    format!(
        "{:?}/{:?}/{:?}",
        options.format, options.compression, options.level
    )
}

/// Warns of a cache record that could not be written: the build is right
/// without it; the next one is slower.
pub(super) fn noted(env: &Env<'_>, written: std::io::Result<()>) {
    if let Err(e) = written {
        env.events.emit(Event::Warning {
            rule: None,
            message: format!("can't write a cache record: {e}"),
            line: None,
        });
    }
}

/// The same layer in the form that `options` ask for; its blob must be in the
/// store.
pub fn recompress(
    store: &Store,
    blob: &LayerBlob,
    options: &SealOptions,
) -> Result<LayerBlob, LayerError> {
    let sealed = pipeline::recompress(&blob.descriptor, &blob.diff_id, store, store, options)
        .map_err(|e| LayerError::Seal(crate::event::chain(&e)))?;
    Ok(LayerBlob {
        descriptor: sealed.descriptor,
        diff_id: sealed.diff_id,
    })
}
