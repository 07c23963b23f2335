//! Opening what `--cache-from` names.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::CacheFrom;
use super::format::{CacheIndex, INDEX_TYPE, MAX_INDEX_BYTES};
use crate::digest::Digest;
use crate::event::{Events, chain};
use crate::image::{BlobSource, Descriptor, Document, Image, Manifest, read_blob};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Client, Repository};
use crate::solve::{Imported, Imports, LayerBlob};
use crate::transport::{self, Source, TransportError};

/// All imports of a build.
#[derive(Default, Clone)]
pub(in super::super) struct Opened {
    /// For the steps.
    pub(in super::super) imports: Vec<Arc<dyn Imports>>,
    /// Where their layers are.
    pub(in super::super) blobs: Vec<Arc<dyn BlobSource>>,
    /// The same on registries.
    pub(in super::super) repositories: Vec<Repository>,
}

impl Opened {
    /// Opens everything, side by side. What can't be read is a warning.
    pub(in super::super) fn open(
        from: &[CacheFrom],
        client: &Client,
        platforms: &[Platform],
        events: &Events,
    ) -> Self {
        let results: Vec<_> = std::thread::scope(|scope| {
            let work: Vec<_> = from
                .iter()
                .map(|f| scope.spawn(|| open(f, client, platforms, events)))
                .collect();
            work.into_iter().map(|w| w.join()).collect()
        });
        let mut all = Self::default();
        for (from, result) in from.iter().zip(results) {
            match result {
                Ok(Ok(opened)) => all.extend(opened),
                Ok(Err(reason)) => {
                    events.warn(format!("the cache {from} is not used: {reason}"));
                }
                Err(_) => events.warn(format!("the cache {from} is not used")),
            }
        }
        all
    }

    fn extend(&mut self, other: Self) {
        self.imports.extend(other.imports);
        self.blobs.extend(other.blobs);
        self.repositories.extend(other.repositories);
    }

    fn add(&mut self, artifact: Artifact) {
        self.blobs.push(Arc::clone(&artifact.blobs));
        self.imports.push(Arc::new(artifact));
    }
}

fn open(
    from: &CacheFrom,
    client: &Client,
    platforms: &[Platform],
    events: &Events,
) -> Result<Opened, String> {
    let mut opened = Opened::default();
    match from {
        CacheFrom::Registry(reference) => {
            let source = transport::registry::open(client, reference).map_err(|e| missing(&e))?;
            opened.repositories.clone_from(&source.repositories);
            artifacts(source, platforms, &mut opened)?;
        }
        CacheFrom::Local { path, name } => {
            let source = transport::layout::open(path, Some(name)).map_err(|e| missing(&e))?;
            artifacts(source, platforms, &mut opened)?;
        }
        CacheFrom::Repository { reference, ttl } => {
            let steps = StepRepository {
                client: client.clone(),
                reference: reference.clone(),
                ttl: *ttl,
                events: events.clone(),
                broken: AtomicBool::new(false),
                known: Mutex::default(),
            };
            let repository = client.repository(reference);
            opened.blobs.push(Arc::new(repository.clone()));
            opened.repositories.push(repository);
            opened.imports.push(Arc::new(steps));
        }
    }
    Ok(opened)
}

fn missing(error: &TransportError) -> String {
    if is_missing(error) {
        "it is not there (yet)".into()
    } else {
        chain(error)
    }
}

