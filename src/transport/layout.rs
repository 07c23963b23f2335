//! OCI image layouts: a directory, or the same in a tar.
//!
//! # Specification
//! image-spec `image-layout.md`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{Counted, Destination, Progress};
use super::plan::{self, Plan};
use super::tar_index::TarIndex;
use super::{REF_NAME, Source, TransportError};
use crate::digest::{Digest, VerifyingReader};
use crate::image::{BlobSource, Descriptor, Document, Index, MAX_MANIFEST_BYTES, PartReader};
use crate::reference::Reference;
use crate::sys::fs::Root;
use crate::sys::whole_file::{Access, WholeFile};

/// The content of `oci-layout`.
pub(super) const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Opens the image `name` of the layout in the directory `path`; without a
/// name, its only image. A name is an annotation or a digest.
///
/// # Errors
/// When it is no layout, or does not have exactly that image.
pub fn open(path: &Path, name: Option<&str>) -> Result<Source, TransportError> {
    let place = format!("oci:{}", path.display());
    let root = Root::open(path).map_err(TransportError::file("read", path))?;
    let read = |name: &str| read_small(&root, Path::new(name));
    check_marker(&place, path, read("oci-layout"))?;
    let index =
        read("index.json").map_err(TransportError::file("read", path.join("index.json")))?;
    let descriptor = choose(&place, &index, name)?;
    load(&place, descriptor, Arc::new(LayoutBlobs(root)))
}

/// Opens the image `name` of the layout in the tar at `path`, which may be
/// compressed.
///
/// # Errors
/// As [`open`].
pub fn open_archive(path: &Path, name: Option<&str>) -> Result<Source, TransportError> {
    let place = format!("oci-archive:{}", path.display());
    let index = Arc::new(TarIndex::open(path)?);
    from_tar(&place, index, name)
}

/// Whether the archive is a layout.
pub(super) fn is_layout(index: &TarIndex) -> bool {
    index.has(Path::new("oci-layout")) && index.has(Path::new("index.json"))
}

pub(super) fn from_tar(
    place: &str,
    index: Arc<TarIndex>,
    name: Option<&str>,
) -> Result<Source, TransportError> {
    if let Some(twice) = index.ambiguous() {
        return Err(TransportError::Malformed {
            place: place.into(),
            reason: format!("it has {} twice", twice.display()),
        });
    }
    let fail = || TransportError::file("read", index.path());
    let marker = index.read(Path::new("oci-layout"), MAX_MANIFEST_BYTES);
    check_marker(place, index.path(), marker)?;
    let top = index
        .read(Path::new("index.json"), MAX_MANIFEST_BYTES)
        .map_err(fail())?;
    let descriptor = choose(place, &top, name)?;
    load(place, descriptor, Arc::new(ArchiveBlobs(index)))
}

/// All images of a layout in a tar.
pub(super) fn all_from_tar(
    place: &str,
    index: Arc<TarIndex>,
) -> Result<Vec<Source>, TransportError> {
    let top = index
        .read(Path::new("index.json"), MAX_MANIFEST_BYTES)
        .map_err(TransportError::file("read", index.path()))?;
    let Ok(Document::Index(top)) = Document::parse(&top) else {
        return from_tar(place, index, None).map(|source| vec![source]);
    };
    let mut sources: Vec<Source> = Vec::new();
    for entry in top.manifests {
        let mut source = from_tar(place, Arc::clone(&index), Some(entry.digest.as_str()))?;
        source.references = name_of(&entry)
            .and_then(|n| Reference::parse(n).ok())
            .into_iter()
            .collect();
        match sources
            .iter_mut()
            .find(|s| s.descriptor.digest == entry.digest)
        {
            Some(known) => known.references.extend(source.references),
            None => sources.push(source),
        }
    }
    Ok(sources)
}

