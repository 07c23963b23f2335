//! The names of a [`Stack`](super::Stack), packed: some forty bytes for each
//! beside its text.
//!
//! What is in a directory is a list in no order; a table finds a name in it.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;

use hashbrown::HashTable;

use super::{MAX_NAMES, NameId, NodeId, ROOT, too_many};
use crate::layer::Meta;
use crate::layer::code::{Input, field};

/// No number of anything.
pub(super) const NONE: u32 = u32::MAX;

/// Names and other texts, each behind its length.
#[derive(Debug, Default)]
pub(super) struct Texts(Vec<u8>);

impl Texts {
    pub(super) fn push(&mut self, text: &[u8]) -> Result<u32, String> {
        let at = u32::try_from(self.0.len()).map_err(|_| too_many())?;
        field(&mut self.0, text);
        Ok(at)
    }

    /// Puts `text` in the place of another one that is not wanted any more, if
    /// there is room.
    fn replace(&mut self, at: u32, text: &[u8]) -> bool {
        let fits = at != NONE && text.len() <= self.get(at).len();
        if fits {
            let mut bytes = Vec::with_capacity(text.len() + 4);
            field(&mut bytes, text);
            let at = at as usize;
            self.0[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        fits
    }

    pub(super) fn get(&self, at: u32) -> &[u8] {
        let bytes = self.0.get(at as usize..).unwrap_or_default();
        Input(bytes).field().unwrap_or_default()
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The directory with this number.
    Dir(u32),
    Node(NodeId),
    /// Nothing: layers below the split have it, and it is gone.
    Removed,
    /// The place is free.
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Dir,
    Node,
    Removed,
    Free,
}

/// What layers below the split have of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lower {
    /// Nothing, or there is no split.
    Nothing,
    /// The same thing.
    Same,
    /// Something else, which is gone.
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) parent: NameId,
    text: u32,
    /// The names beside it in its list.
    before: u32,
    after: u32,
    what: u32,
    /// The layer that put it here, or made it on the way to something else.
    pub(super) layer: u32,
    /// Bytes of the path.
    pub(super) length: u16,
    form: Form,
    pub(super) lower: Lower,
}

impl Name {
    pub(super) fn new(parent: NameId, length: u16, layer: u32, what: What) -> Self {
        let (form, what) = match what {
            What::Dir(dir) => (Form::Dir, dir),
            What::Node(node) => (Form::Node, node.0),
            What::Removed => (Form::Removed, NONE),
            What::Free => (Form::Free, NONE),
        };
        Self {
            parent,
            text: NONE,
            before: NONE,
            after: NONE,
            what,
            layer,
            length,
            form,
            lower: Lower::Nothing,
        }
    }

    pub(super) fn what(&self) -> What {
        match self.form {
            Form::Dir => What::Dir(self.what),
            Form::Node => What::Node(NodeId(self.what)),
            Form::Removed => What::Removed,
            Form::Free => What::Free,
        }
    }
}

/// All names.
#[derive(Debug)]
pub(super) struct Packed {
    names: Vec<Name>,
    pub(super) texts: Texts,
    /// The first of the free places.
    free: u32,
    hasher: RandomState,
    /// Names by their directories and texts, those that are gone too.
    table: HashTable<u32>,
}

impl Packed {
    pub(super) fn new(root: Name) -> Self {
        Self {
            names: vec![root],
            texts: Texts::default(),
            free: NONE,
            hasher: RandomState::new(),
            table: HashTable::new(),
        }
    }

    /// No name will be looked for any more.
    pub(super) fn finish(&mut self) {
        self.table = HashTable::new();
    }

    /// Numbers of names are below this.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn get(&self, id: NameId) -> &Name {
        &self.names[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: NameId) -> &mut Name {
        &mut self.names[id.0 as usize]
    }

    pub(super) fn all_mut(&mut self) -> &mut [Name] {
        &mut self.names
    }

    /// The root's is empty.
    pub(super) fn text(&self, id: NameId) -> &[u8] {
        self.texts.get(self.get(id).text)
    }

    pub(super) fn name(&self, id: NameId) -> &OsStr {
        OsStr::from_bytes(self.text(id))
    }

    /// What has this name in `dir`, or had it and is gone.
    fn find(&self, dir: NameId, text: &[u8]) -> Option<NameId> {
        let hash = self.hasher.hash_one((dir.0, text));
        let is_it = |id: &u32| {
            let name = self.get(NameId(*id));
            name.parent == dir && self.texts.get(name.text) == text
        };
        self.table.find(hash, is_it).copied().map(NameId)
    }

