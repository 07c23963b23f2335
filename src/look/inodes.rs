//! What the layers have, as numbers: of each entry as much as is asked for
//! often, all else is looked up in the indexes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::tree::{Inode, InodeId, Origin, size_of};
use crate::layer::bits::Bits;
use crate::layer::index::records::kind_letter;
use crate::layer::index::{Indexed, LayerIndex, Lookup};
use crate::layer::tar_read::Item;
use crate::layer::{Entry, Kind, Meta};

/// Set in the number of an inode that no layer has an entry for.
pub(super) const IMPLIED: u32 = 1 << 30;
/// A size that is in [`Inodes::large`].
const LARGE: u32 = u32::MAX >> KIND_BITS;
/// The low bits have the place of a kind's letter among [`LETTERS`], those
/// above it the size.
const KIND_BITS: u32 = 3;
const LETTERS: &[u8; 7] = b"fdlhcbp";

/// The inodes that the layers have.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    indexes: Vec<Arc<LayerIndex>>,
    lookups: RefCell<Vec<Lookup>>,
    /// For each layer the first number of its inodes, and how many whiteouts
    /// are before it in all.
    firsts: Vec<(u32, u32)>,
    /// Kinds and sizes.
    kinds: Vec<u32>,
    large: HashMap<u32, u64>,
    /// How many whiteouts are before an inode in all, wherever there are more
    /// than before the one before it.
    whiteouts: Vec<(u32, u32)>,
    /// The layers of those that no layer has an entry for.
    implied: Vec<u32>,
}

impl Inodes {
    pub(super) fn begin_layer(&mut self, index: Arc<LayerIndex>) {
        let whiteouts = self.whiteouts.last().map_or(0, |(_, count)| *count);
        self.firsts.push((self.kinds.len() as u32, whiteouts));
        self.lookups.borrow_mut().push(Lookup::default());
        self.indexes.push(index);
    }

    /// Adds the next entry; its number.
    pub(super) fn push(&mut self, entry: &Entry) -> u32 {
        let id = self.kinds.len() as u32;
        let letter = kind_letter(&entry.kind);
        let kind = LETTERS.iter().position(|l| *l == letter).unwrap_or(0) as u32;
        let size = size_of(&entry.kind);
        let small = u32::try_from(size).unwrap_or(LARGE).min(LARGE);
        if small == LARGE {
            self.large.insert(id, size);
        }
        self.kinds.push(small << KIND_BITS | kind);
        id
    }

    /// The next element is a whiteout.
    pub(super) fn pass(&mut self) {
        let next = self.kinds.len() as u32;
        match self.whiteouts.last_mut() {
            Some((at, count)) if *at == next => *count += 1,
            last => {
                let before = last.map_or(0, |(_, count)| *count);
                self.whiteouts.push((next, before + 1));
            }
        }
    }

    /// Adds a directory that the last layer only implies; its number.
    pub(super) fn imply(&mut self) -> u32 {
        self.implied.push(self.firsts.len() as u32 - 1);
        (self.implied.len() as u32 - 1) | IMPLIED
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len().max(self.implied.len())
    }

    fn implied(&self, id: u32) -> Option<u32> {
        match id & IMPLIED {
            0 => None,
            _ => self.implied.get((id & !IMPLIED) as usize).copied(),
        }
    }

    pub(super) fn layer(&self, id: u32) -> u32 {
        match self.implied(id) {
            Some(layer) => layer,
            None => self.firsts.partition_point(|(first, _)| *first <= id) as u32 - 1,
        }
    }

    pub(super) fn letter(&self, id: u32) -> u8 {
        match self.implied(id) {
            Some(_) => b'd',
            None => LETTERS[(self.kinds[id as usize] & ((1 << KIND_BITS) - 1)) as usize],
        }
    }

    pub(super) fn size(&self, id: u32) -> u64 {
        match self.implied(id) {
            Some(_) => 0,
            None => match self.kinds[id as usize] >> KIND_BITS {
                LARGE => self.large.get(&id).copied().unwrap_or(0),
                small => small.into(),
            },
        }
    }

    /// The number of an inode's entry among the elements of its layer.
    fn entry(&self, id: u32, layer: usize) -> u64 {
        let (first, before) = self.firsts[layer];
        let runs = self.whiteouts.partition_point(|(at, _)| *at <= id);
        let run = runs.checked_sub(1).map(|last| self.whiteouts[last]);
        let whiteouts = run.map_or(0, |(_, count)| count);
        u64::from(id - first) + u64::from(whiteouts - before)
    }

    pub(super) fn get(&self, id: u32) -> io::Result<Inode> {
        let layer = self.layer(id) as usize;
        if self.implied(id).is_some() {
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

/// A set of [`InodeId`]s that stand for files.
#[derive(Debug, Default)]
pub(super) struct InodeSet(pub(super) Bits);

impl InodeSet {
    /// Adds one; whether it was not there.
    pub(super) fn insert(&mut self, id: InodeId) -> bool {
        id.0 & IMPLIED == 0 && self.0.insert(id.0)
    }

    pub(super) fn has(&self, id: InodeId) -> bool {
        self.0.has(id.0)
    }
}
