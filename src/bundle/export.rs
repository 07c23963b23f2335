//! The files of an image as one tar.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use super::BundleError;
use crate::event::Cancel;
use crate::image::{Image, WatchedBlobs};
use crate::layer::bits::Bits;
use crate::layer::merge::{Headers, LayerBlob, Merge};
use crate::layer::pile::Spools;
use crate::layer::stack::{Found, NameId, Origin, Stack};
use crate::layer::tar_write::TarWriter;
use crate::layer::{Entry, Kind};

/// Layers whose headers are read at a time.
const THREADS: usize = 4;

/// Writes what the layers of `image` make together.
///
/// Directories that get entries later come once more at the end, so that
/// programs which set their times early leave the right ones.
///
/// # Errors
/// When a layer can't be had or applied, or `out` fails.
pub fn export(
    image: &Image,
    spools: &Spools,
    out: impl Write,
    cancel: &Cancel,
) -> Result<(), BundleError> {
    let layers = LayerBlob::of(image);
    let blobs = WatchedBlobs::new(Arc::clone(&image.blobs), cancel.clone());
    let write = || -> Result<(), BundleError> {
        let headers = Headers {
            blobs: &blobs,
            threads: THREADS,
            known: None,
            spools,
        };
        let merge = Merge::read(layers, 0, headers)?;
        let out = BufWriter::with_capacity(1 << 20, out);
        let mut tar = TarWriter::new(out, None);
        merge.write(&blobs, &mut tar)?;
        directories(merge.stack(), &mut tar)?;
        tar.finish()
            .and_then(|mut out| out.flush())
            .map_err(BundleError::Output)
    };
    match write() {
        Err(_) if cancel.is_cancelled() => Err(BundleError::Cancelled),
        other => other,
    }
}

/// Writes directories again that get entries after something outside of them.
fn directories<W: Write>(stack: &Stack, tar: &mut TarWriter<W>) -> Result<(), BundleError> {
    let names: Vec<NameId> = stack.names().collect();
    // Of the directories that something was seen of.
    let mut spans: HashMap<NameId, Span> = HashMap::new();
    let mut again = Vec::new();
    let mut seen = Bits::default();
    // What is in a directory comes after it.
    for name in names.into_iter().rev() {
        let mut span = spans.remove(&name).unwrap_or_default();
        let mut dir = None;
        let origin = match stack.get(name) {
            Some(Found::Node(node)) => {
                // A link comes with its file, wherever that is.
                span.scattered |= !seen.insert(node.index() as u32);
                Some(stack.origin_of(node))
            }
            Some(Found::Dir(found)) => {
                dir = found.stated();
                dir.map(|(origin, _)| origin)
            }
            None => None,
        };
        span.add(origin);
        if let Some((first, meta)) = dir
            && !span.is_all_after(first)
        {
            again.push((name, meta));
        }
        let parent = stack.parent(name);
        if parent != name {
            spans.entry(parent).or_default().join(&span);
        }
    }
    for (name, meta) in again.into_iter().rev() {
        let entry = Entry {
            path: stack.path(name),
            kind: Kind::Dir,
            meta: meta.clone(),
        };
        tar.put(&entry, &mut io::empty())
            .map_err(crate::layer::merge::MergeError::from)?;
    }
    Ok(())
}

/// Where the entries of a subtree are.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    last: Option<Origin>,
    count: u32,
    /// Not all are in one place.
    scattered: bool,
}

impl Span {
    fn add(&mut self, origin: Option<Origin>) {
        self.last = self.last.max(origin);
        self.scattered |= origin.is_none();
        self.count += 1;
    }

    fn join(&mut self, below: &Self) {
        self.last = self.last.max(below.last);
        self.scattered |= below.scattered;
        self.count += below.count;
    }

    /// Whether all are right behind `first`, with nothing between.
    fn is_all_after(&self, first: Origin) -> bool {
        self.last.is_some_and(|last| {
            let behind = last.entry.checked_sub(first.entry);
            last.layer == first.layer && behind == self.count.checked_sub(1)
        }) && !self.scattered
    }
}
