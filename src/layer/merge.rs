//! Several layers as one: what an unpacker would have made of them, as a tar.
//!
//! The layers are read twice as streams. The first time for their headers, on
//! several threads, into a [`Stack`]; the second time for the contents that are
//! still there in the end. No layer is held in memory or unpacked to disk.
//!
//! With layers that stay below, only what the others change is written, with
//! whiteouts and opaque markers for what they hide of those.
//!
//! ```text
//!  blobs ─ headers ─▶ Stack ─▶ which entries, in order
//!  blobs ─ contents ────────────────▼
//!                                  tar: markers, entries by their origin,
//!                                       links to layers below
//! ```
//! A file comes where its layer had it, a directory before what is in it, a
//! hard link right after its file. Entries keep all their attributes; the tar
//! depends on the layers alone.
//!
//! # Specification
//! image-spec `layer.md`.

mod order;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use self::order::Order;
use super::bits::Bits;
use super::index::LayerIndex;
use super::pile::Spools;
use super::stack::{Found, NameId, NodeId, Stack, StackError};
use super::tar_read::{Item, Names, TarError, TarReader};
use super::tar_write::{TarWriter, WriteError};
use super::{Entry, Kind, MAX_ENTRIES, MAX_TAR_BYTES, Meta, pipeline};
use crate::digest::{DiffId, Digest};
use crate::image::{BlobSource, Descriptor, Image};

/// Items that are handed over at a time, and how many times the readers of
/// layers may be ahead, all together.
const BATCH: usize = 256;
const AHEAD: usize = 32;

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Names the blob.
    pub blob: Descriptor,
    /// Names the tar inside.
    pub diff_id: DiffId,
}

impl LayerBlob {
    /// An image's layers, lowest first.
    pub fn of(image: &Image) -> Vec<Self> {
        let layers = image.manifest.layers.iter();
        layers
            .zip(&image.config.rootfs.diff_ids)
            .map(|(blob, diff_id)| Self {
                blob: blob.clone(),
                diff_id: diff_id.clone(),
            })
            .collect()
    }
}

/// Why layers can't be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A blob can't be opened.
    #[error("can't read the layer {layer}")]
    Open {
        /// Digest of the layer's blob.
        layer: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer is malformed.
    #[error("can't read the layer {layer}")]
    Tar {
        /// Digest of the layer's blob.
        layer: String,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// A layer has an entry that can't be applied.
    #[error("the layer {layer} can't be applied")]
    Entry {
        /// Digest of the layer's blob.
        layer: String,
        /// What is wrong.
        #[source]
        source: StackError,
    },
    /// A layer is too large.
    #[error("the layer {layer} has more than {MAX_ENTRIES} entries")]
    Entries {
        /// Digest of the layer's blob.
        layer: String,
    },
    /// The result can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl MergeError {
    fn open(layer: &LayerBlob) -> impl FnOnce(io::Error) -> Self + use<> {
        let layer = layer.blob.digest.to_string();
        move |source| Self::Open { layer, source }
    }

    fn tar(layer: &LayerBlob) -> impl FnOnce(TarError) -> Self + use<> {
        let layer = layer.blob.digest.to_string();
        move |source| Self::Tar { layer, source }
    }
}

/// Finds the index of a blob, where one is known.
pub type Known = dyn Fn(&Digest) -> Option<LayerIndex> + Send + Sync;

/// How the headers of layers are read.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    /// Has the layers.
    pub blobs: &'a dyn BlobSource,
    /// Layers that are read at the same time.
    pub threads: usize,
    /// Layers with an index are not read at all.
    pub known: Option<&'a Known>,
    /// Makes places for the names that are kept.
    pub spools: &'a Spools,
}

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Headers({} threads)", self.threads)
    }
}

