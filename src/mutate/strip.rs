//! Without some files: hidden by whiteouts in one layer more, or taken out of
//! the layers themselves.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Draft, MutateError, NewBlobs, append};
use crate::image::{History, Image};
use crate::layer::bits::Bits;
use crate::layer::code::{self, Input, number};
use crate::layer::merge::{LayerBlob, Merge, MergeError, read_items};
use crate::layer::pipeline::{LayerWriter, open, seal};
use crate::layer::stack::{Applied, Found, Metas, NameId, NodeId, Origin, Stack};
use crate::layer::tar_read::{Item, Names, TarError, TarReader};
use crate::layer::{self, Entry, Kind, MAX_TAR_BYTES};

/// Says whether what has this path (relative, without links) is to go. Where it
/// does, so does all below it.
pub type Matches<'a> = &'a (dyn Fn(&Path) -> bool + Sync);

fn goes(matches: Matches<'_>, path: &Path) -> bool {
    !path.as_os_str().is_empty() && matches(path)
}

/// Hides what `matches` by whiteouts in one layer more, of which `history`
/// tells. An image without such files stays as it is.
///
/// # Errors
/// When a layer can't be read, or the sink fails.
pub fn hide(
    image: &Image,
    matches: Matches<'_>,
    history: History,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let merge = Merge::read(LayerBlob::of(image), 0, new.headers(image))?;
    let stack = merge.stack();
    let mut gone = Vec::new();
    let mut names = stack.names();
    while let Some(name) = names.next() {
        if goes(matches, &stack.path(name)) {
            gone.push(name);
            names.skip_below(name);
        }
    }
    if gone.is_empty() {
        return Ok(image.clone());
    }
    let gone = gone.into_iter().map(|name| stack.path(name));
    let gone = gone.map(|path| Ok(layer::Change::Whiteout(path)));
    let sealed = seal(gone, &*new.sink, &new.seal_for(image))?;
    append::add(image, sealed, history, new)
}

