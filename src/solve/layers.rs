//! Layers while a build goes on: a blob, a directory, or both, made when
//! something asks for them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::context::Tree;
use crate::digest::{DiffId, VerifyingReader};
use crate::event::Events;
use crate::image::media_type::layer_compression;
use crate::image::{BlobSink, BlobSource, Descriptor, Image};
use crate::layer::compress;
use crate::layer::unpack::{Form, Lower, UnpackError, UnpackOptions, Unpacked, unpack};
use crate::layer::{Entry, Meta};
use crate::snapshot::Merged;
use crate::store::{NewLayer, Store};
use crate::sys::fs::Root;

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
    /// The layer could not be written.
    #[error("can't write the layer: {0}")]
    Seal(String),
}

/// All messages of an error and its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        let message = c.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = c.source();
    }
    text
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
#[derive(Debug)]
pub struct Layer {
    state: Mutex<State>,
    changed: Condvar,
    /// The image that it is of, where it came with a base.
    base: Option<Image>,
}

impl Layer {
    /// A layer of a base image; nothing of it is fetched yet.
    pub(super) fn of_base(image: &Image, blob: LayerBlob) -> Self {
        Self::new(Blob::Ready(blob), None, Some(image.clone()))
    }

    /// A layer whose blob is in the store.
    pub(super) fn stored(blob: LayerBlob) -> Self {
        Self::new(Blob::Ready(blob), None, None)
    }

    /// A layer that is a directory so far.
    pub(super) fn made(dir: NewLayer) -> Self {
        Self::new(Blob::Pending, Some(dir), None)
    }

    fn new(blob: Blob, made: Option<NewLayer>, base: Option<Image>) -> Self {
        Self {
            state: Mutex::new(State {
                blob,
                dir: made.as_ref().map(|m| m.fs().to_path_buf()),
                unpacking: false,
                made,
            }),
            changed: Condvar::new(),
            base,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        match &self.base {
            Some(image) if !store.has(&blob.digest) => image.blobs.open(blob),
            _ => store.open(blob),
        }
    }

    /// Puts the blob into the store if it is not there.
    pub fn fetch(&self, store: &Store, events: &Events) -> Result<LayerBlob, LayerError> {
        let blob = self.blob()?;
        if store.has(&blob.descriptor.digest) {
            return Ok(blob);
        }
        let fail = |e: io::Error| LayerError::Fetch {
            digest: blob.descriptor.digest.to_string(),
            reason: chain(&e),
        };
        let task = events.start(format!("fetch layer {}", blob.descriptor.digest.short()));
        let source = self.open(store, &blob.descriptor).map_err(fail)?;
        let mut source = VerifyingReader::new(
            source,
            blob.descriptor.digest.clone(),
            Some(blob.descriptor.size),
        )
        .map_err(fail)?;
        let mut sink = store.create().map_err(fail)?;
        let mut buffer = vec![0; 1 << 18];
        let mut done = 0;
        loop {
            let n = source.read(&mut buffer).map_err(fail)?;
            if n == 0 {
                break;
            }
            sink.write_all(&buffer[..n]).map_err(fail)?;
            done += n as u64;
            task.progress(
                blob.descriptor.digest.short(),
                done,
                Some(blob.descriptor.size),
            );
        }
        sink.commit(&blob.descriptor.digest).map_err(fail)?;
        task.finish(crate::event::Outcome::Done);
        Ok(blob)
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
        self.fetch(store, events)?;
        let task = events.start(format!("unpack layer {}", blob.descriptor.digest.short()));
        let fail = |reason: String| LayerError::Unpack {
            digest: blob.descriptor.digest.to_string(),
            reason,
        };
        let alone = match unpack_blob(store, &blob, None) {
            Ok((new, done)) if done.implied.iter().all(|p| p.as_os_str().is_empty()) => Some(new),
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
                let (new, _) =
                    unpack_blob(store, &blob, Some(&Below(lower))).map_err(|e| fail(chain(&e)))?;
                let dir = new.fs().to_path_buf();
                self.lock().made = Some(new);
                dir
            }
        };
        task.finish(crate::event::Outcome::Done);
        Ok(dir)
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

/// Why a blob can't be unpacked.
#[derive(Debug, thiserror::Error)]
enum BlobError {
    #[error("its media type {0:?} is no layer")]
    Kind(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Unpacks a blob of the store into a directory of its own.
fn unpack_blob(
    store: &Store,
    blob: &LayerBlob,
    lower: Option<&dyn Lower>,
) -> Result<(NewLayer, Unpacked), BlobError> {
    let kind = &blob.descriptor.media_type;
    let compression = layer_compression(kind).ok_or_else(|| BlobError::Kind(kind.clone()))?;
    let packed = store.open(&blob.descriptor)?;
    let tar = compress::decompress(packed, compression)?;
    let mut tar = VerifyingReader::new(tar, blob.diff_id.digest().clone(), None)?;
    let new = store.new_layer()?;
    let root = Root::open(new.fs())?;
    let options = UnpackOptions {
        lower,
        ..UnpackOptions::new(Form::Overlay { user_xattr: false })
    };
    let unpacked = unpack(&mut tar, &root, &options)?;
    // All of it, so that all of it is verified.
    io::copy(&mut tar, &mut io::sink())?;
    Ok((new, unpacked))
}

/// The layers below one that is unpacked.
struct Below(Merged);

impl Lower for Below {
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let Some(node) = self.0.lookup(path, false)? else {
            return Ok(None);
        };
        Ok(Some(Entry {
            path: path.to_path_buf(),
            kind: node.kind,
            meta: Meta {
                xattrs: self.0.xattrs(path)?,
                ..node.meta
            },
        }))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.0.open(path)
    }
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