/// Reads the headers of `layers` in order; `each` is told the number of the
/// layer with each of its elements. The next layers are read ahead. All blobs
/// without a known index have been read to their end, and verified, when it
/// returns.
///
/// # Errors
/// When a layer can't be read, or `each` says so.
pub fn read_items(
    layers: &[LayerBlob],
    headers: Headers<'_>,
    mut each: impl FnMut(usize, Item) -> Result<(), MergeError>,
) -> Result<(), MergeError> {
    let threads = headers.threads.max(1);
    let ahead = (AHEAD / threads).max(2);
    std::thread::scope(|scope| {
        let mut begun = layers.iter();
        let mut running = VecDeque::new();
        for (number, layer) in layers.iter().enumerate() {
            while running.len() < threads {
                let Some(layer) = begun.next() else { break };
                let (sender, receiver) = mpsc::sync_channel(ahead);
                scope.spawn(move || read_layer(layer, headers, &sender));
                running.push_back(receiver);
            }
            let mut entries = 0;
            for batch in running.pop_front().into_iter().flatten() {
                for item in batch? {
                    entries += 1;
                    if entries > MAX_ENTRIES {
                        let layer = layer.blob.digest.to_string();
                        return Err(MergeError::Entries { layer });
                    }
                    each(number, item)?;
                }
            }
        }
        Ok(())
    })
}

type Batch = Result<Vec<Item>, MergeError>;

fn read_layer(layer: &LayerBlob, headers: Headers<'_>, out: &mpsc::SyncSender<Batch>) {
    if let Some(index) = headers.known.and_then(|known| known(&layer.blob.digest))
        && index.diff_id == layer.diff_id
    {
        let items = index.entries().map(|entry| Ok(entry?.item));
        let mut items = items.peekable();
        while items.peek().is_some() {
            let batch: io::Result<Vec<Item>> = items.by_ref().take(BATCH).collect();
            let batch = batch.map_err(MergeError::open(layer));
            if out.send(batch).is_err() {
                return;
            }
        }
        return;
    }
    let blobs = headers.blobs;
    let read = || {
        let tar = pipeline::open(&layer.blob, Some(&layer.diff_id), blobs);
        let tar = tar.map_err(MergeError::open(layer))?;
        let mut reader = TarReader::new(tar, Names::Layer);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let item = reader.next_entry().map_err(MergeError::tar(layer))?;
            let end = item.is_none();
            batch.extend(item);
            if end || batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                // Nobody listens when another layer has failed.
                if out.send(Ok(full)).is_err() {
                    return Ok(());
                }
            }
            if reader.position() > MAX_TAR_BYTES || end {
                break;
            }
        }
        reader
            .finish(MAX_TAR_BYTES)
            .map_err(MergeError::tar(layer))?;
        Ok(())
    };
    if let Err(error) = read() {
        let _ = out.send(Err(error));
    }
}

/// Layers whose headers have been read.
#[derive(Debug)]
pub struct Merge {
    layers: Vec<LayerBlob>,
    stack: Stack,
}

impl Merge {
    /// Reads the headers of `layers`, of which the first `below` stay as they
    /// are below what is made of the others.
    ///
    /// # Errors
    /// When a layer can't be read, or an unpacker would refuse it.
    pub fn read(
        layers: Vec<LayerBlob>,
        below: usize,
        headers: Headers<'_>,
    ) -> Result<Self, MergeError> {
        let mut stack = Stack::new(headers.spools.clone());
        let mut current = 0;
        let enter = |stack: &mut Stack, current: &mut usize, number: usize| {
            while *current < number {
                *current += 1;
                stack.next_layer();
                if *current == below {
                    stack.split();
                }
            }
        };
        read_items(&layers, headers, |number, item| {
            enter(&mut stack, &mut current, number);
            let applied = stack.apply(&item);
            applied.map(drop).map_err(|source| MergeError::Entry {
                layer: layers[number].blob.digest.to_string(),
                source,
            })
        })?;
        enter(&mut stack, &mut current, layers.len());
        stack.finish();
        Ok(Self { layers, stack })
    }

