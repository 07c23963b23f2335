//! Whether an image is what it says: every digest and size, every document,
//! every layer read to its end.
//!
//! Nothing is unpacked, and of a layer only a few blocks are in memory. A
//! layer that several images share is read once. What other tools wrote is not
//! trusted here and may be broken in any way: a problem is a finding, never a
//! failure.
//!
//! # Specification
//! image-spec; `config.md#layer-diffid`.

use std::collections::HashSet;
use std::io;

use crate::digest::{DiffId, Digest, VerifyingReader};
use crate::event::{Cancel, chain};
use crate::image::validate::{DocumentKind, NO_LAYERS, validate};
use crate::image::{
    Descriptor, Document, ImageConfig, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, media_type,
    read_blob,
};
use crate::layer::compress::decompress;
use crate::layer::tar_read::{Names, TarReader};
use crate::platform::Platform;
use crate::transport::Source;

/// Indexes in indexes beyond this depth are not followed.
const MAX_DEPTH: u32 = 4;
/// Bytes that a layer may have behind the end of its tar.
const MAX_TAIL: u64 = 1 << 40;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Digest of the blob that it is about.
    pub digest: Digest,
    /// What the blob is: `layer 2`, `config`, `manifest`, `index`.
    pub what: String,
    /// What is wrong.
    pub reason: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Manifests of images.
    pub images: u64,
    /// Layers that were read.
    pub layers: u64,
    /// Their entries.
    pub entries: u64,
    /// Bytes of all blobs that were read.
    pub bytes: u64,
    /// Blobs that are not there, where that is no fault: what a store leaves
    /// in the registry that it came from.
    pub absent: Vec<Digest>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Looks at one image after the other.
#[derive(Debug, Default)]
pub struct Verifier {
    cancel: Cancel,
    /// Layers that were read, by blob and content.
    layers: HashSet<(Digest, Option<DiffId>)>,
    found: Verified,
}

impl Verifier {
    /// Stops between two layers when `cancel` says so.
    pub fn new(cancel: Cancel) -> Self {
        Self {
            cancel,
            ..Self::default()
        }
    }

    /// Looks at all of `source`. With `partial`, layers and images of an index
    /// may be missing.
    ///
    /// Says what was found in it, and what of it was new.
    pub fn image(&mut self, source: &Source, partial: bool) -> Verified {
        let mut look = Look {
            verifier: self,
            source,
            partial,
            seen: HashSet::new(),
        };
        let root = source.descriptor.clone();
        if Digest::of(&source.bytes) != root.digest {
            look.problem(&root, "manifest", "its bytes have another digest");
        }
        if source.bytes.len() as u64 != root.size {
            let reason = format!("it has {} bytes, not {}", source.bytes.len(), root.size);
            look.problem(&root, "manifest", &reason);
        }
        look.document(&root, &source.bytes, 0);
        std::mem::take(&mut self.found)
    }
}

struct Look<'a> {
    verifier: &'a mut Verifier,
    source: &'a Source,
    partial: bool,
    /// Documents that were looked at.
    seen: HashSet<Digest>,
}

