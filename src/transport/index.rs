//! Making and changing indexes: values that become a [`Source`] like any other,
//! so that copying is what writes them.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::plan::{Plan, Rewrite};
use super::{Selection, Source, TransportError};
use crate::digest::{Digest, VerifyingReader};
use crate::image::media_type::{self, Format};
use crate::image::{
    BlobSource, Descriptor, Document, ImageConfig, Index, MAX_CONFIG_BYTES, Manifest, read_blob,
};
use crate::platform::Platform;
use crate::registry::Repository;

/// The annotation by which an attestation names the image it is about.
const REFERENCE: &str = "vnd.docker.reference.digest";

/// An index that is being made, and where its parts can be read.
#[derive(Default)]
pub struct IndexEditor {
    index: Option<Index>,
    documents: HashMap<Digest, Vec<u8>>,
    blobs: HashMap<Digest, Arc<dyn BlobSource>>,
    repositories: Vec<Repository>,
}

impl std::fmt::Debug for IndexEditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IndexEditor({} entries)", self.entries().len())
    }
}

/// Entries of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entries {
    /// The one with this digest, or a beginning of it.
    Digest(String),
    /// Those for this platform.
    Platform(Platform),
}

impl Entries {
    /// Reads a digest, the beginning of one, or a platform.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = hex.len() >= 6 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex || Digest::parse(text).is_ok() {
            return Ok(Self::Digest(text.to_owned()));
        }
        Platform::parse(text)
            .map(Self::Platform)
            .map_err(|e| format!("it is neither a digest nor a platform: {e}"))
    }

    fn has(&self, entry: &Descriptor) -> bool {
        match self {
            Self::Digest(text) => {
                entry.digest.as_str().starts_with(text) || entry.digest.encoded().starts_with(text)
            }
            Self::Platform(platform) => {
                let own = entry.platform.clone().map(Platform::normalized);
                own.as_ref() == Some(platform)
            }
        }
    }
}

impl IndexEditor {
    /// Begins with the index of `source`.
    ///
    /// # Errors
    /// When it is no index, or its parts can't be read.
    pub fn open(source: &Source) -> Result<Self, TransportError> {
        let Document::Index(index) = parse(source)? else {
            return Err(TransportError::Unfit {
                place: "an index".into(),
                name: source.name.clone(),
                reason: "it is one image; make an index with it first".into(),
            });
        };
        let mut editor = Self::default();
        editor.note(source, &Selection::All)?;
        editor.index = Some(*index);
        Ok(editor)
    }

    /// The entries so far.
    pub fn entries(&self) -> &[Descriptor] {
        self.index.as_ref().map_or(&[], |index| &index.manifests)
    }

    fn index(&mut self) -> &mut Index {
        self.index.get_or_insert_with(|| Index::new(Vec::new()))
    }

    /// Takes note of what a source consists of.
    fn note(&mut self, source: &Source, selection: &Selection) -> Result<(), TransportError> {
        let plan = Plan::make(source, selection, &Rewrite::default())?;
        for (descriptor, bytes) in plan.manifests {
            self.documents.insert(descriptor.digest, bytes);
        }
        for blob in plan.blobs {
            self.blobs.insert(blob.digest, Arc::clone(&source.blobs));
        }
        self.repositories.extend(source.repositories.clone());
        Ok(())
    }

