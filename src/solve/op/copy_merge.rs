//! What the sources of a copy come to together, in path order.
//!
//! Each source is a lane of entries in path order. Merging them holds little of
//! each, and the directories above the last one. Where several have the same
//! path, the later go on top of the earlier ones.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::CopyError;
use super::copy_look::Look;
use super::copy_planned::{At, FileId, Planned, What};
use super::spilled::{Spilled, Values};
use crate::context::checksum::Contents;
use crate::context::entries::{Entries, Reader};
use crate::context::select::Found;
use crate::layer::{Kind, path_order};

/// What a source stands for, on its way to the destination.
pub(super) struct Lane {
    /// Where it goes.
    pub(super) base: PathBuf,
    /// The entries go into that, and not to its place.
    pub(super) into: bool,
    /// The number of its selection among all of the plan.
    pub(super) contents: usize,
    /// What a path stands for, unless it is a directory.
    pub(super) top: Option<Found>,
    pub(super) below: Arc<Entries>,
    /// The same in path order, where it is in another one; names are the paths.
    pub(super) sorted: Option<Values<Found>>,
    /// Later ones go on top of earlier ones.
    pub(super) order: usize,
}

/// A lane that is being read.
struct Open {
    lane: Lane,
    entries: Ordered,
}

/// Its entries in path order.
enum Ordered {
    Listed(Reader),
    Sorted(Values<Found>),
}

impl Open {
    /// The next entry, and where it goes.
    fn next(&mut self) -> Option<io::Result<(PathBuf, Found)>> {
        let base = &self.lane.base;
        if let Some(top) = self.lane.top.take() {
            return Some(Ok((base.clone(), top)));
        }
        let found = match &mut self.entries {
            Ordered::Listed(reader) => reader.next()?,
            Ordered::Sorted(values) => values.next()?.map(|(name, found)| Found { name, ..found }),
        };
        Some(found.map(|found| match self.lane.into {
            true => (base.join(&found.name), found),
            false => (base.clone(), found),
        }))
    }
}

/// What comes next of a lane, or of the entries that are planned.
struct Head {
    path: PathBuf,
    order: usize,
    item: Item,
}

enum Item {
    Planned(Planned),
    Found(usize, Found),
}

impl Ord for Head {
    /// The first in path order is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let order = path_order(&other.path, &self.path);
        order.then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// Merges lanes with entries that are planned.
pub(super) struct Merge {
    planned: Values<Planned>,
    lanes: Vec<Open>,
    heads: BinaryHeap<Head>,
    /// Nothing was taken yet.
    begun: bool,
    /// The directories above what was taken last, and whether the root has
    /// nothing in them.
    above: Vec<(PathBuf, bool)>,
}

impl Merge {
    pub(super) fn new(planned: Spilled<Planned>, lanes: Vec<Lane>) -> Self {
        let count = lanes.len();
        let open = |mut lane: Lane| Open {
            entries: match lane.sorted.take() {
                Some(values) => Ordered::Sorted(values),
                None => Ordered::Listed(lane.below.read_as_one_of(count)),
            },
            lane,
        };
        Self {
            planned: planned.into_values(),
            lanes: lanes.into_iter().map(open).collect(),
            heads: BinaryHeap::new(),
            begun: false,
            above: Vec::new(),
        }
    }

    /// The next entry; `contents` are those of all selections.
    pub(super) fn next(
        &mut self,
        look: &Look,
        contents: &[Arc<Contents>],
    ) -> Option<Result<(PathBuf, Planned), CopyError>> {
        self.take(look, contents).transpose()
    }

    fn take(
        &mut self,
        look: &Look,
        contents: &[Arc<Contents>],
    ) -> Result<Option<(PathBuf, Planned)>, CopyError> {
        if !self.begun {
            self.begun = true;
            self.fetch_planned()?;
            for number in 0..self.lanes.len() {
                self.fetch(number)?;
            }
        }
        let Some(head) = self.heads.pop() else {
            return Ok(None);
        };
        let path = head.path;
        while (self.above.last()).is_some_and(|(dir, _)| !is_below(dir, &path)) {
            self.above.pop();
        }
        let mut state = self.put((look, contents), &path, None, head.item)?;
        while (self.heads.peek()).is_some_and(|next| next.path == path) {
            if let Some(next) = self.heads.pop() {
                state = self.put((look, contents), &path, Some(state), next.item)?;
            }
        }
        if matches!(state.what, What::Dir) {
            self.above.push((path.clone(), state.fresh));
        }
        Ok(Some((path, state)))
    }