impl Look<'_> {
    fn problem(&mut self, descriptor: &Descriptor, what: &str, reason: &str) {
        self.verifier.found.problems.push(Problem {
            digest: descriptor.digest.clone(),
            what: what.to_owned(),
            reason: reason.to_owned(),
        });
    }

    fn judge(&mut self, descriptor: &Descriptor, what: &str, kind: DocumentKind, bytes: &[u8]) {
        for problem in validate(kind, bytes) {
            if problem.reason != NO_LAYERS {
                self.problem(descriptor, what, &problem.to_string());
            }
        }
    }

    /// Notes that a blob can't be read.
    fn unreadable(&mut self, descriptor: &Descriptor, what: &str, error: &io::Error, may: bool) {
        if may && error.kind() == io::ErrorKind::NotFound {
            self.verifier.found.absent.push(descriptor.digest.clone());
        } else {
            self.problem(descriptor, what, &chain(error));
        }
    }

    /// A manifest or an index; returns the platforms of its images.
    fn document(&mut self, descriptor: &Descriptor, bytes: &[u8], depth: u32) -> Vec<Platform> {
        self.verifier.found.bytes += bytes.len() as u64;
        if !self.seen.insert(descriptor.digest.clone()) {
            return Vec::new();
        }
        match Document::parse(bytes) {
            Err(error) => {
                self.problem(descriptor, "manifest", &error.to_string());
                Vec::new()
            }
            Ok(Document::Manifest(manifest)) => {
                self.judge(descriptor, "manifest", DocumentKind::Manifest, bytes);
                self.kind(descriptor, "manifest", &manifest.media_type);
                self.manifest(&manifest).into_iter().collect()
            }
            Ok(Document::Index(index)) => {
                self.judge(descriptor, "index", DocumentKind::Index, bytes);
                self.kind(descriptor, "index", &index.media_type);
                if depth >= MAX_DEPTH {
                    self.problem(descriptor, "index", "indexes are nested too deep");
                    return Vec::new();
                }
                for child in &index.manifests {
                    self.child(child, depth + 1);
                }
                Vec::new()
            }
        }
    }

    /// The media type that a document has must be the one it was named by.
    fn kind(&mut self, descriptor: &Descriptor, what: &str, own: &str) {
        let named = &descriptor.media_type;
        if !named.is_empty() && !own.is_empty() && named != own {
            let reason = format!("its media type is {own:?}, what names it says {named:?}");
            self.problem(descriptor, what, &reason);
        }
    }

    fn child(&mut self, child: &Descriptor, depth: u32) {
        let bytes = match read_blob(&*self.source.blobs, child, MAX_MANIFEST_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return self.unreadable(child, "manifest", &error, self.partial),
        };
        let platforms = self.document(child, &bytes, depth);
        if let (Some(promised), [found]) = (&child.platform, platforms.as_slice())
            && found.serves(promised) != Some(0)
        {
            let reason = format!("the index says {promised}, its config {found}");
            self.problem(child, "manifest", &reason);
        }
    }

    /// An image; returns its platform.
    fn manifest(&mut self, manifest: &Manifest) -> Option<Platform> {
        self.verifier.found.images += 1;
        let config = &manifest.config;
        let bytes = match read_blob(&*self.source.blobs, config, MAX_CONFIG_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.unreadable(config, "config", &error, false);
                Vec::new()
            }
        };
        self.verifier.found.bytes += bytes.len() as u64;
        let image = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG];
        let is_image = image.contains(&config.media_type.as_str());
        let parsed = match ImageConfig::parse(&bytes) {
            Ok(parsed) if is_image => {
                self.judge(config, "config", DocumentKind::Config, &bytes);
                self.against_layers(config, manifest, &parsed);
                Some(parsed)
            }
            Err(error) if is_image && !bytes.is_empty() => {
                self.problem(config, "config", &error.to_string());
                None
            }
            // An artifact: what its blobs are is its own business.
            _ => None,
        };
        let diff_ids = parsed.as_ref().map(|c| c.rootfs.diff_ids.as_slice());
        for (i, layer) in manifest.layers.iter().enumerate() {
            if self.verifier.cancel.is_cancelled() {
                break;
            }
            let diff_id = diff_ids.and_then(|ids| ids.get(i));
            self.layer(layer, &format!("layer {}", i + 1), diff_id, is_image);
        }
        // An attestation's config has no platform that counts.
        let platform = parsed.map(|c| c.platform())?;
        (platform.os != "unknown").then_some(platform)
    }

    fn against_layers(&mut self, config: &Descriptor, manifest: &Manifest, parsed: &ImageConfig) {
        let layers = manifest.layers.len();
        let diff_ids = parsed.rootfs.diff_ids.len();
        if diff_ids != layers {
            let reason = format!("it has {diff_ids} diff_ids, the manifest has {layers} layers");
            self.problem(config, "config", &reason);
        }
        let told = parsed.history.iter().filter(|h| !h.empty_layer).count();
        if !parsed.history.is_empty() && told != layers {
            let reason = format!("its history tells of {told} layers, the manifest has {layers}");
            self.problem(config, "config", &reason);
        }
    }

    fn layer(&mut self, layer: &Descriptor, what: &str, diff_id: Option<&DiffId>, is_image: bool) {
        if !self
            .verifier
            .layers
            .insert((layer.digest.clone(), diff_id.cloned()))
        {
            return;
        }
        let blob = match self.source.blobs.open(layer) {
            Ok(blob) => blob,
            Err(error) => return self.unreadable(layer, what, &error, self.partial),
        };
        self.verifier.found.bytes += layer.size;
        self.verifier.found.layers += 1;
        let result = match (media_type::layer_compression(&layer.media_type), diff_id) {
            (Some(compression), Some(diff_id)) => decompress(blob, compression)
                .and_then(|tar| VerifyingReader::new(tar, diff_id.digest().clone(), None))
                .and_then(read_tar),
            (None, _) if is_image => {
                let reason = format!("its media type {:?} is that of no layer", layer.media_type);
                self.problem(layer, what, &reason);
                drain(blob)
            }
            _ => drain(blob),
        };
        match result {
            Ok(entries) => self.verifier.found.entries += entries,
            Err(error) => self.problem(layer, what, &chain(&error)),
        }
    }
}

/// Reads a layer to its end; says how many entries it has.
fn read_tar(tar: impl io::Read) -> io::Result<u64> {
    let mut reader = TarReader::new(tar, Names::Layer);
    let mut entries = 0;
    while reader.next_entry().map_err(io::Error::other)?.is_some() {
        entries += 1;
    }
    reader.finish(MAX_TAIL).map_err(io::Error::other)?;
    Ok(entries)
}

fn drain(mut blob: impl io::Read) -> io::Result<u64> {
    io::copy(&mut blob, &mut io::sink()).map(|_| 0)
}
