//! Indexes of layers, by the digest of the blob.
//!
//! One can be made again, so it is not flushed; a digest in front of it tells
//! whether it is whole. [`Store::prune`] removes those of blobs that nothing
//! leads to. Layers that were looked at elsewhere, in a registry say, have one
//! here too, until room is made.

use std::io::Write;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::blobs::create_file;
use super::cache::{record_payload, touch, trim};
use super::{Store, StoreError, read_small};
use crate::digest::Digest;
use crate::layer::index::{LayerIndex, MAX_INDEX_BYTES};

/// Bytes that all of them may take, but for the newest.
const MAX_BYTES: u64 = 4 << 30;

impl Store {
    /// The index of the layer `blob`, if it is here and whole.
    pub fn index_get(&self, blob: &Digest) -> Option<LayerIndex> {
        let path = self.index_path(blob);
        // Beside the records there are the places where reading can begin.
        let bytes = read_small(&path, 2 * MAX_INDEX_BYTES as u64).ok()?;
        let index = LayerIndex::parse(record_payload(&bytes)?)?;
        touch(&path);
        Some(index)
    }

    /// Keeps the index of the layer `blob`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn index_put(&self, blob: &Digest, index: &LayerIndex) -> Result<(), StoreError> {
        let session = self.session()?;
        let temporary = session.path("i");
        let path = self.index_path(blob);
        let written = (|| {
            match rustix::fs::mkdir(self.path("indexes"), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let bytes = index.to_bytes();
            let mut file = create_file(&temporary)?;
            writeln!(file, "{}", Digest::of(&bytes))?;
            file.write_all(&bytes)?;
            rustix::fs::rename(&temporary, &path)?;
            Ok::<_, std::io::Error>(())
        })();
        written.map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            StoreError::io("write the index of a layer", &path)(e)
        })?;
        trim(&self.path("indexes"), usize::MAX, MAX_BYTES);
        Ok(())
    }

    pub(super) fn index_path(&self, blob: &Digest) -> PathBuf {
        // Neither part of a digest can hold a slash.
        let name = format!("{}-{}", blob.algorithm(), blob.encoded());
        self.path("indexes").join(name)
    }
}

/// The blob whose index has this file name.
pub(super) fn blob_of(name: &std::ffi::OsStr) -> Option<Digest> {
    let (algorithm, encoded) = name.to_str()?.split_once('-')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}
