//! The index of a cache artifact, and its inline form. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::image::ImageConfig;

/// What kind of artifact a cache is.
pub const ARTIFACT_TYPE: &str = "application/vnd.shiplap.cache.v1";
/// Media type of the index.
pub const INDEX_TYPE: &str = "application/vnd.shiplap.cache.index.v1+json";
/// The field of an image config that an inline cache is in.
pub const INLINE_FIELD: &str = "shiplap.cache.v1";
/// The largest index that is read, in bytes.
pub const MAX_INDEX_BYTES: u64 = 32 << 20;

/// Which keys lead to which layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheIndex {
    /// Results of steps.
    pub steps: Vec<StepRecord>,
    /// Contents of cache mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountRecord>,
    /// When it was written, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
}

/// The result of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Keys that lead to it; steps on top of it use the first.
    pub keys: Vec<Digest>,
    /// Which of the artifact's layers it is, from 0.
    pub layer: usize,
    /// The layer's content.
    #[serde(rename = "diffId")]
    pub diff_id: DiffId,
    /// When it was made, seconds since 1970: the image's history says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<i64>,
}

/// The content of one cache mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// What the mount is known by: a digest of its id.
    pub name: Digest,
    /// The id, for people.
    pub id: String,
    /// Which of the artifact's layers it is, from 0.
    pub layer: usize,
    /// The layer's content.
    #[serde(rename = "diffId")]
    pub diff_id: DiffId,
}

impl CacheIndex {
    /// Reads an index for an artifact with `layers` layers.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        index.check(layers)?;
        Ok(index)
    }

    /// The index that an image's config carries, if it does.
    ///
    /// # Errors
    /// When it does and something is wrong with it.
    pub fn inline(config: &ImageConfig) -> Result<Option<Self>, String> {
        let Some(value) = config.other.get(INLINE_FIELD) else {
            return Ok(None);
        };
        let index = Self::deserialize(value).map_err(|e| e.to_string())?;
        let diff_ids = &config.rootfs.diff_ids;
        index.check(diff_ids.len())?;
        match index.steps.iter().find(|s| diff_ids[s.layer] != s.diff_id) {
            Some(step) => Err(format!("layer {} is another one in it", step.layer)),
            None => Ok(Some(index)),
        }
    }

    fn check(&self, layers: usize) -> Result<(), String> {
        if self.steps.iter().any(|s| s.keys.is_empty()) {
            return Err("a step has no key".into());
        }
        let steps = self.steps.iter().map(|s| s.layer);
        let mut all = steps.chain(self.mounts.iter().map(|m| m.layer));
        match all.find(|n| *n >= layers) {
            Some(n) => Err(format!("it speaks of layer {n}, and there are {layers}")),
            None => Ok(()),
        }
    }

    /// The bytes to store; the same value gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The steps by each of their keys; of two with one key the first.
    pub fn by_key(&self) -> HashMap<&Digest, &StepRecord> {
        let mut map = HashMap::new();
        for step in &self.steps {
            for key in &step.keys {
                map.entry(key).or_insert(step);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(key: &str, layer: usize) -> StepRecord {
        StepRecord {
            keys: vec![Digest::of(key.as_bytes())],
            layer,
            diff_id: DiffId::new(Digest::of(b"content")),
            made: Some(7),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let index = CacheIndex {
            steps: vec![step("a", 0), step("b", 1)],
            mounts: vec![MountRecord {
                name: Digest::of(b"m"),
                id: "/root/.cache".into(),
                layer: 2,
                diff_id: DiffId::new(Digest::of(b"tar")),
            }],
            created: Some(5),
        };
        let bytes = index.to_bytes();
        assert_eq!(CacheIndex::parse(&bytes, 3).unwrap(), index);
        assert!(CacheIndex::parse(&bytes, 2).is_err(), "a layer is missing");
        assert_eq!(index.by_key()[&Digest::of(b"b")].layer, 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let keyless = CacheIndex {
            steps: vec![StepRecord {
                keys: Vec::new(),
                ..step("a", 0)
            }],
            ..CacheIndex::default()
        };
        assert!(CacheIndex::parse(&keyless.to_bytes(), 1).is_err());
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"steps":[{"keys":["sha256:0"],"layer":0,"diffId":"x"}]}"#,
            r#"{"steps":[{"keys":[],"layer":-1,"diffId":"x"}]}"#,
        ] {
            assert!(CacheIndex::parse(bad.as_bytes(), 9).is_err(), "{bad}");
        }
        assert!(CacheIndex::parse("[".repeat(100_000).as_bytes(), 9).is_err());
    }

    #[test]
    fn an_inline_index_is_about_the_image_it_is_in() {
        let mut config = ImageConfig::default();
        config.rootfs.diff_ids = vec![DiffId::new(Digest::of(b"content"))];
        assert_eq!(CacheIndex::inline(&config).unwrap(), None);
        let mut with = |index: &CacheIndex| {
            let value = serde_json::to_value(index).unwrap();
            config.other.insert(INLINE_FIELD.into(), value);
            CacheIndex::inline(&config)
        };
        let mut index = CacheIndex {
            steps: vec![step("a", 0)],
            ..CacheIndex::default()
        };
        assert_eq!(with(&index).unwrap(), Some(index.clone()));
        index.steps[0].diff_id = DiffId::new(Digest::of(b"other"));
        assert!(with(&index).is_err());
        index.steps[0].layer = 1;
        assert!(with(&index).is_err());
    }
}
