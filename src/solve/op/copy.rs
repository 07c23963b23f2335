//! COPY and ADD as a plan: which entries the new layer has.
//!
//! The plan is made by looking: at the sources, which were selected before,
//! and at the destination's tree, which is only asked for what lies on the way
//! to the entries that are written. Nothing is written, and no content is read
//! before its turn comes in the layer.
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

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chmod::Chmod;
pub use super::copy_changes::CopyChanges;
use crate::context::checksum::Contents;
use crate::context::ignore::tidy;
use crate::context::select::{Found, Match};
use crate::context::{Empty, Node, Tree};
use crate::layer::{Content, Entry, Kind, Meta, Mtime};

/// Links followed on the way to a destination.
const MAX_LINKS: usize = 40;

/// Why a copy can't be planned. Paths are those in the image.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Several sources need a directory to go to.
    #[error("with more than one source the destination {0:?} must be a directory and end with a /")]
    NeedsDirectory(String),
    /// A file would replace a directory.
    #[error("cannot copy a file onto the directory {0:?}")]
    FileOntoDirectory(PathBuf),
    /// A directory would replace something else.
    #[error("cannot copy a directory onto {0:?}, which is not a directory")]
    DirectoryOntoFile(PathBuf),
    /// Something on the way to the destination is no directory.
    #[error("cannot create {path:?}: {blocker:?} is not a directory")]
    NotADirectory {
        /// What was to be made.
        path: PathBuf,
        /// What is in the way.
        blocker: PathBuf,
    },
    /// Links that lead in a circle, or too many of them.
    #[error("too many symbolic links on the way to {0:?}")]
    TooManyLinks(PathBuf),
    /// The name of an inline or downloaded file is no file name.
    #[error("{0:?} can't be the name of a file")]
    BadName(String),
    /// The destination's tree can't be read.
    #[error("reading {path:?} at the destination")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is copied.
