//! What the next process does about processes and machines that stopped, and
//! the check of the whole store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;

use super::blobs::open_regular;
use super::layers::{layer_id, session_of};
use super::lock::{Session, is_session_id};
use super::trash::{erase_secrets, remove_path};
use super::{Lock, LockMode, Store, StoreError, read_small, replace_file};
use crate::digest::{DiffId, Digest, VerifyingReader};
use crate::image::Document;

/// Holds the boot id of the last start; its mtime is the time of the last
/// flush of everything.
const BOOT_FILE: &str = "locks/boot";
/// Clocks of file systems may lag behind by a tick.
const TICK: Duration = Duration::from_secs(2);

/// Takes the shared lock of the store; in a new boot, checks first what the
/// last one left. `None` where a read-only file system has no lock file.
pub(super) fn enter(root: &Path) -> Result<Option<Lock>, StoreError> {
    let path = root.join("locks/store");
    let shared = |path: &Path| match Lock::wait(path, LockMode::Shared) {
        Ok(lock) => Ok(Some(lock)),
        Err(StoreError::Io { source, .. })
            if Errno::from_io_error(&source) == Some(Errno::ROFS) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    };
    let boot = boot_id();
    if is_current(root, &boot) {
        return shared(&path);
    }
    // Who gets here at the same time waits for the one that does the work.
    let _mutex = match Lock::wait(&root.join("locks/recover"), LockMode::Exclusive) {
        Ok(lock) => lock,
        Err(StoreError::Io { source, .. })
            if Errno::from_io_error(&source) == Some(Errno::ROFS) =>
        {
            return shared(&path);
        }
        Err(e) => return Err(e),
    };
    if is_current(root, &boot) {
        return shared(&path);
    }
    match Lock::attempt(&path, LockMode::Exclusive)? {
        Some(lock) => {
            distrust(root)?;
            write_boot(root, &boot, SystemTime::now());
            lock.downgrade(&path)?;
            Ok(Some(lock))
        }
        // Held by a machine that shares the directory and has its own boots.
        None => shared(&path),
    }
}

