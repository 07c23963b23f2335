//! What a planned copy writes, one entry after the other.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::archive;
use super::copy::CopyError;
use super::copy_look::Look;
use super::copy_merge::Merge;
use super::copy_planned::{FileId, LoneBody, Planned, What};
use crate::context::checksum::Contents;
use crate::layer::first_names::FirstNames;
use crate::layer::{Change, Content, Entry, Kind};

/// Where the bytes of a plan's files are.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Those of the selections.
    pub(super) contents: Vec<Arc<Contents>>,
    pub(super) archives: Vec<Arc<archive::Contents>>,
    /// Those of single files.
    pub(super) bodies: Vec<Content>,
    /// For each file that is in no tree, up to the last with several names:
    /// how many more it has at most; [`u8::MAX`] stands for any number.
    shared: Vec<u8>,
}

impl Files {
    /// Takes note that the file with this number has one more name.
    pub(super) fn share(&mut self, number: usize) {
        if self.shared.len() <= number {
            self.shared.resize(number + 1, 0);
        }
        if let Some(more) = self.shared.get_mut(number) {
            *more = more.saturating_add(1);
        }
    }

    /// How many names a file has at most, one with several.
    fn names(&self, number: usize) -> Option<u64> {
        match self.shared.get(number).copied().unwrap_or(0) {
            0 => None,
            u8::MAX => Some(u64::MAX),
            more => Some(u64::from(more) + 1),
        }
    }

    fn content(&mut self, body: LoneBody, size: u64) -> io::Result<Content> {
        let found = match body {
            _ if size == 0 => Some(Content::None),
            LoneBody::Single(number) => (self.bodies.get_mut(number))
                .map(|content| std::mem::replace(content, Content::None)),
            LoneBody::Archive(number, place) => match self.archives.get(number) {
                Some(archive) => Some(archive.get(place, size)?),
                None => None,
            },
        };
        Ok(found.unwrap_or(Content::None))
    }
}

/// What a copy writes, in path order.
pub struct CopyChanges {
    look: Look,
    merge: Merge,
    files: Files,
    /// Bytes of all files.
    bytes: u64,
    /// First names of files that have several.
    first: FirstNames,
    fault: Fault,
}

/// Why a copy's changes broke off, for whoever no longer has them.
#[derive(Debug, Clone, Default)]
pub struct Fault(Arc<Mutex<Option<CopyError>>>);

impl Fault {
    /// The error, if there was one.
    pub fn take(&self) -> Option<CopyError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for CopyChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CopyChanges")
    }
}

impl CopyChanges {
    pub(super) fn new(look: Look, merge: Merge, files: Files, bytes: u64) -> Self {
        Self {
            look,
            merge,
            files,
            bytes,
            first: FirstNames::default(),
            fault: Fault::default(),
        }
    }

    /// Bytes that the files have together, at most.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the error of the copy will be, if there is one.
    pub fn fault(&self) -> Fault {
        self.fault.clone()
    }

    fn change(&mut self, path: PathBuf, planned: Planned) -> io::Result<Change> {
        let mut content = Content::None;
        let mut link = |id: FileId, names: u64| {
            let file = match id {
                FileId::Lone(number) => (u64::MAX, number as u64),
                FileId::InSource(number, file) => (number as u64, file.into()),
            };
            let known = self.first.link(file, &path, names);
            known.map(|target| Kind::Hardlink { target })
        };
        let kind = match planned.what {
            What::Dir => Kind::Dir,
            What::Plain(kind) => kind,
            What::File(file) => {
                let names = self.files.names(file.number);
                match names.and_then(|names| link(FileId::Lone(file.number), names)) {
                    Some(link) => link,
                    None => {
                        content = self.files.content(file.body, file.size)?;
                        Kind::File { size: file.size }
                    }
                }
            }
            What::Selected {
                size,
                shared,
                contents,
                file,
                // How many names the plan has for it is not known.
            } => match shared.and_then(|id| link(id, u64::MAX)) {
                Some(link) => link,
                None => {
                    let contents = self.files.contents.get(contents).map(Arc::clone);
                    if let Some(contents) = contents.filter(|_| size > 0) {
                        content = Content::Read(Box::new(move || contents.open(file)));
                    }
                    Kind::File { size }
                }
            },
        };
        let meta = planned.meta;
        Ok(Change::Put(Entry { path, kind, meta }, content))
    }
}

impl Iterator for CopyChanges {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.merge.next(&self.look, &self.files.contents)? {
            Ok((path, planned)) => Some(self.change(path, planned)),
            Err(e) => {
                let reason = e.to_string();
                let mut fault = (self.fault.0.lock()).unwrap_or_else(PoisonError::into_inner);
                *fault = Some(e);
                Some(Err(io::Error::other(reason)))
            }
        }
    }
}
