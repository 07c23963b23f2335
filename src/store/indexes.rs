//! Indexes of layers, by the digest of the blob.
//!
//! One can be made again, so it is not flushed; a digest in front of it tells
//! whether it is whole. [`Store::prune`] removes those of blobs that nothing
//! leads to. Layers that were looked at elsewhere, in a registry say, have one
//! here too, until room is made.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use super::blobs::{create_file, ensure_dir, open_regular, place_file};
use super::cache::{touch, trim};
use super::{Store, StoreError};
use crate::digest::{Digest, HashingWriter};
use crate::layer::compress::Compression;
use crate::layer::index::{LayerIndex, MAX_INDEX_BYTES, Spool, Stored};
use crate::layer::pile::Spools;
use crate::layer::tar_read::TarError;

/// Bytes that all of them may take, but for the newest.
const MAX_BYTES: u64 = 4 << 30;

impl Store {
    /// The index of the layer `blob`, if it is here and whole. Its records stay
    /// in the file, which may be removed meanwhile.
    pub fn index_get(&self, blob: &Digest) -> Option<LayerIndex> {
        let path = self.index_path(blob);
        let file = open_regular(&path).ok()?;
        let index = read(file).ok()?;
        touch(&path);
        Some(index)
    }

    /// Makes the index of a layer; its records lie in a file of this store.
    ///
    /// # Errors
    /// As [`LayerIndex::make_in`].
    pub fn index_make(
        &self,
        blob: impl Read + Send + 'static,
        compression: Compression,
    ) -> Result<LayerIndex, TarError> {
        LayerIndex::make_in(self.spool(), blob, compression)
    }

    /// A place for bytes that are wanted for a while: a file without a name.
    /// In a store that can't be written it is memory, as there are still layers
    /// to look at.
    pub fn spool(&self) -> Spool {
        let file = self.session().ok().and_then(|session| {
            let path = session.path("s");
            let file = create_file(&path).ok()?;
            std::fs::remove_file(&path).ok()?;
            Some(file)
        });
        file.map_or_else(Spool::memory, Spool::file)
    }

    /// Makes such places.
    pub fn spools(&self) -> Spools {
        let store = self.clone();
        Spools::new(move || store.spool())
    }

    /// Keeps the index of the layer `blob`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn index_put(&self, blob: &Digest, index: &LayerIndex) -> Result<(), StoreError> {
        let session = self.session()?;
        let temporary = session.path("i");
        let path = self.index_path(blob);
        let fail = || StoreError::io("write the index of a layer", &path);
        ensure_dir(&self.path("indexes")).map_err(fail())?;
        let placed = place_file(&temporary, &path, |file| {
            // All digests of this kind are of one length.
            writeln!(file, "{}", Digest::of(b""))?;
            let mut out = HashingWriter::new(BufWriter::new(&*file));
            index.write(&mut out)?;
            let (mut out, digest, _) = out.finish();
            out.flush()?;
            drop(out);
            file.rewind()?;
            writeln!(file, "{digest}")
        });
        placed.map_err(fail())?;
        trim(&self.path("indexes"), usize::MAX, MAX_BYTES);
        Ok(())
    }

    pub(super) fn index_path(&self, blob: &Digest) -> PathBuf {
        // Neither part of a digest can hold a slash.
        let name = format!("{}-{}", blob.algorithm(), blob.encoded());
        self.path("indexes").join(name)
    }
}

/// Reads what is behind the line with its digest, if they match.
fn read(file: File) -> io::Result<LayerIndex> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let len = file.metadata()?.len();
    // Beside the records there are the places where reading can begin.
    if len > 2 * MAX_INDEX_BYTES as u64 {
        return Err(invalid("it is too long"));
    }
    let mut reader = BufReader::with_capacity(128 << 10, &file);
    let mut head = String::new();
    reader.by_ref().take(200).read_line(&mut head)?;
    let mut hashing = HashingWriter::new(io::sink());
    io::copy(&mut reader, &mut hashing)?;
    let (_, digest, payload) = hashing.finish();
    if head.strip_suffix('\n') != Some(digest.as_str()) {
        return Err(invalid("it is damaged"));
    }
    LayerIndex::open(Stored::file(file, head.len() as u64, payload))
}

/// The blob whose index has this file name.
pub(super) fn blob_of(name: &std::ffi::OsStr) -> Option<Digest> {
    let (algorithm, encoded) = name.to_str()?.split_once('-')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}
