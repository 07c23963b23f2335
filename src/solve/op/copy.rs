//! COPY and ADD as a plan: which entries the new layer has.
//!
//! The plan is made by looking: at the sources, which were selected before,
//! and at the destination's tree, which is only asked for what lies on the way
//! to the entries that are written. Nothing is written, and no content is read
//! before its turn comes in the layer. What comes out of trees is merged with the
//! rest as it is asked for, so that a plan is as small for a million files as
//! for one.
//!
//! Rules that are easily got wrong:
//!
//! | case | what happens |
//! |---|---|
//! | destination ends in `/` or is `.` | it is a directory, made where missing |
//! | file source, destination is a directory | the file goes into it under its own name |
//! | directory source | what is in it is copied, not the directory itself |
//! | directory in the source, also at the destination | merged; takes the source's attributes, but for the topmost one |
//! | directory that `--parents` leads through, also at the destination | takes the source's mode only |
//! | file onto directory, directory onto anything else | error |
//! | link on the way to the destination, or the destination itself | followed inside the root |
//! | link below the destination | replaced, never followed |
//! | missing directories on the way | made 0755, root, or as `--chown` and `--chmod` say |
//! | existing directories on the way to something written | part of the layer, as they are |
//! | `--link` | the destination's tree counts as empty; no effect together with `--chmod` |
//! | two names of one file in one match | stay two names of one file |
//! | entry of an archive | replaces what is there, but for a directory on a directory; links on the way to it are followed inside the root |
//!
//! # Specification
//! Dockerfile reference, COPY and ADD.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::copy_changes::{CopyChanges, Fault};
pub use super::copy_error::CopyError;
use super::copy_look::Look;
use super::copy_merge::{Lane, Merge};
use crate::context::checksum::{Contents, Selected};
use crate::context::ignore::tidy;
use crate::context::select::Match;
use crate::context::{Empty, Tree};
use crate::dockerfile::chmod::Chmod;
use crate::layer::{Content, Entry, Kind, Meta, Mtime};

/// Links followed on the way to a destination.
const MAX_LINKS: usize = 40;

/// What is copied.
#[derive(Debug)]
pub enum Source {
    /// What was selected in a tree.
    Tree {
        /// Its files.
        contents: Arc<Contents>,
        /// The matches, with their numbers in `contents`.
        matches: Vec<(usize, Match)>,
    },
    /// One file that is in no tree: a heredoc, or a download.
    File(Single),
    /// What an archive has in it, names relative to the destination, which is
    /// a directory. Hard links name entries of the same list.
    Archive(Vec<(Entry, Body)>),
}

impl Source {
    /// All matches of a selection.
    pub fn tree(contents: Arc<Contents>, matches: Vec<Match>) -> Self {
        Self::Tree {
            contents,
            matches: matches.into_iter().enumerate().collect(),
        }
    }
}

/// A file that is in no tree.
#[derive(Debug)]
pub struct Single {
    /// Its name, where the destination is a directory.
    pub name: String,
    /// Its bytes.
    pub body: Body,
    /// Number of bytes.
    pub size: u64,
    /// Permission bits, before `--chmod`.
    pub mode: u32,
    /// Its time.
    pub mtime: Mtime,
}

/// Where the bytes of a file that is in no tree are.
#[derive(Debug, Clone)]
pub enum Body {
    /// There are none.
    None,
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file of our own; `keep` holds its directory.
    Spooled {
        /// The file.
        path: PathBuf,
        /// Removed when the last one lets go.
        keep: Arc<tempfile::TempDir>,
    },
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// `--chown`, resolved in the target's own passwd and group.
    pub chown: Option<(u32, u32)>,
    /// `--chmod`
    pub chmod: Option<Chmod>,
    /// `--link`
    pub link: bool,
    /// Whether the instruction names more than one source, so that the
    /// destination has to be a directory.
    pub several: bool,
    /// The time of directories that have to be made.
    pub created: Mtime,
}

impl CopyOptions {
    /// Whether the layer is made without looking at what is below it.
    pub fn independent(&self) -> bool {
        self.link && self.chmod.is_none()
    }
}

