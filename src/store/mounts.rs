//! Cache mounts: directories that RUN steps have in common over builds.
//!
//! ```text
//! mounts/<hex>/id        what instructions call it, or where they mount it;
//!                        its mtime is when a step last had it
//! mounts/<hex>/sharing   how that step shared it
//! mounts/<hex>/fs        its content
//! mounts/<hex>/new       a content that is being made
//! ```
//! A step holds the lock of its mount as long as it runs; a directory is
//! removed only by who holds it alone.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::SystemTime;

use super::blobs::ensure_dir;
use super::gc::disk_usage;
use super::{Lock, LockMode, Store, StoreError, read_small};
use crate::digest::Digest;

/// Longer ids are cut where they are listed, in bytes.
const MOST_ID_BYTES: u64 = 64 << 10;

/// A cache mount that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMount {
    /// The name of its directory: 64 hexadecimal digits.
    pub key: String,
    /// What instructions call it, or where they mount it. Several may have the
    /// same: a private cache is made for each step that runs at the same time.
    pub id: String,
    /// How the last step shared it: `shared`, `private` or `locked`.
    pub sharing: String,
    /// What it takes on the disk.
    pub bytes: u64,
    /// When a step last began to use it.
    pub last_used: SystemTime,
    /// Whether a step has it now.
    pub in_use: bool,
}

impl Store {
    /// The directory of the cache mount `key`, made if need be.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn mount_dir(&self, key: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.path("mounts").join(key.encoded());
        ensure_dir(&path).map_err(StoreError::io("create the cache mount", &path))?;
        Ok(path)
    }

    /// The lock of the cache mount `key`, unless others have it.
    ///
    /// # Errors
    /// When the lock file can't be made.
    pub fn try_lock_mount(&self, key: &Digest, mode: LockMode) -> Result<Option<Lock>, StoreError> {
        self.try_lock(&lock_name(key.encoded()), mode)
    }

    /// Notes that a step has the cache mount `key` from now on. For people's
    /// eyes only, so it may fail.
    pub fn note_mount(&self, key: &Digest, id: &str, sharing: &str) {
        let dir = self.path("mounts").join(key.encoded());
        let _ = std::fs::write(dir.join("sharing"), sharing);
        let _ = std::fs::write(dir.join("id"), id);
    }

    /// All cache mounts, by id.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn mounts(&self) -> Result<Vec<StoredMount>, StoreError> {
        let dir = self.path("mounts");
        let entries = std::fs::read_dir(&dir).map_err(StoreError::io("read", &dir))?;
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &dir))?;
            let Ok(key) = entry.file_name().into_string() else {
                continue;
            };
            let path = entry.path();
            // One that goes away meanwhile, or that is being made, is none.
            let id = path.join("id");
            let (Ok(text), Ok(meta)) = (read_small(&id, MOST_ID_BYTES), id.metadata()) else {
                continue;
            };
            let sharing = read_small(&path.join("sharing"), 100).unwrap_or_default();
            let free = self.try_lock(&lock_name(&key), LockMode::Exclusive)?;
            all.push(StoredMount {
                id: String::from_utf8_lossy(&text).into_owned(),
                sharing: String::from_utf8_lossy(&sharing).into_owned(),
                bytes: disk_usage(&path, &mut HashSet::new()),
                last_used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                in_use: free.is_none(),
                key,
            });
        }
        all.sort_by(|a, b| (&a.id, &a.key).cmp(&(&b.id, &b.key)));
        Ok(all)
    }

    /// Removes a cache mount; `false` where a step has it.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_mount(&self, mount: &StoredMount) -> Result<bool, StoreError> {
        let Some(_alone) = self.try_lock(&lock_name(&mount.key), LockMode::Exclusive)? else {
            return Ok(false);
        };
        let path = self.path("mounts").join(&mount.key);
        if path.exists() {
            self.trash(&path)?;
        }
        Ok(true)
    }
}

fn lock_name(key: &str) -> String {
    format!("mount-{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.mounts().unwrap(), []);
        let keys = ["a", "b"].map(|name| Digest::of(name.as_bytes()));
        for (key, id) in keys.iter().zip(["/z", "/a"]) {
            let made = store.mount_dir(key).unwrap();
            std::fs::create_dir(made.join("fs")).unwrap();
            std::fs::write(made.join("fs/file"), vec![b'x'; 10_000]).unwrap();
            // It is being made.
            assert!(store.mounts().unwrap().iter().all(|m| m.id != id));
            store.note_mount(key, id, "locked");
        }
        let lock = store.try_lock_mount(&keys[0], LockMode::Shared).unwrap();
        let all = store.mounts().unwrap();
        let shown: Vec<_> = all.iter().map(|m| (m.id.as_str(), m.in_use)).collect();
        assert_eq!(shown, [("/a", false), ("/z", true)]);
        assert!(all[0].bytes >= 10_000 && all[0].sharing == "locked");
        assert!(all[0].last_used.elapsed().unwrap().as_secs() < 3600);
        assert!(!store.remove_mount(&all[1]).unwrap());
        drop(lock);
        for mount in &all {
            assert!(store.remove_mount(mount).unwrap());
        }
        assert_eq!(store.mounts().unwrap(), []);
    }
}