#[derive(Debug)]
pub enum Source {
    /// What was selected in a tree.
    Tree {
        /// Its files.
        contents: Arc<Contents>,
        /// The matches.
        matches: Vec<Match>,
    },
    /// One file that is in no tree: a heredoc, or a download.
    File(Single),
    /// What an archive has in it, names relative to the destination, which is
    /// a directory. Hard links name entries of the same list.
    Archive(Vec<(Entry, Body)>),
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
/// `root`: the changes in path order.
pub fn plan(
    sources: Vec<Source>,
    dest: &str,
    workdir: &Path,
    root: &dyn Tree,
    options: &CopyOptions,
) -> Result<CopyChanges, CopyError> {
    let root = if options.independent() { &Empty } else { root };
    let mut planner = Planner {
        root,
        options,
        entries: BTreeMap::new(),
        bodies: Vec::new(),
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
            Source::Archive(entries) => planner.add_archive(&target, entries)?,
        }
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
enum At {
    Nothing,
    Dir,
    Link(PathBuf),
    Other,
}

pub(super) enum What {
    Dir,
    /// A link, a device, a pipe.
    Plain(Kind),
    /// A name of the file with this number in [`Planner::bodies`].
    File(usize),
}

pub(super) struct Planned {
    pub(super) what: What,
    pub(super) meta: Meta,
    /// Below this directory the root has nothing.
    fresh: bool,
}

/// A file's bytes and size.
pub(super) struct FileBody {
    pub(super) size: u64,
    /// It has several names in the plan.
    pub(super) shared: bool,
    pub(super) content: Content,
}

struct Planner<'a> {
    root: &'a dyn Tree,
    options: &'a CopyOptions,
    entries: BTreeMap<PathBuf, Planned>,
    bodies: Vec<FileBody>,
}

impl Planner<'_> {
    fn lookup(&self, path: &Path) -> Result<Option<Node>, CopyError> {
        self.root
            .lookup(path, false)
            .map_err(|source| CopyError::Read {
                path: path.to_owned(),
                source,
            })
    }

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
            return Ok(match &planned.what {
                What::Dir => At::Dir,
                What::Plain(Kind::Symlink { target }) => At::Link(target.clone()),
                What::Plain(_) | What::File(_) => At::Other,
            });
        }
        if self.is_fresh(path) {
            return Ok(At::Nothing);
        }
        Ok(match self.lookup(path)?.map(|n| n.kind) {
            None => At::Nothing,
            Some(Kind::Dir) => At::Dir,
            Some(Kind::Symlink { target }) => At::Link(target),
            Some(_) => At::Other,
        })
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
                        mtime: self.options.created,
                        ..Meta::default()
                    };
                    let meta = self.adjusted(meta, true);
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
        self.entries.insert(path, Planned { what, meta, fresh });
    }

    /// `--chown` and `--chmod` applied.
    fn adjusted(&self, mut meta: Meta, is_dir: bool) -> Meta {
        if let Some((uid, gid)) = self.options.chown {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(chmod) = &self.options.chmod {
            meta.mode = chmod.apply(meta.mode, is_dir);
        }
        meta
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
        found: Match,
    ) -> Result<(), CopyError> {
        let Some(top) = found.root() else {
            return Ok(());
        };
        let is_dir = top.node.kind == Kind::Dir;
        let base = self.place(target, Path::new(&found.name), is_dir)?;
        // Names of one file, within this match.
        let mut inodes: HashMap<(u64, u64), usize> = HashMap::new();
        for entry in found.entries.into_iter().skip(usize::from(is_dir)) {
            let path = if entry.name.as_os_str().is_empty() {
                base.clone()
            } else {
                base.join(&entry.name)
            };
            match &entry.node.kind {
                Kind::Dir => self.merge_dir(path, entry)?,
                Kind::File { .. } => {
                    let key = entry.node.inode;
                    let shared = entry.node.links > 1;
                    let meta = self.adjusted(entry.node.meta.clone(), false);
                    let body = match inodes.get(&key) {
                        Some(body) if shared => self.share(*body),
                        _ => self.body_in_tree(contents, &entry),
                    };
                    if shared {
                        inodes.insert(key, body);
                    }
                    self.put(path, What::File(body), meta)?;
                }
                Kind::Symlink { .. } => {
                    let mut meta = entry.node.meta;
                    if let Some((uid, gid)) = self.options.chown {
                        (meta.uid, meta.gid) = (uid, gid);
                    }
                    self.put(path, What::Plain(entry.node.kind), meta)?;
                }
                // A tree never shows a hard link as such.
                Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo | Kind::Hardlink { .. } => {
                    let meta = self.adjusted(entry.node.meta, false);
                    self.put(path, What::Plain(entry.node.kind), meta)?;
                }
            }
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
        let meta = self.adjusted(meta, false);
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
            if let Some((uid, gid)) = self.options.chown {
                (meta.uid, meta.gid) = (uid, gid);
            }
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
                    match self.entries.get(&linked).map(|p| (&p.what, &p.meta)) {
                        Some((What::File(body), same)) => {
                            let body = *body;
                            meta = same.clone();
                            What::File(self.share(body))
                        }
                        Some((What::Plain(kind), same)) => {
                            meta = same.clone();
                            What::Plain(kind.clone())
                        }
                        Some((What::Dir, _)) | None => {
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
                        }
                    }
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

    fn merge_dir(&mut self, path: PathBuf, entry: Found) -> Result<(), CopyError> {
        let meta = entry.node.meta;
        match self.at(&path)? {
            At::Nothing => {
                let meta = self.adjusted(meta, true);
                self.insert(path, What::Dir, meta, true);
            }
            At::Dir => {
                let (mut there, fresh) = match self.entries.get(&path) {
                    Some(planned) => (planned.meta.clone(), planned.fresh),
                    None => (self.existing(&path)?, false),
                };
                if entry.passage {
                    there.mode = meta.mode;
                } else {
                    let mut xattrs = std::mem::take(&mut there.xattrs);
                    there = self.adjusted(meta, true);
                    xattrs.append(&mut there.xattrs);
                    there.xattrs = xattrs;
                }
                self.insert(path, What::Dir, there, fresh);
            }
            At::Link(_) | At::Other => return Err(CopyError::DirectoryOntoFile(path)),
        }
        Ok(())
    }

    /// The attributes of a directory that the root has.
    fn existing(&self, path: &Path) -> Result<Meta, CopyError> {
        let fail = |source| CopyError::Read {
            path: path.to_owned(),
            source,
        };
        let node = self
            .lookup(path)?
            .ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        let mut meta = node.meta;
        meta.xattrs = self.root.xattrs(path).map_err(fail)?;
        Ok(meta)
    }

    /// Takes note that the file has one name more.
    fn share(&mut self, body: usize) -> usize {
        if let Some(file) = self.bodies.get_mut(body) {
            file.shared = true;
        }
        body
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

    fn body_in_tree(&mut self, contents: &Arc<Contents>, entry: &Found) -> usize {
        let size = match entry.node.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        let content = match entry.file {
            Some(number) if size > 0 => {
                let contents = Arc::clone(contents);
                Content::Read(Box::new(move || contents.open(number)))
            }
            _ => Content::None,
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
                above.insert(dir.to_owned(), self.existing(dir)?);
            }
        }
        for (path, meta) in above {
            self.insert(path, What::Dir, meta, false);
        }
        Ok(CopyChanges::new(self.entries, self.bodies))
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
