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
//! | several matches have the same path | the last one's file, directories merged; a file and a directory are an error |
//! | entry of an archive | replaces what is there, but for a directory on a directory; links on the way to it are followed inside the root |
//!
//! # Specification
//! Dockerfile reference, COPY and ADD.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::Archive;
use super::copy_changes::Files;
pub use super::copy_changes::{CopyChanges, Fault};
pub use super::copy_error::CopyError;
use super::copy_look::Look;
use super::copy_merge::{Lane, Merge};
use super::copy_planned::{At, Lone, LoneBody, Planned, Way, Ways, What};
use super::sorted::Sorter;
use super::spilled::Spilled;
use crate::context::checksum::Contents;
use crate::context::ignore::tidy;
use crate::context::select::{Found, Kinds, Match, Of, Selection};
use crate::context::{Empty, Tree};
use crate::dockerfile::chmod::Chmod;
use crate::layer::records::NewFile;
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
        /// What the source stands for; `None` for nothing.
        found: Option<Match>,
    },
    /// One file that is in no tree: a heredoc, or a download.
    File(Single),
    /// What an archive has in it, names relative to the destination, which is
    /// a directory. Hard links name entries of the same archive.
    Archive(Archive),
}

impl Source {
    /// All that a selection has.
    pub fn tree(contents: Arc<Contents>, selection: Selection) -> Self {
        let found = selection.found;
        Self::Tree { contents, found }
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
/// only as the changes are taken. What is long waits in files that `new_file`
/// makes.
pub fn plan(
    sources: Vec<Source>,
    dest: &str,
    workdir: &Path,
    root: Arc<dyn Tree>,
    options: &CopyOptions,
    new_file: NewFile<'_>,
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
        new_file,
        entries: Spilled::new(),
        settled: PathBuf::new(),
        files: Files::default(),
        count: 0,
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
            Source::Tree { contents, found } => {
                planner.files.contents.push(contents);
                if let Some(found) = found {
                    planner.add_match(&target, found)?;
                }
            }
            Source::File(single) => planner.add_single(&target, single)?,
            Source::Archive(archive) => {
                // Its paths lead through whatever is there by now.
                planner.settle()?;
                planner.add_archive(&target, &archive)?;
            }
        }
        planner.order += 1;
    }
    Ok(planner.changes())
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

struct Planner<'a> {
    look: Look,
    new_file: NewFile<'a>,
    /// What is planned; all directories above it are, too.
    entries: Spilled<Planned>,
    /// A directory that is known to be planned, or the root.
    settled: PathBuf,
    files: Files,
    /// How many files there are that are in no tree.
    count: usize,
    /// What is still to be merged with the entries.
    lanes: Vec<Lane>,
    /// Number of the source whose turn it is.
    order: usize,
    /// Bytes of all files.
    bytes: u64,
}

