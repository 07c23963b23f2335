//! Where images are mounted, so that their layers stay until they no longer
//! are.
//!
//! ```text
//! attached/<id>/mount         what is mounted where, as JSON
//! attached/<id>/layer-<n>     -> ../../layers/<id>: needed as long as this is
//! attached/<id>/root          where, unless a place was given
//! attached/<id>/{empty,upper,work}   for overlayfs
//! ```
//! A record is made before its mount and removed after it. One whose mount is
//! gone, because the machine was started again or somebody unmounted it by
//! other means, is found by that and swept.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::blobs::ensure_dir;
use super::layers::layer_id;
use super::recover::{boot_id, list};
use super::{Lock, LockMode, Store, StoreError, read_small, replace_file};

/// The file in a record's directory.
const FILE: &str = "mount";
/// Bytes that it may have.
const MAX_BYTES: u64 = 64 << 10;

/// An image that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Names the record: a small number.
    pub id: String,
    /// Where it is mounted; absolute.
    pub target: PathBuf,
    /// What the image was called.
    pub image: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Whether it can be written to.
    pub writable: bool,
}

#[derive(Serialize, Deserialize)]
struct Record {
    target: Vec<u8>,
    image: String,
    digest: String,
    writable: bool,
    boot: String,
    /// Number of the mount namespace.
    namespace: u64,
}

/// A record without its mount so far. Dropped, it is removed.
#[derive(Debug)]
pub struct NewAttached {
    store: Store,
    dir: PathBuf,
    kept: bool,
    /// While it is held nobody sweeps.
    _lock: Lock,
}

impl NewAttached {
    /// The record's directory, for what the mount needs beside the layers.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The mount is made.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewAttached {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.store.trash(&self.dir);
        }
    }
}

impl Store {
    /// Notes that an image made of the layer directories `layers` is about to
    /// be mounted: at `target`, or in the record's directory. [`Attached::id`]
    /// is given here.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn attach(
        &self,
        mount: &Attached,
        target: Option<&Path>,
        layers: &[PathBuf],
    ) -> Result<(NewAttached, PathBuf), StoreError> {
        let lock = self.attached_lock()?;
        let top = self.path("attached");
        ensure_dir(&top).map_err(StoreError::io("create", &top))?;
        let mut number = 1;
        let dir = loop {
            let dir = top.join(number.to_string());
            match rustix::fs::mkdir(&dir, Mode::RWXU) {
                Ok(()) => break dir,
                Err(Errno::EXIST) => number += 1,
                Err(e) => return Err(StoreError::io("create", &dir)(e)),
            }
        };
        let new = NewAttached {
            store: self.clone(),
            dir: dir.clone(),
            kept: false,
            _lock: lock,
        };
        for (n, layer) in layers.iter().enumerate() {
            let id = layer.parent().and_then(Path::file_name);
            let mut to = std::ffi::OsString::from("../../layers/");
            to.push(id.unwrap_or_default());
            let link = dir.join(format!("layer-{n}"));
            rustix::fs::symlink(&to, &link).map_err(StoreError::io("create the link", &link))?;
        }
        let target = match target {
            Some(target) => target.to_owned(),
            None => {
                let root = dir.join("root");
                rustix::fs::mkdir(&root, Mode::RWXU).map_err(StoreError::io("create", &root))?;
                root
            }
        };
        let record = Record {
            target: target.as_os_str().as_bytes().to_vec(),
            image: mount.image.clone(),
            digest: mount.digest.clone(),
            writable: mount.writable,
            boot: String::from_utf8_lossy(&boot_id()).into_owned(),
            namespace: namespace(Path::new("/proc/self/ns/mnt")).unwrap_or(0),
        };
        let text = serde_json::to_vec(&record).unwrap_or_default();
        replace_file(&dir.join("new"), &dir.join(FILE), &text)?;
        Ok((new, target))
    }

    /// What is mounted, by number. Records of mounts that are gone are swept.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn attached(&self) -> Result<Vec<Attached>, StoreError> {
        // Also where there is no room for a lock.
        if self.attached_dirs()?.is_empty() {
            return Ok(Vec::new());
        }
        let lock = self.attached_lock()?;
        let mut found = Vec::new();
        let boot = String::from_utf8_lossy(&boot_id()).into_owned();
        let here = namespace(Path::new("/proc/self/ns/mnt")).unwrap_or(0);
        let mounted = mount_points();
        for dir in self.attached_dirs()? {
            let record = read_small(&dir.join(FILE), MAX_BYTES).ok();
            let record: Option<Record> = record.and_then(|b| serde_json::from_slice(&b).ok());
            let target = |r: &Record| PathBuf::from(std::ffi::OsString::from_vec(r.target.clone()));
            let alive = |r: &Record| {
                r.boot == boot
                    && match r.namespace == here {
                        true => mounted.as_ref().is_none_or(|m| m.contains(&target(r))),
                        false => is_in_use(r.namespace),
                    }
            };
            match record {
                Some(record) if alive(&record) => found.push(Attached {
                    id: name(&dir),
                    target: target(&record),
                    image: record.image,
                    digest: record.digest,
                    writable: record.writable,
                }),
                // Without the file nothing was mounted yet.
                _ => self.trash(&dir)?,
            }
        }
        drop(lock);
        found.sort_by_key(|a| a.id.parse::<u64>().unwrap_or(u64::MAX));
        Ok(found)
    }

    /// Forgets a mount that was just unmounted.
    ///
    /// # Errors
    /// When the record can't be removed.
    pub fn detach(&self, id: &str) -> Result<(), StoreError> {
        let _lock = self.attached_lock()?;
        match self.attached_dirs()?.into_iter().find(|d| name(d) == id) {
            Some(dir) => self.trash(&dir),
            None => Ok(()),
        }
    }

    /// Ids of the layers that mounts need.
    pub(super) fn attached_layers(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut ids = BTreeSet::new();
        for dir in self.attached_dirs()? {
            for path in list(&dir)? {
                let Ok(target) = rustix::fs::readlink(&path, Vec::new()) else {
                    continue;
                };
                let target = target.to_string_lossy().into_owned();
                let id = target.strip_prefix("../../layers/").and_then(layer_id);
                ids.extend(id.map(str::to_owned));
            }
        }
        Ok(ids)
    }

    fn attached_dirs(&self) -> Result<Vec<PathBuf>, StoreError> {
        match self.path("attached").try_exists() {
            Ok(true) => list(&self.path("attached")),
            _ => Ok(Vec::new()),
        }
    }

    fn attached_lock(&self) -> Result<Lock, StoreError> {
        Lock::wait(&self.path("locks").join("attached"), LockMode::Exclusive)
    }
}

fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The number of the namespace that `path` leads to.
fn namespace(path: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.ino())
}

/// Whether any process is in the mount namespace. One that can't be looked at
/// is another user's, and so is its namespace.
fn is_in_use(number: u64) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    processes
        .flatten()
        .any(|process| namespace(&process.path().join("ns/mnt")).is_ok_and(|n| n == number))
}

/// Where something is mounted in this namespace, if that can be found out.
fn mount_points() -> Option<BTreeSet<PathBuf>> {
    let text = std::fs::read("/proc/self/mountinfo").ok()?;
    let fields = text.split(|b| *b == b'\n');
    let points = fields.filter_map(|line| line.split(|b| *b == b' ').nth(4));
    Some(points.map(unescape).collect())
}

/// Undoes the kernel's `\040` for blanks and their like.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        (rest, _) = match (first, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                (&more[3..], ())
            }
            _ => {
                out.push(*first);
                (more, ())
            }
        };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(store: &Store, target: &Path, layers: &[PathBuf]) -> NewAttached {
        let mount = Attached {
            id: String::new(),
            target: target.to_owned(),
            image: "x".into(),
            digest: "sha256:0".into(),
            writable: false,
        };
        store.attach(&mount, Some(target), layers).unwrap().0
    }

    #[test]
    fn layers_stay_as_long_as_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let layer = store.new_layer().unwrap();
        let fs = layer.fs().to_owned();
        layer.keep();
        // Something is mounted at the root of every namespace.
        record(&store, Path::new("/"), std::slice::from_ref(&fs)).keep();
        drop(store);
        // Its session is over, and no name leads to it.
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.prune(&super::super::PruneOptions::default()).unwrap();
        assert!(fs.exists());
        let mounts = store.attached().unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].target, Path::new("/"));
        store.detach(&mounts[0].id).unwrap();
        drop(store);
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert!(!fs.exists());
        assert!(store.attached().unwrap().is_empty());
    }

    #[test]
    fn records_without_a_mount_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        drop(record(&store, Path::new("/"), &[]));
        assert!(store.attached().unwrap().is_empty());
        record(&store, dir.path(), &[]).keep();
        assert!(store.attached().unwrap().is_empty());
        // Of another start of the machine.
        record(&store, Path::new("/"), &[]).keep();
        let file = dir.path().join("store/attached/1/mount");
        let text = std::fs::read_to_string(&file).unwrap();
        let mut other: serde_json::Value = serde_json::from_str(&text).unwrap();
        other["boot"] = "another".into();
        std::fs::write(&file, other.to_string()).unwrap();
        assert!(store.attached().unwrap().is_empty());
    }

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), Path::new(r"/a\04"));
    }
}
