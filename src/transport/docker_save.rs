//! Writing what `docker load` reads.
//!
//! The form is the one of Docker 25 and later: an OCI layout with a
//! `manifest.json` beside it, which older Docker, podman and skopeo go by.
//! Layers are uncompressed, as Docker writes them, so a layer's digest is its
//! diffID; the manifest in the layout is made to fit.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::archive::add_dirs;
use super::copy::{Counted, Destination, Progress};
use super::layout::{MARKER, blob_name};
use super::plan::{self, Plan};
use super::tar_out::{Output, TarOut};
use super::{REF_NAME, Source, TransportError};
use crate::digest::{Digest, HashingWriter};
use crate::image::media_type::{self, Format};
use crate::image::{Descriptor, Document, ImageConfig, Index, Manifest};
use crate::layer::compress::decompress;
use crate::reference::Reference;

/// Writes a `docker save` archive; several images may go into one.
#[derive(Debug)]
pub struct DockerArchive {
    place: String,
    references: Vec<Reference>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tar: Option<TarOut>,
    /// What became of each blob of the source.
    written: HashMap<Digest, Descriptor>,
    configs: HashMap<Digest, ImageConfig>,
    items: Vec<Item>,
    entries: Vec<Descriptor>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl DockerArchive {
    /// Begins the archive. Its image gets the names `references`; when there
    /// are none, each image gets the names that its [`Source`] carries.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn create(output: Output, references: &[Reference]) -> Result<Self, TransportError> {
        let place = format!("docker-archive:{}", output.display());
        let tar = TarOut::create(output)?;
        Ok(Self {
            place,
            references: references.to_vec(),
            state: Mutex::new(State {
                tar: Some(tar),
                ..State::default()
            }),
        })
    }

    fn malformed(&self, what: &str, reason: impl Into<String>) -> TransportError {
        TransportError::Malformed {
            place: what.to_owned(),
            reason: reason.into(),
        }
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut TarOut, &mut State) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut tar) = state.tar.take() else {
            return Err(TransportError::Unfit {
                place: self.place.clone(),
                name: "another image".into(),
                reason: "the archive is complete".into(),
            });
        };
        let result = act(&mut tar, &mut state);
        state.tar = Some(tar);
        result
    }

    fn manifest_of(&self, plan: &Plan) -> Result<Manifest, TransportError> {
        match Document::parse(plan.root_bytes()) {
            Ok(Document::Manifest(manifest)) => Ok(*manifest),
            Ok(Document::Index(_)) => Err(TransportError::Unfit {
                place: self.place.clone(),
                name: plan.name.clone(),
                reason: "it is an index of several images; choose a platform".into(),
            }),
            Err(e) => Err(self.malformed(&plan.name, e.to_string())),
        }
    }

    /// Writes a layer without its compression.
    fn put_layer(
        &self,
        blob: &Descriptor,
        reader: Box<dyn Read + Send>,
    ) -> Result<(), TransportError> {
        let compression = media_type::layer_compression(&blob.media_type).ok_or_else(|| {
            TransportError::Unfit {
                place: self.place.clone(),
                name: blob.digest.to_string(),
                reason: format!(
                    "a layer of the type {:?} is no part of a root filesystem",
                    blob.media_type
                ),
            }
        })?;
        let failed = TransportError::blob(blob);
        let mut plain = decompress(reader, compression).map_err(&failed)?;
        self.with(|tar, state| {
            let mut digest_and_size = None;
            add_dirs(tar, &Descriptor::of("", b""))?;
            tar.late(|file| {
                let mut writer = HashingWriter::new(file);
                io::copy(&mut plain, &mut writer)?;
                let (_, digest, size) = writer.finish();
                let name = blob_name(&digest);
                digest_and_size = Some((digest, size));
                Ok((name, size))
            })
            .map_err(&failed)?;
            if let Some((digest, size)) = digest_and_size {
                let kind = media_type::OCI_LAYER;
                let written = Descriptor::new(kind, digest, size);
                state.written.insert(blob.digest.clone(), written);
            }
            Ok(())
        })
    }
}

impl Destination for DockerArchive {
    fn name(&self) -> String {
        self.place.clone()
    }

