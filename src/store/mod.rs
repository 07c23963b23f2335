//! The local store: an OCI image layout, and our own directories beside it.
//!
//! ```text
//! ROOT/                     0700, owned by the user
//!   oci-layout              the layout's marker
//!   index.json              the names: one entry for each, annotated
//!   blobs/sha256/<hex>      manifests, indexes, configs, layers
//!   version                 the format of the rest, a number
//!   layers/<id>/fs          an unpacked layer in overlay form
//!   layers/<id>/work        overlayfs' work directory, until it is published
//!   layers/<id>/notes       what its tree can't have on disk, if anything
//!   layers/by-diff-id/<alg>-<hex>[.<form>] -> ../<id>
//!   cache/<hex>             results of build steps by key
//!   mounts/<hex>/           cache mounts; see `mounts`
//!   indexes/<alg>-<hex>     what is in a layer, by the digest of its blob
//!   stats/<hex>             what is known of the files of a build context
//!   attached/<number>/      where an image is mounted, and the layers that it needs
//!   locks/                  lock files; they are never removed by a sweep
//!   tmp/<session>/          what a running process is about to make
//!   trash/                  what waits for its removal
//!   aside/                  what [`Store::check`] found broken; yours to remove
//! ```
//!
//! Other tools read the layout in place (`skopeo inspect oci:ROOT:debian:12`);
//! entries of `index.json` and fields that we did not write are kept. (Their own
//! grammar of names has no `__`, so such a name they reach by its digest only.)
//!
//! # What is visible is complete
//! Everything is made under `tmp/` (layers: under an id that no link leads to)
//! and becomes visible by one rename or one new link. A process holds a lock
//! in its `tmp/<session>` as long as it lives; whoever opens the store next
//! sweeps what sessions left that died, and touches no other.
//!
//! | a process dies after | what is left | who sees it |
//! |---|---|---|
//! | part of a blob is written | a file in `tmp/` | nobody; swept |
//! | the blob is renamed | a blob without a name | the next build may use it; `prune` removes it |
//! | a step had secrets in its tree | a marked tree in `tmp/` | nobody; removed at once |
//! | part of a layer is unpacked | `layers/<id>` without a link | nobody; swept |
//! | the layer is linked | a published layer | everybody |
//! | the new `index.json` is written | a file in `tmp/` | nobody; swept |
//! | it is renamed | the new names | everybody |
//!
//! # When the power fails
//! A flush to the disk is dear, so it is done once, for all that a name needs,
//! before the name is given: [`Store::set_refs`] flushes (`fdatasync`) each
//! blob that the image consists of, then the directories of the blobs, and
//! only then writes, flushes and renames `index.json`. Names therefore never
//! lead to damaged content. All else can be made again, and is not trusted
//! after the machine stopped: the first process of a new boot (told by the
//! kernel's boot id, kept in `locks/boot`) re-hashes the blobs written since
//! the last flush of the whole store and drops those that are damaged, and
//! drops layers unpacked since. [`Store::settle`] is that flush; it is for
//! idle time. Records of the cache carry a digest of themselves, and one that
//! does not match is no record.
//!
//! | the power fails after | left after the next start |
//! |---|---|
//! | a blob is written and renamed | the blob if it is whole, else nothing |
//! | a layer is linked | nothing, unless [`Store::settle`] came after |
//! | [`Store::set_refs`] flushed the blobs | the blobs |
//! | it returned | the name and the whole image |
//!
//! A flush that fails is an error and is not tried again: the kernel forgets
//! the pages that it could not write.
//!
//! # Locks
//! `locks/store` is shared by every process that has the store open;
//! [`Store::prune`] needs it exclusively, so nothing is removed under a running
//! build. `locks/refs` is held while `index.json` is replaced, `locks/sessions`
//! while a session begins (shared) and while dead ones are swept (exclusive),
//! `locks/recover` during the check after a new boot. They are taken in the
//! order recover, store, sessions, refs. All are `flock`s: the kernel releases
//! them, however their holder ends.
//!
//! # Specification
//! image-spec `image-layout.md`, `annotations.md`
//! (`org.opencontainers.image.ref.name`).

