//! The names of a [`Stack`](super::Stack), packed: some twenty bytes for each
//! beside its text.
//!
//! What is in a directory is a list in no order, with those that are gone; a
//! table finds a name in it.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;

use hashbrown::HashTable;

use super::{MAX_NAMES, NameId, NodeId, too_many};
use crate::layer::Meta;
use crate::layer::chains::Chains;
use crate::layer::frames::{Frames, NONE};
use crate::layer::pile::Spools;
use crate::layer::texts::{Texts, sort};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The directory with this number.
    Dir(u32),
    Node(NodeId),
    /// Nothing: layers below the split have it, and it is gone.
    Removed,
    /// Nothing: the place is free, or will be when its list is looked through.
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Dir,
    Node,
    Removed,
    Free,
}

const FORMS: [Form; 4] = [Form::Dir, Form::Node, Form::Removed, Form::Free];

/// What layers below the split have of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lower {
    /// Nothing, or there is no split.
    Nothing,
    /// The same thing.
    Same,
    /// The same directory, but nothing of what they have in it is left.
    Emptied,
    /// Something else, which is gone.
    Other,
}

const LOWERS: [Lower; 4] = [Lower::Nothing, Lower::Same, Lower::Emptied, Lower::Other];

/// What is known of a name, but for where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) what: What,
    /// The layer that put it here, or made it on the way to something else.
    pub(super) layer: u16,
    pub(super) lower: Lower,
}

impl Name {
    /// Its number, and what says of what.
    fn pack(self) -> (u32, u32) {
        let (form, number) = match self.what {
            What::Dir(dir) => (Form::Dir, dir),
            What::Node(node) => (Form::Node, node.0),
            What::Removed => (Form::Removed, NONE),
            What::Free => (Form::Free, NONE),
        };
        let flags = u32::from(self.layer) << 4 | (form as u32) << 2 | self.lower as u32;
        (number, flags)
    }
}

/// All names.
#[derive(Debug)]
pub(super) struct Packed {
    parents: Frames,
    /// The places of their texts.
    places: Frames,
    /// The next one of each in its list.
    after: Frames,
    /// See [`Name::pack`].
    numbers: Frames,
    flags: Frames,
    pub(super) texts: Texts,
    /// The first of the free places.
    free: u32,
    /// How many free places are still in the lists of directories.
    gone: usize,
    hasher: RandomState,
    /// Names by their directories and texts, but for free places.
    table: Chains,
}

impl Packed {
    /// With the root, the name of which is empty. Texts lie in one of `spools`.
    pub(super) fn new(root: Name, spools: Spools) -> Self {
        let mut packed = Self {
            parents: Frames::default(),
            places: Frames::default(),
            after: Frames::default(),
            numbers: Frames::default(),
            flags: Frames::default(),
            texts: Texts::new(spools),
            free: NONE,
            gone: 0,
            hasher: RandomState::new(),
            table: Chains::default(),
        };
        packed.push(0, NONE, root);
        packed
    }

    fn push(&mut self, parent: u32, place: u32, name: Name) {
        let (number, flags) = name.pack();
        self.parents.push(parent);
        self.places.push(place);
        self.after.push(NONE);
        self.numbers.push(number);
        self.flags.push(flags);
    }

    /// No name will be looked for any more.
    pub(super) fn finish(&mut self) {
        self.table = Chains::default();
    }

    /// Numbers of names are below this.
    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// The directory that it is in; the root is in itself.
    pub(super) fn parent(&self, id: NameId) -> NameId {
        NameId(self.parents.get(id.index()))
    }

    fn after(&self, id: NameId) -> u32 {
        self.after.get(id.index())
    }

    fn form(&self, id: NameId) -> Form {
        FORMS[(self.flags.get(id.index()) >> 2) as usize % FORMS.len()]
    }

