//! What the layers have, as numbers: of each entry as much as is asked for
//! often, all else is looked up in the indexes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::tree::{Inode, InodeId, Origin, size_of};
use crate::layer::bits::Bits;
use crate::layer::frames::{Frames, NONE};
use crate::layer::index::records::kind_letter;
use crate::layer::index::{Indexed, LayerIndex, Lookup};
use crate::layer::tar_read::Item;
use crate::layer::{Entry, Kind, Meta};

/// Set in the number of an inode that no layer has an entry for. The other bits
/// count those, or the inodes that have one.
const IMPLIED: u32 = 1;
/// A size that is in [`Inodes::large`].
const LARGE: u32 = NONE - 2;
const LETTERS: &[u8; 7] = b"dfhlcbp";

/// The inodes that the layers have.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    indexes: Vec<Arc<LayerIndex>>,
    lookups: RefCell<Vec<Lookup>>,
    /// Of each layer the number, of those that have an entry, of one that stands
    /// for the layer as it begins, and how many whiteouts are before it in all.
    firsts: Vec<(u32, u32)>,
    /// The places of kinds' letters among [`LETTERS`].
    letters: Frames,
    sizes: Frames,
    large: HashMap<u32, u64>,
    /// How many whiteouts are before an inode in all, wherever there are more
    /// than before the one before it: the inodes, and the counts.
    whiteouts: (Frames, Frames),
    /// The layers of those that no layer has an entry for.
    implied: Frames,
}

impl Inodes {
    pub(super) fn begin_layer(&mut self, index: Arc<LayerIndex>) {
        self.firsts.push((self.letters.len() as u32, self.passed()));
        self.letters.push(0);
        self.sizes.push(0);
        self.lookups.borrow_mut().push(Lookup::default());
        self.indexes.push(index);
    }

    /// Adds the next entry; its number.
    pub(super) fn push(&mut self, entry: &Entry) -> u32 {
        let letter = kind_letter(&entry.kind);
        let letter = LETTERS.iter().position(|l| *l == letter).unwrap_or(0);
        self.letters.push(letter as u32);
        let size = size_of(&entry.kind);
        let small = u32::try_from(size).unwrap_or(LARGE).min(LARGE);
        self.sizes.push(small);
        if small == LARGE {
            self.large.insert(self.sizes.len() as u32 - 1, size);
        }
        self.last()
    }

    /// The last of those that the last layer has an entry for, or what stands
    /// for the layer.
    pub(super) fn last(&self) -> u32 {
        (self.letters.len() as u32 - 1) << 1
    }

    /// Whiteouts so far.
    fn passed(&self) -> u32 {
        let counts = &self.whiteouts.1;
        counts.len().checked_sub(1).map_or(0, |at| counts.get(at))
    }

    /// The next element is a whiteout.
    pub(super) fn pass(&mut self) {
        let next = self.letters.len() as u32;
        let count = self.passed() + 1;
        let (before, counts) = &mut self.whiteouts;
        match before.len().checked_sub(1) {
            Some(last) if before.get(last) == next => counts.set(last, count),
            _ => {
                before.push(next);
                counts.push(count);
            }
        }
    }

    /// Adds a directory that the last layer only implies; its number.
    pub(super) fn imply(&mut self) -> u32 {
        self.implied.push(self.firsts.len() as u32 - 1);
        (self.implied.len() as u32 - 1) << 1 | IMPLIED
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len().max(self.implied.len())
    }

    pub(super) fn layer(&self, id: u32) -> u32 {
        let at = id >> 1;
        match id & IMPLIED {
            0 => self.firsts.partition_point(|(first, _)| *first <= at) as u32 - 1,
            _ => self.implied.get(at as usize),
        }
    }

    pub(super) fn letter(&self, id: u32) -> u8 {
        match id & IMPLIED {
            0 => LETTERS[self.letters.get((id >> 1) as usize) as usize],
            _ => b'd',
        }
    }

    pub(super) fn size(&self, id: u32) -> u64 {
        if id & IMPLIED != 0 {
            return 0;
        }
        match self.sizes.get((id >> 1) as usize) {
            LARGE => self.large.get(&(id >> 1)).copied().unwrap_or(0),
            small => small.into(),
        }
    }

    /// The number of an inode's entry among the elements of its layer.
    fn entry(&self, id: u32, layer: usize) -> u64 {
        let (first, before) = self.firsts[layer];
        let at = id >> 1;
        let runs = self.whiteouts.0.partition_point(|from| from <= at);
        let run = runs.checked_sub(1);
        let whiteouts = run.map_or(0, |last| self.whiteouts.1.get(last));
        u64::from(at - first - 1) + u64::from(whiteouts - before)
    }

    pub(super) fn get(&self, id: u32) -> io::Result<Inode> {
        let layer = self.layer(id) as usize;
        if id & IMPLIED != 0 {
            return Ok(Inode {
                kind: Kind::Dir,
                meta: Meta {
                    mode: 0o755,
                    ..Meta::default()
                },
                digest: None,
                layer,
                origin: None,
            });
        }
        let entry = self.entry(id, layer);
        let mut lookups = self.lookups.borrow_mut();
        let found = lookups[layer].get(&self.indexes[layer], entry)?;
        let Some(Indexed {
            item: Item::Put(Entry { kind, meta, .. }),
            digest,
            header,
            data,
            sparse,
        }) = found
        else {
            let message = "the index of a layer has other entries than before";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        Ok(Inode {
            kind,
            meta,
            digest,
            layer,
            origin: Some(Origin {
                entry,
                header,
                data,
                sparse,
            }),
        })
    }
}

impl InodeId {
    /// Its number among those that a layer has an entry for, if it is one.
    pub(super) fn entry(self) -> Option<u32> {
        (self.0 & IMPLIED == 0).then_some(self.0 >> 1)
    }
}

/// A set of those that layers have entries for.
#[derive(Debug, Default)]
pub(super) struct InodeSet(pub(super) Bits);

impl InodeSet {
    /// Adds one; whether it was not there.
    pub(super) fn insert(&mut self, id: InodeId) -> bool {
        id.entry().is_some_and(|number| self.0.insert(number))
    }

    pub(super) fn has(&self, id: InodeId) -> bool {
        id.entry().is_some_and(|number| self.0.has(number))
    }
}
