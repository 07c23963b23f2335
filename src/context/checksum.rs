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

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::select::{Found, Match};
use super::{Node, Tree};
use crate::digest::{Digest, Hasher};
use crate::event::Cancel;
use crate::layer::Kind;

/// Bytes that a worker reads at a time.
const BUFFER: usize = 256 << 10;

/// Changed whenever the table above does.
const VERSION: &[u8] = b"selection 1";

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

/// The digest of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Of all of it.
    pub digest: Digest,
    /// Of each regular file's content, by path in the tree, in the order of
    /// the selection.
    pub files: Vec<(PathBuf, Digest)>,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Computes the digest of what was selected in `tree`, reading files with
/// `threads` workers.
pub fn checksum(
    tree: &dyn Tree,
    matches: &[Match],
    threads: usize,
    cancel: &Cancel,
) -> Result<Checksum, ChecksumError> {
    // One job for each file, however many names it has.
    let mut jobs: Vec<&Found> = Vec::new();
    let mut job_of: HashMap<(u64, u64), usize> = HashMap::new();
    let all = || matches.iter().flat_map(|m| &m.entries);
    for found in all().filter(|f| matches!(f.node.kind, Kind::File { .. })) {
        job_of.entry(found.node.inode).or_insert_with(|| {
            jobs.push(found);
            jobs.len() - 1
        });
    }
    let digests = hash_files(tree, &jobs, threads, cancel)?;
    let bytes = jobs.iter().map(|f| size(&f.node)).sum();

    let mut files = Vec::new();
    let mut hasher = Hasher::new();
    hasher.field(VERSION);
    hasher.field(&(matches.len() as u64).to_le_bytes());
    for found in matches {
        hasher.field(found.name.as_bytes());
        hasher.field(&(found.entries.len() as u64).to_le_bytes());
        // Names of one file, by the number of the entry that came first.
        let mut first: HashMap<(u64, u64), u64> = HashMap::new();
        for (entry, number) in found.entries.iter().zip(0_u64..) {
            let content = match entry.node.kind {
                Kind::File { .. } => job_of.get(&entry.node.inode).and_then(|i| digests.get(*i)),
                _ => None,
            };
            if let Some(digest) = content {
                files.push((entry.path.clone(), digest.clone()));
            }
            let group = if entry.node.links > 1 && content.is_some() {
                *first.entry(entry.node.inode).or_insert(number)
            } else {
                number
            };
            hasher.field(&describe(entry, content, number - group));
        }
    }
    Ok(Checksum {
        digest: hasher.finish(),
        files,
        bytes,
    })
}

/// All that enters of one entry. `back` is the distance to the first name of
/// the same file, 0 for the first.
fn describe(entry: &Found, content: Option<&Digest>, back: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    let mut field = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    field(entry.name.as_os_str().as_bytes());
    let device = |major: u32, minor: u32| [major.to_le_bytes(), minor.to_le_bytes()].concat();
    let (tag, detail): (&[u8], Vec<u8>) = match &entry.node.kind {
        Kind::File { .. } => (
            b"file",
            content.map_or_else(Vec::new, |d| d.as_str().as_bytes().to_vec()),
        ),
        Kind::Dir => (b"dir", Vec::new()),
        Kind::Symlink { target } => (b"link", target.as_os_str().as_bytes().to_vec()),
        Kind::Hardlink { target } => (b"hard", target.as_os_str().as_bytes().to_vec()),
        Kind::Char { major, minor } => (b"char", device(*major, *minor)),
        Kind::Block { major, minor } => (b"block", device(*major, *minor)),
        Kind::Fifo => (b"fifo", Vec::new()),
    };
    field(tag);
    field(&detail);
    let is_source = entry.name.as_os_str().is_empty();
    if is_source && entry.node.kind == Kind::Dir {
        return out;
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
    out
}

fn size(node: &Node) -> u64 {
    match node.kind {
        Kind::File { size } => size,
        _ => 0,
    }
}

fn hash_files(
    tree: &dyn Tree,
    jobs: &[&Found],
    threads: usize,
    cancel: &Cancel,
) -> Result<Vec<Digest>, ChecksumError> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, ChecksumError)>> = Mutex::new(None);
    let work = || {
        let mut buffer = vec![0; BUFFER];
        let mut out = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(found) = jobs.get(i) else {
                return out;
            };
            let result = if cancel.is_cancelled() {
                Err(ChecksumError::Cancelled)
            } else {
                hash_file(tree, &found.path, &found.node, &mut buffer, cancel)
            };
            match result {
                Ok(digest) => out.push((i, digest)),
                Err(error) => {
                    // The first file in order is the one that is told of.
                    if let Ok(mut failed) = failed.lock()
                        && failed.as_ref().is_none_or(|(before, _)| i < *before)
                    {
                        *failed = Some((i, error));
                    }
                    next.store(jobs.len(), Ordering::Relaxed);
                    return out;
                }
            }
        }
    };
    let threads = threads.clamp(1, jobs.len().max(1));
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for worker in workers {
            done.extend(worker.join().unwrap_or_default());
        }
        done
    });
    if let Some((_, error)) = failed.into_inner().unwrap_or(None) {
        return Err(error);
    }
    done.sort_unstable_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, digest)| digest).collect())
}

