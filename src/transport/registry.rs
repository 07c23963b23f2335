//! A registry as a place of images.

use std::sync::Arc;

use super::copy::{Destination, Progress};
use super::plan::Plan;
use super::{Source, TransportError};
use crate::image::Descriptor;
use crate::reference::Reference;
use crate::registry::{Client, Mount, Repository};

/// Finds out what `reference` names; its blobs are read when they are needed.
///
/// # Errors
/// When the registry does not have it or can't be reached.
pub fn open(client: &Client, reference: &Reference) -> Result<Source, TransportError> {
    let (descriptor, bytes) = client.resolve(reference)?;
    let repository = client.repository(reference);
    let source = Source::new(
        reference.to_string(),
        descriptor,
        bytes,
        Arc::new(repository.clone()),
    );
    Ok(source.with_repositories(vec![repository]))
}

/// Writes to one repository.
#[derive(Debug)]
pub struct RegistryDestination {
    repository: Repository,
    reference: Reference,
    tags: Vec<String>,
}

impl RegistryDestination {
    /// Pushes under the tag of `reference`; when it has only a digest, by that
    /// digest.
    pub fn new(client: &Client, reference: &Reference) -> Self {
        Self {
            repository: client.repository(reference),
            reference: reference.clone(),
            tags: reference.tag().map(str::to_owned).into_iter().collect(),
        }
    }

    /// Pushes without any tag, by the digest alone.
    pub fn by_digest(client: &Client, reference: &Reference) -> Self {
        Self {
            tags: Vec::new(),
            ..Self::new(client, reference)
        }
    }

    /// Gives further tags in the same repository.
    pub fn with_tags(mut self, tags: impl IntoIterator<Item = String>) -> Self {
        for tag in tags {
            if !self.tags.contains(&tag) {
                self.tags.push(tag);
            }
        }
        self
    }
}

impl Destination for RegistryDestination {
    fn name(&self) -> String {
        self.reference.to_string()
    }

    fn begin(&self, plan: &Plan) -> Result<(), TransportError> {
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
        Ok(self.repository.has_blob(&blob.digest)?)
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError> {
        let mut session = None;
        let here = &self.repository;
        for from in &source.repositories {
            if from.registry() != here.registry() || from.name() == here.name() {
                continue;
            }
            match here.mount(&blob.digest, from.name())? {
                Some(Mount::Done) => return Ok(()),
                Some(Mount::Session(open)) => session = Some(open),
                None => {}
            }
        }
        here.upload(blob, &*source.blobs, session, progress)?;
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
}
