//! The content digest of a selection: what a cache key knows of copied files.
//!
//! Two selections have the same digest exactly when copying them gives the
//! same entries, times aside.
//!
//! | | enters | why |
//! |---|---|---|
//! | name of each match | yes | it is the file's name in a directory destination |
//! | order of the matches | yes | later ones go on top of earlier ones |
//! | path below the match | yes | it is the path in the image |
//! | type, link target, device numbers | yes | they are copied |
//! | content, by its SHA-256 | yes | it is copied |
//! | mode with setuid, setgid, sticky | yes | copied |
//! | owner and group | yes | copied (a build context's are always 0) |
//! | extended attributes | yes | copied, those of this machine left out |
//! | which names are one file | yes | they stay one file |
//! | attributes of a source that is a directory | no | only what is in it is copied |
//! | times | no | a checkout or a copy changes them, and nothing else |
//! | inode, device, link count | no | they say nothing about the copy |
//! | where in the tree the source lies | no | only its name is copied |
//! | ignored and excluded files | no | they are not copied |
//!
//! Every field goes in behind its length, so that no two different lists of
//! fields are the same bytes.
//!
//! The digest has two parts: all but the contents of files, known as soon as
//! the selection is; and the contents' digests, which are known from before,
//! or found by [`Contents::read`], or on the way into a layer by
//! [`Contents::open`], so that no file is read twice.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::Tree;
use super::digests::Digests;
use super::entries::{Entries, NewFile, Reader as EntryReader};
use super::select::{Found, Match, Of, Selection};
use super::stats::Stamp;
use crate::digest::{Digest, Hasher, Sha256};
use crate::event::Cancel;
use crate::layer::code::{Input, field, number, signed};
use crate::layer::{ContentReader, Kind, Mtime};

/// Bytes that a worker reads at a time.
const BUFFER: usize = 256 << 10;

/// Changed whenever the table above does, or how it enters.
pub(super) const VERSION: &[u8] = b"selection 4";

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    /// A file can't be read, or changed while it was.
    #[error("reading {path:?}")]
    Read {
        /// The file's path in its tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is known of the files can't be had back from where it waits.
    #[error("can't read the list of what is copied")]
    Waiting(#[source] io::Error),
    /// The work was given up.
    #[error("cancelled")]
    Cancelled,
}

/// A regular file of a selection.
#[derive(Debug, Clone)]
pub struct Selected {
    path: PathBuf,
    stamp: Stamp,
    /// It has no extended attributes to copy.
    plain: bool,
    /// Its number among the files of the selection.
    number: usize,
}

impl Selected {
    /// Appends its bytes, for [`unpack`](Self::unpack).
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        let Stamp {
            device,
            inode,
            size,
            mtime,
            ctime,
        } = self.stamp;
        field(out, self.path.as_os_str().as_bytes());
        for value in [device, inode, size, self.plain.into(), self.number as u64] {
            number(out, value);
        }
        for time in [mtime, ctime] {
            signed(out, time.secs);
            number(out, time.nanos.into());
        }
    }

    /// The file that was packed.
    pub(crate) fn unpack(input: &mut Input<'_>) -> Option<Self> {
        let path = input.path_field()?;
        let (device, inode, size) = (input.number()?, input.number()?, input.number()?);
        let plain = input.number()? != 0;
        let number = usize::try_from(input.number()?).ok()?;
        let mut time = || {
            Some(Mtime {
                secs: input.signed()?,
                nanos: input.small()?,
            })
        };
        Some(Self {
            path,
            stamp: Stamp {
                device,
                inode,
                size,
                mtime: time()?,
                ctime: time()?,
            },
            plain,
            number,
        })
    }
}

/// Where the files of a selection are.
#[derive(Debug, Default)]
struct Part {
    path: PathBuf,
    /// What is there, for a path.
    top: Option<Found>,
    below: Arc<Entries>,
}

