//! Without some files: hidden by whiteouts in one layer more, or taken out of
//! the layers themselves.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::{Draft, MutateError, NewBlobs, append};
use crate::image::{History, Image};
use crate::layer::merge::{LayerBlob, Merge, MergeError, read_items};
use crate::layer::pipeline::{LayerWriter, open, seal};
use crate::layer::stack::{Applied, Found, NameId, NodeId, Origin, Stack};
use crate::layer::tar_read::{Item, Names, TarError, TarReader};
use crate::layer::{Change, Entry, Kind, MAX_TAR_BYTES, Meta};

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
        let path = stack.path(name);
        if goes(matches, &path) {
            gone.push(Ok(Change::Whiteout(path)));
            names.skip_below(name);
        }
    }
    if gone.is_empty() {
        return Ok(image.clone());
    }
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
        *layer = write(image, &old, number, cuts, new)?;
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
    /// It goes, or comes at the layer's end.
    Drop,
    /// It is written under another path, or links to another name of its file.
    Change {
        path: Option<PathBuf>,
        target: Option<PathBuf>,
    },
}

/// What becomes of a layer.
#[derive(Debug, Default)]
struct Cuts {
    fates: BTreeMap<u32, Fate>,
    /// Files whose first name went, under the names that stay, by where their
    /// content is.
    saved: BTreeMap<Origin, Vec<(PathBuf, Meta)>>,
}

#[derive(Debug, Default)]
struct Plan {
    layers: BTreeMap<usize, Cuts>,
}

/// A layer while it is looked at.
#[derive(Default)]
struct Current {
    cuts: Cuts,
    /// Entries whose path, or whose target's, leads through links; and where
    /// to.
    moved: Vec<(u32, Option<PathBuf>, Option<PathBuf>)>,
    /// Files that are written at the end, with their names.
    late: BTreeMap<NodeId, Vec<(PathBuf, Meta)>>,
}

