//! The entries of a listing, each as what differs from the one before it.
//!
//! ```text
//! block   so many records, the first of which needs none before it
//! record  path, kind, 1 + 2 × 1 [, attributes] [, content]
//!         path, 'h', target
//! ```
//! A path is what it has in common with the one before and the rest, a target
//! the same with its own path. Attributes are there (1) where they are not
//! those of the last record that had some, contents (2) for the few that are
//! kept. All else is as in [`code`](crate::layer::code).

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Listed;
use crate::layer::code::{self, Input, field};
use crate::layer::pile::{Pile, Spools};
use crate::layer::texts::sort;
use crate::layer::{Kind, Meta, path_order};

/// Records in a block of entries that are in path order.
const BLOCK: usize = 16;
/// Flags of a record.
const HAS_META: u8 = 1;
const HAS_CONTENT: u8 = 2;

/// Packed entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    bytes: Pile,
    /// Where the blocks begin, in path order if the entries are.
    blocks: Vec<u32>,
    count: usize,
    /// Records in a block.
    block: usize,
    /// Of the last one that was added: its path, and the last attributes.
    path: Vec<u8>,
    meta: Option<Meta>,
}

/// What is known of one entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// Kind and what belongs to it, but for a hard link.
    kind: &'a [u8],
    /// A hard link's target: in common with its path, and the rest.
    target: Option<(usize, &'a [u8])>,
    meta: &'a [u8],
    content: Option<&'a [u8]>,
}

impl Record<'_> {
    pub(super) fn is_dir(&self) -> bool {
        self.kind.first() == Some(&b'd')
    }

    pub(super) fn has_content(&self) -> bool {
        self.content.is_some()
    }

    /// What the hard link at `path` is a name of; `None` for anything else.
    pub(super) fn target(&self, path: &Path) -> Option<PathBuf> {
        let (common, rest) = self.target?;
        let own = path.as_os_str().as_bytes().get(..common)?;
        let target = [own, rest].concat();
        Some(OsStr::from_bytes(&target).into())
    }

    /// All that is known, of anything but a hard link.
    pub(super) fn listed(&self) -> Option<Listed> {
        Some(Listed {
            kind: Input(self.kind).kind()?,
            meta: Input(self.meta).meta()?,
            content: self.content.map(<[u8]>::to_vec),
        })
    }
}

impl Default for Packed {
    fn default() -> Self {
        Self::new(Spools::default())
    }
}

impl Packed {
    /// For entries in path order. They lie in one of `spools`.
    pub(super) fn new(spools: Spools) -> Self {
        Self::with_blocks_of(BLOCK, spools)
    }

    fn with_blocks_of(block: usize, spools: Spools) -> Self {
        Self {
            bytes: Pile::new(spools),
            blocks: Vec::new(),
            count: 0,
            block,
            path: Vec::new(),
            meta: None,
        }
    }

    /// For entries in any order: each is a block.
    fn loose(spools: Spools) -> Self {
        Self::with_blocks_of(1, spools)
    }

    pub(super) fn is_loose(&self) -> bool {
        self.block == 1
    }

