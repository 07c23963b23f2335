//! Reading what `docker save` writes, in all of its forms: layers as
//! `<id>/layer.tar` with links between them, or as blobs of a layout.
//!
//! The archive has no manifest of the registry kind, so one is made: an OCI
//! manifest over the config and the layers as they are in the archive. An
//! uncompressed layer's digest is its diffID, which the config promises and
//! reading verifies.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::tar_index::{Section, TarIndex, sniff};
use super::{Source, TransportError};
use crate::digest::{Digest, Hasher, VerifyingReader};
use crate::image::media_type::{self, Compression, Format};
use crate::image::{
    BlobSource, Descriptor, ImageConfig, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, PartReader,
};
use crate::reference::Reference;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Opens the image `name` of the archive at `path`, which may be compressed:
/// a reference, or `@N` for the N-th image from 0; without a name, its only
/// image.
///
/// # Errors
/// When it is no such archive, or does not have exactly that image.
pub fn open(path: &Path, name: Option<&str>) -> Result<Source, TransportError> {
    let archive = Archive::open(path)?;
    archive.choose(name).and_then(|i| archive.source(i))
}

/// Opens all images of the archive at `path`, in its order.
///
/// # Errors
/// As [`open`].
pub fn open_all(path: &Path) -> Result<Vec<Source>, TransportError> {
    let archive = Archive::open(path)?;
    (0..archive.items.len())
        .map(|i| archive.source(i))
        .collect()
}

/// Opens all images of a `docker save` or OCI layout archive, whichever it is.
///
/// # Errors
/// When it is neither.
pub fn open_any(path: &Path) -> Result<Vec<Source>, TransportError> {
    let index = Arc::new(TarIndex::open(path)?);
    if index.has(Path::new("manifest.json")) {
        let archive = Archive::read(index)?;
        return (0..archive.items.len())
            .map(|i| archive.source(i))
            .collect();
    }
    let place = path.display().to_string();
    if !super::layout::is_layout(&index) {
        return Err(TransportError::Malformed {
            place,
            reason: "it is no image archive: it has neither manifest.json nor oci-layout".into(),
        });
    }
    super::layout::all_from_tar(&place, index)
}

struct Archive {
    index: Arc<TarIndex>,
    place: String,
    items: Vec<Item>,
}

impl Archive {
    fn open(path: &Path) -> Result<Self, TransportError> {
        Self::read(Arc::new(TarIndex::open(path)?))
    }

    fn read(index: Arc<TarIndex>) -> Result<Self, TransportError> {
        let place = format!("docker-archive:{}", index.path().display());
        let malformed = |reason: String| TransportError::Malformed {
            place: place.clone(),
            reason,
        };
        if let Some(twice) = index.ambiguous() {
            return Err(malformed(format!("it has {} twice", twice.display())));
        }
        let name = Path::new("manifest.json");
        if !index.has(name) {
            return Err(malformed("it has no manifest.json".into()));
        }
        let bytes = index
            .read(name, MAX_MANIFEST_BYTES)
            .map_err(TransportError::file("read", index.path()))?;
        let items: Vec<Item> =
            serde_json::from_slice(&bytes).map_err(|e| malformed(format!("manifest.json: {e}")))?;
        Ok(Self {
            index,
            place,
            items,
        })
    }

    fn choose(&self, name: Option<&str>) -> Result<usize, TransportError> {
        let tags = |item: &Item| item.repo_tags.clone().unwrap_or_default();
        let found = match name {
            None if self.items.len() == 1 => Some(0),
            None => None,
            Some(name) => match name.strip_prefix('@') {
                Some(number) => number.parse().ok().filter(|n| *n < self.items.len()),
                None => {
                    let wanted = Reference::parse(name).ok();
                    self.items.iter().position(|item| {
                        tags(item).iter().any(|t| {
                            t == name || (wanted.is_some() && Reference::parse(t).ok() == wanted)
                        })
                    })
                }
            },
        };
        found.ok_or_else(|| TransportError::NoImage {
            place: self.place.clone(),
            wanted: name.unwrap_or_default().into(),
            available: self
                .items
                .iter()
                .enumerate()
                .map(|(i, item)| tags(item).first().cloned().unwrap_or(format!("@{i}")))
                .collect(),
        })
    }

    fn source(&self, number: usize) -> Result<Source, TransportError> {
        let malformed = |reason: String| TransportError::Malformed {
            place: self.place.clone(),
            reason,
        };
        let item = self
            .items
            .get(number)
            .ok_or_else(|| malformed("it has no such image".into()))?;
        let fail = || TransportError::file("read", self.index.path());
        let config_path = PathBuf::from(&item.config);
        let config_bytes = self
            .index
            .read(&config_path, MAX_CONFIG_BYTES)
            .map_err(fail())?;
        let config = ImageConfig::parse(&config_bytes)
            .map_err(|e| malformed(format!("the config {:?}: {e}", item.config)))?;
        let layers = item.layers.clone().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if layers.len() != diff_ids.len() {
            return Err(malformed(format!(
                "it has {} layers, its config has {} diff_ids",
                layers.len(),
                diff_ids.len()
            )));
        }
        let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config_bytes);
        let mut files: HashMap<Digest, PathBuf> = HashMap::new();
        files.insert(config_descriptor.digest.clone(), config_path);
        let mut descriptors = Vec::with_capacity(layers.len());
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let path = PathBuf::from(layer);
            let descriptor = self.describe(&path, diff_id.digest()).map_err(fail())?;
            files.insert(descriptor.digest.clone(), path);
            descriptors.push(descriptor);
        }
        let manifest = Manifest::new(Format::Oci, config_descriptor, descriptors).to_bytes();
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        let tags = item.repo_tags.clone().unwrap_or_default();
        let shown = match tags.first() {
            Some(tag) => format!("{}:{}", self.place, crate::registry::printable(tag)),
            None => self.place.clone(),
        };
        let blobs = Arc::new(ArchiveFiles {
            index: Arc::clone(&self.index),
            files,
        });
        let mut source = Source::new(shown, descriptor, manifest, blobs);
        source.references = tags
            .iter()
            .filter_map(|t| Reference::parse(t).ok())
            .collect();
        Ok(source)
    }

    /// What a layer's file is. Only a compressed one has to be read for it.
    fn describe(&self, path: &Path, diff_id: &Digest) -> io::Result<Descriptor> {
        let (mut section, size) = self.index.open_file(path)?;
        let mut magic = Vec::new();
        (&mut section).take(6).read_to_end(&mut magic)?;
        let compression = sniff(&magic);
        let kind = media_type::layer(Format::Oci, compression);
        if compression == Compression::Uncompressed {
            return Ok(Descriptor::new(kind, diff_id.clone(), size));
        }
        let digest = hash(self.index.open_file(path)?.0)?;
        Ok(Descriptor::new(kind, digest, size))
    }
}

fn hash(mut section: Section) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match section.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

struct ArchiveFiles {
    index: Arc<TarIndex>,
    files: HashMap<Digest, PathBuf>,
}

impl ArchiveFiles {
    fn section(&self, d: &Descriptor) -> io::Result<Section> {
        let path = self.files.get(&d.digest).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} has no {}", self.index.path().display(), d.digest),
            )
        })?;
        Ok(self.index.open_file(path)?.0)
    }
}

impl BlobSource for ArchiveFiles {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let section = self.section(d)?;
        let reader = VerifyingReader::new(section, d.digest.clone(), Some(d.size))?;
        Ok(Box::new(reader))
    }

    fn open_from(&self, d: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        Ok(Some(Box::new(self.section(d)?.after(offset))))
    }
}