    /// Adds an image, or those of an index: all of them, or those for
    /// `platforms`. An entry for a platform that is there already takes its
    /// place.
    ///
    /// # Errors
    /// When something can't be read, or is not for one of `platforms`.
    pub fn add(&mut self, source: &Source, platforms: &[Platform]) -> Result<(), TransportError> {
        let selection = match platforms {
            [] => Selection::All,
            some => Selection::Several(some.to_vec()),
        };
        self.note(source, &selection)?;
        match parse(source)? {
            Document::Manifest(manifest) => {
                let mut entry = source.descriptor.clone();
                entry.annotations.clear();
                entry.platform = platform_of(source, &manifest)?;
                self.put(entry);
            }
            Document::Index(index) => {
                if platforms.is_empty() {
                    for entry in index.manifests.clone() {
                        self.put(entry);
                    }
                }
                for platform in platforms {
                    if let Some(entry) = index.select(platform) {
                        self.put(entry.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, entry: Descriptor) {
        let same = |old: &Descriptor| {
            old.digest == entry.digest
                || (is_real(&entry) && is_real(old) && old.platform == entry.platform)
        };
        let entries = &mut self.index().manifests;
        match entries.iter().position(same) {
            Some(at) if entries[at].digest == entry.digest => entries[at] = entry,
            Some(at) => {
                let gone = std::mem::replace(&mut entries[at], entry).digest;
                forget_attestations(entries, &gone);
            }
            None => entries.push(entry),
        }
    }

    /// Takes entries out, and what attests them.
    ///
    /// # Errors
    /// When there are none.
    pub fn remove(&mut self, which: &Entries) -> Result<(), TransportError> {
        let entries = &mut self.index().manifests;
        let (gone, kept): (Vec<Descriptor>, Vec<Descriptor>) =
            entries.drain(..).partition(|entry| which.has(entry));
        *entries = kept;
        for entry in &gone {
            forget_attestations(entries, &entry.digest);
        }
        match gone.is_empty() {
            true => Err(self.nothing(which)),
            false => Ok(()),
        }
    }

    fn nothing(&self, which: &Entries) -> TransportError {
        let (wanted, available) = match which {
            Entries::Digest(text) => (
                text.clone(),
                self.entries()
                    .iter()
                    .map(|e| e.digest.to_string())
                    .collect(),
            ),
            Entries::Platform(platform) => (
                platform.to_string(),
                (self.entries().iter())
                    .filter_map(|e| Some(e.platform.as_ref()?.to_string()))
                    .collect(),
            ),
        };
        TransportError::NoImage {
            place: "the index".into(),
            wanted,
            available,
        }
    }

    /// Changes entries.
    ///
    /// # Errors
    /// When there are none.
    pub fn change(
        &mut self,
        which: &Entries,
        change: impl Fn(&mut Descriptor),
    ) -> Result<(), TransportError> {
        let mut found = false;
        for entry in self.index().manifests.iter_mut().filter(|e| which.has(e)) {
            change(entry);
            found = true;
        }
        match found {
            true => Ok(()),
            false => Err(self.nothing(which)),
        }
    }

    /// Annotates the index itself.
    pub fn annotate(&mut self, key: &str, value: &str) {
        self.index()
            .annotations
            .insert(key.to_owned(), value.to_owned());
    }

    /// The index as something that can be copied.
    pub fn finish(mut self, name: &str, format: Option<Format>) -> Source {
        let mut index = self.index.take().unwrap_or_else(|| Index::new(Vec::new()));
        match format {
            Some(Format::Oci) => index.media_type = media_type::OCI_INDEX.into(),
            Some(Format::Docker) => index.media_type = media_type::DOCKER_INDEX.into(),
            None if index.media_type.is_empty() => index.media_type = media_type::OCI_INDEX.into(),
            None => {}
        }
        let bytes = index.to_bytes();
        let descriptor = Descriptor::of(&index.media_type, &bytes);
        let parts = Parts {
            documents: self.documents,
            blobs: self.blobs,
        };
        Source::new(name, descriptor, bytes, Arc::new(parts)).with_repositories(self.repositories)
    }
}

/// An entry that is an image for a platform, and no attestation.
fn is_real(entry: &Descriptor) -> bool {
    let platform = entry.platform.as_ref();
    platform.is_some_and(|p| p.os != "unknown" && !p.os.is_empty())
}

fn forget_attestations(entries: &mut Vec<Descriptor>, image: &Digest) {
    let about = |e: &Descriptor| e.annotations.get(REFERENCE).cloned();
    entries.retain(|e| about(e).as_deref() != Some(image.as_str()));
}

fn parse(source: &Source) -> Result<Document, TransportError> {
    Document::parse(&source.bytes).map_err(|e| TransportError::Malformed {
        place: source.name.clone(),
        reason: e.to_string(),
    })
}

/// What an image says that it is for; artifacts say nothing.
fn platform_of(source: &Source, manifest: &Manifest) -> Result<Option<Platform>, TransportError> {
    let config = &manifest.config;
    let is_image = matches!(
        config.media_type.as_str(),
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG
    );
    if !is_image {
        return Ok(source.descriptor.platform.clone());
    }
    let bytes = read_blob(&*source.blobs, config, MAX_CONFIG_BYTES)
        .map_err(TransportError::blob(config))?;
    let parsed = ImageConfig::parse(&bytes).map_err(|e| TransportError::Malformed {
        place: format!("the config of {}", source.name),
        reason: e.to_string(),
    })?;
    let platform = parsed.platform();
    Ok((!platform.os.is_empty() && !platform.architecture.is_empty()).then_some(platform))
}

/// Where each part of an index is.
struct Parts {
    documents: HashMap<Digest, Vec<u8>>,
    blobs: HashMap<Digest, Arc<dyn BlobSource>>,
}

impl BlobSource for Parts {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        if let Some(bytes) = self.documents.get(&d.digest) {
            let reader = io::Cursor::new(bytes.clone());
            let size = Some(d.size);
            return Ok(Box::new(VerifyingReader::new(
                reader,
                d.digest.clone(),
                size,
            )?));
        }
        match self.blobs.get(&d.digest) {
            Some(source) => source.open(d),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("nothing has {}", d.digest),
            )),
        }
    }
}
