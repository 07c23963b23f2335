//! A registry as a place of images.

use std::sync::Arc;

use super::copy::{Destination, Fate, Progress};
use super::plan::Plan;
use super::{Source, TransportError};
use crate::image::Descriptor;
use crate::reference::Reference;
use crate::registry::{Client, Mount, Repository};
use crate::store::Store;

/// Finds out what `reference` names; its blobs are read when they are needed.
///
/// # Errors
/// When the registry does not have it or can't be reached.
pub fn open(client: &Client, reference: &Reference) -> Result<Source, TransportError> {
    let repository = client.repository(reference);
    let (descriptor, bytes) = repository.resolve(reference.target())?;
    let source = Source::new(
        reference.to_string(),
        descriptor,
        bytes,
        Arc::new(repository.clone()),
    );
    Ok(source.with_repositories(vec![repository]))
}

/// How many repositories a blob is asked for in turn.
const MAX_MOUNTS: usize = 3;

/// Writes to one repository.
#[derive(Debug)]
pub struct RegistryDestination {
    repository: Repository,
    reference: Reference,
    tags: Vec<String>,
    /// Remembers which repositories have which blobs.
    places: Option<Store>,
}

impl RegistryDestination {
    /// Pushes under the tag of `reference`; when it has only a digest, by that
    /// digest.
    pub fn new(client: &Client, reference: &Reference) -> Self {
        Self {
            repository: client.repository(reference),
            reference: reference.clone(),
            tags: reference.tag().map(str::to_owned).into_iter().collect(),
            places: None,
        }
    }

    /// Remembers in `store` which repositories have which blobs, and asks the
    /// registry to take them over from there.
    pub fn remembering(mut self, store: &Store) -> Self {
        self.places = Some(store.clone());
        self
    }

    /// One for each repository among `references`, with all their tags.
    pub fn for_each(client: &Client, references: &[Reference]) -> Vec<Self> {
        let mut made: Vec<Self> = Vec::new();
        for reference in references {
            let same = made.iter_mut().find(|d| {
                let known = &d.reference;
                known.registry() == reference.registry()
                    && known.repository() == reference.repository()
                    && known.digest() == reference.digest()
            });
            match (same, reference.tag()) {
                (Some(known), Some(tag)) => known.add_tag(tag),
                (Some(_), None) => {}
                (None, _) => made.push(Self::new(client, reference)),
            }
        }
        made
    }

    fn add_tag(&mut self, tag: &str) {
        if !self.tags.iter().any(|t| t == tag) {
            self.tags.push(tag.to_owned());
        }
    }

    /// Pushes without any tag, by the digest alone.
    pub fn without_tags(mut self) -> Self {
        self.tags.clear();
        self
    }

    /// Gives further tags in the same repository.
    pub fn with_tags(mut self, tags: impl IntoIterator<Item = String>) -> Self {
        for tag in tags {
            self.add_tag(&tag);
        }
        self
    }

    /// Other repositories of the same registry that may have the blob, the
    /// likeliest first.
    fn elsewhere(&self, blob: &Descriptor, source: &Source) -> Vec<String> {
        let here = &self.repository;
        let mut names = self.places(blob);
        let others = source.repositories.iter();
        names.extend(
            others
                .filter(|from| from.registry() == here.registry())
                .map(|from| from.name().to_owned()),
        );
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| name != here.name() && seen.insert(name.clone()));
        names.truncate(MAX_MOUNTS);
        names
    }

    fn places(&self, blob: &Descriptor) -> Vec<String> {
        let here = self.repository.registry();
        (self.places.as_ref()).map_or_else(Vec::new, |store| store.places(&blob.digest, here))
    }

    /// Notes that `repository` has the blob, or not. It is only a hint, so
    /// nothing is lost where it can't be written.
    fn note(&self, blob: &Descriptor, repository: &str, has: bool) {
        let Some(store) = &self.places else { return };
        let registry = self.repository.registry();
        let _ = if has {
            store.note_place(&blob.digest, registry, repository)
        } else {
            store.forget_place(&blob.digest, registry, repository)
        };
    }
}

impl Destination for RegistryDestination {
    fn name(&self) -> String {
        self.reference.to_string()
    }

    fn check(&self, plan: &Plan) -> Result<(), TransportError> {
        match self.reference.digest() {
            Some(digest) if *digest != plan.root.digest => Err(TransportError::Unfit {
                place: self.reference.to_string(),
                name: plan.name.clone(),
                reason: format!("it has the digest {}", plan.root.digest),
            }),
            _ => Ok(()),
        }
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError> {
        let places = self.places(blob);
        let here = self.repository.name();
        // Known to be in other repositories only: asking for it to be taken
        // over is one request, and harmless where this one has it after all.
        if !places.is_empty() && !places.iter().any(|p| p == here) {
            return Ok(false);
        }
        let has = self.repository.has_blob(&blob.digest)?;
        if has || !places.is_empty() {
            self.note(blob, here, has);
        }
        Ok(has)
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError> {
        let mut session = None;
        let here = &self.repository;
        let elsewhere = self.elsewhere(blob, source);
        for from in &elsewhere {
            match here.mount(&blob.digest, from)? {
                Some(Mount::Done) => {
                    self.note(blob, here.name(), true);
                    return Ok(());
                }
                Some(Mount::Session(open)) => session = Some(open),
                None => {}
            }
            self.note(blob, from, false);
        }
        if elsewhere.is_empty() || !here.has_blob(&blob.digest)? {
            here.upload(blob, &*source.blobs, session, progress)?;
        }
        self.note(blob, here.name(), true);
        Ok(())
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError> {
        let target = descriptor.digest.as_str();
        self.repository
            .put_manifest(target, &descriptor.media_type, bytes)?;
        Ok(())
    }

    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError> {
        let root = &plan.root;
        if self.tags.is_empty() {
            self.put_manifest(root, plan.root_bytes())?;
        }
        for tag in &self.tags {
            self.repository
                .put_manifest(tag, &root.media_type, plan.root_bytes())?;
        }
        Ok(root.clone())
    }

    fn fate(&self, blob: &Descriptor, source: &Source) -> Result<Fate, TransportError> {
        let here = &self.repository;
        if here.has_blob(&blob.digest)? {
            return Ok(Fate::Present);
        }
        for name in self.elsewhere(blob, source) {
            let known = source
                .repositories
                .iter()
                .find(|from| from.registry() == here.registry() && from.name() == name);
            // What was remembered need not be true any more, and is not worth
            // a request here.
            if known.is_none_or(|from| from.has_blob(&blob.digest).unwrap_or(false)) {
                return Ok(Fate::Mount(name));
            }
        }
        Ok(Fate::Send)
    }

    fn repository(&self) -> Option<Repository> {
        Some(self.repository.clone())
    }
}