    pub(super) fn what(&self, id: NameId) -> What {
        let number = || self.numbers.get(id.index());
        match self.form(id) {
            Form::Dir => What::Dir(number()),
            Form::Node => What::Node(NodeId(number())),
            Form::Removed => What::Removed,
            Form::Free => What::Free,
        }
    }

    pub(super) fn layer(&self, id: NameId) -> u16 {
        (self.flags.get(id.index()) >> 4) as u16
    }

    pub(super) fn lower(&self, id: NameId) -> Lower {
        LOWERS[self.flags.get(id.index()) as usize % LOWERS.len()]
    }

    pub(super) fn set(&mut self, id: NameId, name: Name) {
        let (number, flags) = name.pack();
        self.numbers.set(id.index(), number);
        self.flags.set(id.index(), flags);
    }

    pub(super) fn set_layer(&mut self, id: NameId, layer: u16) {
        let flags = self.flags.get(id.index());
        let new = flags & 0xf | u32::from(layer) << 4;
        if new != flags {
            self.flags.set(id.index(), new);
        }
    }

    pub(super) fn set_lower(&mut self, id: NameId, lower: Lower) {
        let flags = self.flags.get(id.index());
        self.flags.set(id.index(), flags & !3 | lower as u32);
    }

    pub(super) fn set_what(&mut self, id: NameId, what: What) {
        let name = Name {
            what,
            layer: self.layer(id),
            lower: self.lower(id),
        };
        self.set(id, name);
    }

    /// The root's is empty.
    pub(super) fn text(&self, id: NameId) -> &[u8] {
        match self.places.get(id.index()) {
            NONE => &[],
            place => self.texts.get(place.into()),
        }
    }

    pub(super) fn name(&self, id: NameId) -> &OsStr {
        OsStr::from_bytes(self.text(id))
    }

    fn hash(&self, dir: NameId, text: &[u8]) -> u32 {
        self.hasher.hash_one((dir.0, text)) as u32
    }

    /// What has this name in `dir`, or had it and is gone.
    pub(super) fn find(&self, dir: NameId, text: &[u8]) -> Option<NameId> {
        let is_it = |id| self.parent(NameId(id)) == dir && self.text(NameId(id)) == text;
        self.table.find(self.hash(dir, text), is_it).map(NameId)
    }

    /// What has this name in `dir`.
    pub(super) fn child(&self, dir: NameId, text: &[u8]) -> Option<NameId> {
        let found = self.find(dir, text)?;
        (self.form(found) != Form::Removed).then_some(found)
    }

    /// Keeps a text that is no name; its place.
    pub(super) fn keep(&mut self, text: &[u8]) -> Result<u32, String> {
        u32::try_from(self.texts.push(text))
            .ok()
            .filter(|place| *place != NONE)
            .ok_or_else(too_many)
    }

    /// Adds a name in `dir` that can't be found yet to the list that begins with
    /// `first`.
    pub(super) fn add(
        &mut self,
        dir: NameId,
        text: &[u8],
        name: Name,
        first: &mut u32,
    ) -> Result<NameId, String> {
        let id = match self.free {
            NONE if self.len() >= MAX_NAMES => return Err(too_many()),
            NONE => {
                let id = u32::try_from(self.len()).map_err(|_| too_many())?;
                let place = self.keep(text)?;
                self.push(dir.0, place, name);
                NameId(id)
            }
            free => {
                let free = NameId(free);
                let place = self.places.get(free.index());
                if !self.texts.replace(place.into(), text) {
                    let place = self.keep(text)?;
                    self.places.set(free.index(), place);
                }
                self.free = self.after(free);
                self.parents.set(free.index(), dir.0);
                self.set(free, name);
                free
            }
        };
        self.after.set(id.index(), std::mem::replace(first, id.0));
        let hash = self.hash(dir, text);
        self.table.insert(id.0, hash);
        Ok(id)
    }