fn is_missing(error: &TransportError) -> bool {
    match error {
        TransportError::Registry(e) => e.is_not_found(),
        TransportError::File { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        TransportError::NoImage { .. } => true,
        _ => false,
    }
}

/// The artifacts behind a name: one, or the images for `platforms` that carry
/// an inline cache.
fn artifacts(source: Source, platforms: &[Platform], into: &mut Opened) -> Result<(), String> {
    let document = Document::parse(&source.bytes).map_err(|e| e.to_string())?;
    match document {
        Document::Manifest(manifest) => into.add(artifact(source, *manifest)?),
        Document::Index(index) => {
            let mut chosen: Vec<&Descriptor> =
                platforms.iter().filter_map(|p| index.select(p)).collect();
            chosen.dedup();
            if chosen.is_empty() {
                return Err("it has no image for the platform".into());
            }
            for descriptor in chosen {
                let blobs = Arc::clone(&source.blobs);
                let one =
                    Source::load(&source.name, descriptor.clone(), blobs).map_err(|e| chain(&e))?;
                let Ok(Document::Manifest(manifest)) = Document::parse(&one.bytes) else {
                    return Err("its index names something that is no image".into());
                };
                into.add(artifact(one, *manifest)?);
            }
        }
    }
    Ok(())
}

fn artifact(source: Source, manifest: Manifest) -> Result<Artifact, String> {
    let index = if manifest.config.media_type == INDEX_TYPE {
        let bytes =
            read_blob(&*source.blobs, &manifest.config, MAX_INDEX_BYTES).map_err(|e| chain(&e))?;
        CacheIndex::parse(&bytes, manifest.layers.len())?
    } else {
        let blobs = Arc::clone(&source.blobs);
        let image = Image::load(source.descriptor, source.bytes, blobs).map_err(|e| chain(&e))?;
        CacheIndex::inline(&image.config)?
            .ok_or("it is an image without a cache in it (see type=inline)")?
    };
    Ok(Artifact::new(index, manifest.layers, source.blobs))
}

/// One artifact: an index in memory, layers somewhere.
struct Artifact {
    steps: HashMap<Digest, (Digest, LayerBlob, Option<i64>)>,
    mounts: HashMap<Digest, LayerBlob>,
    blobs: Arc<dyn BlobSource>,
}

impl Artifact {
    fn new(index: CacheIndex, layers: Vec<Descriptor>, blobs: Arc<dyn BlobSource>) -> Self {
        let blob = |layer: usize, diff_id: &crate::digest::DiffId| LayerBlob {
            descriptor: layers[layer].clone(),
            diff_id: diff_id.clone(),
        };
        let steps = index.by_key().into_iter().map(|(key, step)| {
            let blob = blob(step.layer, &step.diff_id);
            (key.clone(), (step.keys[0].clone(), blob, step.made))
        });
        let mounts = index.mounts.iter();
        let mounts = mounts.map(|m| (m.name.clone(), blob(m.layer, &m.diff_id)));
        Self {
            steps: steps.collect(),
            mounts: mounts.collect(),
            blobs,
        }
    }

    fn imported(&self, blob: &LayerBlob, made: Option<i64>) -> Imported {
        Imported {
            blob: blob.clone(),
            blobs: Arc::clone(&self.blobs),
            made,
        }
    }
}

impl Imports for Artifact {
    fn result(&self, key: &Digest) -> Option<(Digest, Imported)> {
        let (outward, blob, made) = self.steps.get(key)?;
        Some((outward.clone(), self.imported(blob, *made)))
    }

    fn mount(&self, name: &Digest) -> Option<Imported> {
        self.mounts.get(name).map(|blob| self.imported(blob, None))
    }
}

/// A repository with an artifact for each step, under its key as tag.
struct StepRepository {
    client: Client,
    reference: Reference,
    ttl: Option<Duration>,
    events: Events,
    /// It could not be reached, and nothing more is asked of it.
    broken: AtomicBool,
    known: Mutex<HashMap<Digest, Option<(Digest, Imported)>>>,
}

impl StepRepository {
    fn ask(&self, key: &Digest) -> Option<(Digest, Imported)> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        let reference = self.reference.with_tag(key.encoded()).ok()?;
        let found = transport::registry::open(&self.client, &reference);
        let read = |source: Source| match Document::parse(&source.bytes) {
            Ok(Document::Manifest(manifest)) if manifest.config.media_type == INDEX_TYPE => {
                let old = self.ttl.is_some_and(|ttl| older(&manifest, ttl));
                Ok((!old).then(|| artifact(source, *manifest)).transpose()?)
            }
            _ => Err("it is no cache".to_owned()),
        };
        match found.map(read) {
            Ok(Ok(artifact)) => artifact?.result(key),
            Ok(Err(reason)) => {
                let name = reference.familiar();
                self.events
                    .warn(format!("the cache {name} is not used: {reason}"));
                None
            }
            Err(e) if is_missing(&e) => None,
            Err(e) => {
                if !self.broken.swap(true, Ordering::Relaxed) {
                    let name = self.reference.familiar_name();
                    let reason = chain(&e);
                    self.events
                        .warn(format!("the cache {name} is not used: {reason}"));
                }
                None
            }
        }
    }
}

impl Imports for StepRepository {
    fn result(&self, key: &Digest) -> Option<(Digest, Imported)> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(key) {
            return known.clone();
        }
        let found = self.ask(key);
        lock().insert(key.clone(), found.clone());
        found
    }

    fn mount(&self, _: &Digest) -> Option<Imported> {
        None
    }
}

/// The annotation with the time an artifact was made.
pub(super) const CREATED: &str = "org.opencontainers.image.created";

/// Whether an artifact is older than `ttl`; one without a time is.
fn older(manifest: &Manifest, ttl: Duration) -> bool {
    let created = manifest
        .annotations
        .get(CREATED)
        .and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    created.is_none_or(|c| now.saturating_sub(c.as_second()) > ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media_type::Format;

    #[test]
    fn age_is_told_by_the_annotation() {
        let config = Descriptor::of(INDEX_TYPE, b"{}");
        let mut manifest = Manifest::new(Format::Oci, config, Vec::new());
        assert!(older(&manifest, Duration::from_secs(1 << 40)), "no time");
        let mut made = |text: &str| {
            manifest.annotations.insert(CREATED.into(), text.into());
            older(&manifest, Duration::from_secs(3600))
        };
        assert!(made("2001-01-01T00:00:00Z"));
        assert!(made("yesterday"));
        assert!(!made(&jiff::Timestamp::now().to_string()));
    }
}