mod attached;
mod blobs;
mod cache;
mod error;
mod find;
mod gc;
mod indexes;
mod layers;
mod lock;
mod mounts;
mod places;
mod recover;
mod refs;
mod stats;
mod trash;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{IFlags, Mode, OFlags};
use rustix::io::Errno;

pub use attached::{Attached, NewAttached};
pub use blobs::Ingest;
pub use cache::MAX_RECORD;
pub use error::StoreError;
pub use gc::{PruneOptions, Pruned, Usage};
pub use layers::{LayerForm, NewLayer};
pub use lock::{Lock, LockMode};
pub use mounts::StoredMount;
pub use recover::{Checked, Damage};
pub use trash::{Emptied, SecretsHeld, TempDir};

use lock::Session;

/// The format that this program writes.
const VERSION: u32 = 1;

const DIRECTORIES: [&str; 9] = [
    "blobs",
    "blobs/sha256",
    "layers",
    "layers/by-diff-id",
    "cache",
    "mounts",
    "locks",
    "tmp",
    "trash",
];
const FILES: [&str; 3] = ["oci-layout", "index.json", "version"];

/// The open store. Clones are cheap and are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    // None on a read-only file system where the lock file can't be made: then
    // nobody can prune either.
    in_use: Option<Lock>,
    session: Mutex<Option<Arc<Session>>>,
    form: OnceLock<LayerForm>,
}

impl Store {
    /// Opens the store at `root`, which is made if it does not exist or is an
    /// empty directory; an OCI image layout is taken over as it is.
    ///
    /// Leftovers of processes that died are swept. A store on a read-only file
    /// system can be read.
    ///
    /// # Errors
    /// When the directory belongs to someone else or others may enter it, when
    /// it holds other things, or was made by a later version.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        create_root(root)?;
        let root = root
            .canonicalize()
            .map_err(StoreError::io("resolve", root))?;
        check_root(&root)?;
        if !check_version(&root)? {
            check_content(&root)?;
            initialize(&root)?;
        }
        let in_use = recover::enter(&root)?;
        let store = Self {
            inner: Arc::new(Inner {
                root,
                in_use,
                session: Mutex::new(None),
                form: OnceLock::new(),
            }),
        };
        store.sweep();
        Ok(store)
    }

    /// The store's root directory, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.root.join(name)
    }

    /// This process' session, begun with the first thing that is written.
    fn session(&self) -> Result<Arc<Session>, StoreError> {
        let mut slot = self
            .inner
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*slot {
            return Ok(session.clone());
        }
        let session = Session::begin(&self.path("tmp"), &self.path("locks/sessions"))?;
        let session = Arc::new(session);
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Waits for a lock that processes share by `name`, for work that only one
    /// of them should do. `name` is a file name.
    ///
    /// # Errors
    /// When the lock file can't be made.
    pub fn lock(&self, name: &str, mode: LockMode) -> Result<Lock, StoreError> {
        Lock::wait(&self.named_lock(name), mode)
    }

    /// The same without waiting; `None` while it is held.
    ///
    /// # Errors
    /// When the lock file can't be made.
    pub fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Lock>, StoreError> {
        Lock::attempt(&self.named_lock(name), mode)
    }

    fn named_lock(&self, name: &str) -> PathBuf {
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        self.path("locks").join(format!("user-{safe}"))
    }
}

/// Makes `root` for us alone. An existing directory is not touched here.
fn create_root(root: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    match rustix::fs::stat(root) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(e) => return Err(StoreError::io("open the store", root)(e)),
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .map_err(StoreError::io("create the store", root))
}