/// Plans the copy of `sources` to `dest` (relative to `workdir`) in the tree
/// `root`: the changes in path order. What the sources' trees have is looked at
/// only as the changes are taken.
pub fn plan(
    sources: Vec<Source>,
    dest: &str,
    workdir: &Path,
    root: Arc<dyn Tree>,
    options: &CopyOptions,
) -> Result<CopyChanges, CopyError> {
    let root = match options.independent() {
        true => Arc::new(Empty),
        false => root,
    };
    let mut planner = Planner {
        look: Look {
            root,
            options: options.clone(),
        },
        entries: BTreeMap::new(),
        bodies: Vec::new(),
        lanes: Vec::new(),
        order: 0,
        bytes: 0,
    };
    let target = Target::parse(dest, workdir);
    if options.several && !target.is_dir {
        let path = planner.resolve(&target.path)?;
        if !matches!(planner.at(&path)?, At::Dir) {
            return Err(CopyError::NeedsDirectory(dest.to_owned()));
        }
    }
    for source in sources {
        match source {
            Source::Tree { contents, matches } => {
                for found in matches {
                    planner.add_match(&target, &contents, found)?;
                }
            }
            Source::File(single) => planner.add_single(&target, single)?,
            Source::Archive(entries) => {
                // Its paths lead through whatever is there by now.
                planner.settle()?;
                planner.add_archive(&target, entries)?;
            }
        }
        planner.order += 1;
    }
    planner.changes()
}

/// The destination as it was written.
#[derive(Debug, PartialEq)]
struct Target {
    path: PathBuf,
    is_dir: bool,
}

impl Target {
    fn parse(dest: &str, workdir: &Path) -> Self {
        Self {
            path: tidy(&workdir.join(dest)),
            is_dir: matches!(dest, "" | ".") || dest.ends_with('/') || dest.ends_with("/."),
        }
    }
}

/// What is at a path, with the plan so far applied.
pub(super) enum At {
    Nothing,
    Dir,
    Link(PathBuf),
    Other,
}

#[derive(Debug)]
pub(super) enum What {
    Dir,
    /// A link, a device, a pipe.
    Plain(Kind),
    /// A name of the file with this number in [`Planner::bodies`].
    File(usize),
    /// A name of a file of a source's tree.
    Selected {
        size: u64,
        /// Which file it is, for one with several names.
        shared: Option<FileId>,
        contents: Arc<Contents>,
        file: Selected,
    },
}

/// Tells the files of a plan apart that have several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FileId {
    /// A number in [`Planner::bodies`].
    Body(usize),
    /// The number of a match, and that of a file in it.
    InMatch(usize, u32),
}

#[derive(Debug)]
pub(super) struct Planned {
    pub(super) what: What,
    pub(super) meta: Meta,
    /// Below this directory the root has nothing.
    pub(super) fresh: bool,
    /// Number of the source that it is of.
    pub(super) order: usize,
}

/// A file's bytes and size.
pub(super) struct FileBody {
    pub(super) size: u64,
    /// It has several names in the plan.
    pub(super) shared: bool,
    pub(super) content: Content,
}

impl Planned {
    /// What is at its path then.
    pub(super) fn at(&self) -> At {
        match &self.what {
            What::Dir => At::Dir,
            What::Plain(Kind::Symlink { target }) => At::Link(target.clone()),
            What::Plain(_) | What::File(_) | What::Selected { .. } => At::Other,
        }
    }
}

struct Planner {
    look: Look,
    entries: BTreeMap<PathBuf, Planned>,
    bodies: Vec<FileBody>,
    /// What is still to be merged with the entries.
    lanes: Vec<Lane>,
    /// Number of the source whose turn it is.
    order: usize,
    /// Bytes of the files in trees.
    bytes: u64,
}

impl Planner {
    /// Whether a directory of the plan hides what the root has at `path`.
    fn is_fresh(&self, path: &Path) -> bool {
        for above in path.ancestors().skip(1) {
            if let Some(planned) = self.entries.get(above) {
                return planned.fresh;
            }
        }
        false
    }

    /// What is at `path`, which has no links on the way.
    fn at(&self, path: &Path) -> Result<At, CopyError> {
        if path.as_os_str().is_empty() {
            return Ok(At::Dir);
        }
        if let Some(planned) = self.entries.get(path) {
            return Ok(planned.at());
        }
        if self.is_fresh(path) {
            return Ok(At::Nothing);
        }
        self.look.at(path)
    }