fn load(
    place: &str,
    descriptor: Descriptor,
    blobs: Arc<dyn BlobSource>,
) -> Result<Source, TransportError> {
    let name = name_of(&descriptor).map(str::to_owned);
    let shown = match &name {
        Some(name) => format!("{place}:{name}"),
        None => place.to_owned(),
    };
    let mut descriptor = descriptor;
    // Annotations of the entry are about its name, not about the image.
    descriptor.annotations.clear();
    let mut source = Source::load(shown, descriptor, blobs)?;
    source
        .references
        .extend(name.and_then(|n| Reference::parse(&n).ok()));
    Ok(source)
}

/// Whether what was read from `oci-layout` says that we know the layout.
fn check_marker(
    place: &str,
    path: &Path,
    marker: io::Result<Vec<u8>>,
) -> Result<(), TransportError> {
    #[derive(serde::Deserialize)]
    struct Marker {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let malformed = |reason: String| TransportError::Malformed {
        place: place.into(),
        reason,
    };
    let bytes = match marker {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(malformed(
                "it is no OCI image layout: it has no oci-layout".into(),
            ));
        }
        other => other.map_err(TransportError::file("read", path))?,
    };
    match serde_json::from_slice::<Marker>(&bytes) {
        Ok(marker) if marker.version.starts_with("1.") => Ok(()),
        Ok(marker) => Err(malformed(format!(
            "layout version {:.20?} is not known",
            marker.version
        ))),
        Err(e) => Err(malformed(format!("oci-layout: {e}"))),
    }
}

/// The names under which a layout's entry goes.
fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let of = |key: &str| descriptor.annotations.get(key).map(String::as_str);
    of(REF_NAME).or_else(|| of("io.containerd.image.name"))
}

fn choose(place: &str, index: &[u8], name: Option<&str>) -> Result<Descriptor, TransportError> {
    let malformed = |reason: String| TransportError::Malformed {
        place: place.into(),
        reason: format!("index.json: {reason}"),
    };
    let Document::Index(index) = Document::parse(index).map_err(|e| malformed(e.to_string()))?
    else {
        return Err(malformed("it is no index".into()));
    };
    let found: Vec<&Descriptor> = match name {
        None => index.manifests.iter().collect(),
        Some(name) => index
            .manifests
            .iter()
            .filter(|d| {
                let digest = name.strip_prefix('@').unwrap_or(name);
                name_of(d) == Some(name)
                    || d.annotations
                        .get("io.containerd.image.name")
                        .is_some_and(|n| n == name)
                    || d.digest.as_str() == digest
            })
            .collect(),
    };
    let distinct = found.iter().all(|d| d.digest == found[0].digest);
    match found.first() {
        Some(only) if distinct => Ok((*only).clone()),
        _ => Err(TransportError::NoImage {
            place: place.into(),
            wanted: name.unwrap_or_default().into(),
            available: index
                .manifests
                .iter()
                .map(|d| name_of(d).unwrap_or(d.digest.as_str()).to_owned())
                .collect(),
        }),
    }
}

fn read_small(root: &Root, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    root.open_file(path)?
        .take(MAX_MANIFEST_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is too large", path.display()),
        ));
    }
    Ok(bytes)
}

pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.encoded())
}

struct LayoutBlobs(Root);

impl BlobSource for LayoutBlobs {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let file = self.0.open_file(Path::new(&blob_name(&d.digest)))?;
        let reader = VerifyingReader::new(file, d.digest.clone(), Some(d.size))?;
        Ok(Box::new(reader))
    }

    fn open_from(&self, d: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let mut file = self.0.open_file(Path::new(&blob_name(&d.digest)))?;
        file.seek(io::SeekFrom::Start(offset))?;
        Ok(Some(Box::new(file)))
    }
}

struct ArchiveBlobs(Arc<TarIndex>);

impl BlobSource for ArchiveBlobs {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let (section, _) = self.0.open_file(Path::new(&blob_name(&d.digest)))?;
        let reader = VerifyingReader::new(section, d.digest.clone(), Some(d.size))?;
        Ok(Box::new(reader))
    }

    fn open_from(&self, d: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let (section, _) = self.0.open_file(Path::new(&blob_name(&d.digest)))?;
        Ok(Some(Box::new(section.after(offset))))
    }
}