/// Refuses a root that others could have prepared, or could change.
fn check_root(root: &Path) -> Result<(), StoreError> {
    let fail = |reason: String| StoreError::Unsafe {
        path: root.to_owned(),
        reason,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir: OwnedFd = rustix::fs::open(root, flags, Mode::empty())
        .map_err(StoreError::io("open the store", root))?;
    let stat = rustix::fs::fstat(&dir).map_err(StoreError::io("look at", root))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(fail(format!(
            "it belongs to uid {}, this process runs as uid {me}; choose another root",
            stat.st_uid
        )));
    }
    if stat.st_mode & 0o077 != 0 {
        let empty = std::fs::read_dir(root)
            .map_err(StoreError::io("read", root))?
            .next()
            .is_none();
        if !empty {
            return Err(fail(format!(
                "other users may enter it (mode {:04o}); if its content is to be trusted, run chmod 700 on it",
                stat.st_mode & 0o7777
            )));
        }
        rustix::fs::fchmod(&dir, Mode::RWXU).map_err(StoreError::io("chmod", root))?;
    }
    Ok(())
}

/// Whether there is a `version` file, with a version that we understand.
fn check_version(root: &Path) -> Result<bool, StoreError> {
    let path = root.join("version");
    let text = match read_small(&path, 100) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(StoreError::io("read", &path)(e)),
    };
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(StoreError::Damaged {
            path,
            reason: format!("it should hold a number, not {text:?}"),
        });
    }
    match text.parse::<u32>() {
        Ok(n) if n <= VERSION => Ok(true),
        _ => Err(StoreError::Newer {
            path: root.to_owned(),
            found: text,
            known: VERSION,
        }),
    }
}

/// A directory without a version may hold what [`initialize`] makes (it was
/// interrupted, or another tool made a layout), and nothing else.
fn check_content(root: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(root).map_err(StoreError::io("read", root))? {
        let name: OsString = entry.map_err(StoreError::io("read", root))?.file_name();
        let known = |n: &&str| name.as_os_str() == OsStr::new(*n);
        if !DIRECTORIES.iter().any(known) && !FILES.iter().any(known) {
            return Err(StoreError::Foreign {
                path: root.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// Makes what is missing; `version` comes last.
fn initialize(root: &Path) -> Result<(), StoreError> {
    for name in DIRECTORIES {
        let path = root.join(name);
        blobs::ensure_dir(&path).map_err(StoreError::io("create", &path))?;
        if matches!(name, "layers" | "tmp") {
            spread(&path);
        }
    }
    // All lock files now: later the disk may be full, and prune needs them.
    for name in ["recover", "store", "sessions", "trash"] {
        Lock::wait(&root.join("locks").join(name), LockMode::Shared)?;
    }
    let _gate = Lock::wait(&root.join("locks/refs"), LockMode::Exclusive)?;
    let session = Session::begin(&root.join("tmp"), &root.join("locks/sessions"))?;
    let version = format!("{VERSION}\n");
    for (name, content) in [
        ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}"),
        ("index.json", refs::EMPTY_INDEX),
        ("version", &version),
    ] {
        let path = root.join(name);
        if rustix::fs::lstat(&path).is_err() {
            replace_file(&session.path("f"), &path, content.as_bytes())?;
        }
    }
    Ok(())
}

/// Asks ext4 to lay the directories in `dir` out far from each other. A layer
/// then is not written among the inodes of trees that were removed shortly
/// before, which ext4 does not use again for minutes and looks at one by one
/// for each new file.
fn spread(dir: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Where it can't be had, things are as they were.
    let _ = rustix::fs::open(dir, flags, Mode::empty()).and_then(|fd| {
        let has = rustix::fs::ioctl_getflags(&fd)?;
        rustix::fs::ioctl_setflags(&fd, has | IFlags::TOPDIR)
    });
}

/// Puts a file with `content` at `path`, whole or not at all, and flushed.
fn replace_file(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let placed = blobs::place_file(temporary, path, |file| {
        io::Write::write_all(file, content)?;
        Ok(rustix::fs::fsync(file)?)
    });
    placed.map_err(StoreError::io("write", path))?;
    flush_dir(path.parent().unwrap_or(path))
}

fn flush_dir(path: &Path) -> Result<(), StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(StoreError::io("flush", path))
}

/// Reads a regular file of at most `limit` bytes, not through a link.
fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = blobs::open_regular(path)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
