//! From what people write to an image.

use std::io;
use std::sync::Arc;

use super::{Store, StoreError};
use crate::digest::Digest;
use crate::image::{
    self, BlobSource, Descriptor, Document, Image, ImageError, MAX_MANIFEST_BYTES, media_type,
};
use crate::platform::Platform;
use crate::reference::Reference;

/// The shortest abbreviation of an id.
const MIN_ID: usize = 4;
/// Indexes in indexes beyond this depth are refused.
const MAX_DEPTH: u32 = 4;

impl Store {
    /// The manifest or index that `text` means: a name, `name@digest`, the
    /// digest of a manifest, index or image config, or the first four or more
    /// hex digits of one that a name leads to.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] when there is none, [`StoreError::AmbiguousId`]
    /// when an abbreviation fits several.
    pub fn find(&self, text: &str) -> Result<Descriptor, StoreError> {
        // `app:1` follows the grammar of digests too.
        if let Ok(digest) = Digest::parse(text)
            && digest.algorithm().starts_with("sha")
            && digest.encoded().len() >= 64
        {
            return self.find_digest(&digest, text);
        }
        if let Ok(reference) = Reference::parse(text) {
            if let Some(found) = self.get_ref(&reference)? {
                return Ok(found);
            }
            if let Some(digest) = reference.digest() {
                return self.find_digest(digest, text);
            }
        }
        let refs = self.refs()?;
        if let Some((_, found)) = refs.iter().find(|(name, _)| name == text) {
            return Ok(found.clone());
        }
        self.find_id(text, &refs)
    }

    fn find_digest(&self, digest: &Digest, text: &str) -> Result<Descriptor, StoreError> {
        let none = || StoreError::NoImage { text: text.into() };
        let named = self.read_index()?.manifests;
        if let Some(found) = named.iter().find(|d| d.digest == *digest) {
            return Ok(found.clone());
        }
        for top in &named {
            if let Some(found) = self
                .manifests_of(top)
                .into_iter()
                .find(|(d, config)| d.digest == *digest || config.as_ref() == Some(digest))
            {
                return Ok(found.0);
            }
        }
        // An image that lost its name.
        let size = self.blob_size(digest).ok_or_else(none)?;
        let mut descriptor = Descriptor::new("", digest.clone(), size);
        let kind = self.document(&descriptor).ok_or_else(none)?;
        descriptor.media_type = document_type(&kind).into();
        Ok(descriptor)
    }

    fn find_id(&self, text: &str, refs: &[(String, Descriptor)]) -> Result<Descriptor, StoreError> {
        let none = || StoreError::NoImage { text: text.into() };
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        if text.len() < MIN_ID || text.len() > 128 || !hex {
            return Err(none());
        }
        let prefix = text.to_ascii_lowercase();
        let fits = |d: &Digest| d.encoded().starts_with(&prefix);
        let mut found: Vec<Descriptor> = Vec::new();
        for (_, top) in refs {
            if fits(&top.digest) {
                found.push(top.clone());
            }
            for (manifest, config) in self.manifests_of(top) {
                if fits(&manifest.digest) || config.as_ref().is_some_and(fits) {
                    found.push(manifest);
                }
            }
        }
        found.sort_by(|a, b| a.digest.cmp(&b.digest));
        found.dedup_by(|a, b| a.digest == b.digest);
        if found.len() > 1 {
            return Err(StoreError::AmbiguousId {
                text: text.into(),
                candidates: found.iter().map(|d| d.digest.short().into()).collect(),
            });
        }
        found.pop().ok_or_else(none)
    }

    /// The manifest itself, or those in the index, each with its config's
    /// digest where it can be read.
    fn manifests_of(&self, top: &Descriptor) -> Vec<(Descriptor, Option<Digest>)> {
        let config = |d: &Descriptor| match self.document(d) {
            Some(Document::Manifest(m)) => Some(m.config.digest),
            _ => None,
        };
        match self.document(top) {
            Some(Document::Manifest(m)) => vec![(top.clone(), Some(m.config.digest))],
            Some(Document::Index(index)) => index
                .manifests
                .into_iter()
                .map(|d| {
                    let config = config(&d);
                    (d, config)
                })
                .collect(),
            None => Vec::new(),
        }
    }

    /// Reads the image that `descriptor` names; of an index, the image that
    /// serves `platform` best (this machine's when there is none).
    ///
    /// # Errors
    /// When a document is missing or malformed, or the index has nothing for
    /// the platform.
    pub fn load_image(
        &self,
        descriptor: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<Image, StoreError> {
        let mut descriptor = descriptor.clone();
        for _ in 0..=MAX_DEPTH {
            let bytes = self.read_document(&descriptor)?;
            let document = Document::parse(&bytes).map_err(|e| ImageError::Malformed {
                what: "manifest",
                digest: descriptor.digest.clone(),
                reason: e.to_string(),
            })?;
            match document {
                Document::Manifest(_) => {
                    let blobs: Arc<dyn BlobSource> = Arc::new(self.clone());
                    return Ok(Image::load(descriptor, bytes, blobs)?);
                }
                Document::Index(index) => {
                    let wanted = platform.cloned().unwrap_or_else(Platform::host);
                    let Some(chosen) = index.select(&wanted) else {
                        let available = index
                            .manifests
                            .iter()
                            .filter_map(|d| d.platform.as_ref().map(Platform::to_string))
                            .collect();
                        return Err(StoreError::NoPlatform {
                            digest: descriptor.digest,
                            wanted: wanted.to_string(),
                            available,
                        });
                    };
                    descriptor = chosen.clone();
                }
            }
        }
        Err(StoreError::Image(ImageError::Malformed {
            what: "index",
            digest: descriptor.digest,
            reason: "it is nested too deeply".into(),
        }))
    }

    fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        let source: &dyn BlobSource = self;
        image::read_blob(source, descriptor, MAX_MANIFEST_BYTES).map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound {
                return StoreError::NoBlob {
                    digest: descriptor.digest.clone(),
                };
            }
            StoreError::Image(ImageError::Read {
                what: "manifest",
                digest: descriptor.digest.clone(),
                source: e,
            })
        })
    }
}

fn document_type(document: &Document) -> &str {
    let (own, implied) = match document {
        Document::Manifest(m) => (&m.media_type, media_type::OCI_MANIFEST),
        Document::Index(i) => (&i.media_type, media_type::OCI_INDEX),
    };
    if own.is_empty() { implied } else { own }
}
