//! What a source stands for, as it is found.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Node;
use super::checksum::{VERSION, describe};
use super::digests::Digests;
use super::entries::{NewFile, Writer};
use super::select::{Found, Kinds, Match, Of, Selection, found_at, is_portable_xattr};
use crate::digest::{Hasher, Sha256};
use crate::layer::Kind;

/// What the matches of a source have, in one list.
pub(super) struct Picked<'a> {
    list: Writer<'a>,
    known: Digests,
    bytes: u64,
    /// All that enters of matches that ended, and how many they are.
    shape: Hasher,
    matches: u64,
    /// Of the match that is being picked: all that enters of it, and how much
    /// is below it.
    own: Hasher,
    below: u64,
    /// What the matches of a pattern are; `None` for a path.
    kinds: Option<Kinds>,
    /// What a path stands for, and where that is.
    only: Option<(Of, PathBuf)>,
    description: Vec<u8>,
    /// The digest of nothing.
    of_nothing: Sha256,
    new_file: NewFile<'a>,
}

impl<'a> Picked<'a> {
    pub(super) fn new(is_pattern: bool, new_file: NewFile<'a>) -> Self {
        let mut shape = Hasher::new();
        shape.field(VERSION);
        Self {
            list: Writer::new(new_file),
            known: Digests::default(),
            bytes: 0,
            shape,
            matches: 0,
            own: Hasher::new(),
            below: 0,
            kinds: is_pattern.then(Kinds::default),
            only: None,
            description: Vec::new(),
            of_nothing: Sha256::of(b""),
            new_file,
        }
    }

    /// Takes in an entry, by its name, and a file's size and digest.
    fn enter(&mut self, found: &Found) -> io::Result<()> {
        if let (Kind::File { size }, Some(file), 0) = (&found.node.kind, found.file, found.back) {
            self.bytes = self.bytes.saturating_add(*size);
            let empty = (*size == 0).then_some(self.of_nothing);
            if let Some(digest) = empty.or(found.node.digest) {
                self.known.reserve(file as usize + 1, self.new_file)?;
                self.known.set(file as usize, digest)?;
            }
        }
        self.description.clear();
        describe(found, &mut self.description);
        self.own.field(&self.description);
        Ok(())
    }

    /// Begins a match.
    pub(super) fn begin(&mut self, top: &mut Found) -> io::Result<()> {
        self.list.count(top);
        self.enter(top)
    }

    /// Adds what is below the match at `path`.
    pub(super) fn push(&mut self, mut found: Found, path: &Path) -> io::Result<()> {
        self.list.count(&mut found);
        self.enter(&found)?;
        self.below += 1;
        if self.kinds.is_some() {
            found.place = Some(path.join(&found.name));
        }
        self.list.push(&found)
    }

    /// Ends the match at `path`, which was found by `name`.
    pub(super) fn end(&mut self, name: OsString, path: PathBuf, top: Found) -> io::Result<()> {
        self.shape.field(name.as_encoded_bytes());
        self.shape.field(&self.below.to_le_bytes());
        let own = std::mem::take(&mut self.own);
        self.shape.field(&own.finish_raw().0);
        self.below = 0;
        self.matches += 1;
        self.list.end_match();
        let is_dir = top.node.kind == Kind::Dir;
        match &mut self.kinds {
            Some(kinds) if is_dir => kinds.add_dir(),
            Some(kinds) => {
                kinds.others = true;
                self.list.push(&Found {
                    name: name.into(),
                    place: Some(path),
                    itself: true,
                    ..top
                })?;
            }
            None => {
                let top = Box::new(top);
                self.only = Some((Of::Path { name, top }, path));
            }
        }
        Ok(())
    }

    /// Adds a match of a pattern that is neither a directory nor a link, as it
    /// was listed.
    pub(super) fn push_match(&mut self, path: PathBuf, mut node: Node) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_owned();
        node.meta.xattrs.retain(|name, _| is_portable_xattr(name));
        let mut found = found_at(PathBuf::new(), node);
        // Several that are one file were never linked.
        found.node.links = 1;
        self.begin(&mut found)?;
        self.end(name, path, found)
    }

    /// Whether nothing is below any match, and there are some.
    pub(super) fn is_hollow(&self) -> bool {
        self.matches > 0 && self.list.is_empty()
    }

    /// All matches that were ended.
    pub(super) fn finish(mut self) -> Selection {
        self.shape.field(&self.matches.to_le_bytes());
        let pattern = |kinds| (Of::Pattern(kinds), PathBuf::new());
        let found = match self.matches {
            0 => None,
            _ => self.only.or(self.kinds.map(pattern)),
        };
        let files = self.list.files();
        let below = Arc::new(self.list.finish());
        Selection {
            found: found.map(|(of, path)| Match {
                of,
                path,
                below,
                bytes: self.bytes,
            }),
            files,
            shape: self.shape.finish(),
            known: self.known,
        }
    }
}
