//! What a planned copy writes, one entry after the other.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::copy::{CopyError, FileBody, FileId, Planned, What};
use super::copy_look::Look;
use super::copy_merge::Merge;
use crate::layer::first_names::FirstNames;
use crate::layer::{Change, Content, Entry, Kind};

/// What a copy writes, in path order.
pub struct CopyChanges {
    look: Look,
    merge: Merge,
    bodies: Vec<FileBody>,
    /// Bytes of the files in trees.
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
    pub(super) fn new(look: Look, merge: Merge, bodies: Vec<FileBody>, bytes: u64) -> Self {
        Self {
            look,
            merge,
            bodies,
            bytes,
            first: FirstNames::default(),
            fault: Fault::default(),
        }
    }

    /// Bytes that the files have together, at most.
    pub fn bytes(&self) -> u64 {
        let sizes = self.bodies.iter().map(|file| file.size);
        sizes.fold(self.bytes, u64::saturating_add)
    }

    /// Where the error of the copy will be, if there is one.
    pub fn fault(&self) -> Fault {
        self.fault.clone()
    }

    fn change(&mut self, path: PathBuf, planned: Planned) -> Change {
        let mut content = Content::None;
        let mut link = |id: FileId| {
            let file = match id {
                FileId::Body(body) => (u64::MAX, body as u64),
                FileId::InMatch(number, file) => (number as u64, file.into()),
            };
            // How many names the plan has for it is not known.
            let known = self.first.link(file, &path, u64::MAX);
            known.map(|target| Kind::Hardlink { target })
        };
        let kind = match planned.what {
            What::Dir => Kind::Dir,
            What::Plain(kind) => kind,
            What::File(body) => {
                let file = self.bodies.get_mut(body);
                let shared = file.as_ref().is_some_and(|file| file.shared);
                match shared.then(|| link(FileId::Body(body))).flatten() {
                    Some(link) => link,
                    None => {
                        let size = file.as_ref().map_or(0, |file| file.size);
                        if let Some(file) = file {
                            content = std::mem::replace(&mut file.content, Content::None);
                        }
                        Kind::File { size }
                    }
                }
            }
            What::Selected {
                size,
                shared,
                contents,
                file,
            } => match shared.and_then(link) {
                Some(link) => link,
                None => {
                    if size > 0 {
                        content = Content::Read(Box::new(move || contents.open(file)));
                    }
                    Kind::File { size }
                }
            },
        };
        let meta = planned.meta;
        Change::Put(Entry { path, kind, meta }, content)
    }
}

impl Iterator for CopyChanges {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.merge.next(&self.look)? {
            Ok((path, planned)) => Some(Ok(self.change(path, planned))),
            Err(e) => {
                let reason = e.to_string();
                let mut fault = (self.fault.0.lock()).unwrap_or_else(PoisonError::into_inner);
                *fault = Some(e);
                Some(Err(io::Error::other(reason)))
            }
        }
    }
}