    pub(super) fn bytes(&self) -> &Pile {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether `path` is that of the last entry.
    pub(super) fn is_last(&self, path: &Path) -> bool {
        self.count > 0 && self.path == path.as_os_str().as_bytes()
    }

    /// Whether `path` comes behind all others.
    fn is_next(&self, path: &Path) -> bool {
        self.count == 0 || path_order(Path::new(OsStr::from_bytes(&self.path)), path).is_lt()
    }

    /// Adds an entry, wherever it is in path order. `None` when there are too
    /// many.
    pub(super) fn add(&mut self, path: &Path, listed: &Listed) -> Option<()> {
        if !(self.is_loose() || self.is_next(path)) {
            *self = self.loosened()?;
        }
        self.push(path, listed)
    }

    fn push(&mut self, path: &Path, listed: &Listed) -> Option<()> {
        self.begin_block()?;
        self.count += 1;
        let out = self.bytes.out();
        code::path(out, &mut self.path, path);
        if let Kind::Hardlink { target } = &listed.kind {
            // All else is that of its target.
            out.push(b'h');
            code::path(out, &mut self.path.clone(), target);
            return Some(());
        }
        code::kind(out, &listed.kind);
        let meta = (self.meta.as_ref() != Some(&listed.meta)).then_some(&listed.meta);
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.push(flag(meta.is_some(), HAS_META) | flag(listed.content.is_some(), HAS_CONTENT));
        if let Some(meta) = meta {
            code::meta(out, meta);
            self.meta = Some(meta.clone());
        }
        if let Some(content) = &listed.content {
            field(out, content);
        }
        Some(())
    }

    /// Begins a block if the last one is full.
    fn begin_block(&mut self) -> Option<()> {
        if self.count.is_multiple_of(self.block) {
            self.bytes.settle();
            self.blocks.push(u32::try_from(self.bytes.len()).ok()?);
            self.path.clear();
            self.meta = None;
        }
        Some(())
    }

    /// The entries so far, for others that come in any order.
    fn loosened(&self) -> Option<Self> {
        let mut loose = Self::loose(self.bytes.spools());
        let mut walk = self.walk();
        while let Some(record) = walk.next_record() {
            let listed = match record.target(walk.path()) {
                None => record.listed()?,
                Some(target) => Listed::link(target),
            };
            loose.push(walk.path(), &listed)?;
        }
        Some(loose)
    }

    /// Puts all in path order; `None` as in [`sorted`](Self::sorted).
    pub(super) fn settle(&mut self) -> Option<()> {
        if self.is_loose() {
            *self = std::mem::take(self).sorted()?;
        }
        self.finish();
        Some(())
    }

    /// Lets go of what only further entries would need.
    fn finish(&mut self) {
        self.bytes.finish();
        self.blocks.shrink_to_fit();
        // The path tells whether another one comes behind all.
        self.path.shrink_to_fit();
        self.meta = None;
    }

    /// All entries, in the order that they were added in.
    pub(super) fn walk(&self) -> Walk<'_> {
        self.walk_from(0)
    }