    /// `path` with all links followed, as far as it exists.
    fn resolve(&self, path: &Path) -> Result<PathBuf, CopyError> {
        let names = |path: &Path| -> Vec<OsString> {
            path.components()
                .filter_map(|c| match c {
                    std::path::Component::Normal(name) => Some(name.to_owned()),
                    std::path::Component::ParentDir => Some("..".into()),
                    _ => None,
                })
                .collect()
        };
        let mut todo: VecDeque<OsString> = names(path).into();
        let mut here = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            here.push(name);
            if let At::Link(target) = self.at(&here)? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(CopyError::TooManyLinks(path.to_owned()));
                }
                here.pop();
                if target.has_root() {
                    here.clear();
                }
                for name in names(&target).into_iter().rev() {
                    todo.push_front(name);
                }
            }
        }
        Ok(here)
    }

    /// Makes `path` and what is missing above it; there are no links in it.
    fn ensure_dir(&mut self, path: &Path) -> Result<(), CopyError> {
        let mut here = PathBuf::new();
        for name in path {
            here.push(name);
            match self.at(&here)? {
                At::Dir => {}
                At::Nothing => {
                    let meta = Meta {
                        mode: 0o755,
                        mtime: self.look.options.created,
                        ..Meta::default()
                    };
                    let meta = self.look.adjusted(meta, true);
                    self.insert(here.clone(), What::Dir, meta, true);
                }
                At::Link(_) | At::Other => {
                    return Err(CopyError::NotADirectory {
                        path: path.to_owned(),
                        blocker: here,
                    });
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: PathBuf, what: What, meta: Meta, fresh: bool) {
        let planned = Planned {
            what,
            meta,
            fresh,
            order: self.order,
        };
        self.entries.insert(path, planned);
    }

    /// Where a source goes, its directory made.
    fn place(&mut self, target: &Target, name: &Path, is_dir: bool) -> Result<PathBuf, CopyError> {
        let above = if target.is_dir {
            Some(target.path.as_path())
        } else {
            target.path.parent()
        };
        if let Some(above) = above {
            let above = self.resolve(above)?;
            self.ensure_dir(&above)?;
        }
        let path = self.resolve(&target.path)?;
        let state = self.at(&path)?;
        if is_dir {
            return match state {
                At::Nothing => self.ensure_dir(&path).map(|()| path),
                At::Dir => Ok(path),
                At::Link(_) | At::Other => Err(CopyError::DirectoryOntoFile(path)),
            };
        }
        if matches!(state, At::Dir) {
            return Ok(path.join(name));
        }
        if let Some(above) = path.parent() {
            self.ensure_dir(above)?;
        }
        Ok(path)
    }

    fn add_match(
        &mut self,
        target: &Target,
        contents: &Arc<Contents>,
        (part, found): (usize, Match),
    ) -> Result<(), CopyError> {
        let is_dir = found.top.node.kind == Kind::Dir;
        let base = self.place(target, Path::new(&found.name), is_dir)?;
        if is_dir && found.below.is_empty() {
            return Ok(());
        }
        // What is there already is part of the layer.
        let above = if is_dir { Some(&*base) } else { base.parent() };
        if let Some(above) = above {
            self.keep(above)?;
        }
        self.bytes = self.bytes.saturating_add(found.bytes);
        self.lanes.push(Lane {
            base,
            part,
            contents: Arc::clone(contents),
            top: (!is_dir).then_some(found.top),
            below: found.below,
            number: self.lanes.len(),
            order: self.order,
        });
        self.order += 1;
        Ok(())
    }

    /// Plans `dir` and what is above it, as far as the root has them.
    fn keep(&mut self, dir: &Path) -> Result<(), CopyError> {
        for dir in dir.ancestors() {
            if dir.as_os_str().is_empty() || self.entries.contains_key(dir) {
                break;
            }
            let meta = self.look.existing(dir)?;
            self.insert(dir.to_owned(), What::Dir, meta, false);
        }
        Ok(())
    }

    /// Plans what is in the lanes, entry by entry.
    fn settle(&mut self) -> Result<(), CopyError> {
        let (entries, lanes) = (std::mem::take(&mut self.entries), &mut self.lanes);
        let mut merge = Merge::new(entries, std::mem::take(lanes));
        while let Some(next) = merge.next(&self.look) {
            let (path, planned) = next?;
            self.entries.insert(path, planned);
        }
        Ok(())
    }

    fn add_single(&mut self, target: &Target, single: Single) -> Result<(), CopyError> {
        let name = Path::new(&single.name);
        let plain = name.file_name().is_some_and(|n| n == name.as_os_str());
        if !plain || single.name.contains(['\0', '/']) {
            return Err(CopyError::BadName(single.name));
        }
        let path = self.place(target, name, false)?;
        let meta = Meta {
            mode: single.mode,
            mtime: single.mtime,
            ..Meta::default()
        };
        let meta = self.look.adjusted(meta, false);
        let body = self.body(single.size, single.body);
        self.put(path, What::File(body), meta)
    }

    fn add_archive(
        &mut self,
        target: &Target,
        entries: Vec<(Entry, Body)>,
    ) -> Result<(), CopyError> {
        let base = self.resolve(&target.path)?;
        self.ensure_dir(&base)?;
        for (entry, body) in entries {
            // Links on the way are followed inside the root, as an archive may
            // rely on the ones that the image has.
            let path = match (entry.path.parent(), entry.path.file_name()) {
                (Some(above), Some(name)) => {
                    let above = self.resolve(&base.join(above))?;
                    self.ensure_dir(&above)?;
                    above.join(name)
                }
                // The archive's own root has attributes for the destination.
                _ => base.clone(),
            };
            let is_dir = entry.kind == Kind::Dir;
            let mut meta = entry.meta;
            self.look.owned(&mut meta);
            if path.as_os_str().is_empty() {
                continue;
            }
            if is_dir {
                let fresh = match self.at(&path)? {
                    At::Nothing | At::Link(_) | At::Other => true,
                    At::Dir => match self.entries.get(&path) {
                        Some(planned) => planned.fresh,
                        None => self.is_fresh(&path),
                    },
                };
                self.insert(path, What::Dir, meta, fresh);
                continue;
            }
            // Whatever was there is replaced, a directory with all in it.
            if matches!(self.at(&path)?, At::Dir) {
                self.entries.retain(|p, _| !p.starts_with(&path));
            }
            let what = match entry.kind {
                Kind::File { size } => What::File(self.body(size, body)),
                Kind::Hardlink { target } => {
                    let linked = self.resolve(&base.join(&target))?;
                    let Some((what, same)) = self.another_name(&linked) else {
                        return Err(CopyError::Read {
                            path,
                            source: io::Error::new(
                                io::ErrorKind::InvalidData,
                                format!(
                                    "a hard link of the archive names {}, which is no file of it",
                                    target.display()
                                ),
                            ),
                        });
                    };
                    meta = same;
                    what
                }
                kind => What::Plain(kind),
            };
            self.insert(path, what, meta, true);
        }
        Ok(())
    }

    /// Adds anything but a directory.
    fn put(&mut self, path: PathBuf, what: What, meta: Meta) -> Result<(), CopyError> {
        if matches!(self.at(&path)?, At::Dir) {
            return Err(CopyError::FileOntoDirectory(path));
        }
        self.insert(path, what, meta, true);
        Ok(())
    }

    /// Another name of the file that is planned at `path`.
    fn another_name(&mut self, path: &Path) -> Option<(What, Meta)> {
        let planned = self.entries.get(path)?;
        let what = match &planned.what {
            What::File(body) => {
                let body = *body;
                if let Some(file) = self.bodies.get_mut(body) {
                    file.shared = true;
                }
                What::File(body)
            }
            What::Plain(kind) => What::Plain(kind.clone()),
            What::Dir | What::Selected { .. } => return None,
        };
        Some((what, planned.meta.clone()))
    }

    fn body(&mut self, size: u64, body: Body) -> usize {
        let content = match body {
            _ if size == 0 => Content::None,
            Body::None => Content::None,
            Body::Bytes(bytes) => Content::Bytes(bytes),
            Body::Spooled { path, keep } => Content::Open(Box::new(move || {
                let file = File::open(path);
                drop(keep);
                file
            })),
        };
        self.bodies.push(FileBody {
            size,
            shared: false,
            content,
        });
        self.bodies.len() - 1
    }

    /// All entries in path order, with the directories above them.
    fn changes(mut self) -> Result<CopyChanges, CopyError> {
        let mut above: BTreeMap<PathBuf, Meta> = BTreeMap::new();
        for path in self.entries.keys() {
            for dir in path.ancestors().skip(1) {
                if dir.as_os_str().is_empty()
                    || above.contains_key(dir)
                    || self.entries.contains_key(dir)
                {
                    break;
                }
                above.insert(dir.to_owned(), self.look.existing(dir)?);
            }
        }
        for (path, meta) in above {
            self.insert(path, What::Dir, meta, false);
        }
        let merge = Merge::new(self.entries, self.lanes);
        Ok(CopyChanges::new(self.look, merge, self.bodies, self.bytes))
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
