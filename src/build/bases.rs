//! FROM and `--from` references → pinned images.

#![allow(
    clippy::result_large_err,
    reason = "a handful of errors in a whole build"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::request::PullPolicy;
use crate::dockerfile::span::Span;
use crate::graph::BaseRequest;
use crate::image::{BlobSource, Descriptor, Document, Image, ImageError};
use crate::platform::Platform;
use crate::reference::{Reference, ReferenceError};
use crate::registry::{Client, Repository};
use crate::store::{Store, StoreError};
use crate::transport::{self, Source, TransportError};

/// Before the name of an image in place of a named context.
const IMAGE: &str = "docker-image://";

/// A base image that was found.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// The image for the platform that was asked for.
    pub(super) image: Image,
    /// Where on registries its blobs are.
    pub(super) repositories: Vec<Repository>,
}

/// Why there is no such base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The name is no reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It could not be read.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its documents do not belong together.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It is for another platform.
    #[error("{name} is an image for {has}, not for {wanted}")]
    Platform {
        /// The image.
        name: String,
        /// What it is for.
        has: String,
        /// What was asked for.
        wanted: Platform,
    },
    /// It is not in the store, and nothing else may be asked.
    #[error("{0} is not in the store, and pulling is switched off")]
    NotPulled(String),
}

/// Where bases are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finder<'a> {
    pub(super) store: &'a Store,
    pub(super) client: &'a Client,
    pub(super) pull: PullPolicy,
}

/// Bases by what was asked for, or which of them failed and where.
pub(super) type Found = BTreeMap<BaseRequest, Base>;

impl Finder<'_> {
    /// Looks all of them up, side by side.
    ///
    /// # Errors
    /// The first that can't be found, with its place in the Dockerfile.
    pub(super) fn find_all(
        &self,
        requests: &[(BaseRequest, Option<Span>)],
    ) -> Result<Found, (BaseRequest, Option<Span>, BaseError)> {
        let results: Vec<_> = std::thread::scope(|scope| {
            let work: Vec<_> = requests
                .iter()
                .map(|(request, _)| scope.spawn(|| self.find(request)))
                .collect();
            work.into_iter().map(|w| w.join()).collect()
        });
        let mut found = Found::new();
        for ((request, span), result) in requests.iter().zip(results) {
            let Ok(result) = result else {
                continue;
            };
            match result {
                Ok(base) => {
                    self.remember(&base);
                    found.insert(request.clone(), base);
                }
                Err(e) => return Err((request.clone(), *span, e)),
            }
        }
        Ok(found)
    }

    /// Notes where on registries the layers are, so that a push takes them over
    /// from there. A hint; nothing is lost where it can't be written.
    fn remember(&self, base: &Base) {
        for layer in &base.image.manifest.layers {
            for from in &base.repositories {
                let _ = (self.store).note_place(&layer.digest, from.registry(), from.name());
            }
        }
    }

    fn find(&self, request: &BaseRequest) -> Result<Base, BaseError> {
        if let Some(path) = request.name.strip_prefix("oci-layout://") {
            return in_layout(path, request);
        }
        let name = request.name.strip_prefix(IMAGE).unwrap_or(&request.name);
        let mut result = None;
        for reference in self.client.candidates(name)? {
            match self.find_named(&reference, request) {
                Ok(base) => return Ok(base),
                Err(e) => result = Some(e),
            }
        }
        Err(result.unwrap_or_else(|| BaseError::NotPulled(name.to_owned())))
    }

    /// In the store, else in the registry.
    fn find_named(&self, reference: &Reference, request: &BaseRequest) -> Result<Base, BaseError> {
        let name = reference.familiar();
        let mut mismatch = None;
        if self.pull != PullPolicy::Always
            && let Some(descriptor) = stored(self.store, reference)?
        {
            let source = Source::load(&name, descriptor, Arc::new(self.store.clone()))?;
            match select(source, request) {
                Ok(base) if fits(&base.image, request) => return Ok(base),
                Err(e) if !is_platform(&e) => return Err(e),
                other => mismatch = Some(other),
            }
        }
        if self.pull == PullPolicy::Never {
            let none = Err(BaseError::NotPulled(reference.familiar()));
            return mismatch.unwrap_or(none);
        }
        match transport::registry::open(self.client, reference) {
            Ok(source) => {
                let base = select(source, request)?;
                self.note_places(&base);
                Ok(base)
            }
            // The store has it, only for another platform: that says more.
            Err(e) => mismatch.unwrap_or(Err(e.into())),
        }
    }

    /// Remembers where the base's layers are, for pushes to the same registry.
    fn note_places(&self, base: &Base) {
        for from in &base.repositories {
            for layer in &base.image.manifest.layers {
                // A hint; nothing is lost without it.
                let _ = self
                    .store
                    .note_place(&layer.digest, from.registry(), from.name());
            }
        }
    }
}

