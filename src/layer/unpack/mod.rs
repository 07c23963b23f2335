//! Applies a layer below a directory, whatever the layer says.
//!
//! Every path is resolved inside the root, links included; what is done to an
//! entry is done to the last component in its open parent directory and never
//! follows a link. A parent that is missing, or is no directory, is made, and
//! recorded as implied. The last of two entries of one name wins; a directory
//! on a directory keeps what is in it, anything else is removed first.
//! Whiteouts concern what lower layers have, never entries of the layer
//! itself. Modes and times of directories are set when nothing in them was
//! changed for long, and at the end.
//!
//! Never applied: extended attributes that mean something to overlayfs or the
//! host (all but `user.*` and `security.capability`), and whiteouts in
//! overlayfs's own form, which are an error.
//!
//! One thread does all this: file systems are not faster with more.
//!
//! # Specification
//! image-spec `layer.md`, "Applying Changesets"; Linux
//! `filesystems/overlayfs.rst`, "whiteouts and opaque directories".

mod attrs;
mod dirs;
mod error;
mod lower;
mod remove;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::dirs::{Dir, Dirs};
pub use self::error::UnpackError;
use self::error::{Step, refuse};
use super::ids::IdMaps;
use super::listing::Paths;
use super::notes::{CAPABILITY, Noted, Notes};
use super::originals::Originals;
use super::tar_read::{Body, Item, Names, TarReader};
use super::{Entry, Kind, MAX_ENTRIES, MAX_TAR_BYTES, Meta};
use crate::sys::fs::{Root, lstat_at};

/// Bytes that files are written in.
const BUFFER: usize = 256 << 10;
/// Directories that are given their modes and times together.
const KEPT: usize = 1 << 15;
/// How often an entry is tried again when something else keeps making it.
const TRIES: usize = 16;

/// What a layer becomes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A layer directory for overlayfs: whiteouts are character devices 0:0,
    /// opaque directories have the attribute `trusted.overlay.opaque`.
    Overlay {
        /// `user.overlay.opaque` instead, as for a mount with `userxattr`.
        user_xattr: bool,
    },
    /// A change of the tree that is there.
    Flat,
}

/// What to do about device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// Create them, which takes privilege.
    Create,
    /// Put an empty file in their place, and note it.
    Placeholder,
}

/// The tree that a layer in overlay form will lie on.
///
/// Paths are relative and lead through directories only.
pub trait Lower {
    /// The entry at `path`, not followed, with its extended attributes; `None`
    /// where there is none.
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>>;
    /// Opens the regular file at `path`.
    fn open(&self, path: &Path) -> io::Result<File>;
}

/// How to apply a layer.
#[derive(Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// What it becomes.
    pub form: Form,
    /// Bytes that the tar may have, and that its files may have when written
    /// out.
    pub max_bytes: u64,
    /// Entries that the tar may have.
    pub max_entries: u64,
    /// Whether to set owners. Without, all belongs to the process's user, and
    /// what should not is noted.
    pub owners: bool,
    /// Which ids the owners are on this host; an entry whose owner is none of
    /// them is an error.
    pub ids: Option<&'a IdMaps>,
    /// Device nodes.
    pub devices: Devices,
    /// Overlay form: where hard links to lower layers' files are copied from,
    /// and what says whether a missing parent is a link or has attributes.
    /// Only with it can every layer be applied; the result then belongs on
    /// top of that tree.
    pub lower: Option<&'a dyn Lower>,
    /// The files that the layer is being made of.
    pub originals: Option<&'a Originals>,
}

impl std::fmt::Debug for UnpackOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnpackOptions")
            .field("form", &self.form)
            .field("max_bytes", &self.max_bytes)
            .field("max_entries", &self.max_entries)
            .field("owners", &self.owners)
            .field("ids", &self.ids)
            .field("devices", &self.devices)
            .field("lower", &self.lower.is_some())
            .field("originals", &self.originals.is_some())
            .finish()
    }
}

impl UnpackOptions<'_> {
    /// All that root can do, with limits that stop bombs only: 100 GiB and ten
    /// million entries.
    pub fn new(form: Form) -> Self {
        Self {
            form,
            max_bytes: MAX_TAR_BYTES,
            max_entries: MAX_ENTRIES,
            owners: true,
            ids: None,
            devices: Devices::Create,
            lower: None,
            originals: None,
        }
    }
}