    fn check(&self, plan: &Plan) -> Result<(), TransportError> {
        self.manifest_of(plan).map(|_| ())
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError> {
        self.with(|_, state| Ok(state.written.contains_key(&blob.digest)))
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError> {
        let is_config = matches!(
            blob.media_type.as_str(),
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG
        );
        if !is_config {
            let reader = plan::open(source, blob)?;
            return self.put_layer(blob, reader);
        }
        let limit = crate::image::MAX_CONFIG_BYTES;
        let bytes = crate::image::read_blob(&*source.blobs, blob, limit)
            .map_err(TransportError::blob(blob))?;
        let mut counted = Counted {
            inner: bytes.as_slice(),
            done: 0,
            progress,
        };
        let config = ImageConfig::parse(&bytes)
            .map_err(|e| self.malformed(&format!("the config {}", blob.digest), e.to_string()))?;
        self.with(|tar, state| {
            add_dirs(tar, blob)?;
            tar.stream(&blob_name(&blob.digest), blob.size, &mut counted)
                .map_err(TransportError::blob(blob))?;
            let written = Descriptor {
                media_type: media_type::OCI_CONFIG.into(),
                ..blob.clone()
            };
            state.written.insert(blob.digest.clone(), written);
            state.configs.insert(blob.digest.clone(), config);
            Ok(())
        })
    }

    fn put_manifest(&self, _: &Descriptor, _: &[u8]) -> Result<(), TransportError> {
        // There is only the root, and that is made anew.
        Ok(())
    }

    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError> {
        let manifest = self.manifest_of(plan)?;
        self.with(|tar, state| {
            let written =
                |d: &Descriptor| {
                    state.written.get(&d.digest).cloned().ok_or_else(|| {
                        self.malformed(&plan.name, format!("{} is missing", d.digest))
                    })
                };
            let config = written(&manifest.config)?;
            let layers: Vec<Descriptor> = manifest
                .layers
                .iter()
                .map(written)
                .collect::<Result<_, _>>()?;
            let known = state.configs.get(&manifest.config.digest);
            let diff_ids = known
                .map(|c| c.rootfs.diff_ids.as_slice())
                .unwrap_or_default();
            let fits = diff_ids.len() == layers.len()
                && diff_ids
                    .iter()
                    .zip(&layers)
                    .all(|(id, l)| *id.digest() == l.digest);
            if !fits {
                let reason = "the layers are not the ones that its config names";
                return Err(self.malformed(&plan.name, reason));
            }
            let references = match self.references.as_slice() {
                [] => plan.references.as_slice(),
                given => given,
            };
            let tags: Vec<String> = references.iter().filter_map(docker_name).collect();
            let item = Item {
                config: blob_name(&config.digest),
                repo_tags: (!tags.is_empty()).then(|| tags.clone()),
                layers: layers.iter().map(|l| blob_name(&l.digest)).collect(),
            };
            let made = Manifest::new(Format::Oci, config, layers).to_bytes();
            let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &made);
            add_dirs(tar, &descriptor)?;
            tar.bytes(&blob_name(&descriptor.digest), &made)
                .map_err(|e| tar.failed(e))?;
            state.items.push(item);
            if references.is_empty() {
                state.entries.push(descriptor.clone());
            }
            for reference in references {
                let mut entry = descriptor.clone();
                let name = reference.to_string();
                entry
                    .annotations
                    .insert("io.containerd.image.name".into(), name);
                let tag = reference.tag().unwrap_or("latest").to_owned();
                entry.annotations.insert(REF_NAME.into(), tag);
                state.entries.push(entry);
            }
            Ok(descriptor)
        })
    }

    fn close(&self) -> Result<(), TransportError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut tar) = state.tar.take() else {
            return Ok(());
        };
        let index = Index::new(std::mem::take(&mut state.entries)).to_bytes();
        let manifest = serde_json::to_vec(&state.items)
            .map_err(|e| self.malformed("manifest.json", e.to_string()))?;
        for (name, bytes) in [
            ("index.json", index.as_slice()),
            ("manifest.json", &manifest),
            ("oci-layout", MARKER),
        ] {
            tar.bytes(name, bytes).map_err(|e| tar.failed(e))?;
        }
        tar.finish()
    }

    fn parallel(&self) -> usize {
        1
    }

    fn keeps_manifests(&self) -> bool {
        false
    }
}

/// The name as Docker shows it, which needs a tag.
fn docker_name(reference: &Reference) -> Option<String> {
    reference.tag()?;
    let tagged = reference.with_tag(reference.tag()?).ok()?;
    Some(tagged.familiar())
}