/// What the store has for `request`, or the layout that it names. No registry
/// is asked.
pub(super) fn local(store: Option<&Store>, request: &BaseRequest) -> Option<Base> {
    if let Some(path) = request.name.strip_prefix("oci-layout://") {
        return in_layout(path, request).ok();
    }
    let name = request.name.strip_prefix(IMAGE).unwrap_or(&request.name);
    let store = store?;
    let descriptor = stored(store, &Reference::parse(name).ok()?).ok()??;
    let source = Source::load(name, descriptor, Arc::new(store.clone())).ok()?;
    select(source, request).ok()
}

/// What the store has of that name; with a digest it is that image, under
/// whatever name.
fn stored(store: &Store, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
    if let Some(found) = store.get_ref(reference)? {
        return Ok(Some(found));
    }
    let Some(digest) = reference.digest() else {
        return Ok(None);
    };
    match store.find(digest.as_str()) {
        Ok(found) if found.digest == *digest => Ok(Some(found)),
        Ok(_) | Err(StoreError::NoImage { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// `DIR`, `DIR:name` or `DIR@digest`. With a digest a name says nothing
/// more.
fn in_layout(text: &str, request: &BaseRequest) -> Result<Base, BaseError> {
    if let Some((dir, digest)) = text.split_once('@') {
        let dir = match dir.rsplit_once(':') {
            Some((path, _)) if !Path::new(dir).exists() => path,
            _ => dir,
        };
        let digest = crate::digest::Digest::parse(digest).map_err(|e| ReferenceError {
            text: text.to_owned(),
            reason: e.to_string(),
        })?;
        let source = transport::layout::open(Path::new(dir), Some(digest.as_str()))?;
        return select(source, request);
    }
    let path = Path::new(text);
    let source = match text.rsplit_once(':') {
        Some((dir, name)) if !path.exists() => transport::layout::open(Path::new(dir), Some(name)),
        _ => transport::layout::open(path, None),
    };
    select(source?, request)
}

fn is_platform(error: &BaseError) -> bool {
    matches!(
        error,
        BaseError::Platform { .. } | BaseError::Transport(TransportError::Platform { .. })
    )
}

/// Whether the image runs on the platform that is asked for, or does not say
/// on which it runs.
fn fits(image: &Image, request: &BaseRequest) -> bool {
    let has = image.config.platform();
    let known = !has.os.is_empty() && !has.architecture.is_empty();
    !known || has.serves(&request.platform).is_some()
}

/// The image of `source` for the platform that is asked for. One that is no
/// choice of several is taken as it is; the linter warns of it.
fn select(source: Source, request: &BaseRequest) -> Result<Base, BaseError> {
    let repositories = source.repositories.clone();
    let blobs: Arc<dyn BlobSource> = Arc::clone(&source.blobs);
    let document = Document::parse(&source.bytes).map_err(|e| ImageError::Malformed {
        what: "manifest",
        digest: source.descriptor.digest.clone(),
        reason: e.to_string(),
    })?;
    let (descriptor, bytes) = match document {
        Document::Manifest(_) => (source.descriptor, source.bytes),
        Document::Index(index) => {
            let Some(chosen) = index.select(&request.platform) else {
                let has = index.manifests.iter().filter_map(|d| d.platform.as_ref());
                let has = has.filter(|p| p.os != "unknown").map(Platform::to_string);
                return Err(BaseError::Platform {
                    name: request.name.clone(),
                    has: has.collect::<Vec<_>>().join(", "),
                    wanted: request.platform.clone(),
                });
            };
            let chosen = Source::load(&request.name, chosen.clone(), Arc::clone(&blobs))?;
            (chosen.descriptor, chosen.bytes)
        }
    };
    let image = Image::load(descriptor, bytes, blobs)?;
    Ok(Base {
        image,
        repositories,
    })
}
