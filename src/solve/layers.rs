//! Layers while a build goes on: a blob, a directory, or both, made when
//! something asks for them.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::unpacking::{Below, BlobError, is_alone, unpack_blob};
use crate::context::Tree;
use crate::digest::{DiffId, Digest, Hasher, VerifyingReader};
use crate::event::{Events, Task, chain};
use crate::image::media_type::layer_compression;
use crate::image::{BlobSink, BlobSource, BlobWriter, Descriptor, Image};
use crate::layer::compress;
use crate::layer::listing::Listing;
use crate::layer::unpack::UnpackError;
use crate::snapshot::{Layered, Merged};
use crate::store::{MAX_RECORD, NewLayer, Store};

/// A layer's blob and the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob.
    pub descriptor: Descriptor,
    /// Its content.
    pub diff_id: DiffId,
}

/// What went wrong with a layer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LayerError {
    /// The blob could not be fetched.
    #[error("can't fetch layer {digest}: {reason}")]
    Fetch {
        /// Which.
        digest: String,
        /// Why, with all causes.
        reason: String,
    },
    /// The blob could not be unpacked.
    #[error("can't unpack layer {digest}: {reason}")]
    Unpack {
        /// Which.
        digest: String,
        /// Why, with all causes.
        reason: String,
    },
    /// A layer of an imported cache could not be had.
    #[error("can't use layer {digest} of the imported cache: {reason}")]
    Imported {
        /// Which.
        digest: String,
        /// Why, with all causes.
        reason: String,
    },
    /// The layer could not be written.
    #[error("can't write the layer: {0}")]
    Seal(String),
}

#[derive(Debug)]
enum Blob {
    /// It is being made.
    Pending,
    Ready(LayerBlob),
    Failed(LayerError),
}

#[derive(Debug)]
struct State {
    blob: Blob,
    dir: Option<PathBuf>,
    /// Somebody is making the directory.
    unpacking: bool,
    /// The directory that a step made, until it is published.
    made: Option<NewLayer>,
}

/// One layer of a build's file systems; shared by all steps above it.
pub struct Layer {
    state: Mutex<State>,
    changed: Condvar,
    /// Where its blob is when the store does not have it.
    remote: Option<Arc<dyn BlobSource>>,
    /// It comes from another machine's cache.
    imported: bool,
    /// What is in it, once somebody asked; `None` inside where only unpacking
    /// tells.
    listing: OnceLock<Option<Arc<Listing>>>,
    /// When a step made it, seconds since 1970.
    made_at: OnceLock<i64>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("state", &self.state)
            .field("remote", &self.remote.is_some())
            .field("imported", &self.imported)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// A layer of a base image; nothing of it is fetched yet.
    pub(super) fn of_base(image: &Image, blob: LayerBlob) -> Self {
        Self::new(Blob::Ready(blob), None, Some(Arc::clone(&image.blobs)))
    }

    /// A layer out of another machine's cache; nothing of it is fetched yet.
    pub(super) fn imported(blob: LayerBlob, blobs: Arc<dyn BlobSource>) -> Self {
        Self {
            imported: true,
            ..Self::new(Blob::Ready(blob), None, Some(blobs))
        }
    }

    /// A layer whose blob is in the store.
    pub(super) fn stored(blob: LayerBlob) -> Self {
        Self::new(Blob::Ready(blob), None, None)
    }

    /// A layer that is a directory so far.
    pub(super) fn made(dir: NewLayer) -> Self {
        Self::new(Blob::Pending, Some(dir), None)
    }

    fn new(blob: Blob, made: Option<NewLayer>, remote: Option<Arc<dyn BlobSource>>) -> Self {
        Self {
            state: Mutex::new(State {
                blob,
                dir: made.as_ref().map(|m| m.fs().to_path_buf()),
                unpacking: false,
                made,
            }),
            changed: Condvar::new(),
            remote,
            imported: false,
            listing: OnceLock::new(),
            made_at: OnceLock::new(),
        }
    }

    /// The same layer, and when a step made it, in seconds since 1970.
    pub(super) fn at(self, made: Option<i64>) -> Self {
        if let Some(secs) = made {
            let _ = self.made_at.set(secs);
        }
        self
    }

    /// When a step made it, seconds since 1970; not known of a base's layers.
    pub fn made_at(&self) -> Option<i64> {
        self.made_at.get().copied()
    }

    /// Says of an error that the import is to blame, where it is.
    fn blame(&self, error: LayerError) -> LayerError {
        match error {
            LayerError::Fetch { digest, reason } | LayerError::Unpack { digest, reason }
                if self.imported =>
            {
                LayerError::Imported { digest, reason }
            }
            other => other,
        }
    }

