//! What a planned copy writes, one entry after the other.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::path::PathBuf;

use super::copy::{FileBody, Planned, What};
use crate::layer::{Change, Content, Entry, Kind};

/// What a copy writes, in path order.
pub struct CopyChanges {
    entries: btree_map::IntoIter<PathBuf, Planned>,
    bodies: Vec<FileBody>,
    /// First names of files that have several.
    first: HashMap<usize, PathBuf>,
}

impl std::fmt::Debug for CopyChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.entries.len();
        f.debug_struct("CopyChanges")
            .field("entries", &entries)
            .finish()
    }
}

impl CopyChanges {
    pub(super) fn new(entries: BTreeMap<PathBuf, Planned>, bodies: Vec<FileBody>) -> Self {
        Self {
            entries: entries.into_iter(),
            bodies,
            first: HashMap::new(),
        }
    }

    /// Bytes that the files have together.
    pub fn bytes(&self) -> u64 {
        let sizes = self.bodies.iter().map(|file| file.size);
        sizes.fold(0, u64::saturating_add)
    }
}

impl Iterator for CopyChanges {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        let (path, planned) = self.entries.next()?;
        let mut content = Content::None;
        let kind = match planned.what {
            What::Dir => Kind::Dir,
            What::Plain(kind) => kind,
            What::File(body) => match (self.first.get(&body), self.bodies.get_mut(body)) {
                (Some(target), _) => Kind::Hardlink {
                    target: target.clone(),
                },
                (None, file) => {
                    let file = file?;
                    content = std::mem::replace(&mut file.content, Content::None);
                    if file.shared {
                        self.first.insert(body, path.clone());
                    }
                    Kind::File { size: file.size }
                }
            },
        };
        let meta = planned.meta;
        Some(Change::Put(Entry { path, kind, meta }, content))
    }
}
