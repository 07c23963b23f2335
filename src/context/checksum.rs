//! The content digest of a selection: what a cache key knows of copied files.
//!
//! Two selections have the same digest exactly when copying them gives the
//! same entries, times aside.
//!
//! | | enters | why |
//! |---|---|---|
//! | name of each match | yes | it is the file's name in a directory destination |
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

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use super::Tree;
use super::select::{Found, Match};
use super::stats::Stamp;
use crate::digest::{Digest, Hasher, Sha256};
use crate::event::Cancel;
use crate::layer::{Kind, Mtime};

/// Bytes that a worker reads at a time.
const BUFFER: usize = 256 << 10;

/// Changed whenever the table above does.
const VERSION: &[u8] = b"selection 2";

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
    /// The work was given up.
    #[error("cancelled")]
    Cancelled,
}

/// A regular file of a selection, under its first name.
#[derive(Debug)]
struct Selected {
    path: PathBuf,
    stamp: Stamp,
    /// It has no extended attributes to copy.
    plain: bool,
    digest: OnceLock<Sha256>,
}

/// The contents of the files of a selection, and what is known of them.
pub struct Contents {
    tree: Arc<dyn Tree>,
    files: Vec<Selected>,
    /// Digest of all else.
    shape: Digest,
    /// Whether somebody wants to know digests.
    hashed: bool,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents")
            .field("files", &self.files.len())
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl Contents {
    /// Those of what was selected in `tree`; says in each entry which of the
    /// files it is a name of. Nothing is read yet.
    pub fn of(tree: Arc<dyn Tree>, matches: &mut [Match]) -> Self {
        let mut files: Vec<Selected> = Vec::new();
        let mut hasher = Hasher::new();
        let mut description = Vec::new();
        hasher.field(VERSION);
        hasher.field(&(matches.len() as u64).to_le_bytes());
        for found in matches {
            hasher.field(found.name.as_bytes());
            hasher.field(&(found.entries.len() as u64).to_le_bytes());
            // Names of one file: the number of the entry that came first, and
            // that of the file.
            let mut first: HashMap<(u64, u64), (u64, u32)> = HashMap::new();
            for (entry, number) in found.entries.iter_mut().zip(0_u64..) {
                let mut group = number;
                if let Kind::File { size } = entry.node.kind {
                    let node = &entry.node;
                    let path = std::mem::take(&mut entry.path);
                    let known = node.digest.or((size == 0).then(|| Sha256::of(b"")));
                    let add = || {
                        files.push(Selected {
                            path,
                            stamp: Stamp {
                                device: node.inode.0,
                                inode: node.inode.1,
                                size,
                                mtime: node.meta.mtime,
                                ctime: node.ctime,
                            },
                            plain: node.meta.xattrs.is_empty(),
                            digest: known.map_or_else(OnceLock::new, OnceLock::from),
                        });
                        u32::try_from(files.len() - 1).unwrap_or(u32::MAX)
                    };
                    let file = if node.links > 1 {
                        let linked = first.entry(node.inode);
                        let file;
                        (group, file) = *linked.or_insert_with(|| (number, add()));
                        file
                    } else {
                        add()
                    };
                    entry.file = Some(file);
                }
                description.clear();
                describe(entry, number - group, &mut description);
                hasher.field(&description);
            }
        }
        Self {
            tree,
            files,
            shape: hasher.finish(),
            hashed: true,
        }
    }

    /// The same where nobody wants to know digests.
    pub fn unhashed(tree: Arc<dyn Tree>, matches: &mut [Match]) -> Self {
        Self {
            hashed: false,
            ..Self::of(tree, matches)
        }
    }

    /// The path of a file in the tree.
    pub fn path(&self, number: u32) -> &Path {
        let file = self.files.get(number as usize);
        file.map_or(Path::new(""), |file| &file.path)
    }

    /// Where the files are.
    pub fn tree(&self) -> &dyn Tree {
        &*self.tree
    }

    /// The digest of the whole selection; `None` as long as there are files
    /// whose digest is not known.
    pub fn digest(&self) -> Option<Digest> {
        let mut hasher = Hasher::new();
        hasher.field(self.shape.as_str().as_bytes());
        for file in &self.files {
            hasher.update(&file.digest.get()?.0);
        }
        Some(hasher.finish())
    }

    /// Bytes that the files have together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.stamp.size).sum()
    }

    /// Reads the files whose digest is not known, with `threads` workers.
    ///
    /// # Errors
    /// When one can't be read or changes meanwhile.
    pub fn read(&self, threads: usize, cancel: &Cancel) -> Result<(), ChecksumError> {
        let unknown = |f: &&Selected| f.digest.get().is_none();
        let jobs: Vec<&Selected> = self.files.iter().filter(unknown).collect();
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, ChecksumError)>> = Mutex::new(None);
        let work = || {
            let mut buffer = vec![0; BUFFER];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = jobs.get(i) else { return };
                if let Err(error) = self.hash(file, &mut buffer, cancel) {
                    // The first file in order is the one that is told of.
                    if let Ok(mut failed) = failed.lock()
                        && failed.as_ref().is_none_or(|(before, _)| i < *before)
                    {
                        *failed = Some((i, error));
                    }
                    next.store(jobs.len(), Ordering::Relaxed);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(jobs.len()) {
                scope.spawn(work);
            }
            work();
        });
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
        let mut reader = self.reader(file).map_err(fail)?;
        loop {
            if cancel.is_cancelled() {
                return Err(ChecksumError::Cancelled);
            }
            match reader.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
    }