pub(super) fn boot_id() -> Vec<u8> {
    read_small_proc("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| b"unknown\n".to_vec())
}

fn read_small_proc(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(200).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_current(root: &Path, boot: &[u8]) -> bool {
    read_small(&root.join(BOOT_FILE), 200).is_ok_and(|text| text == boot)
}

/// Best effort: without it the next process only does the work again.
fn write_boot(root: &Path, boot: &[u8], flushed: SystemTime) {
    let temporary = root.join(format!("tmp/boot-{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let path = root.join(BOOT_FILE);
    if replace_file(&temporary, &path, boot).is_ok()
        && let Ok(file) = open_regular(&path)
    {
        let _ = file.set_modified(flushed);
    }
}

/// Drops what may not have reached the disk before the machine stopped.
fn distrust(root: &Path) -> Result<(), StoreError> {
    let flushed = std::fs::symlink_metadata(root.join(BOOT_FILE))
        .and_then(|m| m.modified())
        .ok()
        .map(|t| t - TICK);
    let suspicious = |path: &Path| {
        let changed = std::fs::symlink_metadata(path).and_then(|m| m.modified());
        match (flushed, changed) {
            (Some(flushed), Ok(changed)) => changed >= flushed,
            // A store of a first boot, or one that never was flushed.
            (None, Ok(_)) => true,
            (_, Err(_)) => false,
        }
    };
    for (digest, path) in blobs(root)? {
        // A name's blobs were flushed, and are found whole here.
        if suspicious(&path) && verify(&path, &digest).is_err_and(|e| is_damage(&e)) {
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    for (_, link) in layer_links(root)? {
        if suspicious(&link) {
            // The directory has no link now; the sweep takes it.
            std::fs::remove_file(&link).map_err(StoreError::io("remove", &link))?;
        }
    }
    Ok(())
}

/// All blobs whose names are digests that can be verified.
pub(super) fn blobs(root: &Path) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    let top = root.join("blobs");
    for algorithm in list(&top)? {
        let Some(algorithm_name) = algorithm.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if !algorithm.is_dir() {
            continue;
        }
        for path in list(&algorithm)? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            if let Ok(digest) = Digest::parse(&format!("{algorithm_name}:{name}")) {
                found.push((digest, path));
            }
        }
    }
    Ok(found)
}

/// The links that make layers findable.
pub(super) fn layer_links(root: &Path) -> Result<Vec<(DiffId, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for path in list(&root.join("layers/by-diff-id"))? {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let name = name.split_once('.').map_or(name, |(name, _form)| name);
        if let Some(digest) = name
            .rsplit_once('-')
            .and_then(|(algorithm, encoded)| Digest::parse(&format!("{algorithm}:{encoded}")).ok())
        {
            found.push((DiffId::new(digest), path));
        }
    }
    Ok(found)
}

/// The directories of layers, published or not.
pub(super) fn layer_dirs(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let is_layer = |p: &PathBuf| {
        let name = p.file_name().and_then(|n| n.to_str());
        name.and_then(layer_id).is_some()
    };
    let mut dirs = list(&root.join("layers"))?;
    dirs.retain(is_layer);
    Ok(dirs)
}

pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::io("read", dir))?;
    let mut paths = entries
        .map(|e| e.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(StoreError::io("read", dir))?;
    paths.sort();
    Ok(paths)
}

fn verify(path: &Path, digest: &Digest) -> io::Result<()> {
    let mut reader = VerifyingReader::new(open_regular(path)?, digest.clone(), None)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether the content is wrong, rather than out of reach just now.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

/// Something in the store that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
    /// Where it was moved, so that it can be fetched or made again.
    pub moved: Option<PathBuf>,
}

/// What [`Store::check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Unpacked layers that were looked at.
    pub layers: u64,
    /// What is wrong.
    pub damages: Vec<Damage>,
}

impl Store {
    /// Takes away what processes that died left in `tmp/` and `layers/`. Does
    /// nothing while another process is at it. Whatever hinders it is left for
    /// the next time: nobody waits for this.
    pub(super) fn sweep(&self) {
        let Ok(Some(_gate)) = Lock::attempt(&self.path("locks/sessions"), LockMode::Exclusive)
        else {
            return;
        };
        let root = self.root();
        let tmp = root.join("tmp");
        let mut dead: Vec<PathBuf> = Vec::new();
        let mut alive = BTreeSet::new();
        for path in list(&tmp).unwrap_or_default() {
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
                continue;
            };
            if !is_session_id(name) {
                continue;
            }
            if Session::is_alive(&tmp, name) {
                alive.insert(name.to_owned());
            } else {
                erase_secrets(&path);
                dead.push(path);
            }
        }
        dead.extend(self.orphans(&alive));
        for (serial, path) in dead.iter().enumerate() {
            // No session of our own: it would need the gate that we hold.
            let name = format!("swept-{}-{serial}", std::process::id());
            let to = root.join("trash").join(name);
            if let Err(Errno::NOSPC | Errno::DQUOT | Errno::EXIST | Errno::NOTEMPTY) =
                rustix::fs::rename(path, &to)
            {
                let _ = remove_path(path);
            }
        }
    }

    /// Layers that no link leads to and whose session is not alive.
    fn orphans(&self, alive: &BTreeSet<String>) -> Vec<PathBuf> {
        let root = self.root();
        let (Ok(dirs), Ok(links)) = (layer_dirs(root), layer_links(root)) else {
            return Vec::new();
        };
        if dirs.is_empty() {
            return Vec::new();
        }
        let Ok(mut linked) = self.attached_layers() else {
            return Vec::new();
        };
        for (_, link) in &links {
            match rustix::fs::readlink(link, Vec::new()) {
                Ok(target) => {
                    let target = target.to_string_lossy().into_owned();
                    linked.insert(target.trim_start_matches("../").to_owned());
                }
                // Not knowing what it leads to, nothing is an orphan.
                Err(_) => return Vec::new(),
            }
        }
        dirs.into_iter()
            .filter(|dir| {
                let Some(name) = dir.file_name() else {
                    return false;
                };
                let made_by_living = session_of(name).is_none_or(|s| alive.contains(s));
                !made_by_living && name.to_str().is_some_and(|n| !linked.contains(n))
            })
            .collect()
    }

    /// Brings all that is in the store to the disk, so that it is trusted
    /// after a power failure too. Slow; for idle time.
    ///
    /// # Errors
    /// When the file system can't be flushed.
    pub fn settle(&self) -> Result<(), StoreError> {
        let started = SystemTime::now();
        let root = self.root();
        let dir = File::open(root).map_err(StoreError::io("open", root))?;
        rustix::fs::syncfs(&dir).map_err(StoreError::io("flush", root))?;
        write_boot(root, &boot_id(), started);
        Ok(())
    }

    /// Reads every blob and compares it with its digest; looks whether names
    /// and manifests lead to blobs, and links to layers. With `repair`, moves
    /// damaged blobs and links to `aside/`; names are left alone.
    ///
    /// # Errors
    /// When something can't be read at all.
    pub fn check(&self, repair: bool) -> Result<Checked, StoreError> {
        let root = self.root();
        let mut checked = Checked::default();
        for (digest, path) in blobs(root)? {
            checked.blobs += 1;
            checked.bytes += std::fs::symlink_metadata(&path).map_or(0, |m| m.len());
            match verify(&path, &digest) {
                Ok(()) => {}
                Err(e) if is_damage(&e) => {
                    let moved = if repair { self.set_aside(&path)? } else { None };
                    let reason = e.to_string();
                    checked.damages.push(Damage {
                        path,
                        reason,
                        moved,
                    });
                }
                // Another process removed it, or nobody can verify it.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::Unsupported
                    ) => {}
                Err(e) => return Err(StoreError::io("read", &path)(e)),
            }
        }
        for (_, link) in layer_links(root)? {
            checked.layers += 1;
            if self.layer_behind(&link).is_none() {
                let moved = if repair { self.set_aside(&link)? } else { None };
                checked.damages.push(Damage {
                    path: link,
                    reason: "it leads to no layer".into(),
                    moved,
                });
            }
        }
        self.check_names(&mut checked)?;
        Ok(checked)
    }

    /// Moves what is broken out of everybody's way; `None` when it is gone
    /// already.
    fn set_aside(&self, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        let aside = self.path("aside");
        match rustix::fs::mkdir(&aside, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(StoreError::io("create", &aside)(e)),
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for serial in 0.. {
            let to = aside.join(format!("{name}.{serial}"));
            match rustix::fs::renameat_with(CWD, path, CWD, &to, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(Some(to)),
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(StoreError::io("move away", path)(e)),
            }
        }
        Ok(None)
    }

    fn check_names(&self, checked: &mut Checked) -> Result<(), StoreError> {
        for entry in self.read_index()?.manifests {
            let mut missing = |digest: &Digest, of: &str| {
                checked.damages.push(Damage {
                    path: self.blob_path(digest),
                    reason: format!("{of} needs it, and it is not there"),
                    moved: None,
                });
            };
            if !self.has(&entry.digest) {
                missing(&entry.digest, "index.json");
                continue;
            }
            // Layers may be left where they came from; a config may not.
            if let Some(Document::Manifest(manifest)) = self.document(&entry)
                && !self.has(&manifest.config.digest)
            {
                missing(&manifest.config.digest, entry.digest.as_str());
            }
        }
        Ok(())
    }
}
