//! Names: the entries of `index.json`.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;

use super::blobs::open_regular;
use super::{Lock, LockMode, Store, StoreError, flush_dir, read_small, replace_file};
use crate::digest::Digest;
use crate::image::{self, BlobSource, Descriptor, Document, Index, MAX_MANIFEST_BYTES};
use crate::reference::Reference;

/// The annotation that holds a name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// `index.json` without entries.
pub(super) const EMPTY_INDEX: &str = "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";
/// Far more than a store with a hundred thousand names needs.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Indexes in indexes beyond this depth are not followed.
const MAX_DEPTH: u32 = 4;

impl Store {
    /// All names with what they stand for, sorted. Names that other tools gave
    /// need not be references.
    ///
    /// # Errors
    /// When `index.json` can't be read or is damaged.
    pub fn refs(&self) -> Result<Vec<(String, Descriptor)>, StoreError> {
        let mut refs: Vec<_> = self
            .read_index()?
            .manifests
            .into_iter()
            .filter_map(|d| Some((d.annotations.get(REF_NAME)?.clone(), d)))
            .collect();
        refs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(refs)
    }

    /// What `reference` stands for here; `None` if there is no such name.
    ///
    /// # Errors
    /// When `index.json` can't be read or is damaged.
    pub fn get_ref(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let entry = self
            .read_index()?
            .manifests
            .into_iter()
            .find(|d| is_named(d, reference));
        Ok(entry)
    }

    /// Gives names, all at once: afterwards all of them stand for the given
    /// images, or (on an error) none has changed. What the images consist of
    /// is on the disk before a name leads there.
    ///
    /// # Errors
    /// When a descriptor's own blob is not in the store or can't be flushed,
    /// or `index.json` can't be written.
    pub fn set_refs(&self, refs: &[(Reference, Descriptor)]) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for (_, descriptor) in refs {
            if !self.has(&descriptor.digest) {
                return Err(StoreError::NoBlob {
                    digest: descriptor.digest.clone(),
                });
            }
            self.flush_image(descriptor, MAX_DEPTH, &mut seen)?;
        }
        let algorithms: HashSet<&str> = seen.iter().map(Digest::algorithm).collect();
        for algorithm in algorithms {
            flush_dir(&self.path("blobs").join(algorithm))?;
        }
        self.change_index(|index| {
            for (reference, descriptor) in refs {
                let name = reference.familiar();
                let mut entry = descriptor.clone();
                entry.annotations.insert(REF_NAME.into(), name);
                match index.manifests.iter().position(|d| is_named(d, reference)) {
                    Some(at) => index.manifests[at] = entry,
                    None => index.manifests.push(entry),
                }
            }
            !refs.is_empty()
        })
    }

    /// Takes a name away; says whether it was there. The image's blobs stay
    /// until they are pruned.
    ///
    /// # Errors
    /// When `index.json` can't be read or written.
    pub fn remove_ref(&self, reference: &Reference) -> Result<bool, StoreError> {
        let mut found = false;
        self.change_index(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|d| !is_named(d, reference));
            found = index.manifests.len() != before;
            found
        })?;
        Ok(found)
    }

    /// Takes the exact `name`, which need not be a reference, away.
    ///
    /// # Errors
    /// When `index.json` can't be read or written.
    pub fn remove_name(&self, name: &str) -> Result<bool, StoreError> {
        let mut found = false;
        self.change_index(|index| {
            let before = index.manifests.len();
            index
                .manifests
                .retain(|d| d.annotations.get(REF_NAME).is_none_or(|n| n != name));
            found = index.manifests.len() != before;
            found
        })?;
        Ok(found)
    }

    /// The index with all entries, those without a name too.
    pub(super) fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.path("index.json");
        let damaged = |reason: String| StoreError::Damaged {
            path: path.clone(),
            reason: format!("{reason}; restore it, or move it away and import the images again"),
        };
        let bytes = read_small(&path, MAX_INDEX_BYTES).map_err(|e| match e.kind() {
            // An empty list in its place would let prune remove everything.
            io::ErrorKind::NotFound => damaged("it is missing".into()),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => damaged(e.to_string()),
            _ => StoreError::io("read", &path)(e),
        })?;
        match Document::parse(&bytes).map_err(|e| damaged(e.to_string()))? {
            Document::Index(index) => Ok(*index),
            Document::Manifest(_) => Err(damaged("it is a manifest, not an index".into())),
        }
    }

    /// Replaces `index.json` by what `edit` makes of it, if that says `true`.
    fn change_index(&self, edit: impl FnOnce(&mut Index) -> bool) -> Result<(), StoreError> {
        let session = self.session()?;
        let _lock = Lock::wait(&self.path("locks/refs"), LockMode::Exclusive)?;
        let mut index = self.read_index()?;
        if !edit(&mut index) {
            return Ok(());
        }
        replace_file(
            &session.path("f"),
            &self.path("index.json"),
            &index.to_bytes(),
        )
    }

    /// Flushes a blob and those it names. Those that are not there are passed
    /// over: an image may be in the store in part, its layers left where they
    /// came from.
    fn flush_image(
        &self,
        descriptor: &Descriptor,
        depth: u32,
        seen: &mut HashSet<Digest>,
    ) -> Result<(), StoreError> {
        if !seen.insert(descriptor.digest.clone()) || !self.has(&descriptor.digest) {
            return Ok(());
        }
        self.flush_blob(&descriptor.digest)?;
        match self.document(descriptor) {
            Some(Document::Manifest(manifest)) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    if seen.insert(blob.digest.clone()) && self.has(&blob.digest) {
                        self.flush_blob(&blob.digest)?;
                    }
                }
            }
            Some(Document::Index(index)) if depth > 0 => {
                for manifest in &index.manifests {
                    self.flush_image(manifest, depth - 1, seen)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The blob as a manifest or an index, if it is one and whole.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Option<Document> {
        let source: &dyn BlobSource = self;
        let bytes = image::read_blob(source, descriptor, MAX_MANIFEST_BYTES).ok()?;
        Document::parse(&bytes).ok()
    }

    fn flush_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        let file = open_regular(&path).map_err(StoreError::io("open the blob", &path))?;
        rustix::fs::fdatasync(file).map_err(|e| {
            if e == Errno::IO {
                // What could not be written is lost, whatever a second flush
                // would say.
                let _ = std::fs::remove_file(&path);
            }
            StoreError::io("flush", &path)(e)
        })
    }
}

/// Whether an entry is the one for `reference`, in its short or full form.
fn is_named(entry: &Descriptor, reference: &Reference) -> bool {
    entry
        .annotations
        .get(REF_NAME)
        .is_some_and(|name| *name == reference.familiar() || *name == reference.to_string())
}
