//! Carrying a plan out.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::convert::{self, Recompress};
use super::plan::{Plan, Selection};
use super::{Source, TransportError};
use crate::event::{Cancel, Events, Outcome, Task};
use crate::image::Descriptor;
use crate::image::media_type::Format;
use crate::registry::Repository;

/// A report of progress at most every so many bytes.
const PROGRESS_STEP: u64 = 256 << 10;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Which images of an index.
    pub selection: Selection,
    /// The family of manifests to write; as it is when `None`.
    pub format: Option<Format>,
    /// How layers are compressed there; as they are when `None`.
    pub recompress: Option<Recompress>,
    /// Fails where a digest would change.
    pub preserve_digests: bool,
    /// Blobs at a time.
    pub jobs: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            selection: Selection::All,
            format: None,
            recompress: None,
            preserve_digests: false,
            jobs: 8,
        }
    }
}

/// Told how many bytes of the current attempt are done.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Somewhere images can be written to.
///
/// For one image [`copy`] calls, in this order, [`check`](Self::check),
/// [`begin`](Self::begin),
/// [`has`](Self::has) and [`put_blob`](Self::put_blob) for the blobs (from
/// several threads), [`put_manifest`](Self::put_manifest) for all manifests
/// but the root, and [`finish`](Self::finish). After the last image comes
/// [`close`](Self::close).
pub trait Destination: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// Looks at what is coming, and refuses what can't be held. Changes
    /// nothing.
    fn check(&self, plan: &Plan) -> Result<(), TransportError> {
        let _ = plan;
        Ok(())
    }

    /// Makes ready for what is coming.
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

    /// What a copy would do about the blob. Changes nothing.
    fn fate(&self, blob: &Descriptor, source: &Source) -> Result<Fate, TransportError> {
        let _ = source;
        Ok(if self.has(blob)? {
            Fate::Present
        } else {
            Fate::Send
        })
    }

    /// The repository that it writes to: others of its registry take blobs
    /// from there.
    fn repository(&self) -> Option<Repository> {
        None
    }

    /// Whether manifests get there as they are.
    fn keeps_manifests(&self) -> bool {
        true
    }
}

/// What a copy does about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Present,
    /// The registry is asked to take it over from this repository.
    Mount(String),
    /// It is sent.
    Send,
    /// It is compressed anew, and sent unless the result is there.
    Recompress,
}

/// What a copy would do.
#[derive(Debug, Clone)]
pub struct Preview {
    /// What would name the image; `None` where only the work tells.
    pub root: Option<Descriptor>,
    /// The blobs, in order.
    pub blobs: Vec<(Descriptor, Fate)>,
    /// The manifests, the root last.
    pub manifests: Vec<Descriptor>,
}

/// Says what [`copy`] would do. Nothing is written; the source's manifests are
/// read, and the destination is asked for each blob.
///
/// # Errors
/// As [`copy`], as far as it can be known.
pub fn preview(
    source: &Source,
    destination: &dyn Destination,
    options: &CopyOptions,
) -> Result<Preview, TransportError> {
    let doomed = convert::layers(source, options)?;
    let plan = Plan::make(source, &options.selection, &convert::rewrite(options))?;
    destination.check(&plan)?;
    keeps(source, destination, options, &plan, !doomed.is_empty())?;
    let mut blobs = Vec::with_capacity(plan.blobs.len());
    for blob in &plan.blobs {
        let fate = if doomed.iter().any(|(layer, _)| layer.digest == blob.digest) {
            Fate::Recompress
        } else {
            destination.fate(blob, source)?
        };
        blobs.push((blob.clone(), fate));
    }
    Ok(Preview {
        root: (doomed.is_empty() && destination.keeps_manifests()).then_some(plan.root),
        blobs,
        manifests: plan.manifests.into_iter().map(|(d, _)| d).collect(),
    })
}

/// Holds a copy to [`CopyOptions::preserve_digests`].
fn keeps(
    source: &Source,
    destination: &dyn Destination,
    options: &CopyOptions,
    plan: &Plan,
    recompressed: bool,
) -> Result<(), TransportError> {
    let same = match &options.selection {
        Selection::Several(_) => plan.root.digest == source.descriptor.digest,
        Selection::All | Selection::One(_) => !plan.rewritten,
    };
    if !options.preserve_digests || same && !recompressed && destination.keeps_manifests() {
        return Ok(());
    }
    Err(TransportError::Unfit {
        place: destination.name(),
        name: source.name.clone(),
        reason: "its digest would change, which was forbidden".into(),
    })
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
    let prepared = prepare(source, options, events, cancel)?;
    let descriptor = copy_one(&prepared, destination, options, events, cancel)?;
    destination.close()?;
    Ok(descriptor)
}

/// Copies one image to several destinations and completes them. What has to be
/// converted is converted once; repositories of one registry take blobs from
/// the first of them that got them.
///
/// # Errors
/// As [`copy`]; destinations before the one that failed are complete.
pub fn copy_to_each(
    source: &Source,
    destinations: &[Box<dyn Destination>],
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<Vec<Descriptor>, TransportError> {
    let mut prepared = prepare(source, options, events, cancel)?;
    let mut copied = Vec::with_capacity(destinations.len());
    for destination in destinations {
        copied.push(copy_one(
            &prepared,
            &**destination,
            options,
            events,
            cancel,
        )?);
        destination.close()?;
        if let Some(repository) = destination.repository() {
            // It has all blobs now, so it is asked first.
            prepared.source.repositories.insert(0, repository);
        }
    }
    Ok(copied)
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
        let prepared = prepare(source, options, events, cancel)?;
        copied.push(copy_one(&prepared, destination, options, events, cancel)?);
    }
    destination.close()?;
    Ok(copied)
}

/// What is copied, when all that had to be converted is.
struct Prepared {
    source: Source,
    plan: Plan,
    recompressed: bool,
}

fn prepare(
    source: &Source,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<Prepared, TransportError> {
    let doomed = convert::layers(source, options)?;
    let mut rewrite = convert::rewrite(options);
    let mut source = source.clone();
    let recompressed = !doomed.is_empty();
    if recompressed {
        let task = events.start(format!("compress layers of {}", source.name));
        let made = convert::recompress(&source, doomed, options, &task, cancel);
        task.finish(outcome(&made));
        let (layers, blobs) = made?;
        rewrite.layers = layers;
        source.blobs = blobs;
    }
    let plan = Plan::make(&source, &options.selection, &rewrite)?;
    Ok(Prepared {
        source,
        plan,
        recompressed,
    })
}

fn outcome<T>(result: &Result<T, TransportError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(TransportError::Cancelled) => Outcome::Cancelled,
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

fn copy_one(
    prepared: &Prepared,
    destination: &dyn Destination,
    options: &CopyOptions,
    events: &Events,
    cancel: &Cancel,
) -> Result<Descriptor, TransportError> {
    let name = &prepared.source.name;
    let task = events.start(format!("copy {name} to {}", destination.name()));
    let result = carry_out(prepared, destination, options, &task, cancel);
    task.finish(outcome(&result));
    result
}

fn carry_out(
    prepared: &Prepared,
    destination: &dyn Destination,
    options: &CopyOptions,
    task: &Task,
    cancel: &Cancel,
) -> Result<Descriptor, TransportError> {
    let Prepared {
        source,
        plan,
        recompressed,
    } = prepared;
    destination.check(plan)?;
    keeps(source, destination, options, plan, *recompressed)?;
    destination.begin(plan)?;
    copy_blobs(source, destination, plan, options.jobs, task, cancel)?;
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
    destination.finish(plan)
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