/// What became of a layer.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Bytes of all files.
    pub bytes: u64,
    /// Entries, whiteouts among them.
    pub entries: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Directories that the layer has no entry for, without links in their
    /// paths; in overlay form the root (the empty path) too. They were made
    /// 0755 root:root with the time 0, or like the directory in
    /// [`lower`](UnpackOptions::lower); see [`settle`].
    pub implied: Paths,
    /// Overlay form: the layer hides everything below it. The attribute on its
    /// root says so too, but overlayfs does not look there.
    pub opaque_root: bool,
    /// The result depends on [`lower`](UnpackOptions::lower).
    pub used_lower: bool,
    /// Entries whose owner was not set.
    pub skipped_owners: u64,
    /// Extended attributes that were dropped.
    pub skipped_xattrs: u64,
    /// Devices that are empty files now.
    pub placeholders: Vec<PathBuf>,
    /// What could not be done, of entries by their paths without links.
    pub notes: Notes,
}

/// Applies the layer that `tar` has (not compressed) to `root`.
///
/// Reads to the end of `tar`, so that a reader that verifies has seen it all.
/// After an error `root` holds a part of the layer.
pub fn unpack(
    tar: impl Read,
    root: &Root,
    options: &UnpackOptions<'_>,
) -> Result<Unpacked, UnpackError> {
    unpack_onto(tar, root, options, Notes::new(!options.owners))
}

/// The same on a tree that has `notes` already, in flat form; those of the
/// result are of the whole tree. What the layer removed may still be in them.
pub fn unpack_onto(
    tar: impl Read,
    root: &Root,
    options: &UnpackOptions<'_>,
    notes: Notes,
) -> Result<Unpacked, UnpackError> {
    apply(tar, root, options, notes, KEPT)
}

fn apply(
    tar: impl Read,
    root: &Root,
    options: &UnpackOptions<'_>,
    notes: Notes,
    kept: usize,
) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker {
        options: *options,
        dirs: Dirs::new(root, options, kept)?,
        result: Unpacked {
            notes,
            ..Unpacked::default()
        },
        buffer: vec![0; BUFFER],
        ids: (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
    };
    let mut reader = TarReader::new(tar, Names::Layer);
    while let Some(item) = reader.next_entry()? {
        unpacker.count(reader.position())?;
        unpacker.dirs.relieve()?;
        match item {
            Item::Put(entry) => unpacker.put(&entry, &mut reader.body())?,
            Item::Whiteout(path) => unpacker.whiteout(&path)?,
            Item::Opaque(path) => unpacker.opaque(&path)?,
        }
    }
    let tar_bytes = reader.finish(options.max_bytes)?;
    let mut result = unpacker.result;
    result.tar_bytes = tar_bytes;
    unpacker.dirs.finish(&mut result)?;
    if let Some(lower) = options.lower {
        for path in &result.implied {
            if !lower::shows_through(root, &path, lower)? {
                continue;
            }
            let below = lower.entry(&path).step("look below the layer at", &path)?;
            if let Some(below) = below.filter(|below| below.kind == Kind::Dir) {
                result.notes.set(&path, noted(&below, false));
            }
        }
    }
    Ok(result)
}

/// Removes a directory with all below it, however deep and whatever the modes
/// are. What does not exist is removed already.
///
/// # Errors
/// When something can't be removed.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    let (Some(name), Some(parent)) = (dir.file_name(), dir.parent()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    remove::remove(parent.as_fd(), name)
}

/// Gives implied directories of an applied layer the attributes that the
/// directories below them have, as if the layer had been applied with
/// [`lower`](UnpackOptions::lower).
///
/// `Ok(false)` when that is not enough, because `lower` has something else in
/// such a place: the layer must then be applied again, with `lower`.
pub fn settle(root: &Root, implied: &Paths, lower: &dyn Lower) -> Result<bool, UnpackError> {
    lower::settle(root, implied, lower)
}

