//! The local store as a place of images, or any other sink that has names.

use std::io;
use std::sync::Arc;

use super::copy::{Counted, Destination, Progress};
use super::plan::{self, Plan};
use super::{Source, TransportError};
use crate::image::{BlobSink, Descriptor};
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// Gives names to images.
pub trait Names: Send + Sync {
    /// Lets all of `names` stand for their images from now on, or (on an
    /// error) none.
    ///
    /// # Errors
    /// When the names can't be written.
    fn set(&self, names: &[(Reference, Descriptor)]) -> io::Result<()>;
}

/// Writes to a sink and names the result.
pub struct LocalDestination {
    blobs: Arc<dyn BlobSink>,
    names: Arc<dyn Names>,
    references: Vec<Reference>,
    /// Remembers which repositories the blobs came from.
    places: Option<Store>,
}

impl std::fmt::Debug for LocalDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalDestination({:?})", self.references)
    }
}

impl Names for Store {
    fn set(&self, names: &[(Reference, Descriptor)]) -> io::Result<()> {
        self.set_refs(names).map_err(StoreError::into_io)
    }
}

/// Opens the image that `text` means in `store`: a name, a digest or an
/// abbreviated id.
///
/// # Errors
/// When there is none, or its manifest can't be read.
pub fn open(store: &Store, text: &str) -> Result<Source, TransportError> {
    let mut descriptor = store.find(text)?;
    // Annotations of the entry are about its name, not about the image.
    descriptor.annotations.clear();
    let mut source = Source::load(text, descriptor, Arc::new(store.clone()))?;
    source.references.extend(Reference::parse(text).ok());
    Ok(source)
}

impl LocalDestination {
    /// Stores in `store` and gives the image all of `references`.
    pub fn in_store(store: &Store, references: Vec<Reference>) -> Self {
        Self::new(Arc::new(store.clone()), Arc::new(store.clone()), references).remembering(store)
    }

    /// Stores in `blobs` and gives the image all of `references`, in `names`.
    pub fn new(
        blobs: Arc<dyn BlobSink>,
        names: Arc<dyn Names>,
        references: Vec<Reference>,
    ) -> Self {
        Self {
            blobs,
            names,
            references,
            places: None,
        }
    }

    /// Remembers in `store` which repositories the blobs came from.
    #[must_use]
    pub fn remembering(mut self, store: &Store) -> Self {
        self.places = Some(store.clone());
        self
    }

    fn store(&self, descriptor: &Descriptor, reader: &mut dyn io::Read) -> io::Result<()> {
        let mut writer = self.blobs.create()?;
        io::copy(reader, &mut *writer)?;
        writer.commit(&descriptor.digest)
    }
}

impl Destination for LocalDestination {
    fn name(&self) -> String {
        match self.references.first() {
            Some(reference) => reference.familiar(),
            None => "the local store".into(),
        }
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError> {
        Ok(self.blobs.has(&blob.digest))
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
        self.store(blob, &mut reader)
            .map_err(TransportError::blob(blob))?;
        if let Some(store) = &self.places {
            for from in &source.repositories {
                // A hint for pushes; nothing is lost without it.
                let _ = store.note_place(&blob.digest, from.registry(), from.name());
            }
        }
        Ok(())
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError> {
        let mut reader = bytes;
        self.store(descriptor, &mut reader)
            .map_err(TransportError::blob(descriptor))
    }

    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError> {
        self.put_manifest(&plan.root, plan.root_bytes())?;
        let names: Vec<_> = self
            .references
            .iter()
            .map(|r| (r.clone(), plan.root.clone()))
            .collect();
        if !names.is_empty() {
            self.names
                .set(&names)
                .map_err(TransportError::file("write", "the local store"))?;
        }
        Ok(plan.root.clone())
    }
}