    /// Opens a file for reading. At its end its digest is known, and it is an
    /// error if it is no longer what it was when it was selected.
    pub(crate) fn open(self: &Arc<Self>, number: u32) -> io::Result<Box<dyn Read + Send>> {
        let contents = Arc::clone(self);
        let number = number as usize;
        let file = (contents.files.get(number)).ok_or(io::ErrorKind::NotFound)?;
        let reader = self.reader(file)?;
        Ok(Box::new(Owned {
            state: reader.state,
            number,
            contents,
        }))
    }

    fn reader<'a>(&'a self, file: &'a Selected) -> io::Result<Reader<'a>> {
        let began = SystemTime::now();
        let opened = self.tree.open_listed(&file.path)?;
        let known = file.digest.get().is_some();
        let state = State {
            ctime: ctime(&opened.metadata()?),
            file: opened,
            left: file.stamp.size,
            hasher: (self.hashed && !known).then(Hasher::new),
            began,
        };
        state.check(file)?;
        // Something was changed, and be it back again: what is known of the
        // content may be of another one.
        if known && state.ctime != file.stamp.ctime {
            return Err(changed(file));
        }
        Ok(Reader {
            contents: self,
            file,
            state,
        })
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
    /// Whether the file still is what it was when it was selected, and opened.
    fn check(&self, file: &Selected) -> io::Result<()> {
        let now = self.file.metadata()?;
        let stamp = &file.stamp;
        let same = (now.dev(), now.ino()) == (stamp.device, stamp.inode)
            && now.size() == stamp.size
            && time(now.mtime(), now.mtime_nsec()) == stamp.mtime
            && ctime(&now) == self.ctime;
        if same { Ok(()) } else { Err(changed(file)) }
    }

    fn read(&mut self, tree: &dyn Tree, file: &Selected, buf: &mut [u8]) -> io::Result<usize> {
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
            self.check(file)?;
            if let Some(hasher) = self.hasher.take() {
                let digest = hasher.finish_raw();
                if file.plain && self.ctime == file.stamp.ctime {
                    tree.learn(&file.stamp, digest, self.began);
                }
                let _ = file.digest.set(digest);
            }
        }
        Ok(n)
    }
}

struct Reader<'a> {
    contents: &'a Contents,
    file: &'a Selected,
    state: State,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.state.read(&*self.contents.tree, self.file, buf)
    }
}

struct Owned {
    contents: Arc<Contents>,
    number: usize,
    state: State,
}

impl Read for Owned {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.contents.files.get(self.number) {
            Some(file) => self.state.read(&*self.contents.tree, file, buf),
            None => Ok(0),
        }
    }
}

/// All that enters of one entry but its content. `back` is the distance to the
/// first name of the same file, 0 for the first.
fn describe(entry: &Found, back: u64, out: &mut Vec<u8>) {
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
    field(&back.to_le_bytes());
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
        let matches = select(&*tree, source, false, &Ignore::default()).unwrap();
        let digest = |threads: usize| {
            let contents = Contents::of(tree.clone(), &mut matches.clone());
            contents.read(threads, &Cancel::new()).unwrap();
            contents.digest().unwrap()
        };
        let one = digest(1);
        assert_eq!(one, digest(3));
        // On the way to somewhere else they are found too.
        let mut matches = matches.clone();
        let contents = Arc::new(Contents::of(tree.clone(), &mut matches));
        for file in matches.iter().flat_map(|m| &m.entries) {
            if let Some(number) = file.file {
                let mut reader = contents.open(number).unwrap();
                io::copy(&mut reader, &mut io::sink()).unwrap();
            }
        }
        assert_eq!(Some(&one), contents.digest().as_ref());
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
        let mut matches = select(&*tree, "d", false, &Ignore::default()).unwrap();
        let contents = Contents::of(tree, &mut matches);
        let cancel = Cancel::new();
        fs::write(dir.path().join("d/a"), "longer").unwrap();
        let error = contents.read(2, &cancel).unwrap_err();
        assert!(matches!(error, ChecksumError::Read { path, .. } if path == Path::new("d/a")));
        assert_eq!(contents.digest(), None);
        cancel.cancel();
        let error = contents.read(2, &cancel).unwrap_err();
        assert!(matches!(error, ChecksumError::Cancelled));
    }

    /// A writer changes a file again and again: there is an error, or the
    /// digest of one version.
    #[test]
    fn a_changing_file_is_read_whole_or_not_at_all() {
        use std::sync::atomic::AtomicBool;
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
                let mut matches = select(&*tree, "f", false, &Ignore::default()).unwrap();
                let contents = Contents::of(tree.clone(), &mut matches);
                if contents.read(1, &Cancel::new()).is_ok() {
                    let digest = contents.files[0].digest.get().unwrap();
                    assert!(known.contains(digest) || contents.bytes() < 300_000);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