/// The contents of the files of a selection, and what is known of them.
pub struct Contents {
    tree: Arc<dyn Tree>,
    part: Part,
    /// Those of the files that are known.
    digests: Mutex<Digests>,
    /// How many files there are; none if nobody wants to know digests.
    files: usize,
    /// Digest of all else.
    shape: Digest,
    hashed: bool,
    bytes: u64,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl Contents {
    /// Those of what was selected in `tree`. Nothing is read yet.
    ///
    /// # Errors
    /// When there is no room for digests where `new_file` makes a file.
    pub fn of(
        tree: Arc<dyn Tree>,
        selection: &mut Selection,
        new_file: NewFile<'_>,
    ) -> io::Result<Self> {
        let mut contents = Self::unhashed(tree, selection);
        contents.hashed = true;
        contents.files = selection.files as usize;
        let mut known = std::mem::take(&mut selection.known);
        known.reserve(contents.files, new_file)?;
        contents.digests = Mutex::new(known);
        Ok(contents)
    }

    /// The same where nobody wants to know digests.
    pub fn unhashed(tree: Arc<dyn Tree>, selection: &Selection) -> Self {
        let part = |found: &Match| Part {
            path: found.path.clone(),
            top: match &found.of {
                Of::Path { top, .. } => Some(Found::clone(top)),
                Of::Pattern(_) => None,
            },
            below: Arc::clone(&found.below),
        };
        Self {
            tree,
            part: selection.found.as_ref().map(part).unwrap_or_default(),
            digests: Mutex::default(),
            files: 0,
            shape: selection.shape.clone(),
            hashed: false,
            bytes: selection.found.as_ref().map_or(0, |found| found.bytes),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Digests> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that is an entry of the selection; `None` for anything but a
    /// file.
    pub(crate) fn file(&self, entry: &Found) -> Option<Selected> {
        let number = entry.file? as usize;
        Some(Selected {
            path: entry.path_in(&self.part.path),
            stamp: Stamp::of(&entry.node)?,
            plain: entry.node.meta.xattrs.is_empty(),
            number,
        })
    }

    /// Where the files are.
    pub fn tree(&self) -> &dyn Tree {
        &*self.tree
    }

    /// The digest of the whole selection; `None` as long as there are files
    /// whose digest is not known.
    ///
    /// # Errors
    /// When what is known can't be had back from where it waits.
    pub fn digest(&self) -> io::Result<Option<Digest>> {
        let mut hasher = Hasher::new();
        hasher.field(self.shape.as_str().as_bytes());
        let mut digests = self.lock();
        for file in 0..self.files {
            let Some(digest) = digests.get(file)? else {
                return Ok(None);
            };
            hasher.update(&digest.0);
        }
        Ok(Some(hasher.finish()))
    }

    /// Bytes that the files have together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_known(&self, file: &Selected) -> io::Result<bool> {
        Ok(self.lock().get(file.number)?.is_some())
    }

    fn learn(&self, file: &Selected, digest: Sha256) -> io::Result<()> {
        self.lock().set(file.number, digest)
    }

    /// How many files there are whose digest is not known, `most` at most.
    fn unknown(&self, most: usize) -> io::Result<usize> {
        let mut digests = self.lock();
        let mut unknown = 0;
        for file in 0..self.files {
            unknown += usize::from(digests.get(file)?.is_none());
            if unknown == most {
                break;
            }
        }
        Ok(unknown)
    }

    /// Reads the files whose digest is not known, with `threads` workers.
    ///
    /// # Errors
    /// When one can't be read or changes meanwhile.
    pub fn read(&self, threads: usize, cancel: &Cancel) -> Result<(), ChecksumError> {
        let threads = self.unknown(threads).map_err(ChecksumError::Waiting)?;
        let jobs = Mutex::new(Jobs {
            contents: self,
            top: self.part.top.clone(),
            reader: Some(self.part.below.read()),
            taken: 0,
        });
        let failed: Mutex<Option<(usize, ChecksumError)>> = Mutex::new(None);
        let work = || {
            let mut buffer = vec![0; BUFFER];
            loop {
                let next = jobs.lock().ok().and_then(|mut jobs| jobs.next());
                let Some((i, file)) = next else { return };
                let done = file.and_then(|file| self.hash(&file, &mut buffer, cancel));
                if let Err(error) = done {
                    // The first file in order is the one that is told of.
                    if let Ok(mut failed) = failed.lock()
                        && failed.as_ref().is_none_or(|(before, _)| i < *before)
                    {
                        *failed = Some((i, error));
                    }
                    if let Ok(mut jobs) = jobs.lock() {
                        (jobs.top, jobs.reader) = (None, None);
                    }
                    return;
                }
            }
        };
        if threads > 0 {
            std::thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(work);
                }
                work();
            });
        }
        match failed.into_inner().unwrap_or(None) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn hash(
        &self,
        file: &Selected,
        buffer: &mut [u8],
        cancel: &Cancel,
    ) -> Result<(), ChecksumError> {
        let fail = |source| ChecksumError::Read {
            path: file.path.clone(),
            source,
        };
        if cancel.is_cancelled() {
            return Err(ChecksumError::Cancelled);
        }
        let mut state = self.state(file).map_err(fail)?;
        loop {
            if cancel.is_cancelled() {
                return Err(ChecksumError::Cancelled);
            }
            match state.read(self, file, buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
    }

    /// Opens a file for reading. At its end its digest is known, and it is an
    /// error if it is no longer what it was when it was selected.
    pub(crate) fn open(self: &Arc<Self>, file: Selected) -> io::Result<Box<dyn ContentReader>> {
        let state = self.state(&file)?;
        Ok(Box::new(Reader {
            contents: Arc::clone(self),
            file,
            state,
        }))
    }

    fn state(&self, file: &Selected) -> io::Result<State> {
        let began = SystemTime::now();
        let opened = self.tree.open_listed(&file.path)?;
        let known = self.is_known(file)?;
        let status = opened.metadata()?;
        let state = State {
            ctime: ctime(&status),
            file: opened,
            left: file.stamp.size,
            hasher: (self.hashed && !known).then(Hasher::new),
            began,
        };
        state.check(file, &status)?;
        // Something was changed, and be it back again: what is known of the
        // content may be of another one.
        if known && state.ctime != file.stamp.ctime {
            return Err(changed(file));
        }
        Ok(state)
    }
}

/// Files whose digests are to be found, in order.
struct Jobs<'a> {
    contents: &'a Contents,
    /// What is left.
    top: Option<Found>,
    reader: Option<EntryReader>,
    taken: usize,
}

impl Jobs<'_> {
    fn next(&mut self) -> Option<(usize, Result<Selected, ChecksumError>)> {
        loop {
            let found = match self.top.take() {
                Some(top) => Ok(top),
                None => self.reader.as_mut()?.next()?,
            };
            let file = match found {
                Ok(found) if found.back > 0 => continue,
                Ok(found) => match self.contents.file(&found) {
                    Some(file) => match self.contents.is_known(&file) {
                        Ok(true) => continue,
                        Ok(false) => Ok(file),
                        Err(e) => Err(ChecksumError::Waiting(e)),
                    },
                    None => continue,
                },
                Err(e) => Err(ChecksumError::Waiting(e)),
            };
            self.taken += 1;
            return Some((self.taken, file));
        }
    }
}

