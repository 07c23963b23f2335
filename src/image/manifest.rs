//! Manifests and indexes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Descriptor;
use super::config::null_is_default;
use super::media_type::{self, Format};
use crate::platform::Platform;

/// The manifest of one image: its config and its layers, lowest first.
///
/// # Specification
/// image-spec `manifest.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI or Docker; may be missing in OCI manifests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Kind of artifact, where it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form remarks.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Manifest {
    /// A manifest of the given family.
    pub fn new(format: Format, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let media_type = match format {
            Format::Oci => media_type::OCI_MANIFEST,
            Format::Docker => media_type::DOCKER_MANIFEST,
        };
        Self {
            schema_version: 2,
            media_type: media_type.into(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// The manifest of an artifact with one file and no config, about
    /// `subject`.
    pub fn artifact(
        artifact_type: &str,
        file: Descriptor,
        subject: Descriptor,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        let config = Descriptor::of(media_type::EMPTY, media_type::EMPTY_JSON);
        Self {
            artifact_type: Some(artifact_type.into()),
            subject: Some(subject),
            annotations,
            ..Self::new(Format::Oci, config, vec![file])
        }
    }

    /// Which family it is of.
    pub fn format(&self) -> Format {
        if self.media_type == media_type::DOCKER_MANIFEST {
            Format::Docker
        } else {
            Format::Oci
        }
    }

    /// The bytes to store; the same value gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A list of manifests, usually one for each platform.
///
/// # Specification
/// image-spec `image-index.md`; Docker's manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// OCI or Docker; may be missing in OCI indexes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Kind of artifact, where it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form remarks.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Index {
    /// An OCI index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.into(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// The manifest that serves `wanted` best; the first of equals. Entries
    /// without a platform and attestations are passed over unless the list
    /// has a single entry.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        if let [only] = self.manifests.as_slice()
            && only.platform.is_none()
        {
            return Some(only);
        }
        self.manifests
            .iter()
            .filter_map(|d| Some((d.platform.as_ref()?.serves(wanted)?, d)))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, d)| d)
    }

    /// The bytes to store; the same value gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Either kind of top-level document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Box<Index>),
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not the JSON it should be.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It could be read as two kinds of document.
    #[error("it has the fields of a manifest and of an index (see CVE-2021-41190)")]
    Ambiguous,
    /// A field of the top level comes twice, or differs from a known one only
    /// in case.
    #[error("the field {0:?} comes twice or in the wrong case")]
    Duplicate(String),
    /// A kind that is not supported.
    #[error("{0}")]
    Unsupported(String),
}

impl Document {
    /// Decides by the document's own fields what it is, and parses it.
    ///
    /// # Errors
    /// A document that two readers could take for different things is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let keys: TopLevel = serde_json::from_slice(bytes)?;
        let has = |name: &str| keys.0.iter().any(|(k, v)| k == name && !v.is_null());
        for (i, (key, _)) in keys.0.iter().enumerate() {
            let twice = keys.0[..i].iter().any(|(k, _)| k.eq_ignore_ascii_case(key));
            let wrong_case = KNOWN
                .iter()
                .any(|k| k.eq_ignore_ascii_case(key) && k != key);
            if twice || wrong_case {
                return Err(DocumentError::Duplicate(key.clone()));
            }
        }
        let unsupported = |t: &str| Err(DocumentError::Unsupported(t.into()));
        if has("fsLayers") || has("signatures") {
            return unsupported("it is a Docker schema 1 manifest, which is no longer supported");
        }
        let media_type = keys.0.iter().find(|(k, _)| k == "mediaType");
        let media_type = match media_type {
            Some((_, serde_json::Value::String(s))) => s.as_str(),
            Some((_, v)) if !v.is_null() => return unsupported("its mediaType is no string"),
            _ => "",
        };
        let (manifests, layers) = (has("manifests"), has("layers") || has("config"));
        if manifests && layers {
            return Err(DocumentError::Ambiguous);
        }
        let document = if media_type::is_index(media_type) || (media_type.is_empty() && manifests) {
            if layers {
                return Err(DocumentError::Ambiguous);
            }
            Self::Index(Box::new(serde_json::from_slice(bytes)?))
        } else if media_type::is_manifest(media_type) || (media_type.is_empty() && layers) {
            if manifests {
                return Err(DocumentError::Ambiguous);
            }
            Self::Manifest(Box::new(serde_json::from_slice(bytes)?))
        } else if media_type.is_empty() {
            return unsupported("it has neither manifests nor config and layers");
        } else {
            return unsupported(&format!("its mediaType {media_type:?} is unknown"));
        };
        let version = match &document {
            Self::Manifest(m) => m.schema_version,
            Self::Index(i) => i.schema_version,
        };
        if version != 2 {
            return unsupported(&format!("its schemaVersion is {version}, not 2"));
        }
        Ok(document)
    }
}

const KNOWN: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "subject",
    "annotations",
    "manifests",
    "fsLayers",
];

/// The top level of an object with its keys as they stand, twice where they
/// stand twice.
struct TopLevel(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for TopLevel {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = TopLevel;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a manifest or an index (a JSON object)")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<TopLevel, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                    if fields.len() > 1000 {
                        return Err(serde::de::Error::custom("more than 1000 fields"));
                    }
                }
                Ok(TopLevel(fields))
            }
        }
        d.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#""config":{"mediaType":"c","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;

    #[test]
    fn refuses_documents_that_could_be_two_things() {
        let manifest = format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[],"x":1}}"#);
        assert!(matches!(
            Document::parse(manifest.as_bytes()),
            Ok(Document::Manifest(_))
        ));
        for bad in [
            format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[],"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,{CONFIG},"Layers":[]}}"#),
            format!(r#"{{"schemaVersion":1,{CONFIG},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"text/html",{CONFIG},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[],"layers":[]}}"#, media_type::OCI_INDEX),
            "[]".into(),
            "{}".into(),
            "[".repeat(100_000),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"sha256:00","size":-1},"layers":[]}"#.into(),
        ] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad:.80}");
        }
    }

    #[test]
    fn unknown_fields_survive() {
        let text = format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[],"zz":{{"b":1,"a":2}}}}"#);
        let Document::Manifest(m) = Document::parse(text.as_bytes()).unwrap() else {
            panic!("no manifest");
        };
        assert!(
            String::from_utf8(m.to_bytes())
                .unwrap()
                .contains(r#""zz":{"a":2,"b":1}"#)
        );
    }
}