impl Planner<'_> {
    fn planned(&self, path: &Path) -> Result<Option<Planned>, CopyError> {
        self.entries.get(path).map_err(waiting(path))
    }

    /// Whether a directory of the plan hides what the root has at `path`.
    fn is_fresh(&self, path: &Path) -> Result<bool, CopyError> {
        for above in path.ancestors().skip(1) {
            if let Some(planned) = self.planned(above)? {
                return Ok(planned.fresh);
            }
        }
        Ok(false)
    }

    /// What is at `path`, which has no links on the way.
    fn at(&self, path: &Path) -> Result<At, CopyError> {
        if path.as_os_str().is_empty() {
            return Ok(At::Dir);
        }
        if let Some(planned) = self.planned(path)? {
            return Ok(planned.at());
        }
        if self.is_fresh(path)? {
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
                    self.insert(here.clone(), What::Dir, meta, true)?;
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

    /// Plans an entry, and the directories above it that the root has.
    fn insert(
        &mut self,
        path: PathBuf,
        what: What,
        meta: Meta,
        fresh: bool,
    ) -> Result<(), CopyError> {
        if let Some(above) = path.parent().filter(|above| *above != self.settled) {
            self.keep(above)?;
            self.settled = above.to_owned();
        }
        self.set(
            path,
            Planned {
                what,
                meta,
                fresh,
                order: self.order,
            },
        )
    }

    fn set(&mut self, path: PathBuf, planned: Planned) -> Result<(), CopyError> {
        let set = self.entries.insert(path, planned, self.new_file);
        set.map_err(waiting(Path::new("")))
    }

    /// Where a source goes, its directory made.
    fn place(&mut self, target: &Target, name: &Path, is_dir: bool) -> Result<PathBuf, CopyError> {
        let (path, into) = self.place_of(target, is_dir)?;
        Ok(if into { path.join(name) } else { path })
    }

    /// Where a source goes, its directory made; for anything but a directory
    /// also whether it goes into what is there, under its own name.
    fn place_of(&mut self, target: &Target, is_dir: bool) -> Result<(PathBuf, bool), CopyError> {
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
                At::Nothing => self.ensure_dir(&path).map(|()| (path, false)),
                At::Dir => Ok((path, false)),
                At::Link(_) | At::Other => Err(CopyError::DirectoryOntoFile(path)),
            };
        }
        if matches!(state, At::Dir) {
            return Ok((path, true));
        }
        if let Some(above) = path.parent() {
            self.ensure_dir(above)?;
        }
        Ok((path, false))
    }

    fn add_match(&mut self, target: &Target, found: Match) -> Result<(), CopyError> {
        let (base, into, top) = match found.of {
            Of::Pattern(kinds) => {
                let (base, into) = self.place_all(target, kinds)?;
                (base, into, None)
            }
            Of::Path { name, top } => {
                let is_dir = top.node.kind == Kind::Dir;
                let base = self.place(target, Path::new(&name), is_dir)?;
                (base, is_dir, (!is_dir).then_some(*top))
            }
        };
        if top.is_none() && found.below.is_empty() {
            return Ok(());
        }
        // What is there already is part of the layer.
        let above = if into { Some(&*base) } else { base.parent() };
        if let Some(above) = above {
            self.keep(above)?;
        }
        self.bytes = self.bytes.saturating_add(found.bytes);
        let mut lane = Lane {
            base,
            into,
            contents: self.files.contents.len().saturating_sub(1),
            top,
            below: found.below,
            sorted: None,
            order: self.order,
        };
        if into && !lane.below.is_sorted() {
            // They come from many directories.
            let mut sorter = Sorter::<Found>::new();
            for entry in lane.below.read() {
                let mut entry = entry.map_err(waiting(&lane.base))?;
                let name = std::mem::take(&mut entry.name);
                let pushed = sorter.push(name, entry, self.new_file);
                pushed.map_err(waiting(&lane.base))?;
            }
            lane.sorted = Some(sorter.finish());
        }
        self.lanes.push(lane);
        Ok(())
    }

    /// Where the matches of a pattern go, and whether into a directory there.
    fn place_all(&mut self, target: &Target, kinds: Kinds) -> Result<(PathBuf, bool), CopyError> {
        if kinds.dir_first {
            return Ok((self.place_of(target, true)?.0, true));
        }
        let (path, into) = self.place_of(target, false)?;
        match kinds.dirs && !into {
            // A file has taken the place.
            true => Err(CopyError::DirectoryOntoFile(path)),
            false => Ok((path, into)),
        }
    }

    /// Plans `dir` and what is above it, as far as the root has them.
    fn keep(&mut self, dir: &Path) -> Result<(), CopyError> {
        for dir in dir.ancestors() {
            if dir.as_os_str().is_empty() || self.planned(dir)?.is_some() {
                break;
            }
            let planned = Planned {
                what: What::Dir,
                meta: self.look.existing(dir)?,
                fresh: false,
                order: self.order,
            };
            self.set(dir.to_owned(), planned)?;
        }
        Ok(())
    }

    /// Plans what is in the lanes, entry by entry.
    fn settle(&mut self) -> Result<(), CopyError> {
        if self.lanes.is_empty() {
            return Ok(());
        }
        let entries = std::mem::replace(&mut self.entries, Spilled::new());
        let mut merge = Merge::new(entries, std::mem::take(&mut self.lanes));
        while let Some(next) = merge.next(&self.look, &self.files.contents) {
            let (path, planned) = next?;
            self.set(path, planned)?;
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
        let body = LoneBody::Single(self.files.bodies.len());
        self.files.bodies.push(body_of(single.body));
        let file = self.file(single.size, body);
        self.put(path, What::File(file), meta)
    }

    fn add_archive(&mut self, target: &Target, archive: &Archive) -> Result<(), CopyError> {
        let base = self.resolve(&target.path)?;
        self.ensure_dir(&base)?;
        let number = self.files.archives.len();
        self.files.archives.push(archive.contents());
        let mut ways = Ways::default();
        for next in archive.entries() {
            let (entry, place) = next.map_err(waiting(&base))?;
            self.add_entry(&base, entry, LoneBody::Archive(number, place), &mut ways)?;
        }
        Ok(())
    }

    /// The directory for what an archive has in `written`.
    fn way(&mut self, base: &Path, written: &Path) -> Result<Way, CopyError> {
        // Links on the way are followed inside the root, as an archive may
        // rely on the ones that the image has.
        let path = self.resolve(&base.join(written))?;
        self.ensure_dir(&path)?;
        Ok(Way {
            fresh: self.is_fresh(&path.join("any"))?,
            written: written.to_owned(),
            path,
        })
    }

    /// Where what a hard link names is.
    fn named(&self, base: &Path, target: &Path, ways: &mut Ways) -> Result<PathBuf, CopyError> {
        let (Some(above), Some(name)) = (target.parent(), target.file_name()) else {
            return self.resolve(&base.join(target));
        };
        let path = match &ways.named {
            Some((written, path)) if written == above => path.join(name),
            _ => {
                let Ok(path) = self.resolve(&base.join(above)) else {
                    return self.resolve(&base.join(target));
                };
                let named = path.join(name);
                ways.named = Some((above.to_owned(), path));
                named
            }
        };
        match self.at(&path)? {
            At::Link(_) => self.resolve(&base.join(target)),
            _ => Ok(path),
        }
    }

    /// Plans an entry of an archive.
    fn add_entry(
        &mut self,
        base: &Path,
        entry: Entry,
        body: LoneBody,
        ways: &mut Ways,
    ) -> Result<(), CopyError> {
        let (path, above_is_fresh) = match (entry.path.parent(), entry.path.file_name()) {
            (Some(above), Some(name)) => {
                let way = match ways.entry.take().filter(|way| way.written == above) {
                    Some(way) => way,
                    None => self.way(base, above)?,
                };
                let place = (way.path.join(name), way.fresh);
                ways.entry = Some(way);
                place
            }
            // The archive's own root has attributes for the destination.
            _ => (base.to_owned(), self.is_fresh(base)?),
        };
        let mut meta = entry.meta;
        self.look.owned(&mut meta);
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let there = self.planned(&path)?;
        let at = match &there {
            Some(planned) => planned.at(),
            None if above_is_fresh => At::Nothing,
            None => self.look.at(&path)?,
        };
        // Other entries' ways may have led through it.
        let is_dir = entry.kind == Kind::Dir;
        if matches!(at, At::Link(_)) || matches!(at, At::Dir) != is_dir {
            ways.entry = None;
            ways.named = None;
        }
        if is_dir {
            let fresh = match at {
                At::Nothing | At::Link(_) | At::Other => true,
                At::Dir => there.map_or(above_is_fresh, |planned| planned.fresh),
            };
            return self.insert(path, What::Dir, meta, fresh);
        }
        // Whatever was there is replaced, a directory with all in it.
        if matches!(at, At::Dir) {
            self.settled.clear();
            self.entries.remove_below(&path);
        }
        let what = match entry.kind {
            Kind::File { size } => What::File(self.file(size, body)),
            Kind::Hardlink { target } => {
                let linked = self.named(base, &target, ways)?;
                let Some((what, same)) = self.another_name(&linked)? else {
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
            kind => {
                // It may be a link where there was nothing.
                ways.named = None;
                What::Plain(kind)
            }
        };
        self.insert(path, what, meta, true)
    }

    /// Adds anything but a directory.
    fn put(&mut self, path: PathBuf, what: What, meta: Meta) -> Result<(), CopyError> {
        if matches!(self.at(&path)?, At::Dir) {
            return Err(CopyError::FileOntoDirectory(path));
        }
        self.insert(path, what, meta, true)
    }

    /// Another name of the file that is planned at `path`.
    fn another_name(&mut self, path: &Path) -> Result<Option<(What, Meta)>, CopyError> {
        let Some(planned) = self.planned(path)? else {
            return Ok(None);
        };
        match &planned.what {
            What::File(file) => self.files.share(file.number),
            What::Plain(_) => {}
            What::Dir | What::Selected { .. } => return Ok(None),
        }
        Ok(Some((planned.what, planned.meta)))
    }

    /// Counts a file that is in no tree.
    fn file(&mut self, size: u64, body: LoneBody) -> Lone {
        self.bytes = self.bytes.saturating_add(size);
        self.count += 1;
        Lone {
            number: self.count - 1,
            size,
            body,
        }
    }

    /// All entries in path order.
    fn changes(self) -> CopyChanges {
        let merge = Merge::new(self.entries, self.lanes);
        CopyChanges::new(self.look, merge, self.files, self.bytes)
    }
}

fn body_of(body: Body) -> Content {
    match body {
        Body::None => Content::None,
        Body::Bytes(bytes) => Content::Bytes(bytes),
        Body::Spooled { path, keep } => Content::Open(Box::new(move || {
            let file = File::open(path);
            drop(keep);
            file
        })),
    }
}

/// What waits for its turn can't be put aside or had back.
fn waiting(path: &Path) -> impl FnOnce(io::Error) -> CopyError + '_ {
    |source| CopyError::Waiting {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