/// A file that is being read.
struct State {
    file: File,
    /// Bytes not read yet.
    left: u64,
    /// `None` where the digest is known.
    hasher: Option<Hasher>,
    began: SystemTime,
    /// When it was opened.
    ctime: Mtime,
}

fn changed(file: &Selected) -> io::Error {
    let path = file.path.display();
    io::Error::other(format!("{path} changed while it was being copied"))
}

fn time(secs: i64, nanos: i64) -> Mtime {
    Mtime {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    }
}

fn ctime(of: &Metadata) -> Mtime {
    time(of.ctime(), of.ctime_nsec())
}

impl State {
    /// Whether a file that is `now` like this is what it was when it was
    /// selected, and opened.
    fn check(&self, file: &Selected, now: &Metadata) -> io::Result<()> {
        let stamp = &file.stamp;
        let same = (now.dev(), now.ino()) == (stamp.device, stamp.inode)
            && now.size() == stamp.size
            && time(now.mtime(), now.mtime_nsec()) == stamp.mtime
            && ctime(now) == self.ctime;
        if same { Ok(()) } else { Err(changed(file)) }
    }

    fn read(&mut self, of: &Contents, file: &Selected, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read(&mut buf[..want])?;
        if n == 0 {
            return Err(changed(file));
        }
        self.left -= n as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        if self.left == 0 {
            self.check(file, &self.file.metadata()?)?;
            if let Some(hasher) = self.hasher.take() {
                let digest = hasher.finish_raw();
                if file.plain && self.ctime == file.stamp.ctime {
                    of.tree.learn(&file.stamp, digest, self.began);
                }
                of.learn(file, digest)?;
            }
        }
        Ok(n)
    }
}