    /// The same layer, and what is in it.
    pub(super) fn listed(self, listing: Option<Listing>) -> Self {
        let _ = self.listing.set(listing.map(Arc::new));
        self
    }

    /// The layer as a directory, if there is one; nothing is made or waited
    /// for.
    fn dir_at_hand(&self, store: &Store) -> Option<PathBuf> {
        let state = self.lock();
        match (&state.dir, &state.blob) {
            (Some(dir), _) => Some(dir.clone()),
            (None, Blob::Ready(blob)) => store.layer_dir(&blob.diff_id),
            (None, _) => None,
        }
    }

    /// What is in the layer, if that is known.
    fn listing_at_hand(&self, store: &Store) -> Option<Option<Arc<Listing>>> {
        if let Some(listing) = self.listing.get() {
            return Some(listing.clone());
        }
        let blob = match &self.lock().blob {
            Blob::Ready(blob) => blob.clone(),
            _ => return None,
        };
        let bytes = store.cache_get(&listing_key(&blob.diff_id))?;
        // Nothing at all stands for "only unpacking tells".
        let listing = match bytes.is_empty() {
            true => None,
            false => Some(Arc::new(Listing::parse(&bytes, store.spools())?)),
        };
        Some(self.listing.get_or_init(|| listing).clone())
    }

