//! Which repositories of a registry are known to have a blob, so that it can
//! be asked to take the blob over from there.
//!
//! A record is a hint: what it says may be wrong by now, and nothing but time
//! is lost then.

use super::{Store, StoreError};
use crate::digest::{Digest, Hasher};

/// Repositories kept for one blob and registry.
const MAX_PLACES: usize = 8;

impl Store {
    /// Repositories of `registry` that had the blob, the newest first.
    pub fn places(&self, digest: &Digest, registry: &str) -> Vec<String> {
        let Some(bytes) = self.cache_get(&key(digest, registry)) else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::to_owned).take(MAX_PLACES).collect()
    }

    /// Notes that `repository` of `registry` has the blob.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn note_place(
        &self,
        digest: &Digest,
        registry: &str,
        repository: &str,
    ) -> Result<(), StoreError> {
        let mut places = self.places(digest, registry);
        if places.iter().any(|p| p == repository) {
            return Ok(());
        }
        places.insert(0, repository.to_owned());
        places.truncate(MAX_PLACES);
        self.write_places(digest, registry, &places)
    }

    /// Notes that `repository` of `registry` does not have the blob (any
    /// more).
    ///
    /// # Errors
    /// When it can't be written.
    pub fn forget_place(
        &self,
        digest: &Digest,
        registry: &str,
        repository: &str,
    ) -> Result<(), StoreError> {
        let mut places = self.places(digest, registry);
        if !places.iter().any(|p| p == repository) {
            return Ok(());
        }
        places.retain(|p| p != repository);
        self.write_places(digest, registry, &places)
    }

    fn write_places(
        &self,
        digest: &Digest,
        registry: &str,
        places: &[String],
    ) -> Result<(), StoreError> {
        self.cache_put(&key(digest, registry), places.join("\n").as_bytes())
    }
}

fn key(digest: &Digest, registry: &str) -> Digest {
    let mut key = Hasher::new();
    for part in ["places of a blob", registry, digest.as_str()] {
        key.field(part.as_bytes());
    }
    key.finish()
}
