//! Makes an image of a directory that was made of an image.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{BundleError, State};
use crate::digest::Digest;
use crate::event::Cancel;
use crate::image::media_type;
use crate::image::{BlobSink, Descriptor, History, Image, Manifest};
use crate::layer::Change;
use crate::layer::pipeline::{SealError, SealOptions, Sealed, seal};
use crate::snapshot::Contents;

/// An image that was made, in the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repacked {
    /// The manifest.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// The new layer.
    pub layer: Sealed,
}

/// Makes an image of what `state` is about: `base`, which it was made of, and
/// what has changed since as one more layer. `None` when nothing has.
/// `contents` says what the files were; `history` goes into the config.
///
/// # Errors
/// When `base` is another image, something can't be read or written, or has
/// changed meanwhile.
pub fn repack(
    state: State,
    base: &Image,
    contents: Arc<dyn Contents>,
    sink: &dyn BlobSink,
    options: &SealOptions,
    history: History,
    cancel: &Cancel,
) -> Result<Option<Repacked>, BundleError> {
    let origin = state.origin;
    if origin.manifest.digest != base.descriptor.digest {
        return Err(BundleError::Other {
            expected: origin.manifest.digest.to_string(),
            found: base.descriptor.digest.to_string(),
        });
    }
    let kept = origin.manner.kept();
    let mut changes = state
        .record
        .changes(&state.rootfs, contents, kept)
        .map_err(BundleError::io("read", &state.rootfs))?;
    let Some(first) = changes.next() else {
        return Ok(None);
    };
    let watched = Watched {
        first: VecDeque::from([first]),
        changes,
        cancel,
    };
    let options = SealOptions {
        format: base.manifest.format(),
        ..options.clone()
    };
    let layer = match seal(watched, sink, &options) {
        Err(_) if cancel.is_cancelled() => return Err(BundleError::Cancelled),
        Err(SealError::Changes(e)) => return Err(BundleError::io("read", Path::new("/"))(e)),
        other => other?,
    };
    let mut config = base.config.clone();
    config.created.clone_from(&history.created);
    if !history.author.is_empty() {
        config.author.clone_from(&history.author);
    }
    config.rootfs.diff_ids.push(layer.diff_id.clone());
    config.history.push(history);
    let config_kind = base.manifest.config.media_type.clone();
    let config = put(sink, &config_kind, &config.to_bytes())?;
    let mut manifest: Manifest = base.manifest.clone();
    manifest.config = config;
    manifest.layers.push(layer.descriptor.clone());
    let manifest_bytes = manifest.to_bytes();
    let kind = match manifest.media_type.as_str() {
        "" => media_type::OCI_MANIFEST,
        kind => kind,
    };
    let descriptor = put(sink, kind, &manifest_bytes)?;
    Ok(Some(Repacked {
        descriptor,
        manifest_bytes,
        layer,
    }))
}

fn put(sink: &dyn BlobSink, kind: &str, bytes: &[u8]) -> Result<Descriptor, BundleError> {
    let digest = Digest::of(bytes);
    let write = || {
        let mut writer = sink.create()?;
        io::Write::write_all(&mut writer, bytes)?;
        writer.commit(&digest)
    };
    write().map_err(BundleError::Store)?;
    Ok(Descriptor::of(kind, bytes))
}

/// Changes that end when someone asked to stop.
struct Watched<'a, I: Iterator> {
    first: VecDeque<I::Item>,
    changes: I,
    cancel: &'a Cancel,
}

impl<I: Iterator<Item = io::Result<Change>>> Iterator for Watched<'_, I> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cancel.is_cancelled() {
            return Some(Err(io::Error::other("it was cancelled")));
        }
        self.first.pop_front().or_else(|| self.changes.next())
    }
}