    /// What has this name in `dir`.
    pub(super) fn child(&self, dir: NameId, text: &[u8]) -> Option<NameId> {
        let found = self.find(dir, text)?;
        (self.get(found).form != Form::Removed).then_some(found)
    }

    /// Adds a name to the list that begins with `here`. It is not there yet;
    /// where it is among those that are gone, in the list `removed`, it takes
    /// that place.
    pub(super) fn add(
        &mut self,
        name: Name,
        text: &[u8],
        here: &mut u32,
        removed: &mut u32,
    ) -> Result<NameId, String> {
        if let Some(id) = self.find(name.parent, text) {
            self.unlink(id, removed);
            let text = self.get(id).text;
            let lower = Lower::Other;
            *self.get_mut(id) = Name {
                text,
                lower,
                ..name
            };
            self.link(id, here);
            return Ok(id);
        }
        let id = match self.free {
            NONE if self.names.len() >= MAX_NAMES => return Err(too_many()),
            NONE => {
                let id = u32::try_from(self.names.len()).map_err(|_| too_many())?;
                let text = self.texts.push(text)?;
                self.names.push(Name { text, ..name });
                NameId(id)
            }
            free => {
                let free = NameId(free);
                let Name {
                    text: at, after, ..
                } = *self.get(free);
                let text = match self.texts.replace(at, text) {
                    true => at,
                    false => self.texts.push(text)?,
                };
                self.free = after;
                *self.get_mut(free) = Name { text, ..name };
                free
            }
        };
        self.link(id, here);
        self.enter(id);
        Ok(id)
    }

    /// Puts a name into the table.
    fn enter(&mut self, id: NameId) {
        let Self {
            names,
            texts,
            hasher,
            table,
            ..
        } = self;
        let hash = |id: &u32| {
            let name = &names[*id as usize];
            hasher.hash_one((name.parent.0, texts.get(name.text)))
        };
        table.insert_unique(hash(&id.0), id.0, hash);
    }

    /// Takes a name out of the table.
    fn leave(&mut self, id: NameId) {
        let name = self.get(id);
        let text = self.texts.get(name.text);
        let hash = self.hasher.hash_one((name.parent.0, text));
        if let Ok(found) = self.table.find_entry(hash, |found| *found == id.0) {
            found.remove();
        }
    }

    fn link(&mut self, id: NameId, first: &mut u32) {
        let after = std::mem::replace(first, id.0);
        if after != NONE {
            self.get_mut(NameId(after)).before = id.0;
        }
        let name = self.get_mut(id);
        (name.before, name.after) = (NONE, after);
    }

    fn unlink(&mut self, id: NameId, first: &mut u32) {
        let (before, after) = (self.get(id).before, self.get(id).after);
        match before {
            NONE => *first = after,
            before => self.get_mut(NameId(before)).after = after,
        }
        if after != NONE {
            self.get_mut(NameId(after)).before = before;
        }
    }

    /// Moves a name from the list of those that are there to the list of those
    /// that are gone.
    pub(super) fn set_removed(&mut self, id: NameId, here: &mut u32, removed: &mut u32) {
        self.unlink(id, here);
        let name = self.get_mut(id);
        (name.form, name.what) = (Form::Removed, NONE);
        self.link(id, removed);
    }

    /// Frees a name that is in the list which begins with `first`.
    pub(super) fn remove(&mut self, id: NameId, first: &mut u32) {
        self.unlink(id, first);
        self.release(id);
    }

    /// Frees a name whose list is of no use any more.
    pub(super) fn release(&mut self, id: NameId) {
        self.leave(id);
        let after = std::mem::replace(&mut self.free, id.0);
        // The next one's text may fit into the place of this one's.
        let text = self.get(id).text;
        *self.get_mut(id) = Name {
            after,
            text,
            ..Name::new(ROOT, 0, 0, What::Free)
        };
    }

    /// The names of a list, in no order.
    pub(super) fn list(&self, first: u32) -> impl Iterator<Item = NameId> + '_ {
        let mut next = first;
        std::iter::from_fn(move || {
            let id = (next != NONE).then_some(NameId(next))?;
            next = self.get(id).after;
            Some(id)
        })
    }

    /// The names of a list in the order of bytes.
    pub(super) fn sorted(&self, first: u32) -> Vec<NameId> {
        let mut list: Vec<NameId> = self.list(first).collect();
        // Most come in order, so that the list is just the wrong way round.
        list.sort_unstable_by(|a, b| self.text(*a).cmp(self.text(*b)));
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