/// What is to be noted of an entry; its device, if that is a placeholder.
fn noted(entry: &Entry, placeholder: bool) -> Noted {
    let device = matches!(entry.kind, Kind::Char { .. } | Kind::Block { .. });
    Noted {
        uid: entry.meta.uid,
        gid: entry.meta.gid,
        device: (placeholder && device).then(|| entry.kind.clone()),
        capability: entry.meta.xattrs.get(CAPABILITY).cloned(),
    }
}

struct Unpacker<'a> {
    options: UnpackOptions<'a>,
    dirs: Dirs<'a>,
    result: Unpacked,
    buffer: Vec<u8>,
    /// The process's user and group.
    ids: (u32, u32),
}

impl Unpacker<'_> {
    fn count(&mut self, position: u64) -> Result<(), UnpackError> {
        self.result.entries += 1;
        if self.result.entries > self.options.max_entries {
            return Err(UnpackError::Budget {
                what: "entries",
                limit: self.options.max_entries,
            });
        }
        if position > self.options.max_bytes {
            return Err(self.too_large());
        }
        Ok(())
    }

    fn too_large(&self) -> UnpackError {
        UnpackError::Budget {
            what: "bytes",
            limit: self.options.max_bytes,
        }
    }

    fn put<R: Read>(&mut self, entry: &Entry, body: &mut Body<'_, R>) -> Result<(), UnpackError> {
        let path = &entry.path;
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            // The reader lets nothing but a directory have the root's name.
            let root = self.dirs.root_dir()?;
            self.result.notes.set(Path::new(""), noted(entry, false));
            return self.directory_attrs(&root, path, &entry.meta, true);
        };
        let dir = self.dirs.make(parent)?;
        let known = self.dirs.forgotten();
        self.dirs.hide(&dir, name)?;
        match &entry.kind {
            Kind::File { size } => {
                let file = self.create(&dir, name, path)?;
                self.fill(&file, *size, path, body)?;
                self.file_attrs(&file, path, &entry.meta)?;
            }
            Kind::Dir => {
                self.directory(&dir, name, entry, known)?;
                return self.note(&dir, name, entry);
            }
            Kind::Hardlink { target } => {
                return self.hardlink(&dir, name, (path, &entry.meta), target);
            }
            _ => self.node(&dir, name, entry)?,
        }
        self.dirs.own(&dir, name);
        self.note(&dir, name, entry)
    }

    /// Notes what the disk does not have of an entry.
    fn note(&mut self, dir: &Dir, name: &OsStr, entry: &Entry) -> Result<(), UnpackError> {
        let placeholder = self.options.devices == Devices::Placeholder;
        if self.options.owners && !placeholder {
            return Ok(());
        }
        let place = self.dirs.place(dir).step("look at", &entry.path)?;
        let mut noted = noted(entry, placeholder);
        if self.options.owners {
            noted.capability = None;
        }
        self.result.notes.set(&place.join(name), noted);
        Ok(())
    }

    /// Does `create`, and where something is in the way removes that and does
    /// it again.
    fn replacing<T>(
        &mut self,
        dir: &Rc<Dir>,
        name: &OsStr,
        path: &Path,
        create: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        for _ in 0..TRIES {
            match create() {
                Err(Errno::EXIST) => self.dirs.clear(dir, name, path)?,
                done => return done.map_err(io::Error::from).step("create", path),
            }
        }
        Err(io::Error::from(Errno::EXIST)).step("create", path)
    }

    fn create(&mut self, dir: &Rc<Dir>, name: &OsStr, path: &Path) -> Result<File, UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&dir.fd, name, flags, Mode::from_raw_mode(0o600));
        self.replacing(dir, name, path, open).map(File::from)
    }

    fn fill<R: Read>(
        &mut self,
        mut file: &File,
        size: u64,
        path: &Path,
        body: &mut Body<'_, R>,
    ) -> Result<(), UnpackError> {
        self.take_bytes(size)?;
        if let Some(originals) = self.options.originals
            && originals.clone_to(file, path, size).step("write", path)?
        {
            return Ok(());
        }
        let mut at = 0;
        while at < size {
            let hole = body.skip_hole();
            if hole > 0 {
                at += hole;
                let seek = io::SeekFrom::Start(at);
                io::Seek::seek(&mut file, seek).step("write", path)?;
                continue;
            }
            let n = match body.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(UnpackError::Archive(e.into())),
            };
            file.write_all(&self.buffer[..n]).step("write", path)?;
            at += n as u64;
            if at == size {
                return Ok(());
            }
        }
        // A hole at the end has nothing written behind it.
        if size > 0 {
            file.set_len(size).step("write", path)?;
        }
        Ok(())
    }

    fn take_bytes(&mut self, size: u64) -> Result<(), UnpackError> {
        let total = self.result.bytes.saturating_add(size);
        if total > self.options.max_bytes {
            return Err(self.too_large());
        }
        self.result.bytes = total;
        Ok(())
    }

    fn directory(
        &mut self,
        dir: &Rc<Dir>,
        name: &OsStr,
        entry: &Entry,
        known: u64,
    ) -> Result<(), UnpackError> {
        let mut path = entry.path.as_path();
        let (made, existed) = match self.dirs.enter_child(dir, name, path) {
            Ok(made) => (made, true),
            Err(_) => (self.dirs.make_child(dir, name, path)?, false),
        };
        let place;
        if self.dirs.forgotten() != known {
            // The link that is gone may have been on the way to here. Of what
            // is very deep nobody says where it is.
            let dir = self.dirs.place(dir);
            place = dir.map_or_else(|_| path.to_owned(), |dir| dir.join(name));
            path = &place;
        }
        self.directory_attrs(&made, path, &entry.meta, existed)?;
        self.dirs.own(dir, name);
        self.dirs.remember(path, &made);
        Ok(())
    }

    fn directory_attrs(
        &mut self,
        dir: &Rc<Dir>,
        path: &Path,
        meta: &Meta,
        existed: bool,
    ) -> Result<(), UnpackError> {
        self.chown_fd(dir.fd.as_fd(), path, meta)?;
        if existed {
            attrs::remove_xattrs(dir.fd.as_fd(), &meta.xattrs)
                .step("remove extended attributes of", path)?;
        }
        self.xattrs_fd(dir.fd.as_fd(), path, meta)?;
        self.dirs.explicit(path, dir, meta);
        Ok(())
    }

    fn node(&mut self, dir: &Rc<Dir>, name: &OsStr, entry: &Entry) -> Result<(), UnpackError> {
        let path = &entry.path;
        let device = match &entry.kind {
            Kind::Symlink { target } => {
                let link = || rustix::fs::symlinkat(target, &dir.fd, name);
                self.replacing(dir, name, path, link)?;
                return self.link_attrs(dir, name, path, &entry.meta);
            }
            Kind::Char { major: 0, minor: 0 } => {
                return refuse(
                    path,
                    "it is a character device 0:0, which overlayfs takes for a whiteout",
                );
            }
            Kind::Char { major, minor } => Some((FileType::CharacterDevice, *major, *minor)),
            Kind::Block { major, minor } => Some((FileType::BlockDevice, *major, *minor)),
            _ => None,
        };
        if device.is_some() && self.options.devices == Devices::Placeholder {
            let file = self.create(dir, name, path)?;
            self.result.placeholders.push(path.clone());
            return self.file_attrs(&file, path, &entry.meta);
        }
        let (kind, major, minor) = device.unwrap_or((FileType::Fifo, 0, 0));
        let mode = Mode::from_raw_mode(0o600);
        let number = rustix::fs::makedev(major, minor);
        let make = || rustix::fs::mknodat(&dir.fd, name, kind, mode, number);
        self.replacing(dir, name, path, make)?;
        self.node_attrs(dir, name, path, &entry.meta)
    }

    fn hardlink(
        &mut self,
        dir: &Rc<Dir>,
        name: &OsStr,
        (path, meta): (&Path, &Meta),
        target: &Path,
    ) -> Result<(), UnpackError> {
        let missing = |reason: &str| {
            let target = target.as_os_str().as_encoded_bytes().escape_ascii();
            refuse(path, format!("its target {target} {reason}"))
        };
        let (Some(target_name), Some(target_parent)) = (target.file_name(), target.parent()) else {
            return missing("is the root");
        };
        let from = self.dirs.look(target_parent)?;
        let stat = match &from {
            Some(from) => match lstat_at(from.fd.as_fd(), target_name) {
                Ok(stat) => Some(stat),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(e).step("look at", target),
            },
            None => None,
        };
        let from = match (from, stat) {
            (Some(from), Some(stat)) => {
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    return missing("is a directory");
                }
                if dirs::is_whiteout(&stat) {
                    return missing("is removed by the same layer");
                }
                from
            }
            _ if self.options.form == Form::Flat => return missing("does not exist"),
            _ => self.copy_up(path, target)?,
        };
        if from.ino == dir.ino && target_name == name {
            return missing("is itself");
        }
        for _ in 0..TRIES {
            let flags = AtFlags::empty();
            match rustix::fs::linkat(&from.fd, target_name, &dir.fd, name, flags) {
                Err(Errno::EXIST) => self.dirs.clear(dir, name, path)?,
                Err(Errno::NOENT) => return missing("does not exist"),
                Err(e) => return Err(io::Error::from(e)).step("link", path),
                Ok(()) => {
                    self.dirs.own(dir, name);
                    if self.options.owners {
                        return Ok(());
                    }
                    let entry = Entry {
                        path: path.to_owned(),
                        kind: Kind::File { size: 0 },
                        meta: meta.clone(),
                    };
                    return self.note(dir, name, &entry);
                }
            }
        }
        Err(io::Error::from(Errno::EXIST)).step("link", path)
    }

    /// Copies a lower layer's file into this layer, so that it can be linked.
    fn copy_up(&mut self, path: &Path, target: &Path) -> Result<Rc<Dir>, UnpackError> {
        let Some(lower) = self.options.lower else {
            return Err(UnpackError::LowerLink {
                path: path.to_owned(),
                target: target.to_owned(),
            });
        };
        let gone = || refuse(path, "its target exists neither in the layer nor below it");
        let (Some(name), Some(parent)) = (target.file_name(), target.parent()) else {
            return gone();
        };
        let Some((dir, real)) = self.dirs.copy_up(parent)? else {
            return gone();
        };
        let Some(entry) = self.dirs.lower_entry(&real.join(name))? else {
            return gone();
        };
        match &entry.kind {
            Kind::Dir | Kind::Hardlink { .. } => return refuse(path, "its target is a directory"),
            Kind::File { size } => {
                let mut source = lower.open(&entry.path).step("read", &entry.path)?;
                self.take_bytes(*size)?;
                let mut file = self.create(&dir, name, target)?;
                io::copy(&mut source, &mut file).step("copy", target)?;
                self.file_attrs(&file, target, &entry.meta)?;
                self.note(&dir, name, &entry)?;
            }
            _ => {
                let entry = Entry {
                    path: target.to_owned(),
                    ..entry
                };
                self.node(&dir, name, &entry)?;
            }
        }
        Ok(dir)
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), UnpackError> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return refuse(path, "the root can't be removed");
        };
        // Also where nothing can be there to remove: the result shall not
        // depend on the form.
        let dir = self.dirs.make(parent)?;
        if self.options.form == Form::Flat {
            return self.dirs.prune(&dir, name, path);
        }
        self.dirs.hide(&dir, name)?;
        let kind = FileType::CharacterDevice;
        match rustix::fs::mknodat(&dir.fd, name, kind, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            // The layer's own entry stays; it hides what is below by itself,
            // unless it is a directory.
            Err(Errno::EXIST) => match self.dirs.open_child(&dir, name) {
                Ok(own) => self.dirs.set_opaque(&own, path),
                Err(_) => Ok(()),
            },
            Err(e) => Err(io::Error::from(e)).step("create a whiteout for", path),
        }
    }

    fn opaque(&mut self, path: &Path) -> Result<(), UnpackError> {
        let dir = self.dirs.make(path)?;
        if self.options.form == Form::Flat {
            return self.dirs.prune_children(&dir, path);
        }
        if dir.ino == self.dirs.root_dir()?.ino {
            self.result.opaque_root = true;
        }
        self.dirs.set_opaque(&dir, path)
    }
}

// The tests are tables.
#[cfg(test)]
#[allow(clippy::too_many_lines, clippy::type_complexity)]
mod tests;