/// Writes to an OCI layout directory, which is made if it is missing. Other
/// images in it stay.
#[derive(Debug)]
pub struct LayoutDestination {
    path: PathBuf,
    name: Option<String>,
}

impl LayoutDestination {
    /// A layout at `path`, in which the image gets the name `name`.
    pub fn new(path: &Path, name: Option<&str>) -> Self {
        Self {
            path: path.to_owned(),
            name: name.map(str::to_owned),
        }
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> TransportError {
        TransportError::file("write", &self.path)
    }

    fn add_name(&self, root: &Descriptor) -> io::Result<()> {
        // Several processes may add to one layout.
        let lock = File::open(&self.path)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        let invalid = |m: String| io::Error::new(io::ErrorKind::InvalidData, m);
        let mut index = match read_small(&Root::open(&self.path)?, Path::new("index.json")) {
            Ok(bytes) => match Document::parse(&bytes).map_err(|e| invalid(e.to_string()))? {
                Document::Index(index) => *index,
                Document::Manifest(_) => return Err(invalid("index.json is no index".into())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Index::new(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut entry = root.clone();
        if let Some(name) = &self.name {
            index
                .manifests
                .retain(|d| d.annotations.get(REF_NAME) != Some(name));
            entry.annotations.insert(REF_NAME.into(), name.clone());
        } else {
            index
                .manifests
                .retain(|d| d.digest != root.digest || d.annotations.contains_key(REF_NAME));
        }
        index.manifests.push(entry);
        write_file(&self.path, "index.json", &mut &index.to_bytes()[..])
    }
}

impl Destination for LayoutDestination {
    fn name(&self) -> String {
        match &self.name {
            Some(name) => format!("oci:{}:{name}", self.path.display()),
            None => format!("oci:{}", self.path.display()),
        }
    }

    fn check(&self, _: &Plan) -> Result<(), TransportError> {
        match std::fs::read_dir(&self.path) {
            Ok(mut entries) => {
                if !self.path.join("oci-layout").exists() && entries.next().is_some() {
                    return Err(TransportError::Malformed {
                        place: format!("oci:{}", self.path.display()),
                        reason: "the directory is not empty and no OCI image layout".into(),
                    });
                }
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(self.failed()(e)),
        }
    }

    fn begin(&self, _: &Plan) -> Result<(), TransportError> {
        let blobs = self.path.join("blobs/sha256");
        std::fs::create_dir_all(blobs).map_err(self.failed())?;
        if !self.path.join("oci-layout").exists() {
            write_file(&self.path, "oci-layout", &mut &MARKER[..]).map_err(self.failed())?;
        }
        Ok(())
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError> {
        let path = self.path.join(blob_name(&blob.digest));
        // Its size is checked, its content is not: what is under a digest's
        // name was verified when it was put there.
        Ok(std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == blob.size))
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError> {
        let dir = self.path.join("blobs").join(blob.digest.algorithm());
        std::fs::create_dir_all(&dir).map_err(self.failed())?;
        let mut reader = Counted {
            inner: plan::open(source, blob)?,
            done: 0,
            progress,
        };
        write_file(&dir, blob.digest.encoded(), &mut reader).map_err(TransportError::blob(blob))
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError> {
        let dir = self.path.join("blobs").join(descriptor.digest.algorithm());
        std::fs::create_dir_all(&dir).map_err(self.failed())?;
        write_file(&dir, descriptor.digest.encoded(), &mut &*bytes).map_err(self.failed())
    }

    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError> {
        self.put_manifest(&plan.root, plan.root_bytes())?;
        self.add_name(&plan.root).map_err(self.failed())?;
        Ok(plan.root.clone())
    }
}

/// Copies `reader` into the file `name` of `dir`, whole or not at all.
pub(super) fn write_file(dir: &Path, name: &str, reader: &mut dyn Read) -> io::Result<()> {
    let mut file = WholeFile::create(&dir.join(name), Access::All)?;
    io::copy(reader, file.file())?;
    file.finish_flushed()
}
