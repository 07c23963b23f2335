//! Files that a layer is being made of, for the layer's directory to share
//! their blocks.
//!
//! Some file systems can let two files have the same blocks until one is
//! written to (`FICLONE`). A large file then costs neither time nor room a
//! second time. Whether the clone holds what is in the layer is never taken on
//! trust: the file must be, by its status, what it was before it was read for
//! the layer, and old enough for its status to tell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Change, Changes, Content, Kind};

/// Smaller files are written as fast as they are cloned.
const LARGE: u64 = 1 << 20;
/// Cloning waits until the file is on disk. By this age the kernel has begun to
/// write it there by itself.
const SETTLED: Duration = Duration::from_secs(30);

/// Files that were opened for a layer and are not unpacked yet.
#[derive(Debug)]
pub struct Originals {
    waiting: Mutex<BTreeMap<PathBuf, Original>>,
    /// These file systems can't do it.
    refused: AtomicBool,
    settled: Duration,
}

#[derive(Debug)]
struct Original {
    file: File,
    before: Status,
}

/// Changes whenever the content does, if it is old enough.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Status {
    fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            ctime: (stat.ctime(), stat.ctime_nsec()),
        })
    }

    /// Whether it has been like this for so long.
    fn is_older_than(&self, age: Duration) -> bool {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let latest = since.ok().and_then(|now| now.checked_sub(age));
        let (secs, nanos) = self.ctime;
        let own = u64::try_from(secs).ok().zip(u32::try_from(nanos).ok());
        own.zip(latest)
            .is_some_and(|((secs, nanos), latest)| Duration::new(secs, nanos) < latest)
    }
}

impl Default for Originals {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            refused: AtomicBool::new(false),
            settled: SETTLED,
        }
    }
}

impl Originals {
    /// The same changes. Large files among them are kept in mind as they are
    /// opened.
    pub fn watch(self: &Arc<Self>, changes: Changes) -> Changes {
        let originals = Arc::clone(self);
        Box::new(changes.map(move |change| match change? {
            Change::Put(entry, Content::Read(open))
                if matches!(entry.kind, Kind::File { size } if size >= LARGE) =>
            {
                let (originals, path) = (Arc::clone(&originals), entry.path.clone());
                let open = move || {
                    let reader = open()?;
                    if let Some(file) = reader.file() {
                        originals.offer(path, file);
                    }
                    Ok(reader)
                };
                Ok(Change::Put(entry, Content::Read(Box::new(open))))
            }
            other => Ok(other),
        }))
    }

    /// Keeps a file in mind of which nothing was read yet.
    fn offer(&self, path: PathBuf, file: &File) {
        if self.refused.load(Ordering::Relaxed) {
            return;
        }
        if let (Ok(before), Ok(file)) = (Status::of(file), file.try_clone())
            && before.is_older_than(self.settled)
        {
            let mut waiting = (self.waiting.lock()).unwrap_or_else(PoisonError::into_inner);
            waiting.insert(path, Original { file, before });
        }
    }