    /// The tree that they make.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Writes what they make into `out`, without the archive's end.
    ///
    /// # Errors
    /// When a layer can't be read again, or `out` fails.
    pub fn write<W: Write>(
        &self,
        blobs: &dyn BlobSource,
        out: &mut TarWriter<W>,
    ) -> Result<(), MergeError> {
        let mut writer = Writer {
            stack: &self.stack,
            out,
            written: Bits::default(),
        };
        writer.markers()?;
        let order = Order::of(&self.stack);
        let mut entries = order.entries();
        let numbers = &order.layers;
        let mut opened = VecDeque::new();
        for (at, number) in numbers.iter().enumerate() {
            for ahead in &numbers[at + opened.len()..numbers.len().min(at + 2)] {
                let layer = &self.layers[*ahead as usize];
                // Its content was found to be right the first time.
                let tar = pipeline::open(&layer.blob, None, blobs);
                opened.push_back(tar.map_err(MergeError::open(layer))?);
            }
            let Some(tar) = opened.pop_front() else { break };
            let layer = &self.layers[*number as usize];
            let mut reader = TarReader::new(tar, Names::Layer);
            let mut here = self.stack.first_of(*number);
            while let Some(item) = reader.next_entry().map_err(MergeError::tar(layer))? {
                while let Some(dir) = entries.dir_before(here) {
                    writer.dir(dir)?;
                }
                if let (names @ [_, ..], Item::Put(entry)) = (entries.names_of(here), item) {
                    writer.node(entry, names, &mut reader.body())?;
                }
                here = here.saturating_add(1);
            }
            reader
                .finish(MAX_TAR_BYTES)
                .map_err(MergeError::tar(layer))?;
        }
        while let Some(dir) = entries.dir_before(u32::MAX) {
            writer.dir(dir)?;
        }
        for dir in &order.implied {
            writer.dir(*dir)?;
            writer.implied(*dir)?;
        }
        for (name, target) in &order.links {
            let meta = self.stack.linked(*name).cloned().unwrap_or_default();
            writer.link(*name, &self.stack.path(*target), meta)?;
        }
        Ok(())
    }
}

struct Writer<'a, W: Write> {
    stack: &'a Stack,
    out: &'a mut TarWriter<W>,
    /// Directories that were written, with all above them.
    written: Bits,
}

impl<W: Write> Writer<'_, W> {
    /// What is gone from the layers below.
    fn markers(&mut self) -> Result<(), MergeError> {
        for name in self.stack.names() {
            let Some(Found::Dir(dir)) = self.stack.get(name) else {
                continue;
            };
            if self.stack.needs_opaque(name) {
                self.dir(name)?;
                self.out.opaque(&self.stack.path(name))?;
                continue;
            }
            let mut path: Option<PathBuf> = None;
            for gone in dir.removed() {
                let path = path.get_or_insert_with(|| self.stack.path(name));
                self.out.whiteout(&path.join(gone))?;
            }
        }
        Ok(())
    }

    /// Writes a directory and those that lead to it, unless they are there.
    fn dir(&mut self, name: NameId) -> Result<(), MergeError> {
        let mut todo = Vec::new();
        let mut here = name;
        while self.written.insert(here.index() as u32) {
            todo.push(here);
            here = self.stack.parent(here);
        }
        for name in todo.into_iter().rev() {
            if !self.stack.is_new(name) {
                continue;
            }
            let stated = self.stack.dir(name).and_then(|dir| dir.stated());
            match stated {
                Some((_, meta)) => self.empty(name, Kind::Dir, meta.clone())?,
                // It must not get what the one below it has.
                None if self.stack.replaces(name) => self.implied(name)?,
                None => {}
            }
        }
        Ok(())
    }

    fn empty(&mut self, name: NameId, kind: Kind, meta: Meta) -> Result<(), MergeError> {
        let path = self.stack.path(name);
        let entry = Entry { path, kind, meta };
        Ok(self.out.put(&entry, &mut io::empty())?)
    }

    fn implied(&mut self, name: NameId) -> Result<(), MergeError> {
        let meta = Meta {
            mode: 0o755,
            ..Meta::default()
        };
        self.empty(name, Kind::Dir, meta)
    }

    fn node(
        &mut self,
        mut entry: Entry,
        names: &[(NodeId, NameId)],
        body: &mut dyn Read,
    ) -> Result<(), MergeError> {
        let Some(((_, first), links)) = names.split_first() else {
            return Ok(());
        };
        self.dir(self.stack.parent(*first))?;
        entry.path = self.stack.path(*first);
        self.out.put(&entry, body)?;
        for (_, name) in links {
            // Unpackers set owner and attributes of the file once more.
            self.link(*name, &entry.path, entry.meta.clone())?;
        }
        Ok(())
    }

    fn link(&mut self, name: NameId, target: &Path, meta: Meta) -> Result<(), MergeError> {
        self.dir(self.stack.parent(name))?;
        let target = target.to_owned();
        self.empty(name, Kind::Hardlink { target }, meta)
    }
}

#[cfg(test)]
mod tests;