struct Reader {
    contents: Arc<Contents>,
    file: Selected,
    state: State,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.state.read(&self.contents, &self.file, buf)
    }
}

impl ContentReader for Reader {
    fn file(&self) -> Option<&File> {
        Some(&self.state.file)
    }
}

/// All that enters of one entry but its content.
pub(super) fn describe(entry: &Found, out: &mut Vec<u8>) {
    let mut field = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    field(entry.name.as_os_str().as_bytes());
    let device = |major: u32, minor: u32| [major.to_le_bytes(), minor.to_le_bytes()].concat();
    match &entry.node.kind {
        Kind::File { .. } => field(b"file"),
        Kind::Dir => field(b"dir"),
        Kind::Symlink { target } => {
            field(b"link");
            field(target.as_os_str().as_bytes());
        }
        Kind::Hardlink { target } => {
            field(b"hard");
            field(target.as_os_str().as_bytes());
        }
        Kind::Char { major, minor } => {
            field(b"char");
            field(&device(*major, *minor));
        }
        Kind::Block { major, minor } => {
            field(b"block");
            field(&device(*major, *minor));
        }
        Kind::Fifo => field(b"fifo"),
    }
    let is_source = entry.name.as_os_str().is_empty();
    if is_source && entry.node.kind == Kind::Dir {
        return;
    }
    let meta = &entry.node.meta;
    field(&meta.mode.to_le_bytes());
    field(&meta.uid.to_le_bytes());
    field(&meta.gid.to_le_bytes());
    field(&[u8::from(entry.passage)]);
    field(&entry.back.to_le_bytes());
    for (name, value) in &meta.xattrs {
        field(name);
        field(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::ignore::Ignore;
    use crate::context::local::LocalTree;
    use crate::context::select::select;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path();
        fs::create_dir_all(p.join("d/sub")).unwrap();
        fs::write(p.join("d/a"), "one").unwrap();
        fs::write(p.join("d/sub/b"), "two").unwrap();
        fs::write(p.join("d/c"), "three").unwrap();
        symlink("a", p.join("d/l")).unwrap();
        dir
    }

    fn digest(dir: &Path, source: &str) -> Digest {
        let tree = LocalTree::open(dir, Some(Ignore::parse(b"**/junk").unwrap())).unwrap();
        let tree: Arc<dyn Tree> = Arc::new(tree);
        let contents = || {
            let none = Ignore::default();
            let selection = select(&*tree, source, false, &none, &tempfile::tempfile);
            Contents::of(tree.clone(), &mut selection.unwrap(), &tempfile::tempfile).unwrap()
        };
        let digest = |threads: usize| {
            let contents = contents();
            contents.read(threads, &Cancel::new()).unwrap();
            contents.digest().unwrap().unwrap()
        };
        let one = digest(1);
        assert_eq!(one, digest(3));
        // On the way to somewhere else they are found too.
        let contents = Arc::new(contents());
        let below = contents.part.below.read().map(Result::unwrap);
        for found in contents.part.top.clone().into_iter().chain(below) {
            if let Some(file) = contents.file(&found) {
                let mut reader = contents.open(file).unwrap();
                io::copy(&mut reader, &mut io::sink()).unwrap();
            }
        }
        assert_eq!(Some(&one), contents.digest().unwrap().as_ref());
        one
    }

    #[test]
    fn what_enters() {
        type Change = fn(&Path);
        let table: &[(&str, bool, Change)] = &[
            ("content", true, |d| {
                fs::write(d.join("d/a"), "two").unwrap()
            }),
            ("content moved over", true, |d| {
                fs::write(d.join("d/a"), "onet").unwrap();
                fs::write(d.join("d/sub/b"), "wo").unwrap();
            }),
            ("a new empty file", true, |d| {
                fs::write(d.join("d/new"), "").unwrap()
            }),
            ("a new directory", true, |d| {
                fs::create_dir(d.join("d/new")).unwrap()
            }),
            ("a rename", true, |d| {
                fs::rename(d.join("d/a"), d.join("d/b")).unwrap()
            }),
            ("a file one level up", true, |d| {
                fs::rename(d.join("d/sub/b"), d.join("d/b")).unwrap();
            }),
            ("mode", true, |d| {
                fs::set_permissions(d.join("d/a"), fs::Permissions::from_mode(0o700)).unwrap();
            }),
            ("mode of a directory", true, |d| {
                fs::set_permissions(d.join("d/sub"), fs::Permissions::from_mode(0o700)).unwrap();
            }),
            ("link target", true, |d| {
                fs::remove_file(d.join("d/l")).unwrap();
                symlink("c", d.join("d/l")).unwrap();
            }),
            ("link made a file", true, |d| {
                fs::remove_file(d.join("d/l")).unwrap();
                fs::write(d.join("d/l"), "a").unwrap();
            }),
            ("one file under two names", true, |d| {
                fs::write(d.join("d/c"), "one").unwrap();
                fs::remove_file(d.join("d/c")).unwrap();
                fs::hard_link(d.join("d/a"), d.join("d/c")).unwrap();
            }),
            ("mtime", false, |d| {
                let file = File::options().write(true).open(d.join("d/a")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }),
            ("ignored file", false, |d| {
                fs::write(d.join("d/junk"), "x").unwrap()
            }),
            ("another file outside", false, |d| {
                fs::write(d.join("x"), "x").unwrap()
            }),
            ("mode of the source directory", false, |d| {
                fs::set_permissions(d.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
            }),
            ("same content written anew", false, |d| {
                fs::remove_file(d.join("d/a")).unwrap();
                fs::write(d.join("d/a"), "one").unwrap();
            }),
            ("moved as a whole", false, |d| {
                fs::rename(d.join("d"), d.join("e")).unwrap();
                fs::create_dir(d.join("f")).unwrap();
                fs::rename(d.join("e"), d.join("d")).unwrap();
            }),
        ];
        for (what, matters, change) in table {
            let dir = dir();
            let before = digest(dir.path(), "d");
            change(dir.path());
            let after = digest(dir.path(), "d");
            assert_eq!(before != after, *matters, "{what}");
        }
    }

    #[test]
    fn hard_links_differ_from_copies() {
        let (one, two) = (dir(), dir());
        fs::write(one.path().join("d/z"), "one").unwrap();
        fs::hard_link(two.path().join("d/a"), two.path().join("d/z")).unwrap();
        assert_ne!(digest(one.path(), "d"), digest(two.path(), "d"));
    }

    #[test]
    fn names_of_matches_enter() {
        let dir = dir();
        let before = digest(dir.path(), "d/*");
        fs::rename(dir.path().join("d/c"), dir.path().join("d/c2")).unwrap();
        assert_ne!(before, digest(dir.path(), "d/*"));
    }

    #[test]
    fn failures() {
        let dir = dir();
        let tree: Arc<dyn Tree> = Arc::new(LocalTree::open(dir.path(), None).unwrap());
        let selection = select(&*tree, "d", false, &Ignore::default(), &tempfile::tempfile);
        let contents = Contents::of(tree, &mut selection.unwrap(), &tempfile::tempfile).unwrap();
        let cancel = Cancel::new();
        fs::write(dir.path().join("d/a"), "longer").unwrap();
        let error = contents.read(2, &cancel).unwrap_err();
        assert!(matches!(error, ChecksumError::Read { path, .. } if path == Path::new("d/a")));
        assert_eq!(contents.digest().unwrap(), None);
        cancel.cancel();
        let error = contents.read(2, &cancel).unwrap_err();
        assert!(matches!(error, ChecksumError::Cancelled));
    }

    /// A writer changes a file again and again: there is an error, or the
    /// digest of one version.
    #[test]
    fn a_changing_file_is_read_whole_or_not_at_all() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let versions = [vec![b'a'; 300_000], vec![b'b'; 300_000], vec![b'c'; 1_000]];
        let known: Vec<Sha256> = versions.iter().map(|v| Sha256::of(v)).collect();
        fs::write(&path, &versions[0]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in versions.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    fs::write(&path, version).unwrap();
                }
            });
            let tree: Arc<dyn Tree> = Arc::new(LocalTree::open(dir.path(), None).unwrap());
            for _ in 0..100 {
                let selection = select(&*tree, "f", false, &Ignore::default(), &tempfile::tempfile);
                let mut selection = selection.unwrap();
                let contents = Contents::of(tree.clone(), &mut selection, &tempfile::tempfile);
                let contents = contents.unwrap();
                if contents.read(1, &Cancel::new()).is_ok() {
                    let digest = contents.lock().get(0).unwrap().unwrap();
                    assert!(known.contains(&digest) || contents.bytes() < 300_000);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