fn hash_file(
    tree: &dyn Tree,
    path: &Path,
    node: &Node,
    buffer: &mut [u8],
    cancel: &Cancel,
) -> Result<Digest, ChecksumError> {
    let fail = |source| ChecksumError::Read {
        path: path.to_owned(),
        source,
    };
    let changed = || fail(io::Error::other("it changed while it was being read"));
    let mut hasher = Hasher::new();
    let expected = size(node);
    let mut file = tree.open(path).map_err(fail)?;
    let state = |file: &std::fs::File| -> Result<_, ChecksumError> {
        let m = file.metadata().map_err(fail)?;
        let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        Ok(((m.dev(), m.ino()), m.size(), times))
    };
    let before = state(&file)?;
    if before.0 != node.inode || before.1 != expected {
        return Err(changed());
    }
    let mut bytes = 0_u64;
    loop {
        let n = match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(e)),
        };
        hasher.update(buffer.get(..n).unwrap_or_default());
        bytes += n as u64;
        // A file that grows as fast as it is read would never end.
        if bytes > expected {
            return Err(changed());
        }
        if cancel.is_cancelled() {
            return Err(ChecksumError::Cancelled);
        }
    }
    if bytes != expected || state(&file)? != before {
        return Err(changed());
    }
    Ok(hasher.finish())
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
        let matches = select(&tree, source, false, &Ignore::default()).unwrap();
        let one = checksum(&tree, &matches, 1, &Cancel::new()).unwrap();
        let three = checksum(&tree, &matches, 3, &Cancel::new()).unwrap();
        assert_eq!(one, three);
        one.digest
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
                let file = fs::File::options().write(true).open(d.join("d/a")).unwrap();
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
        let tree = LocalTree::open(dir.path(), None).unwrap();
        let matches = select(&tree, "d", false, &Ignore::default()).unwrap();
        let cancel = Cancel::new();
        fs::write(dir.path().join("d/a"), "longer").unwrap();
        let error = checksum(&tree, &matches, 2, &cancel).unwrap_err();
        assert!(matches!(error, ChecksumError::Read { path, .. } if path == Path::new("d/a")));
        cancel.cancel();
        let error = checksum(&tree, &matches, 2, &cancel).unwrap_err();
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
        let known: Vec<Digest> = versions.iter().map(|v| Digest::of(v)).collect();
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
            let tree = LocalTree::open(dir.path(), None).unwrap();
            for _ in 0..100 {
                let matches = select(&tree, "f", false, &Ignore::default()).unwrap();
                let Ok(sum) = checksum(&tree, &matches, 1, &Cancel::new()) else {
                    continue;
                };
                let digest = &sum.files[0].1;
                assert!(known.contains(digest) || sum.bytes < 300_000);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
