//! What a copy is going to move: a value, made before anything is written.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::{Source, TransportError};
use crate::digest::Digest;
use crate::image::media_type::{self, Format};
use crate::image::{Descriptor, Document, Index, MAX_MANIFEST_BYTES, Manifest, read_blob};
use crate::platform::Platform;
use crate::reference::Reference;

/// How deep indexes may be nested.
pub(super) const MAX_DEPTH: usize = 4;
/// How many manifests one index may have.
const MAX_CHILDREN: usize = 10_000;
/// How many documents one image may have in all.
const MAX_DOCUMENTS: usize = 20_000;
/// How many blobs one image may have in all.
const MAX_BLOBS: usize = 100_000;

/// Which images of an index are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// The index with all its images.
    #[default]
    All,
    /// The image for one platform, without the index. A source that is no
    /// index is taken as it is.
    One(Platform),
    /// A smaller index with the images for these platforms.
    Several(Vec<Platform>),
}

/// What is to be moved, in the order in which it must arrive.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What people call the source.
    pub name: String,
    /// Names that the source carries.
    pub references: Vec<Reference>,
    /// Names the last of [`manifests`](Self::manifests).
    pub root: Descriptor,
    /// Configs and layers, each once.
    pub blobs: Vec<Descriptor>,
    /// Manifests and indexes, each after what it names; the root is last.
    pub manifests: Vec<(Descriptor, Vec<u8>)>,
    /// Whether a manifest became another.
    pub rewritten: bool,
}

impl Plan {
    /// The root's bytes.
    pub fn root_bytes(&self) -> &[u8] {
        self.manifests.last().map_or(&[], |(_, bytes)| bytes)
    }

    /// Walks `source` from its root; reads manifests, no blobs.
    ///
    /// # Errors
    /// When a document is missing or malformed, there is too much of it, or
    /// nothing for a platform that was asked for.
    pub fn make(
        source: &Source,
        selection: &Selection,
        rewrite: &Rewrite,
    ) -> Result<Self, TransportError> {
        let mut walk = Walk {
            source,
            rewrite,
            seen: HashSet::new(),
            blobs: Vec::new(),
            manifests: Vec::new(),
            converted: BTreeMap::new(),
            rewritten: false,
        };
        let (descriptor, bytes) = walk.select(selection)?;
        let root = walk.visit(&descriptor, bytes, 0)?;
        Ok(Self {
            name: source.name.clone(),
            references: source.references.clone(),
            root,
            blobs: walk.blobs,
            manifests: walk.manifests,
            rewritten: walk.rewritten,
        })
    }
}

/// What becomes different on the way; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The family of manifests to write; as it is when `None`.
    pub format: Option<Format>,
    /// Layers that others of the same content stand in for, by their digest
    /// in the source.
    pub layers: BTreeMap<Digest, Descriptor>,
}

struct Walk<'a> {
    source: &'a Source,
    rewrite: &'a Rewrite,
    seen: HashSet<Digest>,
    blobs: Vec<Descriptor>,
    manifests: Vec<(Descriptor, Vec<u8>)>,
    /// Documents that were visited, by their digest in the source.
    converted: BTreeMap<Digest, Descriptor>,
    rewritten: bool,
}

