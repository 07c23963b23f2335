//! Carrying a plan out.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::plan::{Plan, Selection};
use super::{Source, TransportError};
use crate::event::{Cancel, Events, Outcome, Task};
use crate::image::Descriptor;
use crate::image::media_type::Format;

/// A report of progress at most every so many bytes.
const PROGRESS_STEP: u64 = 256 << 10;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Which images of an index.
    pub selection: Selection,
    /// The family of manifests to write; as it is when `None`.
    pub format: Option<Format>,
    /// Blobs at a time.
    pub jobs: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            selection: Selection::All,
            format: None,
            jobs: 4,
        }
    }
}

/// Told how many bytes of the current attempt are done.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Somewhere images can be written to.
///
/// For one image [`copy`] calls, in this order, [`begin`](Self::begin),
/// [`has`](Self::has) and [`put_blob`](Self::put_blob) for the blobs (from
/// several threads), [`put_manifest`](Self::put_manifest) for all manifests
/// but the root, and [`finish`](Self::finish). After the last image comes
/// [`close`](Self::close).
pub trait Destination: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// Looks at what is coming, and refuses what can't be held.
    fn begin(&self, plan: &Plan) -> Result<(), TransportError> {
        let _ = plan;
        Ok(())
    }

    /// Whether the blob is there already.
    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError>;

    /// Stores a blob of `source`, whole or not at all.
    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError>;

    /// Stores a manifest or index whose parts are there.
    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError>;

    /// Stores the root and gives it its names. Says what names it here.
    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError>;

    /// Completes the whole; nothing of an archive is visible before.
    fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }

    /// How many blobs it can take at the same time.
    fn parallel(&self) -> usize {
        usize::MAX
    }
}

/// Copies one image and completes the destination. Says what names the image
/// there: the source's own descriptor unless it had to be converted.
///
/// # Errors
/// See [`TransportError`]; the destination then has no new name.
pub fn copy(
    source: &Source,
    destination: &dyn Destination,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<Descriptor, TransportError> {
    let descriptor = copy_one(source, destination, options, events, cancel)?;
    destination.close()?;
    Ok(descriptor)
}

/// Copies several images into one destination and completes it.
///
/// # Errors
/// See [`TransportError`].
pub fn copy_all(
    sources: &[Source],
    destination: &dyn Destination,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<Vec<Descriptor>, TransportError> {
    let mut copied = Vec::with_capacity(sources.len());
    for source in sources {
        copied.push(copy_one(source, destination, options, events, cancel)?);
    }
    destination.close()?;
    Ok(copied)
}

fn copy_one(
    source: &Source,
    destination: &dyn Destination,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<Descriptor, TransportError> {
    let task = events.start(format!("copy {} to {}", source.name, destination.name()));
    let result = carry_out(source, destination, options, &task, cancel);
    task.finish(match &result {
        Ok(_) => Outcome::Done,
        Err(TransportError::Cancelled) => Outcome::Cancelled,
        Err(e) => Outcome::Failed(e.to_string()),
    });
    result
}

fn carry_out(
    source: &Source,
    destination: &dyn Destination,
    options: &CopyOptions,
    task: &Task,
    cancel: &Cancel,
) -> Result<Descriptor, TransportError> {
    let plan = Plan::make(source, &options.selection, options.format)?;
    destination.begin(&plan)?;
    copy_blobs(source, destination, &plan, options.jobs, task, cancel)?;
    let inner = plan.manifests.len().saturating_sub(1);
    for (descriptor, bytes) in plan.manifests.iter().take(inner) {
        if cancel.is_cancelled() {
            return Err(TransportError::Cancelled);
        }
        destination.put_manifest(descriptor, bytes)?;
    }
    if cancel.is_cancelled() {
        return Err(TransportError::Cancelled);
    }
    destination.finish(&plan)
}

fn copy_blobs(
    source: &Source,
    destination: &dyn Destination,
    plan: &Plan,
    jobs: usize,
    task: &Task,
    cancel: &Cancel,
) -> Result<(), TransportError> {
    let queue: Mutex<VecDeque<&Descriptor>> = Mutex::new(plan.blobs.iter().collect());
    let failed = AtomicBool::new(false);
    let first_error: Mutex<Option<TransportError>> = Mutex::new(None);
    let workers = jobs
        .max(1)
        .min(destination.parallel())
        .min(plan.blobs.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(blob) = next else { return };
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(error) = copy_blob(source, destination, blob, task, cancel) {
                        failed.store(true, Ordering::Relaxed);
                        first_error
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match first_error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn copy_blob(
    source: &Source,
    destination: &dyn Destination,
    blob: &Descriptor,
    task: &Task,
    cancel: &Cancel,
) -> Result<(), TransportError> {
    if cancel.is_cancelled() {
        return Err(TransportError::Cancelled);
    }
    let item = blob.digest.short();
    if destination.has(blob)? {
        task.progress(item, blob.size, Some(blob.size));
        return Ok(());
    }
    task.progress(item, 0, Some(blob.size));
    let reported = AtomicU64::new(0);
    let report = |done: u64| {
        let last = reported.load(Ordering::Relaxed);
        if done < last || done - last >= PROGRESS_STEP {
            reported.store(done, Ordering::Relaxed);
            task.progress(item, done, Some(blob.size));
        }
    };
    let result = match destination.put_blob(blob, source, &report) {
        // Damage on the way is worth one more try from the start.
        Err(error) if is_damage(&error) && !cancel.is_cancelled() => {
            destination.put_blob(blob, source, &report)
        }
        result => result,
    };
    result?;
    task.progress(item, blob.size, Some(blob.size));
    Ok(())
}

fn is_damage(error: &TransportError) -> bool {
    match error {
        TransportError::Blob { source, .. } => source.kind() == io::ErrorKind::InvalidData,
        TransportError::Registry(e) => match &*e.failure {
            crate::registry::Failure::Source { source, .. } => {
                source.kind() == io::ErrorKind::InvalidData
            }
            _ => false,
        },
        _ => false,
    }
}

/// Counts what passes through.
pub(super) struct Counted<'a, R> {
    pub(super) inner: R,
    pub(super) done: u64,
    pub(super) progress: Progress<'a>,
}

impl<R: io::Read> io::Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.done += n as u64;
        (self.progress)(self.done);
        Ok(n)
    }
}
