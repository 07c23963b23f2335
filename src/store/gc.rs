//! What the store takes up, and removing what nothing needs.
//!
//! Needed is what names and cache records lead to: a name to its manifests,
//! configs, layers and their unpacked directories; a record to every digest
//! that stands in it. The walk refuses to go on where it can't read what might
//! lead further: too much is kept rather than too little.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::cache::record_payload;
use super::indexes;
use super::recover::{blobs, layer_dirs, layer_links, list};
use super::{Lock, Store, StoreError, read_small};
use crate::digest::{DiffId, Digest};
use crate::image::{
    self, BlobSource, Descriptor, Document, ImageConfig, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES,
};

/// What [`Store::prune`] may remove.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Cache records that were not used for this long, and what only they
    /// lead to; `Some(0)` is all of them.
    pub unused_for: Option<Duration>,
    /// Bytes that the cache may keep: blobs and layers that only its records
    /// lead to. What was used last stays.
    pub keep_bytes: Option<u64>,
    /// The content of cache mounts too.
    pub mounts: bool,
    /// Wait for other processes instead of failing.
    pub wait: bool,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What [`Store::prune`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Blobs.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Cache records.
    pub records: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// Bytes on the disk that this frees.
    pub bytes: u64,
    /// What could not be removed, and why.
    pub left: Vec<(std::path::PathBuf, String)>,
}

/// What the store takes up, in bytes on the disk. Hard links count once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Names in `index.json`.
    pub refs: u64,
    /// Blobs, number.
    pub blobs: u64,
    /// Blobs, bytes.
    pub blob_bytes: u64,
    /// Those of them that names lead to, number.
    pub image_blobs: u64,
    /// Those that names lead to, bytes.
    pub image_bytes: u64,
    /// Unpacked layers, number.
    pub layers: u64,
    /// Unpacked layers, bytes.
    pub layer_bytes: u64,
    /// Cache records, number.
    pub records: u64,
    /// Cache records, bytes.
    pub record_bytes: u64,
    /// Indexes of layers, number.
    pub indexes: u64,
    /// Indexes of layers, bytes.
    pub index_bytes: u64,
    /// Cache mounts, number.
    pub mounts: u64,
    /// Cache mounts, bytes.
    pub mount_bytes: u64,
    /// Trash, temporary files and what was set aside, bytes.
    pub scratch_bytes: u64,
    /// Bytes that [`Store::prune`] would free with its mildest options.
    pub reclaimable_bytes: u64,
}

/// What is needed.
#[derive(Default)]
struct Reached {
    blobs: HashSet<Digest>,
    layers: HashSet<DiffId>,
}