impl Walk<'_> {
    fn malformed(&self, descriptor: &Descriptor, reason: String) -> TransportError {
        TransportError::Malformed {
            place: format!("{} ({})", self.source.name, descriptor.digest),
            reason,
        }
    }

    fn parse(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Document, TransportError> {
        let document =
            Document::parse(bytes).map_err(|e| self.malformed(descriptor, e.to_string()))?;
        let is_index = matches!(document, Document::Index(_));
        let stated = &descriptor.media_type;
        if (media_type::is_index(stated) && !is_index)
            || (media_type::is_manifest(stated) && is_index)
        {
            return Err(self.malformed(
                descriptor,
                format!("it is not the {stated} it is said to be"),
            ));
        }
        Ok(document)
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransportError> {
        read_blob(&*self.source.blobs, descriptor, MAX_MANIFEST_BYTES)
            .map_err(TransportError::blob(descriptor))
    }

    /// The document to begin with.
    fn select(&self, selection: &Selection) -> Result<(Descriptor, Vec<u8>), TransportError> {
        let root = (self.source.descriptor.clone(), self.source.bytes.clone());
        let wanted = match selection {
            Selection::All => return Ok(root),
            Selection::One(platform) => std::slice::from_ref(platform),
            Selection::Several(platforms) => platforms.as_slice(),
        };
        let Document::Index(index) = self.parse(&root.0, &root.1)? else {
            return Ok(root);
        };
        if let Selection::One(platform) = selection {
            let mut index = index;
            let mut descriptor = choose(&self.source.name, &index, platform)?;
            for _ in 0..MAX_DEPTH {
                let bytes = self.read(&descriptor)?;
                match self.parse(&descriptor, &bytes)? {
                    Document::Manifest(_) => return Ok((descriptor, bytes)),
                    Document::Index(inner) => index = inner,
                }
                descriptor = choose(&self.source.name, &index, platform)?;
            }
            return Err(self.malformed(&root.0, "indexes are nested too deeply".into()));
        }
        let mut kept: Vec<Descriptor> = Vec::new();
        for platform in wanted {
            let found = choose(&self.source.name, &index, platform)?;
            if !kept.contains(&found) {
                kept.push(found);
            }
        }
        let index = Index {
            manifests: kept,
            ..*index
        };
        let bytes = index.to_bytes();
        Ok((Descriptor::of(&root.0.media_type, &bytes), bytes))
    }

    /// Adds a document and all below it; says what names it at the
    /// destination.
    fn visit(
        &mut self,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        depth: usize,
    ) -> Result<Descriptor, TransportError> {
        if depth > MAX_DEPTH {
            return Err(self.malformed(descriptor, "indexes are nested too deeply".into()));
        }
        if self.manifests.len() >= MAX_DOCUMENTS {
            return Err(self.malformed(descriptor, "it has too many manifests".into()));
        }
        let (media_type, rewritten) = match self.parse(descriptor, &bytes)? {
            Document::Manifest(manifest) => self.visit_manifest(descriptor, *manifest)?,
            Document::Index(index) => self.visit_index(descriptor, *index, depth)?,
        };
        let mut here = descriptor.clone();
        here.media_type = media_type;
        let bytes = match rewritten {
            None => bytes,
            Some(rewritten) => {
                self.rewritten = true;
                here.digest = Digest::of(&rewritten);
                here.size = rewritten.len() as u64;
                rewritten
            }
        };
        self.manifests.push((here.clone(), bytes));
        self.converted
            .insert(descriptor.digest.clone(), here.clone());
        Ok(here)
    }

    fn visit_manifest(
        &mut self,
        descriptor: &Descriptor,
        manifest: Manifest,
    ) -> Result<(String, Option<Vec<u8>>), TransportError> {
        let was = format_of(&manifest, descriptor);
        let (mut manifest, mut changed) = match self.rewrite.format {
            Some(format) if format != was => (
                convert(manifest, format).map_err(|r| self.malformed(descriptor, r))?,
                true,
            ),
            _ => (manifest, false),
        };
        let format = self.rewrite.format.unwrap_or(was);
        for layer in &mut manifest.layers {
            if let Some(other) = self.rewrite.layers.get(&layer.digest) {
                replace_layer(layer, other, format);
                changed = true;
            }
        }
        let rewritten = changed.then(|| manifest.to_bytes());
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if self.seen.insert(blob.digest.clone()) {
                if self.blobs.len() >= MAX_BLOBS {
                    return Err(self.malformed(descriptor, "it has too many blobs".into()));
                }
                self.blobs.push(blob.clone());
            }
        }
        let media_type = stated(&manifest.media_type, descriptor, media_type::OCI_MANIFEST);
        Ok((media_type, rewritten))
    }

    fn visit_index(
        &mut self,
        descriptor: &Descriptor,
        mut index: Index,
        depth: usize,
    ) -> Result<(String, Option<Vec<u8>>), TransportError> {
        if index.manifests.len() > MAX_CHILDREN {
            return Err(self.malformed(descriptor, "the index has too many entries".into()));
        }
        let mut changed = false;
        for child in &mut index.manifests {
            let here = match self.converted.get(&child.digest) {
                Some(known) => known.clone(),
                None => {
                    let bytes = self.read(child)?;
                    self.visit(child, bytes, depth + 1)?
                }
            };
            if here.digest != child.digest {
                changed = true;
                child.digest = here.digest;
                child.size = here.size;
                child.media_type = here.media_type;
            }
        }
        if let Some(format) = self.rewrite.format {
            let wanted = match format {
                Format::Oci => media_type::OCI_INDEX,
                Format::Docker => media_type::DOCKER_INDEX,
            };
            if stated(&index.media_type, descriptor, media_type::OCI_INDEX) != wanted {
                index.media_type = wanted.into();
                changed = true;
            }
        }
        let rewritten = changed.then(|| index.to_bytes());
        let media_type = stated(&index.media_type, descriptor, media_type::OCI_INDEX);
        Ok((media_type, rewritten))
    }
}