    /// Frees a name, whose place stays in its list for now. Whether there are
    /// so many of such places that the lists should be looked through.
    pub(super) fn remove(&mut self, id: NameId) -> bool {
        self.table.remove(id.0);
        self.set_what(id, What::Free);
        self.gone += 1;
        self.gone > 1000 && self.gone > self.len() / 4
    }

    /// Takes free places out of the list that begins with `first`, and where
    /// nothing shows through from below also what is removed.
    pub(super) fn sweep(&mut self, first: &mut u32, shows_through: bool) {
        let mut next = std::mem::replace(first, NONE);
        let mut last = None;
        while next != NONE {
            let id = NameId(next);
            next = self.after(id);
            match self.form(id) {
                Form::Free => self.gone -= 1,
                Form::Removed if !shows_through => self.table.remove(id.0),
                Form::Dir | Form::Node | Form::Removed => {
                    match last.replace(id) {
                        Some(last) if self.after(last) == id.0 => {}
                        Some(last) => self.after.set(last.index(), id.0),
                        None => *first = id.0,
                    }
                    continue;
                }
            }
            self.release(id);
        }
        if let Some(last) = last {
            self.after.set(last.index(), NONE);
        }
    }

    /// Frees a list that is of no use any more. Those that were directories
    /// come to the end of `dirs`.
    pub(super) fn clear(&mut self, first: u32, dirs: &mut Vec<u32>) {
        let mut next = first;
        while next != NONE {
            let id = NameId(next);
            next = self.after(id);
            match self.what(id) {
                What::Free => self.gone -= 1,
                What::Dir(dir) => {
                    dirs.push(dir);
                    self.table.remove(id.0);
                }
                What::Node(_) | What::Removed => self.table.remove(id.0),
            }
            self.release(id);
        }
    }

    /// Puts a place that is in no list and not in the table to the free ones.
    fn release(&mut self, id: NameId) {
        let after = std::mem::replace(&mut self.free, id.0);
        self.after.set(id.index(), after);
        // The next one's text may fit into the place of this one's.
        let name = Name {
            what: What::Free,
            layer: 0,
            lower: Lower::Nothing,
        };
        self.set(id, name);
    }

    /// Those of a list that are there, or those that are gone, in no order.
    pub(super) fn list(&self, first: u32, is_there: bool) -> impl Iterator<Item = NameId> + '_ {
        let mut next = first;
        std::iter::from_fn(move || {
            loop {
                let id = (next != NONE).then_some(NameId(next))?;
                next = self.after(id);
                match self.form(id) {
                    Form::Dir | Form::Node if is_there => return Some(id),
                    Form::Removed if !is_there => return Some(id),
                    _ => {}
                }
            }
        })
    }

    /// The same in the order of bytes.
    pub(super) fn sorted(&self, first: u32, is_there: bool) -> Vec<NameId> {
        let mut list: Vec<NameId> = self.list(first, is_there).collect();
        // Most come in order, so that the list is just the wrong way round.
        list.reverse();
        sort(&mut list, |id| self.text(id), <[u8]>::cmp);
        list
    }
}

/// Attributes, equal ones once.
#[derive(Debug, Default)]
pub struct Metas {
    metas: Vec<Meta>,
    hasher: RandomState,
    known: HashTable<u32>,
}

impl Metas {
    /// Those with this number.
    pub fn get(&self, number: u32) -> Option<&Meta> {
        self.metas.get(number as usize)
    }

    /// The number of `meta`.
    pub fn intern(&mut self, meta: &Meta) -> u32 {
        let Self {
            metas,
            hasher,
            known,
        } = self;
        let hash = hasher.hash_one(meta);
        if let Some(number) = known.find(hash, |n| metas[*n as usize] == *meta) {
            return *number;
        }
        let number = u32::try_from(metas.len()).unwrap_or(NONE);
        metas.push(meta.clone());
        known.insert_unique(hash, number, |n| hasher.hash_one(&metas[*n as usize]));
        number
    }
}