/// Takes what `matches` out of the layers themselves; `history` tells of it, as
/// an entry that made no layer. Layers without such entries stay as they are.
///
/// A file of which another hard link stays is kept under that name.
///
/// # Errors
/// When a layer can't be read, has something that no unpacker would take, or
/// the sink fails.
pub fn purge(
    image: &Image,
    matches: Matches<'_>,
    history: History,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let mut layers = LayerBlob::of(image);
    let plan = Plan::make(&layers, image, matches, new)?;
    let old = layers.clone();
    let mut changed = false;
    for (number, layer) in layers.iter_mut().enumerate() {
        let Some(cuts) = plan.layers.get(&number) else {
            continue;
        };
        *layer = write(image, &old, number, (cuts, &plan), new)?;
        changed = true;
    }
    if !changed {
        return Ok(image.clone());
    }
    let mut draft = Draft::new(image);
    draft.set_layers(layers);
    draft.config.created.clone_from(&history.created);
    draft.config.history.push(History {
        empty_layer: true,
        ..history
    });
    draft.finish(new)
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Stay,
    /// It goes, or comes at the layer's end.
    Drop,
    /// It is written under another path, or links to another name of its file.
    Change(Change),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Change {
    path: Option<PathBuf>,
    target: Option<PathBuf>,
}

/// Changes of entries in their order, packed: number of the entry, then path
/// and target, each behind a byte that says whether there is one.
#[derive(Debug, Default)]
struct Changes {
    bytes: Vec<u8>,
    /// The path, and the target, that were written last.
    last: [Vec<u8>; 2],
}

impl Changes {
    fn push(&mut self, entry: u32, change: &Change) {
        number(&mut self.bytes, entry.into());
        for (path, last) in [&change.path, &change.target]
            .into_iter()
            .zip(&mut self.last)
        {
            self.bytes.push(u8::from(path.is_some()));
            if let Some(path) = path {
                code::path(&mut self.bytes, last, path);
            }
        }
    }

    fn read(&self) -> impl Iterator<Item = (u32, Change)> + '_ {
        let mut input = Input(&self.bytes);
        let mut last: [Vec<u8>; 2] = Default::default();
        std::iter::from_fn(move || {
            let entry = input.small()?;
            let mut path = |last: &mut Vec<u8>| match input.byte()? {
                0 => Some(None),
                _ => next_path(&mut input, last).map(Some),
            };
            let [last_path, last_target] = &mut last;
            let (path, target) = (path(last_path)?, path(last_target)?);
            Some((entry, Change { path, target }))
        })
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn next_path(input: &mut Input<'_>, last: &mut Vec<u8>) -> Option<PathBuf> {
    input.path(last)?;
    Some(OsStr::from_bytes(last).into())
}

/// What becomes of a layer.
#[derive(Debug, Default)]
struct Cuts {
    /// Entries that go, in their order.
    drops: Vec<u32>,
    changes: Changes,
    /// Entries whose path, or whose target's, leads through links; and where
    /// to. Only where such links go they are changed.
    moved: Changes,
    /// Files whose first name went, by where their content is; and how many
    /// names stay, which are in `names` in the same order.
    saved: Vec<(Origin, u32)>,
    /// Path and number of the attributes of each.
    names: Vec<u8>,
}

impl Cuts {
    fn is_empty(&self) -> bool {
        self.drops.is_empty() && self.changes.is_empty() && self.saved.is_empty()
    }

    /// What becomes of the entries, asked for in their order.
    fn fates(&self, links_go: bool) -> impl FnMut(u32) -> Fate + '_ {
        let mut drops = self.drops.iter().peekable();
        let mut changes = self.changes.read().peekable();
        let mut moved = self.moved.read().peekable();
        move |entry| {
            let drop = drops.next_if_eq(&&entry);
            let change = changes.next_if(|(number, _)| *number == entry);
            let moved = moved.next_if(|(number, _)| *number == entry);
            match (drop, change.or(moved.filter(|_| links_go))) {
                (Some(_), _) => Fate::Drop,
                (None, Some((_, change))) => Fate::Change(change),
                (None, None) => Fate::Stay,
            }
        }
    }
}

#[derive(Debug, Default)]
struct Plan {
    layers: BTreeMap<usize, Cuts>,
    links_go: bool,
    metas: Metas,
}

/// A layer while it is looked at.
#[derive(Default)]
struct Current {
    cuts: Cuts,
    /// Names of files that are written at the end, with the number of their
    /// attributes, and the files.
    late: Vec<(NodeId, NameId, u32)>,
    late_files: Bits,
}

impl Current {
    fn is_late(&self, node: NodeId) -> bool {
        self.late_files.has(node.index() as u32)
    }
}

/// A name that stays, for each file that hard links were made of and that has
/// one.
type Kept = HashMap<NodeId, NameId>;

impl Plan {
    fn make(
        layers: &[LayerBlob],
        image: &Image,
        matches: Matches<'_>,
        new: &NewBlobs,
    ) -> Result<Self, MutateError> {
        let mut stack = Stack::new(new.spools.clone());
        let mut seen: Vec<Current> = vec![Current::default()];
        let mut kept = Kept::default();
        let mut plan = Self::default();
        let mut entry = 0;
        let end = |stack: &mut Stack, seen: &mut Vec<Current>| {
            if let Some(current) = seen.last_mut() {
                current.settle(stack);
            }
            stack.next_layer();
            seen.push(Current::default());
        };
        read_items(layers, new.headers(image), |number, item| {
            while seen.len() <= number {
                end(&mut stack, &mut seen);
                entry = 0;
            }
            let applied = stack.apply(&item).map_err(|source| MergeError::Entry {
                layer: layers[number].blob.digest.to_string(),
                source,
            })?;
            let (path, node) = match &applied {
                Applied::Put(name) | Applied::Linked(name, _) => {
                    (stack.path(*name), node_of(&stack, *name))
                }
                Applied::Emptied(dir) => (stack.path(*dir), None),
                Applied::Removed(dir, name) => (stack.path(*dir).join(name), None),
            };
            if let (Some(node), Applied::Linked(_, target)) = (node, &applied)
                && let hash_map::Entry::Vacant(place) = kept.entry(node)
                && !goes(matches, &stack.path(*target))
            {
                // Without any link before, it is the file's only name.
                place.insert(*target);
            }
            let current = &mut seen[number];
            if goes(matches, &path) {
                plan.links_go |= node.is_some_and(|node| stack.is_link(node));
                current.cuts.drops.push(entry);
            } else if let (Some(node), Item::Put(put)) = (node, &item)
                && let Applied::Linked(name, target) = &applied
                // Else its target is written only at the end.
                && (goes(matches, &stack.path(*target)) || current.is_late(node))
            {
                let link = (node, *name, plan.metas.intern(&put.meta));
                current.link(entry, &path, link, &stack, matches, &mut kept);
            }
            let stated = match &item {
                Item::Put(put) => &put.path,
                Item::Whiteout(path) | Item::Opaque(path) => path,
            };
            let target = match (&applied, &item) {
                (Applied::Linked(_, real), Item::Put(put)) => match &put.kind {
                    Kind::Hardlink { target } => {
                        Some(stack.path(*real)).filter(|real| real != target)
                    }
                    _ => None,
                },
                _ => None,
            };
            let moved = (*stated != path).then_some(path);
            if moved.is_some() || target.is_some() {
                let change = Change {
                    path: moved,
                    target,
                };
                current.cuts.moved.push(entry, &change);
            }
            entry += 1;
            Ok(())
        })?;
        end(&mut stack, &mut seen);
        for (number, current) in seen.into_iter().enumerate() {
            let cuts = current.cuts;
            // Without the link their paths would lead to another place.
            if !cuts.is_empty() || plan.links_go && !cuts.moved.is_empty() {
                plan.layers.insert(number, cuts);
            }
        }
        Ok(plan)
    }
}

impl Current {
    /// Decides on a hard link that stays while its target goes: it needs
    /// another target, or the content.
    fn link(
        &mut self,
        entry: u32,
        path: &Path,
        link: (NodeId, NameId, u32),
        stack: &Stack,
        matches: Matches<'_>,
        kept: &mut Kept,
    ) {
        let (node, name, _) = link;
        if self.is_late(node) {
            self.late.push(link);
            self.cuts.drops.push(entry);
            return;
        }
        let stands = |other: &NameId| {
            *other != name && node_of(stack, *other) == Some(node) && {
                // The place may have been free in between.
                !goes(matches, &stack.path(*other))
            }
        };
        match kept.get(&node).copied().filter(stands) {
            Some(other) => {
                let change = Change {
                    path: Some(path.to_owned()),
                    target: Some(stack.path(other)),
                };
                self.cuts.changes.push(entry, &change);
            }
            None => {
                self.late_files.insert(node.index() as u32);
                self.late.push(link);
                kept.insert(node, name);
                self.cuts.drops.push(entry);
            }
        }
    }

    /// Ends the layer: names that it has itself replaced again are not written.
    fn settle(&mut self, stack: &Stack) {
        let mut late = std::mem::take(&mut self.late);
        self.late_files = Bits::default();
        let mut last = Vec::new();
        late.sort_by_key(|(node, ..)| *node);
        for links in late.chunk_by(|a, b| a.0 == b.0) {
            // A place that was freed may have been taken by another of them.
            let mut seen = HashSet::new();
            let mut there = links.iter().rev().filter(|(node, name, _)| {
                node_of(stack, *name) == Some(*node) && seen.insert(*name)
            });
            let mut names: Vec<(NameId, u32)> = Vec::new();
            names.extend(there.by_ref().map(|(_, name, meta)| (*name, *meta)));
            let (Some((node, ..)), false) = (links.first(), names.is_empty()) else {
                continue;
            };
            let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
            self.cuts.saved.push((stack.origin_of(*node), count));
            for (name, meta) in names.into_iter().rev() {
                let path = stack.path(name);
                code::path(&mut self.cuts.names, &mut last, &path);
                number(&mut self.cuts.names, meta.into());
            }
        }
    }
}

fn node_of(stack: &Stack, name: NameId) -> Option<NodeId> {
    match stack.get(name) {
        Some(Found::Node(node)) => Some(node),
        Some(Found::Dir(_)) | None => None,
    }
}

fn failed(layer: &LayerBlob) -> impl Fn(TarError) -> MergeError + use<> {
    let layer = layer.blob.digest.to_string();
    move |source| MergeError::Tar {
        layer: layer.clone(),
        source,
    }
}

/// Writes the layer `number` anew, in the form it has.
fn write(
    image: &Image,
    layers: &[LayerBlob],
    number: usize,
    (cuts, plan): (&Cuts, &Plan),
    new: &NewBlobs,
) -> Result<LayerBlob, MutateError> {
    let layer = &layers[number];
    let failed = failed(layer);
    let mut writer = LayerWriter::new(&*new.sink, &new.seal_like(image, layer))?;
    let tar = open(&layer.blob, None, &*image.blobs).map_err(MutateError::Read)?;
    let mut reader = TarReader::new(tar, Names::Layer);
    let mut fate = cuts.fates(plan.links_go);
    let mut entry = 0;
    while let Some(item) = reader.next_entry().map_err(&failed)? {
        let fate = fate(entry);
        entry += 1;
        let item = match fate {
            Fate::Stay => item,
            Fate::Drop => continue,
            Fate::Change(change) => changed(item, change),
        };
        match item {
            Item::Put(entry) => writer.tar().put(&entry, &mut reader.body())?,
            Item::Whiteout(path) => writer.tar().whiteout(&path)?,
            Item::Opaque(path) => writer.tar().opaque(&path)?,
        }
    }
    reader.finish(MAX_TAR_BYTES).map_err(&failed)?;
    save(image, layers, (cuts, &plan.metas), &mut writer)?;
    Ok(writer.finish()?.into())
}

fn changed(item: Item, Change { path, target }: Change) -> Item {
    match item {
        Item::Put(mut entry) => {
            entry.path = path.unwrap_or(entry.path);
            if let Some(target) = target {
                entry.kind = Kind::Hardlink { target };
            }
            Item::Put(entry)
        }
        Item::Whiteout(own) => Item::Whiteout(path.unwrap_or(own)),
        Item::Opaque(own) => Item::Opaque(path.unwrap_or(own)),
    }
}

/// Writes files under the names that stay.
fn save(
    image: &Image,
    layers: &[LayerBlob],
    (cuts, metas): (&Cuts, &Metas),
    writer: &mut LayerWriter,
) -> Result<(), MutateError> {
    let (mut names, mut last) = (Input(&cuts.names), Vec::new());
    let mut name = || {
        let path = next_path(&mut names, &mut last).unwrap_or_default();
        let meta = metas.get(names.small().unwrap_or(u32::MAX));
        (path, meta.cloned().unwrap_or_default())
    };
    let mut wanted = cuts.saved.iter().peekable();
    while let Some((first, _)) = wanted.peek() {
        let number = first.layer;
        let layer = &layers[number as usize];
        let failed = failed(layer);
        let tar = open(&layer.blob, None, &*image.blobs).map_err(MutateError::Read)?;
        let mut reader = TarReader::new(tar, Names::Layer);
        let mut entry = 0;
        while let Some(item) = reader.next_entry().map_err(&failed)? {
            let here = Origin {
                layer: number,
                entry,
            };
            entry += 1;
            let found = wanted.next_if(|(origin, _)| *origin == here);
            let (Some((_, count)), Item::Put(entry)) = (found, item) else {
                continue;
            };
            let (target, _) = name();
            let file = Entry {
                path: target.clone(),
                ..entry
            };
            writer.tar().put(&file, &mut reader.body())?;
            for _ in 1..*count {
                let (path, meta) = name();
                let target = target.clone();
                let kind = Kind::Hardlink { target };
                let entry = Entry { path, kind, meta };
                writer.tar().put(&entry, &mut io::empty())?;
            }
        }
        reader.finish(MAX_TAR_BYTES).map_err(&failed)?;
        if wanted.peek().is_some_and(|(next, _)| next.layer == number) {
            let text = format!("{} is not what it was a moment ago", layer.blob.digest);
            return Err(MutateError::Read(io::Error::other(text)));
        }
    }
    Ok(())
}