impl Store {
    /// Removes what nothing needs, and empties the trash.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has the store open (unless
    /// told to wait). When a manifest, a config or `index.json` can't be read,
    /// nothing is removed.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        let lock = self.exclusive(options)?;
        let result = self.prune_alone(options);
        if let Some(lock) = lock {
            lock.downgrade(&self.path("locks/store"))?;
        }
        result
    }

    fn exclusive(&self, options: &PruneOptions) -> Result<Option<&Lock>, StoreError> {
        if options.dry_run {
            return Ok(None);
        }
        let in_use = || StoreError::InUse {
            path: self.root().to_owned(),
        };
        let lock = self.inner.in_use.as_ref().ok_or_else(in_use)?;
        if !lock.upgrade(&self.path("locks/store"), options.wait)? {
            return Err(in_use());
        }
        Ok(Some(lock))
    }

    fn prune_alone(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        let root = self.root().to_owned();
        let now = SystemTime::now();
        let mut pruned = Pruned::default();
        let mut reached = Reached::default();
        for entry in self.read_index()?.manifests {
            self.reach(&entry, &mut reached)?;
        }
        let mut stale = Vec::new();
        let mut room = options.keep_bytes;
        for (used, path, bytes) in self.records()? {
            let age = now.duration_since(used).unwrap_or_default();
            let unused = options.unused_for.is_some_and(|limit| age >= limit);
            let record = read_small(&path, u64::MAX - 1).unwrap_or_default();
            match record_payload(&record) {
                Some(payload) if !unused && room != Some(0) => {
                    let Some(left) = room else {
                        self.reach_record(payload, &mut reached)?;
                        continue;
                    };
                    let mut more = Reached::default();
                    self.reach_record(payload, &mut more)?;
                    // The first that does not fit ends it: what is older goes.
                    let size = bytes + self.size_beyond(&more, &reached);
                    if size > left {
                        room = Some(0);
                        stale.push((path, bytes));
                    } else {
                        room = Some(left - size);
                        reached.blobs.extend(more.blobs);
                        reached.layers.extend(more.layers);
                    }
                }
                _ => stale.push((path, bytes)),
            }
        }
        for path in list(&root.join("stats")).unwrap_or_default() {
            let unused = |limit: Duration| {
                let used = std::fs::symlink_metadata(&path).and_then(|m| m.modified());
                used.is_ok_and(|t| now.duration_since(t).unwrap_or_default() >= limit)
            };
            if options.unused_for.is_some_and(unused) {
                let bytes = std::fs::symlink_metadata(&path).map_or(0, |m| m.blocks() * 512);
                stale.push((path, bytes));
            }
        }
        for (path, bytes) in stale {
            pruned.records += 1;
            pruned.bytes += bytes;
            pruned.remove(options, &path, || std::fs::remove_file(&path));
        }
        for (digest, path) in blobs(&root)? {
            if !reached.blobs.contains(&digest) {
                pruned.blobs += 1;
                pruned.bytes += disk_size(&path);
                pruned.remove(options, &path, || match self.remove_blob(&digest) {
                    Ok(()) => Ok(()),
                    Err(e) => Err(e.into_io()),
                });
            }
        }
        for path in list(&root.join("indexes")).unwrap_or_default() {
            let blob = path.file_name().and_then(indexes::blob_of);
            if blob.is_none_or(|blob| !reached.blobs.contains(&blob)) {
                pruned.bytes += disk_size(&path);
                pruned.remove(options, &path, || std::fs::remove_file(&path));
            }
        }
        self.prune_layers(options, &reached, &mut pruned)?;
        if options.mounts {
            for path in list(&root.join("mounts"))? {
                pruned.mounts += 1;
                pruned.bytes += disk_usage(&path, &mut HashSet::new());
                pruned.remove(options, &path, || {
                    self.trash(&path).map_err(StoreError::into_io)
                });
            }
        }
        if !options.dry_run {
            self.sweep();
            pruned.left.extend(self.empty_trash()?.left);
        }
        Ok(pruned)
    }

    /// The records of the cache with the times of their last use, the last
    /// used first, and what they take on the disk.
    fn records(&self) -> Result<Vec<(SystemTime, std::path::PathBuf, u64)>, StoreError> {
        let mut records = Vec::new();
        for path in list(&self.root().join("cache"))? {
            let meta =
                std::fs::symlink_metadata(&path).map_err(StoreError::io("look at", &path))?;
            let used = meta.modified().unwrap_or_else(|_| SystemTime::now());
            records.push((used, path, meta.blocks() * 512));
        }
        records.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        Ok(records)
    }

    /// Bytes of what `more` leads to and `known` does not.
    fn size_beyond(&self, more: &Reached, known: &Reached) -> u64 {
        let blobs = more.blobs.difference(&known.blobs);
        let blobs = blobs.map(|d| disk_size(&self.blob_path(d)));
        let mut seen = HashSet::new();
        let layers = more.layers.difference(&known.layers);
        let layers = layers.filter_map(|id| self.layer_dir(id));
        let layers = layers.map(|fs| disk_usage(fs.parent().unwrap_or(&fs), &mut seen));
        blobs.sum::<u64>() + layers.sum::<u64>()
    }

    fn prune_layers(
        &self,
        options: &PruneOptions,
        reached: &Reached,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        if !options.dry_run {
            self.attached()?;
        }
        let attached = self.attached_layers()?;
        let is_attached = |dir: &Path| {
            let id = dir.file_name().and_then(OsStr::to_str);
            id.is_some_and(|id| attached.contains(id))
        };
        for (diff_id, link) in layer_links(self.root())? {
            if reached.layers.contains(&diff_id) {
                continue;
            }
            if let Some(fs) = self.layer_behind(&link)
                && let Some(dir) = fs.parent()
            {
                if is_attached(dir) {
                    continue;
                }
                pruned.layers += 1;
                pruned.bytes += disk_usage(dir, &mut seen);
                // First the link: from then on nobody finds it.
                pruned.remove(options, &link, || std::fs::remove_file(&link));
                pruned.remove(options, dir, || {
                    self.trash(dir).map_err(StoreError::into_io)
                });
            } else {
                pruned.remove(options, &link, || std::fs::remove_file(&link));
            }
        }
        Ok(())
    }

    /// Adds the blob and all that it leads to.
    fn reach(&self, descriptor: &Descriptor, reached: &mut Reached) -> Result<(), StoreError> {
        let mut todo = vec![descriptor.clone()];
        while let Some(descriptor) = todo.pop() {
            if !reached.blobs.insert(descriptor.digest.clone()) {
                continue;
            }
            // A large blob is no document; one that is missing leads nowhere.
            let size = match self.blob_size(&descriptor.digest) {
                Some(size) if size <= MAX_MANIFEST_BYTES => size,
                _ => continue,
            };
            let found = Descriptor { size, ..descriptor };
            let bytes = self.read_whole(&found, MAX_MANIFEST_BYTES)?;
            match Document::parse(&bytes) {
                Ok(Document::Manifest(manifest)) => {
                    for layer in &manifest.layers {
                        reached.blobs.insert(layer.digest.clone());
                    }
                    self.reach_config(&manifest.config, reached)?;
                }
                Ok(Document::Index(index)) => todo.extend(index.manifests),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn reach_config(&self, config: &Descriptor, reached: &mut Reached) -> Result<(), StoreError> {
        reached.blobs.insert(config.digest.clone());
        let Some(size) = self.blob_size(&config.digest) else {
            return Ok(());
        };
        let found = Descriptor {
            size,
            ..config.clone()
        };
        // What is no image config has no layers.
        if let Ok(config) = ImageConfig::parse(&self.read_whole(&found, MAX_CONFIG_BYTES)?) {
            reached.layers.extend(config.rootfs.diff_ids);
        }
        Ok(())
    }

    fn read_whole(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError> {
        let source: &dyn BlobSource = self;
        image::read_blob(source, descriptor, limit)
            .map_err(StoreError::io("read", &self.blob_path(&descriptor.digest)))
    }

    fn reach_record(&self, payload: &[u8], reached: &mut Reached) -> Result<(), StoreError> {
        for digest in digests_in(payload) {
            reached.layers.insert(DiffId::new(digest.clone()));
            self.reach(&Descriptor::new("", digest, 0), reached)?;
        }
        Ok(())
    }

    /// What the store takes up.
    ///
    /// # Errors
    /// When a directory of the store can't be read.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let root = self.root();
        let mut usage = Usage {
            refs: self.refs()?.len() as u64,
            ..Usage::default()
        };
        let mut named = Reached::default();
        for entry in self.read_index()?.manifests {
            self.reach(&entry, &mut named)?;
        }
        for (digest, path) in blobs(root)? {
            let bytes = disk_size(&path);
            usage.blobs += 1;
            usage.blob_bytes += bytes;
            if named.blobs.contains(&digest) {
                usage.image_blobs += 1;
                usage.image_bytes += bytes;
            }
        }
        let mut seen = HashSet::new();
        for dir in layer_dirs(root)? {
            usage.layers += 1;
            usage.layer_bytes += disk_usage(&dir, &mut seen);
        }
        for path in list(&root.join("cache"))? {
            usage.records += 1;
            usage.record_bytes += disk_size(&path);
        }
        for path in list(&root.join("indexes")).unwrap_or_default() {
            usage.indexes += 1;
            usage.index_bytes += disk_size(&path);
        }
        usage.mounts = list(&root.join("mounts"))?.len() as u64;
        usage.mount_bytes = disk_usage(&root.join("mounts"), &mut seen);
        usage.scratch_bytes = ["tmp", "trash", "aside"]
            .map(|name| disk_usage(&root.join(name), &mut seen))
            .iter()
            .sum();
        let dry = PruneOptions {
            dry_run: true,
            ..PruneOptions::default()
        };
        usage.reclaimable_bytes = self.prune(&dry)?.bytes;
        Ok(usage)
    }
}

impl Pruned {
    fn remove(
        &mut self,
        options: &PruneOptions,
        path: &Path,
        remove: impl FnOnce() -> std::io::Result<()>,
    ) {
        if !options.dry_run
            && let Err(e) = remove()
        {
            self.left.push((path.to_owned(), e.to_string()));
        }
    }
}

/// Every `sha256:<hex>` that stands in `text`.
fn digests_in(text: &[u8]) -> BTreeSet<Digest> {
    const PREFIX: &[u8] = b"sha256:";
    const LEN: usize = PREFIX.len() + 64;
    text.windows(LEN)
        .filter(|w| w.starts_with(PREFIX))
        .filter_map(|w| Digest::parse(std::str::from_utf8(w).ok()?).ok())
        .collect()
}

/// Bytes on the disk of a file.
fn disk_size(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |m| m.blocks() * 512)
}

/// Bytes on the disk of a tree; what can't be read counts nothing. Nothing is
/// followed out of it.
pub(super) fn disk_usage(path: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(top) = rustix::fs::open(path, flags, Mode::empty()) else {
        return 0;
    };
    let mut total = rustix::fs::fstat(&top).map_or(0, |s| s.st_blocks as u64 * 512);
    let mut todo: BTreeMap<u64, std::path::PathBuf> = BTreeMap::new();
    let mut serial = 0;
    todo.insert(serial, "".into());
    while let Some((_, relative)) = todo.pop_last() {
        let open = if relative.as_os_str().is_empty() {
            rustix::fs::openat(&top, c".", flags, Mode::empty())
        } else {
            rustix::fs::openat(&top, &relative, flags, Mode::empty())
        };
        let Ok(dir) = open else { continue };
        let Ok(entries) = Dir::read_from(dir.as_fd()) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let Ok(stat) = crate::sys::fs::lstat_at(dir.as_fd(), name) else {
                continue;
            };
            if stat.st_nlink > 1
                && !FileType::from_raw_mode(stat.st_mode).is_dir()
                && !seen.insert((stat.st_dev, stat.st_ino))
            {
                continue;
            }
            total += stat.st_blocks as u64 * 512;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                serial += 1;
                todo.insert(serial, relative.join(name));
            }
        }
    }
    total
}
