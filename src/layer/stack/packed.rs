//! The names of a [`Stack`](super::Stack), packed: some thirty bytes for each
//! beside its text.
//!
//! What is in a directory is a list in no order, with those that are gone; a
//! table finds a name in it.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;

use hashbrown::HashTable;

use super::{MAX_NAMES, NameId, NodeId, ROOT, too_many};
use crate::layer::Meta;
use crate::layer::chains::Chains;
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

#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) parent: NameId,
    text: u32,
    /// The next one of its list.
    after: u32,
    what: u32,
    /// The layer that put it here, or made it on the way to something else.
    pub(super) layer: u16,
    form: Form,
    pub(super) lower: Lower,
}

impl Name {
    pub(super) fn new(parent: NameId, layer: u16, what: What) -> Self {
        let mut name = Self {
            parent,
            text: NONE,
            after: NONE,
            what: NONE,
            layer,
            form: Form::Free,
            lower: Lower::Nothing,
        };
        name.set(what);
        name
    }

    pub(super) fn what(&self) -> What {
        match self.form {
            Form::Dir => What::Dir(self.what),
            Form::Node => What::Node(NodeId(self.what)),
            Form::Removed => What::Removed,
            Form::Free => What::Free,
        }
    }

    pub(super) fn set(&mut self, what: What) {
        (self.form, self.what) = match what {
            What::Dir(dir) => (Form::Dir, dir),
            What::Node(node) => (Form::Node, node.0),
            What::Removed => (Form::Removed, NONE),
            What::Free => (Form::Free, NONE),
        };
    }
}

/// All names.
#[derive(Debug)]
pub(super) struct Packed {
    names: Vec<Name>,
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
    pub(super) fn new(root: Name) -> Self {
        Self {
            names: vec![root],
            texts: Texts::default(),
            free: NONE,
            gone: 0,
            hasher: RandomState::new(),
            table: Chains::default(),
        }
    }

    /// No name will be looked for any more.
    pub(super) fn finish(&mut self) {
        self.table = Chains::default();
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
    pub(super) fn find(&self, dir: NameId, text: &[u8]) -> Option<NameId> {
        let hash = self.hasher.hash_one((dir.0, text));
        let is_it = |id| {
            let name = self.get(NameId(id));
            name.parent == dir && self.texts.get(name.text) == text
        };
        self.table.find(hash, is_it).map(NameId)
    }

    /// What has this name in `dir`.
    pub(super) fn child(&self, dir: NameId, text: &[u8]) -> Option<NameId> {
        let found = self.find(dir, text)?;
        (self.get(found).form != Form::Removed).then_some(found)
    }

    /// Adds a name that can't be found yet to the list that begins with
    /// `first`.
    pub(super) fn add(
        &mut self,
        name: Name,
        text: &[u8],
        first: &mut u32,
    ) -> Result<NameId, String> {
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
        self.get_mut(id).after = std::mem::replace(first, id.0);
        let Self {
            names,
            texts,
            hasher,
            table,
            ..
        } = self;
        table.insert(id.0, |id| {
            let name = &names[id as usize];
            hasher.hash_one((name.parent.0, texts.get(name.text)))
        });
        Ok(id)
    }

    /// Takes a name out of the table.
    fn leave(&mut self, id: NameId) {
        let text = self.text(id);
        let hash = self.hasher.hash_one((self.get(id).parent.0, text));
        self.table.remove(id.0, hash);
    }

    /// Frees a name, whose place stays in its list for now. Whether there are
    /// so many of such places that the lists should be looked through.
    pub(super) fn remove(&mut self, id: NameId) -> bool {
        self.leave(id);
        self.get_mut(id).set(What::Free);
        self.gone += 1;
        self.gone > 1000 && self.gone > self.names.len() / 4
    }

    /// Takes free places out of the list that begins with `first`, and where
    /// nothing shows through from below also what is removed.
    pub(super) fn sweep(&mut self, first: &mut u32, shows_through: bool) {
        let mut next = std::mem::replace(first, NONE);
        let mut last = None;
        while next != NONE {
            let id = NameId(next);
            next = self.get(id).after;
            match self.get(id).form {
                Form::Free => self.gone -= 1,
                Form::Removed if !shows_through => self.leave(id),
                Form::Dir | Form::Node | Form::Removed => {
                    match last.replace(id) {
                        Some(last) => self.get_mut(last).after = id.0,
                        None => *first = id.0,
                    }
                    self.get_mut(id).after = NONE;
                    continue;
                }
            }
            self.release(id);
        }
    }

    /// Frees a list that is of no use any more. Those that were directories
    /// come to the end of `dirs`.
    pub(super) fn clear(&mut self, first: u32, dirs: &mut Vec<u32>) {
        let mut next = first;
        while next != NONE {
            let id = NameId(next);
            next = self.get(id).after;
            match self.get(id).what() {
                What::Free => self.gone -= 1,
                What::Dir(dir) => {
                    dirs.push(dir);
                    self.leave(id);
                }
                What::Node(_) | What::Removed => self.leave(id),
            }
            self.release(id);
        }
    }

    /// Puts a place that is in no list and not in the table to the free ones.
    fn release(&mut self, id: NameId) {
        let after = std::mem::replace(&mut self.free, id.0);
        // The next one's text may fit into the place of this one's.
        let text = self.get(id).text;
        *self.get_mut(id) = Name {
            after,
            text,
            ..Name::new(ROOT, 0, What::Free)
        };
    }

    /// Those of a list that are there, or those that are gone, in no order.
    pub(super) fn list(&self, first: u32, is_there: bool) -> impl Iterator<Item = NameId> + '_ {
        let mut next = first;
        std::iter::from_fn(move || {
            loop {
                let id = (next != NONE).then_some(NameId(next))?;
                let name = self.get(id);
                next = name.after;
                match name.form {
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
