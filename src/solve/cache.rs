//! Cache records: from a step's key to the layer it made.
//!
//! A record says which content a key has and under which blobs it is stored,
//! one for each way of compressing it. A record whose blobs are gone is no
//! record. Only builds on this store write records: an image that was pulled
//! is never taken for a step's result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layers::LayerBlob;
use crate::digest::{DiffId, Digest};
use crate::image::Descriptor;
use crate::store::Store;

/// What is known of one key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Key that steps on top of this one use.
    pub(super) key: Digest,
    /// The layer's content; `None` for a record that only leads to another key.
    pub(super) diff_id: Option<DiffId>,
    /// The layer's blobs by the way they are compressed.
    #[serde(default)]
    pub(super) blobs: BTreeMap<String, Descriptor>,
    /// When the layer was made, seconds since 1970: an image that is built again
    /// from known layers says the same, and so is the same.
    #[serde(default)]
    pub(super) made: Option<i64>,
}

/// Reads the record of `key`, if it is there and whole.
pub(super) fn get(store: &Store, key: &Digest) -> Option<Record> {
    let mut record: Record = serde_json::from_slice(&store.cache_get(key)?).ok()?;
    record.blobs.retain(|_, d| store.has(&d.digest));
    if record.diff_id.is_some() && record.blobs.is_empty() {
        return None;
    }
    Some(record)
}

/// The blob of `record` that is compressed in the way `form` names.
pub(super) fn blob(record: &Record, form: &str) -> Option<LayerBlob> {
    Some(LayerBlob {
        descriptor: record.blobs.get(form)?.clone(),
        diff_id: record.diff_id.clone()?,
    })
}

/// Notes that `key` has the content of `blob`; blobs in other forms are kept
/// as long as they have the same content.
pub(super) fn put(
    store: &Store,
    key: &Digest,
    outward: &Digest,
    form: &str,
    blob: &LayerBlob,
    made: Option<i64>,
) -> std::io::Result<()> {
    let mut blobs = match get(store, key) {
        Some(old) if old.diff_id.as_ref() == Some(&blob.diff_id) => old.blobs,
        _ => BTreeMap::new(),
    };
    blobs.insert(form.to_owned(), blob.descriptor.clone());
    write(
        store,
        key,
        &Record {
            key: outward.clone(),
            diff_id: Some(blob.diff_id.clone()),
            blobs,
            made,
        },
    )
}

/// Notes that `key` is another name of `outward`.
pub(super) fn alias(store: &Store, key: &Digest, outward: &Digest) -> std::io::Result<()> {
    write(
        store,
        key,
        &Record {
            key: outward.clone(),
            diff_id: None,
            blobs: BTreeMap::new(),
            made: None,
        },
    )
}

/// Notes that there is a record for a copy of which all but the contents of its
/// files has the digest `place`.
pub(super) fn note(store: &Store, place: &Digest) -> std::io::Result<()> {
    if is_noted(store, place) {
        return Ok(());
    }
    store
        .cache_put(place, b"copied\n")
        .map_err(std::io::Error::other)
}

/// Whether there may be such a record.
pub(super) fn is_noted(store: &Store, place: &Digest) -> bool {
    store.cache_get(place).is_some()
}

fn write(store: &Store, key: &Digest, record: &Record) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(record).map_err(std::io::Error::other)?;
    store.cache_put(key, &bytes).map_err(std::io::Error::other)
}
