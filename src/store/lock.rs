//! Advisory locks, and sessions: what belongs to a process that lives.
//!
//! All locks are `flock`s on files that stay where they are, so the kernel
//! releases them however their holder ends, and no stale lock can be left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::StoreError;
use crate::digest::Hasher;

/// A lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// How a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// With others who ask for the same.
    Shared,
    /// With nobody.
    Exclusive,
}

impl Lock {
    /// Waits for the lock on the file `path`, which is made if need be.
    pub(crate) fn wait(path: &Path, mode: LockMode) -> Result<Self, StoreError> {
        Self::take(path, mode, false)?.ok_or_else(|| {
            StoreError::io("lock", path)(std::io::Error::from(std::io::ErrorKind::WouldBlock))
        })
    }

    /// Takes the lock if that is possible at once; `None` if it is held.
    pub(crate) fn attempt(path: &Path, mode: LockMode) -> Result<Option<Self>, StoreError> {
        Self::take(path, mode, true)
    }

    fn take(path: &Path, mode: LockMode, at_once: bool) -> Result<Option<Self>, StoreError> {
        loop {
            let file = open_lock_file(path)?;
            if !flock(&file, mode, at_once).map_err(StoreError::io("lock", path))? {
                return Ok(None);
            }
            // Someone may have removed the file between open and lock; then
            // the lock is one that nobody else can see.
            let ours = rustix::fs::fstat(&file).map_err(StoreError::io("look at", path))?;
            match rustix::fs::lstat(path) {
                Ok(now) if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(Self { file }));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(StoreError::io("look at", path)(e)),
            }
        }
    }

    /// Exchanges a shared lock for an exclusive one. When others hold it, says
    /// `false` and has the shared one again.
    pub(crate) fn upgrade(&self, path: &Path, wait: bool) -> Result<bool, StoreError> {
        let fail = StoreError::io("lock", path);
        match flock(&self.file, LockMode::Exclusive, !wait) {
            Ok(true) => Ok(true),
            Ok(false) => {
                // The kernel dropped the shared lock before it tried.
                self.downgrade(path)?;
                Ok(false)
            }
            Err(e) => Err(fail(e)),
        }
    }

    /// Exchanges an exclusive lock for a shared one.
    pub(crate) fn downgrade(&self, path: &Path) -> Result<(), StoreError> {
        flock(&self.file, LockMode::Shared, false)
            .map(drop)
            .map_err(StoreError::io("lock", path))
    }
}

/// Read-only is enough for a lock, and works on a read-only file system.
fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::open(path, flags | OFlags::CREATE, mode)
        }
        other => other,
    };
    fd.map(File::from)
        .map_err(StoreError::io("open the lock file", path))
}

fn flock(file: &File, mode: LockMode, at_once: bool) -> rustix::io::Result<bool> {
    let operation = match (mode, at_once) {
        (LockMode::Shared, false) => FlockOperation::LockShared,
        (LockMode::Exclusive, false) => FlockOperation::LockExclusive,
        (LockMode::Shared, true) => FlockOperation::NonBlockingLockShared,
        (LockMode::Exclusive, true) => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// What one process makes in the store: its temporary directory, and the
/// unpacked layers whose ids begin with the session's.
#[derive(Debug)]
pub(crate) struct Session {
    /// Eight letters and digits.
    pub(crate) id: String,
    /// `tmp/<id>`.
    pub(crate) dir: PathBuf,
    next: AtomicU64,
    // Held as long as the session lives; see `is_alive`.
    _lock: Lock,
}

const LOCK_NAME: &str = "lock";

impl Session {
    /// Begins a session in `tmp`. `gate` is a lock file that keeps sweepers
    /// away until the session's own lock is held.
    pub(crate) fn begin(tmp: &Path, gate: &Path) -> Result<Self, StoreError> {
        let _gate = Lock::wait(gate, LockMode::Shared)?;
        for attempt in 0..100 {
            let id = random_id(attempt);
            let dir = tmp.join(&id);
            match rustix::fs::mkdir(&dir, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(StoreError::io("create", &dir)(e)),
            }
            let lock = Lock::wait(&dir.join(LOCK_NAME), LockMode::Exclusive)?;
            return Ok(Self {
                id,
                dir,
                next: AtomicU64::new(0),
                _lock: lock,
            });
        }
        Err(StoreError::io("create a directory in", tmp)(
            std::io::Error::from(std::io::ErrorKind::AlreadyExists),
        ))
    }

    /// Whether the process that `tmp/<id>` belongs to still runs. Meaningful
    /// only while the gate is held exclusively.
    pub(crate) fn is_alive(tmp: &Path, id: &str) -> bool {
        let path = tmp.join(id).join(LOCK_NAME);
        match rustix::fs::lstat(&path) {
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            // In doubt it lives: nothing is taken away from it.
            Err(_) => true,
            Ok(_) => !matches!(Lock::attempt(&path, LockMode::Exclusive), Ok(Some(_))),
        }
    }

    /// A number not given out before in this session.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A path in the session's directory not given out before.
    pub(crate) fn path(&self, prefix: &str) -> PathBuf {
        self.dir.join(format!("{prefix}{:x}", self.number()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Temporary files have removed themselves, so this leaves nothing;
        // what can't be removed is swept by the next process.
        let _ = std::fs::remove_file(self.dir.join(LOCK_NAME));
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Whether `text` is the id of a session.
pub(crate) fn is_session_id(text: &str) -> bool {
    text.len() == 8
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Not a secret: exclusive creation decides who has an id.
fn random_id(attempt: u64) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |d| d.as_nanos() as u64);
    let seed = [
        u64::from(std::process::id()),
        now,
        attempt,
        COUNTER.fetch_add(1, Ordering::Relaxed),
    ];
    let mut hasher = Hasher::new();
    for part in seed {
        hasher.update(&part.to_le_bytes());
    }
    let digest = hasher.finish();
    digest
        .encoded()
        .as_bytes()
        .chunks_exact(2)
        .take(8)
        .map(|pair| {
            let value = pair.iter().fold(0usize, |v, b| {
                v * 16 + (*b as char).to_digit(16).unwrap_or(0) as usize
            });
            LETTERS[value % LETTERS.len()] as char
        })
        .collect()
}
