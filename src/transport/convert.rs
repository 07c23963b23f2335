//! Layers in another compression: found before a copy, made beside it.
//!
//! The content stays: a layer made anew has the diffID that its image's config
//! names, which is verified. What is made lies in unnamed temporary files.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{Plan, Rewrite};
use super::scratch::Scratch;
use super::{CopyOptions, FirstOf, Source, TransportError};
use crate::digest::{DiffId, Digest};
use crate::event::{Cancel, Task, chain};
use crate::image::media_type::{self, Compression, Format};
use crate::image::{BlobSource, Descriptor, Document, ImageConfig, MAX_CONFIG_BYTES, read_blob};
use crate::layer::pipeline::{self, SealOptions};
use crate::layer::workers::Workers;

/// How layers are to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompress {
    /// In this way.
    pub compression: Compression,
    /// The codec's level; `None` is its default.
    pub level: Option<i32>,
    /// Also those that are compressed in this way already.
    pub force: bool,
}

/// A layer and the content it promises.
pub(super) type Doomed = Vec<(Descriptor, DiffId)>;

/// What `options` make different but for layers.
pub(super) fn rewrite(options: &CopyOptions) -> Rewrite {
    Rewrite {
        format: options.format,
        ..Rewrite::default()
    }
}

/// The way in which a layer is to be compressed; `None` when it stays as it is.
fn wanted(layer: &Descriptor, options: &CopyOptions) -> Option<Recompress> {
    let have = media_type::layer_compression(&layer.media_type)?;
    let kind = &layer.media_type;
    if kind.contains("nondistributable") || kind.contains("foreign") {
        return None;
    }
    match options.recompress {
        Some(wanted) if wanted.force || wanted.compression != have => Some(wanted),
        Some(_) => None,
        // Docker's own type of manifest knows of no zstd.
        None if options.format == Some(Format::Docker) && have == Compression::Zstd => {
            Some(Recompress {
                compression: Compression::Gzip,
                level: None,
                force: false,
            })
        }
        None => None,
    }
}

/// The layers that `options` ask to compress anew, each once. Reads manifests
/// and configs, and those only when something may have to be done.
pub(super) fn layers(source: &Source, options: &CopyOptions) -> Result<Doomed, TransportError> {
    if options.recompress.is_none() && options.format != Some(Format::Docker) {
        return Ok(Vec::new());
    }
    let plan = Plan::make(source, &options.selection, &Rewrite::default())?;
    let mut doomed = Doomed::new();
    for (descriptor, bytes) in &plan.manifests {
        let Ok(Document::Manifest(manifest)) = Document::parse(bytes) else {
            continue;
        };
        if !manifest.layers.iter().any(|l| wanted(l, options).is_some()) {
            continue;
        }
        let malformed = |reason: String| TransportError::Malformed {
            place: format!("{} ({})", source.name, descriptor.digest),
            reason,
        };
        let config = read_blob(&*source.blobs, &manifest.config, MAX_CONFIG_BYTES)
            .map_err(TransportError::blob(&manifest.config))?;
        let config = ImageConfig::parse(&config).map_err(|e| malformed(e.to_string()))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(malformed(format!(
                "its config has {} diff_ids for {} layers",
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        for (layer, diff_id) in manifest.layers.into_iter().zip(diff_ids) {
            let known = doomed.iter().any(|(l, _)| l.digest == layer.digest);
            if !known && wanted(&layer, options).is_some() {
                doomed.push((layer, diff_id));
            }
        }
    }
    Ok(doomed)
}

/// What became of each layer, and where all blobs can be read now.
type Made = (BTreeMap<Digest, Descriptor>, Arc<dyn BlobSource>);

/// Makes the layers anew, several at a time.
pub(super) fn recompress(
    source: &Source,
    doomed: Doomed,
    options: &CopyOptions,
    task: &Task,
    cancel: &Cancel,
) -> Result<Made, TransportError> {
    let workers = options.jobs.max(1).min(doomed.len());
    let threads = Workers::default();
    let scratch = Arc::new(Scratch::default());
    let queue = Mutex::new(VecDeque::from(doomed));
    let done = Mutex::new(BTreeMap::new());
    let first_error = Mutex::new(None);
    let work = || {
        loop {
            let next = lock(&queue).pop_front();
            let Some((layer, diff_id)) = next else { return };
            let Some(wanted) = wanted(&layer, options) else {
                continue;
            };
            let seal = SealOptions {
                format: Format::Oci,
                compression: wanted.compression,
                level: wanted.level,
                workers: threads.clone(),
                ..SealOptions::default()
            };
            let made = if cancel.is_cancelled() {
                Err(TransportError::Cancelled)
            } else {
                pipeline::recompress(&layer, &diff_id, &*source.blobs, &*scratch, &seal)
                    .map_err(|e| TransportError::blob(&layer)(io::Error::other(chain(&e))))
            };
            match made {
                Ok(sealed) => {
                    task.progress(layer.digest.short(), layer.size, Some(layer.size));
                    lock(&done).insert(layer.digest, sealed.descriptor);
                }
                Err(e) => {
                    lock(&queue).clear();
                    lock(&first_error).get_or_insert(e);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    if let Some(error) = first_error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        return Err(error);
    }
    let blobs = FirstOf(vec![scratch, Arc::clone(&source.blobs)]);
    let layers = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((layers, Arc::new(blobs)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
