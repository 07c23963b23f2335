//! Writing what `--cache-to` asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Opened;
use super::format::{ARTIFACT_TYPE, CacheIndex, INDEX_TYPE, MountRecord, StepRecord};
use super::import::CREATED;
use super::mounts::{self, Packed};
use super::{CacheMode, CachePlace, CacheTo};
use crate::build::{BuildError, Made, Tools};
use crate::digest::Digest;
use crate::event::{Cancel, Events};
use crate::graph::StepId;
use crate::image::media_type::Format;
use crate::image::{BlobSource, Descriptor, Manifest};
use crate::reference::Reference;
use crate::registry::Repository;
use crate::solve::{self, LayerError, StepResult};
use crate::transport::layout::LayoutDestination;
use crate::transport::registry::RegistryDestination;
use crate::transport::{self, CopyOptions, Destination, FirstOf, Source};

/// What exporting a cache needs.
pub(in super::super) struct CacheExporter<'a> {
    pub(in super::super) tools: &'a Tools,
    pub(in super::super) events: &'a Events,
    pub(in super::super) cancel: &'a Cancel,
    pub(in super::super) imports: &'a Opened,
    pub(in super::super) made: &'a Made<'a>,
    /// The steps whose file systems are results.
    pub(in super::super) wanted: &'a [StepId],
    /// Seconds since 1970.
    pub(in super::super) now: i64,
}

/// An artifact in the making.
#[derive(Default)]
struct Draft {
    index: CacheIndex,
    layers: Vec<Descriptor>,
    places: BTreeMap<Digest, usize>,
}

impl Draft {
    fn layer(&mut self, descriptor: &Descriptor) -> usize {
        let next = self.layers.len();
        let place = self.places.entry(descriptor.digest.clone());
        let n = *place.or_insert(next);
        if n == next {
            self.layers.push(descriptor.clone());
        }
        n
    }

    fn step(&mut self, made: &StepResult) -> Result<(), LayerError> {
        let blob = made.layer.blob()?;
        let record = StepRecord {
            keys: made.keys.clone(),
            layer: self.layer(&blob.descriptor),
            diff_id: blob.diff_id,
            made: made.layer.made_at(),
        };
        if !self.index.steps.contains(&record) {
            self.index.steps.push(record);
        }
        Ok(())
    }

    fn mount(&mut self, packed: Packed) {
        let record = MountRecord {
            name: packed.name,
            id: packed.id,
            layer: self.layer(&packed.blob.descriptor),
            diff_id: packed.blob.diff_id,
        };
        self.index.mounts.push(record);
    }
}

/// The steps that `mode` keeps of what was made for `wanted`.
fn kept<'a>(made: &'a Made<'_>, wanted: &[StepId], mode: CacheMode) -> Vec<&'a StepResult> {
    let results = &made.results;
    if mode == CacheMode::Max {
        return results.iter().flatten().collect();
    }
    let mut steps = BTreeSet::new();
    for last in wanted {
        let mut next = Some(*last);
        while let Some(id) = next {
            steps.insert(id.0);
            next = made.steps.get(id.0).and_then(|s| s.parent());
        }
    }
    let steps = steps.into_iter().filter_map(|n| results.get(n)?.as_ref());
    steps.collect()
}

/// The index that goes into the config of the image with the result `result`.
pub(in super::super) fn inline(made: &Made<'_>, result: StepId) -> Result<CacheIndex, LayerError> {
    let steps = kept(made, &[result], CacheMode::Min);
    let records = steps.into_iter().map(|made| {
        Ok(StepRecord {
            keys: made.keys.clone(),
            layer: made.height,
            diff_id: made.layer.blob()?.diff_id,
            made: made.layer.made_at(),
        })
    });
    Ok(CacheIndex {
        steps: records.collect::<Result<_, LayerError>>()?,
        ..CacheIndex::default()
    })
}

impl CacheExporter<'_> {
    /// Writes the cache of a build to every place.
    ///
    /// # Errors
    /// The first that fails, where failures are not to be ignored.
    pub(in super::super) fn export(&self, to: &[CacheTo]) -> Result<(), BuildError> {
        for to in to {
            let result = match &to.place {
                // The image has it already.
                CachePlace::Inline => Ok(()),
                CachePlace::Registry(reference) => {
                    let destination = RegistryDestination::new(&self.tools.client, reference);
                    self.whole(to, &destination)
                }
                CachePlace::Local { path, name } => {
                    let destination = LayoutDestination::new(path, Some(name));
                    self.whole(to, &destination)
                }
                CachePlace::Repository(reference) => self.steps(reference, to.mode),
            };
            match result {
                Err(e) if to.ignore_error && !self.cancel.is_cancelled() => {
                    self.events.warn(format!(
                        "the cache was not written: {}",
                        crate::event::chain(&e)
                    ));
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// One artifact with everything.
    fn whole(&self, to: &CacheTo, destination: &dyn Destination) -> Result<(), BuildError> {
        let mut draft = Draft::default();
        for made in kept(self.made, self.wanted, to.mode) {
            draft.step(made)?;
        }
        let found = solve::cache_mounts(self.made.steps, &self.made.results);
        let imports = &self.imports.imports;
        let store = &self.tools.store;
        for packed in mounts::pack(&found, &to.mounts, imports, store, self.events)? {
            draft.mount(packed);
        }
        self.send(draft, destination)
    }

    /// An artifact for each step, unless it is there.
    fn steps(&self, reference: &Reference, mode: CacheMode) -> Result<(), BuildError> {
        let repository = self.tools.client.repository(reference);
        for made in kept(self.made, self.wanted, mode) {
            let Some((first, others)) = made.keys.split_first() else {
                continue;
            };
            if !made.ran && self.has(&repository, first)? {
                continue;
            }
            let tag = reference.with_tag(first.encoded());
            let tag = tag.map_err(|e| BuildError::Input(e.to_string()))?;
            let others = others.iter().map(|k| k.encoded().to_owned());
            let destination = RegistryDestination::new(&self.tools.client, &tag).with_tags(others);
            let mut draft = Draft::default();
            draft.step(made)?;
            self.send(draft, &destination)?;
        }
        Ok(())
    }

    fn has(&self, repository: &Repository, key: &Digest) -> Result<bool, BuildError> {
        let found = repository.head(key.encoded());
        Ok(found.map_err(transport::TransportError::from)?.is_some())
    }

    fn send(&self, mut draft: Draft, destination: &dyn Destination) -> Result<(), BuildError> {
        let store = &self.tools.store;
        draft.index.created = Some(self.now);
        let config = store.put_bytes(INDEX_TYPE, &draft.index.to_bytes())?;
        let mut manifest = Manifest::new(Format::Oci, config, draft.layers);
        manifest.artifact_type = Some(ARTIFACT_TYPE.into());
        let created = crate::build::assemble::rfc3339(self.now, 0);
        manifest.annotations.insert(CREATED.into(), created);
        let bytes = manifest.to_bytes();
        let descriptor = Descriptor::of(&manifest.media_type, &bytes);
        let mut sources: Vec<Arc<dyn BlobSource>> = vec![Arc::new(store.clone())];
        sources.extend(self.imports.blobs.iter().cloned());
        let source = Source::new("the cache", descriptor, bytes, Arc::new(FirstOf(sources)))
            .with_repositories(self.imports.repositories.clone());
        transport::copy(
            &source,
            destination,
            &CopyOptions::default(),
            self.events,
            self.cancel,
        )?;
        Ok(())
    }
}