    /// Gives the empty file `to` the blocks of the one that became the entry
    /// `path`, of `size` bytes. Where that can't be, `to` is empty still.
    ///
    /// # Errors
    /// When `to` can't be emptied again.
    pub(super) fn clone_to(&self, to: &File, path: &Path, size: u64) -> io::Result<bool> {
        if size < LARGE {
            return Ok(false);
        }
        let mut waiting = (self.waiting.lock()).unwrap_or_else(PoisonError::into_inner);
        let Some(Original { file, before }) = waiting.remove(path) else {
            return Ok(false);
        };
        drop(waiting);
        if rustix::fs::ioctl_ficlone(to, &file).is_err() {
            self.refused.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        // It was not written to from before it was read until now, so what was
        // read is what was cloned.
        let same = Status::of(&file).is_ok_and(|now| now == before);
        if same && before.size == size && Status::of(to)?.size == size {
            return Ok(true);
        }
        to.set_len(0)?;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    // Skipped tests say so.
    #![allow(clippy::print_stderr)]

    use std::io::Write;
    use std::process::Command;

    use super::*;

    const DIR: &str = "SHIPLAP_TEST_ORIGINALS";

    fn file(path: &Path) -> File {
        File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(path)
            .unwrap()
    }

    fn originals(settled: Duration) -> Originals {
        Originals {
            settled,
            ..Originals::default()
        }
    }

    #[test]
    fn young_files_and_unknown_ones_are_not_cloned() {
        let dir = tempfile::tempdir().unwrap();
        let from = file(&dir.path().join("from"));
        from.set_len(LARGE).unwrap();
        let all = Originals::default();
        all.offer("a".into(), &from);
        assert!(all.waiting.lock().unwrap().is_empty());
        let to = file(&dir.path().join("to"));
        assert!(!all.clone_to(&to, Path::new("a"), LARGE).unwrap());
        assert_eq!(to.metadata().unwrap().len(), 0);
    }

    /// Needs a file system that can clone, which is made and mounted in a mount
    /// namespace of its own.
    #[test]
    fn clones_are_what_was_read() {
        const NAME: &str = "layer::originals::tests::on_a_file_system_that_clones";
        let script = "truncate -s 200M img && mkfs.btrfs -q img && mkdir mnt && \
                      mount -o loop img mnt || exit 99; exec \"$0\" --ignored --exact \"$1\"";
        let dir = tempfile::tempdir().unwrap();
        let ran = Command::new("unshare")
            .args(["-m", "--propagation=private", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(DIR, dir.path().join("mnt"))
            .current_dir(dir.path())
            .output();
        match ran {
            Ok(out) if out.status.success() => {
                assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"));
            }
            Ok(out) if out.status.code() != Some(101) => eprintln!(
                "skipped: no btrfs can be made and mounted here: {}",
                String::from_utf8_lossy(&out.stderr)
            ),
            Err(e) => eprintln!("skipped: unshare: {e}"),
            Ok(out) => panic!("{}", String::from_utf8_lossy(&out.stdout)),
        }
    }

    #[test]
    #[ignore = "the other half of the one above, on its file system"]
    fn on_a_file_system_that_clones() {
        let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
            return;
        };
        let settled = Duration::from_millis(50);
        let from = dir.join("from");
        file(&from).write_all(&vec![7; 3 << 20]).unwrap();
        std::thread::sleep(settled * 2);
        let size = 3 << 20;

        let all = originals(settled);
        all.offer("a/from".into(), &File::open(&from).unwrap());
        let to = file(&dir.join("to"));
        assert!(all.clone_to(&to, Path::new("a/from"), size).unwrap());
        assert!(std::fs::read(dir.join("to")).unwrap() == vec![7; 3 << 20]);
        let extents = Command::new("filefrag")
            .arg("-v")
            .arg(dir.join("to"))
            .output();
        let extents = String::from_utf8(extents.unwrap().stdout).unwrap();
        assert!(extents.contains("shared"), "{extents}");

        // Written to after it was opened for the layer.
        all.offer("b".into(), &File::open(&from).unwrap());
        let mut changed = File::options().write(true).open(&from).unwrap();
        changed.write_all(b"x").unwrap();
        let to = file(&dir.join("late"));
        assert!(!all.clone_to(&to, Path::new("b"), size).unwrap());
        assert_eq!(to.metadata().unwrap().len(), 0);

        // To another file system.
        std::thread::sleep(settled * 2);
        all.offer("c".into(), &File::open(&from).unwrap());
        let elsewhere = tempfile::tempfile_in("/dev/shm").unwrap();
        assert!(!all.clone_to(&elsewhere, Path::new("c"), size).unwrap());
        assert!(all.refused.load(Ordering::Relaxed));
    }
}
