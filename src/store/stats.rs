//! What is known of the files of build contexts, one file for each context.
//!
//! It can be found out again, so it is not flushed, and a torn file may be there:
//! its form tells which of its parts are whole. The last process to write wins.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::blobs::{ensure_dir, open_regular, place_file};
use super::cache::{touch, trim};
use super::{Store, StoreError};
use crate::digest::Digest;

/// Contexts that are remembered…
const MAX_FILES: usize = 64;
/// …and bytes that all of them may take, but for the newest.
const MAX_BYTES: u64 = 256 << 20;

impl Store {
    /// The file of what was kept for the context `key`.
    pub fn stats_open(&self, key: &Digest) -> Option<File> {
        let path = self.stats_path(key);
        let file = open_regular(&path).ok()?;
        touch(&path);
        Some(file)
    }

    /// Keeps what `write` writes for the context `key`, in the place of what is
    /// there. Contexts that were not used for long make room.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn stats_put(
        &self,
        key: &Digest,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let session = self.session()?;
        let temporary = session.path("s");
        let path = self.stats_path(key);
        let fail = || StoreError::io("write what is known of the context", &path);
        ensure_dir(&self.path("stats")).map_err(fail())?;
        let placed = place_file(&temporary, &path, |file| {
            let mut out = BufWriter::with_capacity(64 << 10, file);
            write(&mut out)?;
            out.flush()
        });
        placed.map_err(fail())?;
        trim(&self.path("stats"), MAX_FILES, MAX_BYTES);
        Ok(())
    }

    fn stats_path(&self, key: &Digest) -> PathBuf {
        self.path("stats").join(key.encoded())
    }
}