/// Puts `other` where `layer` was, under the family's media type. What else the
/// descriptor says stays, but for annotations: they may speak of the bytes.
fn replace_layer(layer: &mut Descriptor, other: &Descriptor, format: Format) {
    layer.media_type = match media_type::layer_compression(&other.media_type) {
        Some(compression) => media_type::layer(format, compression).into(),
        None => other.media_type.clone(),
    };
    layer.digest = other.digest.clone();
    layer.size = other.size;
    layer.annotations.clear();
}

fn stated(own: &str, descriptor: &Descriptor, fallback: &str) -> String {
    let known = |t: &str| media_type::is_manifest(t) || media_type::is_index(t);
    if !own.is_empty() {
        own.to_owned()
    } else if known(&descriptor.media_type) {
        descriptor.media_type.clone()
    } else {
        fallback.to_owned()
    }
}

fn format_of(manifest: &Manifest, descriptor: &Descriptor) -> Format {
    if stated(&manifest.media_type, descriptor, "") == media_type::DOCKER_MANIFEST {
        Format::Docker
    } else {
        Format::Oci
    }
}

/// The same image in the other family. Layers and config stay as they are;
/// only what they are called changes.
///
/// # Errors
/// The reason, when it is no image that the other family can describe.
pub fn convert(manifest: Manifest, format: Format) -> Result<Manifest, String> {
    let config_type = match format {
        Format::Oci => media_type::OCI_CONFIG,
        Format::Docker => media_type::DOCKER_CONFIG,
    };
    let is_config = matches!(
        manifest.config.media_type.as_str(),
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG
    );
    if !is_config || manifest.artifact_type.is_some() {
        return Err("it is no container image and can't be converted".into());
    }
    let config = Descriptor {
        media_type: config_type.into(),
        ..manifest.config
    };
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for layer in manifest.layers {
        let compression = media_type::layer_compression(&layer.media_type).ok_or_else(|| {
            format!(
                "a layer of the type {:?} can't be converted",
                layer.media_type
            )
        })?;
        layers.push(Descriptor {
            media_type: media_type::layer(format, compression).into(),
            ..layer
        });
    }
    let mut converted = Manifest::new(format, config, layers);
    if format == Format::Oci {
        converted.annotations = manifest.annotations;
        converted.subject = manifest.subject;
    }
    Ok(converted)
}

/// Reads the blob `descriptor` of `source` from its start.
pub(super) fn open(
    source: &Source,
    descriptor: &Descriptor,
) -> Result<Box<dyn io::Read + Send>, TransportError> {
    source
        .blobs
        .open(descriptor)
        .map_err(TransportError::blob(descriptor))
}
/// What `index` has for `platform`; `name` is for the message.
pub(super) fn choose(
    name: &str,
    index: &Index,
    platform: &Platform,
) -> Result<Descriptor, TransportError> {
    let chosen = index.select(platform).cloned();
    chosen.ok_or_else(|| TransportError::Platform {
        name: name.to_owned(),
        wanted: platform.to_string(),
        available: index
            .manifests
            .iter()
            .filter_map(|d| Some(d.platform.as_ref()?.to_string()))
            .collect(),
    })
}
