//! Attaching artifacts to images, also where the registry does not know what
//! a subject is.
//!
//! # Specification
//! distribution-spec "Pushing manifests with subject" and "Referrers tag
//! schema".

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::error::{Failure, RegistryError};
use super::list::referrers_tag;
use super::manifest::Repository;
use crate::digest::{Digest, Hasher, VerifyingReader};
use crate::image::{BlobSource, Descriptor, Document, Index, Manifest, media_type};

/// How often the list of referrers is written before others are left to it.
const MAX_UPDATES: u32 = 8;

/// A file as a blob.
#[derive(Debug, Clone)]
pub struct FileBlob {
    file: Arc<File>,
    digest: Digest,
    size: u64,
}

impl FileBlob {
    /// Opens a file and finds out its digest.
    ///
    /// # Errors
    /// When it can't be read, or is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(File::open(path)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        let mut hasher = Hasher::new();
        let mut reader = At {
            file: Arc::clone(&file),
            offset: 0,
        };
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        Ok(Self {
            file,
            digest: hasher.finish(),
            size: reader.offset,
        })
    }

    /// Digest of the content.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl BlobSource for FileBlob {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        if descriptor.digest == Digest::of(media_type::EMPTY_JSON) {
            return Ok(Box::new(media_type::EMPTY_JSON));
        }
        let reader = At {
            file: Arc::clone(&self.file),
            offset: 0,
        };
        // The file may have changed since it was looked at.
        let reader = VerifyingReader::new(reader, descriptor.digest.clone(), Some(self.size))?;
        Ok(Box::new(reader))
    }
}

/// A reader with a position of its own.
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

impl Repository {
    /// Pushes an artifact: its blobs out of `blobs`, its manifest, and, where
    /// the registry has no referrers API, the entry in the list that is kept
    /// under a tag.
    ///
    /// # Errors
    /// Also when others keep on writing that list at the same time.
    pub fn attach(
        &self,
        manifest: &Manifest,
        blobs: &dyn BlobSource,
    ) -> Result<Descriptor, RegistryError> {
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if !self.has_blob(&blob.digest)? {
                self.upload(blob, blobs, None, &|_| ())?;
            }
        }
        let bytes = manifest.to_bytes();
        let mut descriptor = Descriptor::of(&manifest.media_type, &bytes);
        let target = descriptor.digest.to_string();
        let knows_subjects =
            self.put_manifest_with_subject(&target, &manifest.media_type, &bytes)?;
        if let Some(subject) = &manifest.subject
            && !knows_subjects
        {
            descriptor.annotations = manifest.annotations.clone();
            if let Some(kind) = &manifest.artifact_type {
                descriptor
                    .other
                    .insert("artifactType".into(), kind.as_str().into());
            }
            self.list_referrer(&subject.digest, &descriptor)?;
        }
        Ok(descriptor)
    }

    /// Adds an entry to the list under the tag of `subject`. There is no way
    /// to lock it, so what was written is read again: an entry that somebody
    /// else's writing has lost is added once more.
    fn list_referrer(&self, subject: &Digest, entry: &Descriptor) -> Result<(), RegistryError> {
        let tag = referrers_tag(subject);
        let op = self.operation(format!("list {} in {}", entry.digest, self.display(&tag)));
        let mut backoff = self.backoff();
        for _ in 0..MAX_UPDATES {
            let mut index = match self.resolve(&tag) {
                Ok((_, bytes)) => match Document::parse(&bytes) {
                    Ok(Document::Index(index)) => *index,
                    _ => {
                        return Err(op.fail(Failure::Protocol(format!(
                            "the tag {tag} should be a list of referrers and is something else"
                        ))));
                    }
                },
                Err(e) if e.is_not_found() => Index::new(Vec::new()),
                Err(e) => return Err(e),
            };
            if index.manifests.iter().any(|d| d.digest == entry.digest) {
                return Ok(());
            }
            index.manifests.push(entry.clone());
            index.media_type = media_type::OCI_INDEX.into();
            self.put_manifest(&tag, media_type::OCI_INDEX, &index.to_bytes())?;
            // Leave others the time to overwrite it.
            if let Some(wait) = backoff.next(None) {
                self.client.pause(wait / 4).map_err(|f| op.fail(f))?;
            }
        }
        Err(op.fail(Failure::Protocol(
            "others write the list of referrers all the time".into(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_blobs_until_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "content").unwrap();
        let blob = FileBlob::open(&path).unwrap();
        assert_eq!((blob.size(), blob.digest()), (7, &Digest::of(b"content")));
        let descriptor = Descriptor::of("x/y", b"content");
        let mut text = String::new();
        let read = |text: &mut String| blob.open(&descriptor)?.read_to_string(text);
        read(&mut text).unwrap();
        assert_eq!(text, "content");
        std::fs::write(&path, "CONTENT").unwrap();
        assert!(read(&mut text).is_err());
        assert!(FileBlob::open(dir.path()).is_err());
    }
}
