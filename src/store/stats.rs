//! What is known of the files of build contexts, one file for each context.
//!
//! It can be found out again, so it is not flushed; a digest in front of it
//! tells whether it is whole. The last process to write wins.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::blobs::create_file;
use super::cache::{record_payload, touch};
use super::{Store, StoreError, read_small};
use crate::digest::Digest;

/// Contexts that are remembered…
const MAX_FILES: usize = 64;
/// …and bytes that all of them may take, but for the newest.
const MAX_BYTES: u64 = 256 << 20;

impl Store {
    /// What was kept for the context `key`, if it is whole.
    pub fn stats_get(&self, key: &Digest) -> Option<Vec<u8>> {
        let path = self.stats_path(key);
        let mut bytes = read_small(&path, MAX_BYTES).ok()?;
        let payload = record_payload(&bytes)?.len();
        bytes.drain(..bytes.len() - payload);
        touch(&path);
        Some(bytes)
    }

    /// Keeps `bytes` for the context `key`, in the place of what is there.
    /// Contexts that were not used for long make room.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn stats_put(&self, key: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let session = self.session()?;
        let temporary = session.path("s");
        let path = self.stats_path(key);
        let dir = self.path("stats");
        let written = (|| {
            match rustix::fs::mkdir(&dir, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let mut file = create_file(&temporary)?;
            writeln!(file, "{}", Digest::of(bytes))?;
            file.write_all(bytes)?;
            rustix::fs::rename(&temporary, &path)?;
            Ok::<_, std::io::Error>(())
        })();
        written.map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            StoreError::io("write what is known of the context", &path)(e)
        })?;
        self.stats_trim();
        Ok(())
    }

    /// Removes what was not used for longest, as long as there is too much.
    fn stats_trim(&self) {
        let Ok(entries) = std::fs::read_dir(self.path("stats")) else {
            return;
        };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|e| {
                let meta = e.metadata().ok()?;
                Some((meta.modified().ok()?, meta.size(), e.path()))
            })
            .collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        let mut total = 0;
        for (n, (_, size, path)) in files.iter().enumerate() {
            total += size;
            if n > 0 && (n >= MAX_FILES || total > MAX_BYTES) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn stats_path(&self, key: &Digest) -> PathBuf {
        self.path("stats").join(key.encoded())
    }
}
