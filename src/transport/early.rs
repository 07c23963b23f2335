//! Blobs that are on their way to a registry while they are being made.
//!
//! A registry wants a blob's digest only at the end of its upload, and takes its
//! time to write what it gets to its disk. So a large layer is sent in parts as
//! it grows: the store's file is read behind the one who writes it. All this is
//! only ever a head start. Whatever goes wrong ends the upload and nothing else:
//! the copy that comes at the end asks the registry what it has, and sends the
//! rest. Manifests are sent by that copy alone.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::digest::Digest;
use crate::event::Cancel;
use crate::image::{BlobSink, BlobWriter};
use crate::registry::{PartialUpload, Repository};
use crate::store::{Ingest, Store};

/// Bytes that are sent at a time; a smaller blob is not worth a head start.
const PART: u64 = 8 << 20;
/// Blobs that are sent at a time: each has a part in memory.
const MAX_UPLOADS: usize = 2;

/// A store whose large new blobs are sent to a repository at once.
#[derive(Debug)]
pub struct EarlyUploads {
    store: Store,
    repository: Repository,
    cancel: Cancel,
    uploads: Arc<Mutex<Uploads>>,
}

#[derive(Debug, Default)]
struct Uploads {
    running: usize,
    threads: Vec<JoinHandle<()>>,
    /// Nobody wants the image any more.
    stopped: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EarlyUploads {
    /// Blobs go to `store`, and to `repository` as long as `cancel` does not
    /// ask to stop.
    pub fn new(store: &Store, repository: Repository, cancel: &Cancel) -> Self {
        Self {
            store: store.clone(),
            repository,
            cancel: cancel.clone(),
            uploads: Arc::default(),
        }
    }

    /// Waits until all that was begun is there, or has failed.
    pub fn wait(&self) {
        let threads = std::mem::take(&mut lock(&self.uploads).threads);
        for thread in threads {
            // An upload that went wrong is made again by the copy.
            let _ = thread.join();
        }
    }
}

impl Drop for EarlyUploads {
    fn drop(&mut self) {
        lock(&self.uploads).stopped = true;
    }
}

impl BlobSink for EarlyUploads {
    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        let blob = self.store.new_blob().map_err(io::Error::other)?;
        Ok(Box::new(Growing {
            progress: Guard(Arc::default()),
            begin: Some(Sender {
                store: self.store.clone(),
                repository: self.repository.clone(),
                cancel: self.cancel.clone(),
                uploads: Arc::clone(&self.uploads),
            }),
            blob,
        }))
    }

    fn has(&self, digest: &Digest) -> bool {
        self.store.has(digest)
    }
}

/// How far a blob is.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<(u64, End)>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// It is whole.
    Done(Digest),
    /// It was given up.
    Lost,
}

impl Progress {
    fn set(&self, change: impl FnOnce(&mut (u64, End))) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// Waits until there is a part behind `sent`, or the end is known.
    fn wait(&self, sent: u64) -> (u64, End) {
        let mut state = lock(&self.state);
        while state.1 == End::Open && state.0 - sent < PART {
            state = (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
        state.clone()
    }
}

/// A blob that is being written.
struct Growing {
    progress: Guard,
    /// Sends it, once it is large enough.
    begin: Option<Sender>,
    blob: Ingest,
}

impl Write for Growing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.blob.write(buf)?;
        let bytes = self.blob.bytes();
        if bytes >= 2 * PART
            && let Some(sender) = self.begin.take()
            && let Ok(file) = self.blob.reader()
        {
            sender.start(file, &self.progress.0);
        }
        self.progress.0.set(|state| state.0 = bytes);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blob.flush()
    }
}

impl BlobWriter for Growing {
    fn commit(self: Box<Self>, digest: &Digest) -> io::Result<()> {
        let Self { progress, blob, .. } = *self;
        let stored = Box::new(blob).commit(digest);
        progress.0.set(|state| {
            state.1 = match &stored {
                Ok(()) => End::Done(digest.clone()),
                Err(_) => End::Lost,
            }
        });
        stored
    }
}

/// Ends what waits for a blob that nobody finishes.
struct Guard(Arc<Progress>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(|state| {
            if state.1 == End::Open {
                state.1 = End::Lost;
            }
        });
    }
}

struct Sender {
    store: Store,
    repository: Repository,
    cancel: Cancel,
    uploads: Arc<Mutex<Uploads>>,
}

impl Sender {
    fn start(self, file: File, progress: &Arc<Progress>) {
        let uploads = Arc::clone(&self.uploads);
        let mut uploads = lock(&uploads);
        if uploads.running >= MAX_UPLOADS || uploads.stopped {
            return;
        }
        let progress = Arc::clone(progress);
        let thread = std::thread::Builder::new().name("upload".into());
        let thread = thread.spawn(move || {
            let mut upload = None;
            if !self.send(&file, &progress, &mut upload)
                && let Some(upload) = &upload
            {
                self.repository.give_up_parts(upload);
            }
            lock(&self.uploads).running -= 1;
        });
        if let Ok(thread) = thread {
            uploads.running += 1;
            uploads.threads.push(thread);
        }
    }

    /// Whether the repository has the blob then.
    fn send(&self, file: &File, progress: &Progress, upload: &mut Option<PartialUpload>) -> bool {
        let Ok(Some(begun)) = self.repository.upload_in_parts(PART) else {
            return false;
        };
        let upload = upload.insert(begun);
        let mut part = Vec::new();
        loop {
            let (bytes, end) = progress.wait(upload.sent());
            if end == End::Lost || self.cancel.is_cancelled() || lock(&self.uploads).stopped {
                return false;
            }
            let left = bytes - upload.sent();
            if left == 0
                && let End::Done(digest) = end
            {
                return self.finish(upload, &digest);
            }
            part.resize(usize::try_from(left.min(PART)).unwrap_or(0), 0);
            if file.read_exact_at(&mut part, upload.sent()).is_err()
                || self.repository.send_part(upload, &part).is_err()
            {
                return false;
            }
        }
    }

    fn finish(&self, upload: &PartialUpload, digest: &Digest) -> bool {
        let done = self.repository.finish_parts(upload, digest).is_ok();
        if done {
            let (registry, name) = (self.repository.registry(), self.repository.name());
            let _ = self.store.note_place(digest, registry, name);
        }
        done
    }
}