    /// Those from the block at `at` on.
    fn walk_from(&self, at: u32) -> Walk<'_> {
        Walk {
            bytes: &self.bytes,
            next: at.into(),
            input: Input(&[]),
            path: Vec::new(),
            meta: &[],
        }
    }

    /// The path that the block at `at` begins with.
    fn first(&self, at: u32) -> &Path {
        let mut input = Input(self.bytes.from(at.into()));
        let path = input.number().and_then(|_| input.field());
        Path::new(OsStr::from_bytes(path.unwrap_or_default()))
    }

    /// The entry at `path`, and where its block is, of entries in path order.
    pub(super) fn find(&self, path: &Path) -> Option<(u32, Record<'_>)> {
        let begins_by = |at: &u32| path_order(self.first(*at), path).is_le();
        let block = self.blocks.partition_point(begins_by).checked_sub(1)?;
        let at = self.blocks.get(block).copied()?;
        let mut walk = self.walk_from(at);
        for _ in 0..self.block {
            let record = walk.next_record()?;
            match path_order(walk.path(), path) {
                Ordering::Less => {}
                Ordering::Equal => return Some((at, record)),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The entries of a loose one in path order, the last one of each path; hard
    /// links then name what is no link. `None` when a path is a directory at one
    /// time and none at another, or a link is to nothing that came before it.
    fn sorted(mut self) -> Option<Self> {
        let mut index = std::mem::take(&mut self.blocks);
        let path = |at| self.first(at).as_os_str().as_bytes();
        let order = |a: &[u8], b: &[u8]| {
            let [a, b] = [a, b].map(|bytes| Path::new(OsStr::from_bytes(bytes)));
            path_order(a, b)
        };
        sort(&mut index, path, order);
        let mut plain = true;
        // The later one is `a`.
        index.dedup_by(|a, b| {
            let again = self.first(*a) == self.first(*b);
            if again {
                let is_dir = |at: u32| self.walk_from(at).next_record().map(|r| r.is_dir());
                plain &= is_dir(*a) == is_dir(*b);
                *b = *a;
            }
            again
        });
        self.blocks = index;
        if !plain {
            return None;
        }
        let mut sorted = Self::new(self.bytes.spools());
        for at in &self.blocks {
            let mut walk = self.walk_from(*at);
            let record = walk.next_record()?;
            let listed = match record.target(walk.path()) {
                None => record.listed()?,
                Some(target) => Listed::link(self.named(*at, target)?),
            };
            sorted.push(walk.path(), &listed)?;
        }
        Some(sorted)
    }

    /// What the hard link at `at`, which is to `target`, names in the end.
    fn named(&self, mut at: u32, mut target: PathBuf) -> Option<PathBuf> {
        loop {
            let (next, record) = self.find(&target)?;
            // Links in a circle lead nowhere.
            if next >= at {
                return None;
            }
            let Some(further) = record.target(&target) else {
                return Some(target);
            };
            (at, target) = (next, further);
        }
    }

    /// Adds the entry that comes next in path order, and whose record `input`
    /// begins with; how many bytes that has. `None` where there is none. `path`
    /// is room for its path.
    pub(super) fn take(&mut self, input: &[u8], path: &mut Vec<u8>) -> Option<usize> {
        let is_first = self.count.is_multiple_of(self.block);
        path.clear();
        if !is_first {
            path.extend_from_slice(&self.path);
        }
        // Whether there are attributes to speak of is all that counts.
        let mut meta: &[u8] = if is_first || self.meta.is_none() {
            &[]
        } else {
            b"m"
        };
        let mut rest = Input(input);
        let record = Record::read(&mut rest, path, &mut meta)?;
        let here = Path::new(OsStr::from_bytes(path));
        if record.target.is_some() && record.target(here).is_none() {
            return None;
        }
        let before = Path::new(OsStr::from_bytes(&self.path));
        if self.count > 0 && path_order(before, here).is_ge() {
            return None;
        }
        let has_meta = !meta.is_empty();
        let len = input.len() - rest.0.len();
        self.begin_block()?;
        self.bytes.out().extend_from_slice(&input[..len]);
        self.meta = has_meta.then(Meta::default);
        self.count += 1;
        std::mem::swap(&mut self.path, path);
        Some(len)
    }
}

/// Reads entries one after the other.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    bytes: &'a Pile,
    /// Where what is behind `input` begins.
    next: u64,
    input: Input<'a>,
    /// Of the last record.
    path: Vec<u8>,
    meta: &'a [u8],
}

impl<'a> Walk<'a> {
    /// The path of the last record.
    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The next record; `None` at the end, or where there is none.
    pub(super) fn next_record(&mut self) -> Option<Record<'a>> {
        if self.input.0.is_empty() {
            self.input = Input(self.bytes.from(self.next));
            self.next += self.input.0.len() as u64;
        }
        Record::read(&mut self.input, &mut self.path, &mut self.meta)
    }
}

impl<'a> Record<'a> {
    /// Reads the next one; `path` is that of the one before it, `meta` the last
    /// attributes.
    fn read(input: &mut Input<'a>, path: &mut Vec<u8>, meta: &mut &'a [u8]) -> Option<Self> {
        input.path(path)?;
        if input.0.first() == Some(&b'h') {
            input.byte();
            let common = usize::try_from(input.number()?).ok()?;
            return Some(Record {
                kind: b"h",
                target: Some((common, input.field()?)),
                meta: &[],
                content: None,
            });
        }
        let kind = passed(input, |input| match input.byte()? {
            b'd' | b'p' => Some(()),
            b'f' => input.number().map(drop),
            b'l' => input.field().map(drop),
            b'c' | b'b' => input.number().and(input.number()).map(drop),
            _ => None,
        })?;
        let flags = input.byte()?;
        if flags & HAS_META != 0 {
            *meta = passed(input, |input| {
                for _ in 0..5 {
                    input.number()?;
                }
                for _ in 0..input.number()? {
                    input.field()?;
                    input.field()?;
                }
                Some(())
            })?;
        }
        // A block's first record has attributes.
        let content = match flags & HAS_CONTENT {
            0 => None,
            _ => Some(input.field()?),
        };
        (!meta.is_empty()).then_some(Record {
            kind,
            target: None,
            meta,
            content,
        })
    }
}

/// The bytes that `pass` reads.
fn passed<'a>(
    input: &mut Input<'a>,
    pass: impl FnOnce(&mut Input<'a>) -> Option<()>,
) -> Option<&'a [u8]> {
    let before = input.0;
    pass(input)?;
    before.get(..before.len() - input.0.len())
}
