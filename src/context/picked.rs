//! Matches of a source on their way into lists.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Node;
use super::checksum::describe;
use super::digests::Digests;
use super::entries::{Extent, NewFile, Writer};
use super::select::{Found, Match, Selection, found_at, is_portable_xattr};
use crate::digest::{Hasher, Sha256};
use crate::layer::{Kind, Meta, Mtime};

/// Where the list of a match is.
enum Place {
    Lists(Extent),
    Empty(Extent),
}

/// What the matches of a source have, as it is found.
pub(super) struct Picked<'a> {
    lists: Writer<'a>,
    /// Those of empty directories: whether one is, is known only when it was
    /// listed.
    empty: Writer<'a>,
    ended: Vec<(Match, Place)>,
    /// How many files the matches that ended have.
    first: usize,
    known: Digests,
    /// Those of the match that is being picked.
    shape: Hasher,
    bytes: u64,
    description: Vec<u8>,
    /// The digest of nothing.
    of_nothing: Sha256,
    new_file: NewFile<'a>,
}

impl<'a> Picked<'a> {
    pub(super) fn new(new_file: NewFile<'a>) -> Self {
        Self {
            lists: Writer::new(new_file),
            empty: Writer::new(new_file),
            ended: Vec::new(),
            first: 0,
            known: Digests::default(),
            shape: Hasher::new(),
            bytes: 0,
            description: Vec::new(),
            of_nothing: Sha256::of(b""),
            new_file,
        }
    }

    fn count(&mut self, found: &mut Found) -> io::Result<()> {
        self.lists.count(found);
        self.weigh(found)?;
        self.description.clear();
        describe(found, &mut self.description);
        self.shape.field(&self.description);
        Ok(())
    }

    pub(super) fn top(&mut self, mut found: Found) -> io::Result<Found> {
        self.count(&mut found)?;
        Ok(found)
    }

    pub(super) fn push(&mut self, mut found: Found) -> io::Result<()> {
        self.count(&mut found)?;
        self.lists.push(&found)
    }

    /// Adds a match that is no directory.
    pub(super) fn push_apart(&mut self, mut found: Found) -> io::Result<()> {
        found
            .node
            .meta
            .xattrs
            .retain(|name, _| is_portable_xattr(name));
        self.lists.count_apart(&mut found);
        self.weigh(&found)?;
        self.lists.push(&found)
    }

    /// Whether nothing was added but the match itself.
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Adds what was picked, an empty directory, to the other ones.
    pub(super) fn push_empty(&mut self, found: Found) -> io::Result<()> {
        self.lists.end_list();
        self.shape = Hasher::new();
        self.empty.push(&found)
    }

    /// Ends the matches that were added with [`push_empty`](Self::push_empty),
    /// if there are any.
    pub(super) fn end_empty(&mut self) {
        if !self.empty.is_empty() {
            let place = Place::Empty(self.empty.end_list());
            self.ended.push((apart(Path::new("")), place));
        }
    }

    /// Ends the matches that were added with [`push_apart`](Self::push_apart),
    /// which are below `path`.
    pub(super) fn end_apart(&mut self, path: &Path) {
        let found = Match {
            files: self.lists.files(),
            bytes: std::mem::take(&mut self.bytes),
            ..apart(path)
        };
        self.first += found.files as usize;
        self.ended
            .push((found, Place::Lists(self.lists.end_list())));
    }

    /// Takes note of a file's size and digest.
    fn weigh(&mut self, found: &Found) -> io::Result<()> {
        if let (Kind::File { size }, Some(file), 0) = (&found.node.kind, found.file, found.back) {
            self.bytes = self.bytes.saturating_add(*size);
            let empty = (*size == 0).then_some(self.of_nothing);
            if let Some(digest) = empty.or(found.node.digest) {
                let file = self.first + file as usize;
                self.known.reserve(file + 1, self.new_file)?;
                self.known.set(file, digest)?;
            }
        }
        Ok(())
    }

    /// Ends a match.
    pub(super) fn end(&mut self, name: OsString, path: PathBuf, top: Found) {
        let found = Match {
            apart: false,
            name,
            path,
            top,
            below: Arc::default(),
            files: self.lists.files(),
            bytes: std::mem::take(&mut self.bytes),
            shape: std::mem::take(&mut self.shape).finish_raw(),
        };
        self.first += found.files as usize;
        self.ended
            .push((found, Place::Lists(self.lists.end_list())));
    }

    /// All matches that were ended.
    pub(super) fn finish(mut self) -> Selection {
        self.end_empty();
        let (lists, empty) = (self.lists.finish(), self.empty.finish());
        let with_list = |(found, place): (Match, Place)| Match {
            below: match place {
                Place::Lists(extent) => extent.of(&lists),
                Place::Empty(extent) => extent.of(&empty),
            },
            ..found
        };
        Selection {
            matches: self.ended.into_iter().map(with_list).collect(),
            known: self.known,
        }
    }
}

/// Matches that have nothing below them, which are below `path`.
fn apart(path: &Path) -> Match {
    let top = Node {
        kind: Kind::Dir,
        meta: Meta::default(),
        ctime: Mtime::default(),
        inode: (0, 0),
        links: 1,
        digest: None,
    };
    Match {
        apart: true,
        name: OsString::new(),
        path: path.to_owned(),
        top: found_at(PathBuf::new(), top),
        below: Arc::default(),
        files: 0,
        bytes: 0,
        shape: Hasher::new().finish_raw(),
    }
}