impl Plan {
    fn make(
        layers: &[LayerBlob],
        image: &Image,
        matches: Matches<'_>,
        new: &NewBlobs,
    ) -> Result<Self, MutateError> {
        let mut stack = Stack::new();
        let mut seen: Vec<Current> = vec![Current::default()];
        // A name that stays, for each file that has one.
        let mut kept: HashMap<NodeId, PathBuf> = HashMap::new();
        let mut links_go = false;
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
            let current = &mut seen[number];
            if goes(matches, &path) {
                links_go |= node.is_some_and(|node| stack.is_link(node));
                current.cuts.fates.insert(entry, Fate::Drop);
            } else if let (Some(node), Item::Put(put)) = (node, &item) {
                match &applied {
                    Applied::Linked(_, target) if goes(matches, &stack.path(*target)) => {
                        current.link(entry, &path, &put.meta, node, &stack, &mut kept);
                    }
                    // Its target is written only at the end.
                    Applied::Linked(..) if current.late.contains_key(&node) => {
                        current.link(entry, &path, &put.meta, node, &stack, &mut kept);
                    }
                    _ => drop(kept.entry(node).or_insert_with(|| path.clone())),
                }
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
                current.moved.push((entry, moved, target));
            }
            entry += 1;
            Ok(())
        })?;
        end(&mut stack, &mut seen);
        let mut plan = Self::default();
        for (number, mut current) in seen.into_iter().enumerate() {
            let touched = !current.cuts.fates.is_empty() || !current.cuts.saved.is_empty();
            // Without the link their paths would lead to another place.
            if links_go {
                for (entry, path, target) in current.moved.drain(..) {
                    let fate = current.cuts.fates.entry(entry);
                    fate.or_insert(Fate::Change { path, target });
                }
            }
            if touched || !current.cuts.fates.is_empty() {
                plan.layers.insert(number, current.cuts);
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
        meta: &Meta,
        node: NodeId,
        stack: &Stack,
        kept: &mut HashMap<NodeId, PathBuf>,
    ) {
        let own = || (path.to_owned(), meta.clone());
        if let Some(names) = self.late.get_mut(&node) {
            names.push(own());
            self.cuts.fates.insert(entry, Fate::Drop);
            return;
        }
        let stands = |name: &PathBuf| is_at(stack, name, node) && name != path;
        let fate = match kept.get(&node).filter(|name| stands(name)) {
            Some(name) => Fate::Change {
                path: Some(path.to_owned()),
                target: Some(name.clone()),
            },
            None => {
                self.late.insert(node, vec![own()]);
                kept.insert(node, path.to_owned());
                Fate::Drop
            }
        };
        self.cuts.fates.insert(entry, fate);
    }

    /// Ends the layer: names that it has itself replaced again are not written.
    fn settle(&mut self, stack: &Stack) {
        for (node, mut names) in std::mem::take(&mut self.late) {
            names.retain(|(path, _)| is_at(stack, path, node));
            if !names.is_empty() {
                self.cuts.saved.insert(stack.origin_of(node), names);
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

fn is_at(stack: &Stack, path: &Path, node: NodeId) -> bool {
    let name = stack.at(path);
    name.and_then(|name| node_of(stack, name)) == Some(node)
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
    cuts: &Cuts,
    new: &NewBlobs,
) -> Result<LayerBlob, MutateError> {
    let layer = &layers[number];
    let failed = failed(layer);
    let mut writer = LayerWriter::new(&*new.sink, &new.seal_like(image, layer))?;
    let tar = open(&layer.blob, None, &*image.blobs).map_err(MutateError::Read)?;
    let mut reader = TarReader::new(tar, Names::Layer);
    let mut fates = cuts.fates.iter().peekable();
    let mut entry = 0;
    while let Some(item) = reader.next_entry().map_err(&failed)? {
        let fate = fates.next_if(|(number, _)| **number == entry);
        entry += 1;
        let item = match fate {
            None => item,
            Some((_, Fate::Drop)) => continue,
            Some((_, Fate::Change { path, target })) => changed(item, path, target),
        };
        match item {
            Item::Put(entry) => writer.tar().put(&entry, &mut reader.body())?,
            Item::Whiteout(path) => writer.tar().whiteout(&path)?,
            Item::Opaque(path) => writer.tar().opaque(&path)?,
        }
    }
    reader.finish(MAX_TAR_BYTES).map_err(&failed)?;
    save(image, layers, &cuts.saved, &mut writer)?;
    Ok(writer.finish()?.into())
}

fn changed(item: Item, path: &Option<PathBuf>, target: &Option<PathBuf>) -> Item {
    match item {
        Item::Put(mut entry) => {
            if let Some(path) = path {
                entry.path.clone_from(path);
            }
            if let Some(target) = target {
                entry.kind = Kind::Hardlink {
                    target: target.clone(),
                };
            }
            Item::Put(entry)
        }
        Item::Whiteout(own) => Item::Whiteout(path.clone().unwrap_or(own)),
        Item::Opaque(own) => Item::Opaque(path.clone().unwrap_or(own)),
    }
}

/// Writes files under the names that stay.
fn save(
    image: &Image,
    layers: &[LayerBlob],
    saved: &BTreeMap<Origin, Vec<(PathBuf, Meta)>>,
    writer: &mut LayerWriter,
) -> Result<(), MutateError> {
    let mut wanted = saved.iter().peekable();
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
            let found = wanted.next_if(|(origin, _)| **origin == here);
            let (Some((_, names)), Item::Put(entry)) = (found, item) else {
                continue;
            };
            let Some(((path, _), links)) = names.split_first() else {
                continue;
            };
            let file = Entry {
                path: path.clone(),
                ..entry
            };
            writer.tar().put(&file, &mut reader.body())?;
            for (link, meta) in links {
                let entry = Entry {
                    path: link.clone(),
                    kind: Kind::Hardlink {
                        target: path.clone(),
                    },
                    meta: meta.clone(),
                };
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