    /// What is in the layer; read now if need be. Its blob is not kept where it
    /// is not in the store.
    fn listing(&self, store: &Store, events: &Events) -> Result<Option<Arc<Listing>>, LayerError> {
        if let Some(listing) = self.listing_at_hand(store) {
            return Ok(listing);
        }
        let blob = self.blob()?;
        let fail = |e: &dyn std::error::Error| {
            self.blame(LayerError::Unpack {
                digest: blob.descriptor.digest.to_string(),
                reason: chain(e),
            })
        };
        let task = events.start(format!("list layer {}", blob.descriptor.digest.short()));
        let packed = self.open(store, &blob.descriptor).map_err(|e| fail(&e))?;
        let size = Some(blob.descriptor.size);
        let packed = VerifyingReader::new(packed, blob.descriptor.digest.clone(), size)
            .map_err(|e| fail(&e))?;
        let kind = &blob.descriptor.media_type;
        let compression =
            layer_compression(kind).ok_or_else(|| fail(&BlobError::Kind(kind.clone())))?;
        let tar = compress::decompress(packed, compression).map_err(|e| fail(&e))?;
        // The content's digest is verified: whatever the blob was, this is it.
        let tar =
            VerifyingReader::new(tar, blob.diff_id.digest().clone(), None).map_err(|e| fail(&e))?;
        let listing = Listing::read(tar, store.spools())
            .map_err(|e| fail(&e))?
            .map(Arc::new);
        keep_listing(store, &blob.diff_id, listing.as_deref());
        task.finish(crate::event::Outcome::Done);
        Ok(self.listing.get_or_init(|| listing).clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it came with a base image.
    pub fn is_of_base(&self) -> bool {
        self.remote.is_some() && !self.imported
    }

    /// Says what became of sealing.
    pub(super) fn seal(&self, result: Result<LayerBlob, LayerError>) {
        self.lock().blob = match result {
            Ok(blob) => Blob::Ready(blob),
            Err(e) => Blob::Failed(e),
        };
        self.changed.notify_all();
    }

    /// The blob, once it is made.
    pub fn blob(&self) -> Result<LayerBlob, LayerError> {
        let mut state = self.lock();
        loop {
            match &state.blob {
                Blob::Ready(blob) => return Ok(blob.clone()),
                Blob::Failed(e) => return Err(e.clone()),
                Blob::Pending => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Where the layer's blob can be read: the store, or the base's source.
    fn open(&self, store: &Store, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        match &self.remote {
            Some(remote) if !store.has(&blob.digest) => remote.open(blob),
            _ => store.open(blob),
        }
    }

    /// Puts the blob into the store if it is not there.
    pub fn fetch(&self, store: &Store, events: &Events) -> Result<LayerBlob, LayerError> {
        let blob = self.blob()?;
        if !store.has(&blob.descriptor.digest) {
            self.download(store, &blob, events)
                .and_then(Download::finish)
                .map_err(|e| self.blame(e))?;
        }
        Ok(blob)
    }

    fn download(
        &self,
        store: &Store,
        blob: &LayerBlob,
        events: &Events,
    ) -> Result<Download, LayerError> {
        let source = self.open(store, &blob.descriptor);
        Download::begin(source, store, &blob.descriptor, events)
    }

    /// The layer as a directory in overlayfs' form; made now if need be.
    /// `below` is what it lies on, lowest first.
    pub fn dir(
        &self,
        below: &[Arc<Self>],
        store: &Store,
        events: &Events,
    ) -> Result<PathBuf, LayerError> {
        {
            let mut state = self.lock();
            loop {
                if let Some(dir) = &state.dir {
                    return Ok(dir.clone());
                }
                if !state.unpacking {
                    state.unpacking = true;
                    break;
                }
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        let result = self.unpack(below, store, events);
        let result = result.map_err(|e| self.blame(e));
        let mut state = self.lock();
        state.unpacking = false;
        if let Ok(dir) = &result {
            state.dir = Some(dir.clone());
        }
        self.changed.notify_all();
        result
    }

    fn unpack(
        &self,
        below: &[Arc<Self>],
        store: &Store,
        events: &Events,
    ) -> Result<PathBuf, LayerError> {
        let blob = self.blob()?;
        if let Some(dir) = store.layer_dir(&blob.diff_id) {
            return Ok(dir);
        }
        let fail = |reason: String| LayerError::Unpack {
            digest: blob.descriptor.digest.to_string(),
            reason,
        };
        // What comes from elsewhere is unpacked while it comes.
        let download = match store.has(&blob.descriptor.digest) {
            true => None,
            false => Some(self.download(store, &blob, events)?),
        };
        let task = events.start(format!("unpack layer {}", blob.descriptor.digest.short()));
        let alone = match &download {
            Some(download) => {
                let coming: Box<dyn Read + Send> = Box::new(download.reader());
                unpack_blob(store, &blob, Some(coming), None)
            }
            None => unpack_blob(store, &blob, None, None),
        };
        if let Some(download) = download {
            download.finish()?;
        }
        let alone = match alone {
            Ok((new, done)) if is_alone(&done) => Some(new),
            Ok(_) | Err(BlobError::Unpack(UnpackError::LowerLink { .. })) => None,
            Err(e) => return Err(fail(chain(&e))),
        };
        let dir = match alone {
            Some(new) => new.publish(&blob.diff_id).map_err(|e| fail(chain(&e)))?,
            None => {
                // Parents that the layer has no entries for, or links to files
                // of lower layers: what comes out belongs on top of just these
                // layers, so no other build may find it by its diffID.
                let lower = dirs(below, store, events)?;
                let lower = Merged::new(lower).map_err(|e| fail(chain(&e)))?;
                let (new, _) = unpack_blob(store, &blob, None, Some(&Below(lower)))
                    .map_err(|e| fail(chain(&e)))?;
                let dir = new.fs().to_path_buf();
                self.lock().made = Some(new);
                dir
            }
        };
        task.finish(crate::event::Outcome::Done);
        Ok(dir)
    }

    /// The directory that nobody else may find, if it is one.
    pub(super) fn take_made(&self) -> Option<NewLayer> {
        self.lock().made.take()
    }

    /// Publishes the directory that a step made, so that later builds find it.
    /// Only when no step uses it any more: another's may be kept instead.
    pub(super) fn publish(&self) {
        let mut state = self.lock();
        let Blob::Ready(blob) = &state.blob else {
            return;
        };
        let diff_id = blob.diff_id.clone();
        if let Some(made) = state.made.take() {
            // Without it the next build unpacks the blob: slower, not wrong.
            state.dir = made.publish(&diff_id).ok();
        }
    }
}

fn listing_key(diff_id: &DiffId) -> Digest {
    let mut key = Hasher::new();
    key.field(b"listing of a layer");
    key.field(diff_id.digest().as_str().as_bytes());
    key.finish()
}

/// Keeps what is in a layer. Without it the layer is read again some day.
pub(super) fn keep_listing(store: &Store, diff_id: &DiffId, listing: Option<&Listing>) {
    let bytes = |listing: &Listing| listing.to_bytes(MAX_RECORD);
    if let Ok(bytes) = listing.map_or(Ok(Vec::new()), bytes) {
        let _ = store.cache_put(&listing_key(diff_id), &bytes);
    }
}

/// A blob on its way into the store; others may read it as it comes.
struct Download {
    inner: Arc<Mutex<Coming>>,
    descriptor: Descriptor,
    task: Task,
}

/// What is left to come.
struct Coming {
    source: VerifyingReader<Box<dyn Read + Send>>,
    sink: Box<dyn BlobWriter>,
    done: u64,
    failed: Option<String>,
}

/// Bytes that are fetched at a time.
const FETCH: usize = 256 << 10;

impl Download {
    fn begin(
        source: io::Result<Box<dyn Read + Send>>,
        store: &Store,
        descriptor: &Descriptor,
        events: &Events,
    ) -> Result<Self, LayerError> {
        let task = events.start(format!("fetch layer {}", descriptor.digest.short()));
        let begin = || -> io::Result<Coming> {
            let (digest, size) = (descriptor.digest.clone(), Some(descriptor.size));
            Ok(Coming {
                source: VerifyingReader::new(source?, digest, size)?,
                sink: store.create()?,
                done: 0,
                failed: None,
            })
        };
        let coming = begin().map_err(|e| fetch_error(descriptor, chain(&e)))?;
        Ok(Self {
            inner: Arc::new(Mutex::new(coming)),
            descriptor: descriptor.clone(),
            task,
        })
    }

    fn reader(&self) -> Arrivals {
        Arrivals(Arc::clone(&self.inner))
    }

    /// Fetches what is left and stores it.
    fn finish(self) -> Result<(), LayerError> {
        let fail = |reason| fetch_error(&self.descriptor, reason);
        let mut reader = self.reader();
        let mut buffer = vec![0; FETCH];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {
                    let done = reader.coming().done;
                    let (item, size) = (self.descriptor.digest.short(), self.descriptor.size);
                    self.task.progress(item, done, Some(size));
                }
                Err(e) => return Err(fail(chain(&e))),
            }
        }
        drop(reader);
        let coming = Arc::into_inner(self.inner)
            .map(|m| m.into_inner().unwrap_or_else(PoisonError::into_inner))
            .ok_or_else(|| fail("somebody still reads it".into()))?;
        coming
            .sink
            .commit(&self.descriptor.digest)
            .map_err(|e| fail(chain(&e)))?;
        self.task.finish(crate::event::Outcome::Done);
        Ok(())
    }
}

fn fetch_error(descriptor: &Descriptor, reason: String) -> LayerError {
    LayerError::Fetch {
        digest: descriptor.digest.to_string(),
        reason,
    }
}

/// Reads a download as it comes.
struct Arrivals(Arc<Mutex<Coming>>);

impl Arrivals {
    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Arrivals {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut coming = self.coming();
        if let Some(failed) = &coming.failed {
            return Err(io::Error::other(failed.clone()));
        }
        let read = coming.step(buf);
        if let Err(e) = &read {
            // Whoever read on would store a part as the whole.
            coming.failed = Some(chain(e));
        }
        read
    }
}

impl Coming {
    fn step(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = loop {
            match self.source.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.sink.write_all(&buf[..n])?;
        self.done += n as u64;
        Ok(n)
    }
}

/// The file system that `layers` make, lowest first, to look up where things
/// are: from their directories where there are some, else from listings. With
/// `unpack` the directories are going to be needed anyway, and are made where
/// not all is known without.
pub(super) fn look(
    layers: &[Arc<Layer>],
    store: &Store,
    events: &Events,
    unpack: bool,
) -> Result<Arc<dyn Tree>, LayerError> {
    let fail = |e: io::Error| LayerError::Seal(chain(&e));
    let at_hand: Vec<PathBuf> = layers
        .iter()
        .map_while(|layer| layer.dir_at_hand(store))
        .collect();
    let rest = layers.get(at_hand.len()..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(Arc::new(Merged::new(at_hand).map_err(fail)?));
    }
    let known = |layer: &Arc<Layer>| layer.listing_at_hand(store).is_some();
    if !unpack || rest.iter().all(known) {
        let mut listings = Vec::with_capacity(rest.len());
        for layer in rest {
            listings.extend(layer.listing(store, events)?);
        }
        if listings.len() == rest.len() {
            let bottom = match at_hand.is_empty() {
                true => None,
                false => Some(Merged::new(at_hand).map_err(fail)?),
            };
            if let Some(tree) = Layered::new(listings, bottom).map_err(fail)? {
                return Ok(Arc::new(tree));
            }
        }
    }
    let dirs = dirs(layers, store, events)?;
    Ok(Arc::new(Merged::new(dirs).map_err(fail)?))
}

/// The directories of a stack of layers, lowest first; missing ones are made
/// side by side.
pub(super) fn dirs(
    layers: &[Arc<Layer>],
    store: &Store,
    events: &Events,
) -> Result<Vec<PathBuf>, LayerError> {
    let missing = layers.iter().filter(|l| l.lock().dir.is_none()).count();
    if missing <= 1 {
        return (layers.iter().enumerate())
            .map(|(n, l)| l.dir(&layers[..n], store, events))
            .collect();
    }
    std::thread::scope(|scope| {
        let work: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(n, l)| scope.spawn(move || l.dir(&layers[..n], store, events)))
            .collect();
        work.into_iter()
            .map(|w| {
                w.join()
                    .unwrap_or_else(|_| Err(LayerError::Seal("a worker stopped".into())))
            })
            .collect()
    })
}
