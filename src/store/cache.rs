//! Records of build steps by key, and directories that outlive a build.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::blobs::{open_regular, place_file};
use super::{Store, StoreError, read_small};
use crate::digest::Digest;

/// Bytes that a record may have: a larger one is not found.
pub const MAX_RECORD: usize = 16 << 20;
/// The same with what is before it in its file.
const MAX_RECORD_BYTES: u64 = MAX_RECORD as u64 + 128;
/// How old the time of the last use may get before it is written again.
const USE_RESOLUTION: Duration = Duration::from_secs(3600);

impl Store {
    /// The record for `key`; `None` where there is none that is whole.
    pub fn cache_get(&self, key: &Digest) -> Option<Vec<u8>> {
        let path = self.record_path(key);
        let mut bytes = read_small(&path, MAX_RECORD_BYTES).ok()?;
        let head = bytes.len() - record_payload(&bytes)?.len();
        bytes.drain(..head);
        touch(&path);
        Some(bytes)
    }

    /// Keeps `record` for `key`, in the place of one that is there.
    ///
    /// It is not flushed: after a power failure it may be gone, and a torn one
    /// is not found. Digests (`sha256:…`) that stand in it keep their blobs and
    /// layers from being pruned.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn cache_put(&self, key: &Digest, record: &[u8]) -> Result<(), StoreError> {
        let session = self.session()?;
        let temporary = session.path("r");
        let path = self.record_path(key);
        let head = format!("{}\n", Digest::of(record));
        let write = |file: &mut File| {
            file.write_all(head.as_bytes())?;
            file.write_all(record)
        };
        place_file(&temporary, &path, write)
            .map_err(StoreError::io("write the cache record", &path))
    }

    /// Forgets the record for `key`.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn cache_remove(&self, key: &Digest) -> Result<(), StoreError> {
        let path = self.record_path(key);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove the cache record", &path)(e))
            }
            _ => Ok(()),
        }
    }

    fn record_path(&self, key: &Digest) -> PathBuf {
        self.path("cache")
            .join(format!("{}-{}", key.algorithm(), key.encoded()))
    }
}

/// Notes that the file is used now: the time of the last use is what prune goes
/// by.
pub(super) fn touch(path: &Path) {
    let used = std::fs::symlink_metadata(path).and_then(|m| m.modified());
    if used.is_ok_and(|t| t.elapsed().is_ok_and(|age| age > USE_RESOLUTION))
        && let Ok(file) = open_regular(path)
    {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes the files of `dir` that were not used for longest, as long as they
/// are more than `files`, or have more than `bytes`. The latest stays.
pub(super) fn trim(dir: &Path, files: usize, bytes: u64) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut found: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|e| {
            let meta = e.metadata().ok()?;
            Some((meta.modified().ok()?, meta.len(), e.path()))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let mut total = 0_u64;
    for (n, (_, size, path)) in found.iter().enumerate() {
        total = total.saturating_add(*size);
        if n > 0 && (n >= files || total > bytes) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The record behind the line with its digest, if they match.
pub(super) fn record_payload(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().take(200).position(|b| *b == b'\n')?;
    let (head, payload) = (&bytes[..end], &bytes[end + 1..]);
    (Digest::of(payload).as_str().as_bytes() == head).then_some(payload)
}