    /// Puts `item` on top of what earlier sources have at `path`.
    fn put(
        &mut self,
        (look, contents): (&Look, &[Arc<Contents>]),
        path: &Path,
        below: Option<Planned>,
        item: Item,
    ) -> Result<Planned, CopyError> {
        let (number, found) = match item {
            Item::Planned(planned) => {
                self.fetch_planned()?;
                return on_top(path, below, planned);
            }
            Item::Found(number, found) => (number, found),
        };
        self.fetch(number)?;
        let at = match &below {
            Some(planned) => planned.at(),
            None if self.above.last().is_some_and(|(_, fresh)| *fresh) => At::Nothing,
            None => look.at(path)?,
        };
        let order = self.lanes.get(number).map_or(0, |open| open.lane.order);
        if found.node.kind == Kind::Dir {
            return merge_dir(look, path, at, below, found, order);
        }
        if matches!(at, At::Dir) {
            return Err(CopyError::FileOntoDirectory(path.to_owned()));
        }
        let selected = match self.lanes.get(number) {
            Some(Open { lane, .. }) => {
                let of = contents.get(lane.contents);
                of.and_then(|of| of.file(&found)).map(|file| {
                    let shared = found.file.filter(|file| lane.below.is_shared(*file));
                    let id = |file| FileId::InSource(lane.order, file);
                    (lane.contents, file, shared.map(id))
                })
            }
            None => None,
        };
        let mut meta = found.node.meta;
        let what = match (found.node.kind, selected) {
            (Kind::File { size }, Some((contents, file, shared))) => {
                meta = look.adjusted(meta, false);
                What::Selected {
                    size,
                    shared,
                    contents,
                    file,
                }
            }
            (kind @ Kind::Symlink { .. }, _) => {
                look.owned(&mut meta);
                What::Plain(kind)
            }
            (kind, _) => {
                meta = look.adjusted(meta, false);
                What::Plain(kind)
            }
        };
        Ok(Planned {
            what,
            meta,
            fresh: true,
            order,
        })
    }

    fn fetch_planned(&mut self) -> Result<(), CopyError> {
        if let Some(next) = self.planned.next() {
            let (path, planned) = next.map_err(|source| CopyError::Waiting {
                path: PathBuf::new(),
                source,
            })?;
            self.heads.push(Head {
                path,
                order: planned.order,
                item: Item::Planned(planned),
            });
        }
        Ok(())
    }

    /// Makes the next entry of a lane a head.
    fn fetch(&mut self, number: usize) -> Result<(), CopyError> {
        let Some(open) = self.lanes.get_mut(number) else {
            return Ok(());
        };
        let Some(next) = open.next() else {
            return Ok(());
        };
        let (path, found) = next.map_err(|source| CopyError::Read {
            path: open.lane.base.clone(),
            source,
        })?;
        self.heads.push(Head {
            path,
            order: open.lane.order,
            item: Item::Found(number, found),
        });
        Ok(())
    }
}

/// Whether `path` is below `dir`.
fn is_below(dir: &Path, path: &Path) -> bool {
    let (dir, path) = (dir.as_os_str().as_bytes(), path.as_os_str().as_bytes());
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// An entry that was planned by itself, on top of what earlier sources have.
fn on_top(path: &Path, below: Option<Planned>, planned: Planned) -> Result<Planned, CopyError> {
    match (below, &planned.what) {
        (None, _) => Ok(planned),
        (Some(below), What::Dir) => match below.what {
            What::Dir => Ok(below),
            _ => Err(CopyError::NotADirectory {
                path: path.to_owned(),
                blocker: path.to_owned(),
            }),
        },
        (Some(below), _) => match below.what {
            What::Dir => Err(CopyError::FileOntoDirectory(path.to_owned())),
            _ => Ok(planned),
        },
    }
}

fn merge_dir(
    look: &Look,
    path: &Path,
    at: At,
    below: Option<Planned>,
    found: Found,
    order: usize,
) -> Result<Planned, CopyError> {
    let meta = found.node.meta;
    let (meta, fresh) = match at {
        At::Nothing => (look.adjusted(meta, true), true),
        At::Dir => {
            let (mut there, fresh) = match below {
                Some(planned) => (planned.meta, planned.fresh),
                None => (look.existing(path)?, false),
            };
            if found.passage {
                there.mode = meta.mode;
            } else {
                let mut xattrs = std::mem::take(&mut there.xattrs);
                there = look.adjusted(meta, true);
                xattrs.append(&mut there.xattrs);
                there.xattrs = xattrs;
            }
            (there, fresh)
        }
        At::Link(_) | At::Other => return Err(CopyError::DirectoryOntoFile(path.to_owned())),
    };
    Ok(Planned {
        what: What::Dir,
        meta,
        fresh,
        order,
    })
}
