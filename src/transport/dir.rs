//! A plain directory: `manifest.json`, `version`, and blobs named by the hex
//! digits of their digests; manifests below an index are `<hex>.manifest.json`.

use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{Counted, Destination, Progress};
use super::layout::write_file;
use super::plan::{self, Plan};
use super::{Source, TransportError, is_document};
use crate::digest::VerifyingReader;
use crate::image::{BlobSource, Descriptor, Document, MAX_MANIFEST_BYTES, PartReader, media_type};
use crate::sys::fs::Root;

/// The content of `version`.
const VERSION: &[u8] = b"Directory Transport Version: 1.1\n";

/// Opens the image in the directory `path`.
///
/// # Errors
/// When it is no such directory.
pub fn open(path: &Path) -> Result<Source, TransportError> {
    let fail = || TransportError::file("read", path.join("manifest.json"));
    let root = Root::open(path).map_err(TransportError::file("read", path))?;
    let mut bytes = Vec::new();
    root.open_file(Path::new("manifest.json"))
        .map_err(fail())?
        .take(MAX_MANIFEST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fail())?;
    let place = format!("dir:{}", path.display());
    let malformed = |reason: String| TransportError::Malformed {
        place: place.clone(),
        reason,
    };
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(malformed("manifest.json is too large".into()));
    }
    let (stated, fallback) = match Document::parse(&bytes).map_err(|e| malformed(e.to_string()))? {
        Document::Manifest(m) => (m.media_type, media_type::OCI_MANIFEST),
        Document::Index(i) => (i.media_type, media_type::OCI_INDEX),
    };
    let kind = if stated.is_empty() { fallback } else { &stated };
    let descriptor = Descriptor::of(kind, &bytes);
    Ok(Source::new(
        place,
        descriptor,
        bytes,
        Arc::new(DirBlobs(root)),
    ))
}

fn file_name(descriptor: &Descriptor) -> String {
    let hex = descriptor.digest.encoded();
    if is_document(descriptor) {
        format!("{hex}.manifest.json")
    } else {
        hex.to_owned()
    }
}

struct DirBlobs(Root);

impl BlobSource for DirBlobs {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let file = self.0.open_file(Path::new(&file_name(d)))?;
        let reader = VerifyingReader::new(file, d.digest.clone(), Some(d.size))?;
        Ok(Box::new(reader))
    }

    fn open_from(&self, d: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let mut file = self.0.open_file(Path::new(&file_name(d)))?;
        file.seek(io::SeekFrom::Start(offset))?;
        Ok(Some(Box::new(file)))
    }
}

/// Writes to a directory, which is made if it is missing.
#[derive(Debug)]
pub struct DirDestination(PathBuf);

impl DirDestination {
    /// The directory at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        let mut reader = bytes;
        write_file(&self.0, name, &mut reader).map_err(TransportError::file("write", &self.0))
    }
}

impl Destination for DirDestination {
    fn name(&self) -> String {
        format!("dir:{}", self.0.display())
    }

    fn check(&self, _: &Plan) -> Result<(), TransportError> {
        match std::fs::read_dir(&self.0) {
            Ok(mut entries) => {
                if !self.0.join("version").exists() && entries.next().is_some() {
                    return Err(TransportError::Malformed {
                        place: self.name(),
                        reason: "the directory is not empty and holds no image".into(),
                    });
                }
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(TransportError::file("write", &self.0)(e)),
        }
    }

    fn begin(&self, _: &Plan) -> Result<(), TransportError> {
        std::fs::create_dir_all(&self.0).map_err(TransportError::file("write", &self.0))?;
        self.write("version", VERSION)
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError> {
        let path = self.0.join(file_name(blob));
        Ok(std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == blob.size))
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError> {
        let mut reader = Counted {
            inner: plan::open(source, blob)?,
            done: 0,
            progress,
        };
        write_file(&self.0, &file_name(blob), &mut reader).map_err(TransportError::blob(blob))
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError> {
        self.write(&file_name(descriptor), bytes)
    }

    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError> {
        self.write("manifest.json", plan.root_bytes())?;
        Ok(plan.root.clone())
    }
}
