//! Makes a directory of an image.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::state::{self, Manner, Origin};
use super::{BundleError, ROOTFS, runtime};
use crate::digest::{DiffId, VerifyingReader};
use crate::event::{Cancel, Events, Outcome, Task};
use crate::image::media_type::layer_compression;
use crate::image::{Descriptor, Image};
use crate::layer::compress;
use crate::layer::index::Spool;
use crate::layer::notes::Notes;
use crate::layer::unpack::{Devices, Form, UnpackOptions, remove_tree, unpack_onto};
use crate::snapshot::{Kept, Record};
use crate::sys::fs::Root;

/// Bytes between two reports of progress.
const REPORT: u64 = 8 << 20;

/// What to make.
#[derive(Debug)]
pub struct UnpackRequest<'a> {
    /// The image.
    pub image: &'a Image,
    /// Where it was found, for [`repack`](super::repack).
    pub location: String,
    /// Where to: nothing, or an empty directory.
    pub dir: &'a Path,
    /// A bundle, and how its process is run; otherwise the root filesystem
    /// alone.
    pub bundle: Option<runtime::Options>,
    /// Whether all files shall belong to this process's user, and what the
    /// owners are otherwise.
    pub manner: Manner,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of the root filesystem.
    pub entries: usize,
    /// Bytes of the files that layers brought.
    pub bytes: u64,
}

/// Unpacks an image. There is nothing at `dir` before all is there.
///
/// # Errors
/// When there is something at `dir`, a layer can't be had or is none that can
/// be applied, or something can't be written; nothing is left behind then.
pub fn unpack(
    request: &UnpackRequest<'_>,
    events: &Events,
    cancel: &Cancel,
) -> Result<Unpacked, BundleError> {
    let place = Place::at(request.dir)?;
    let rootfs = place.scratch.join(ROOTFS);
    fs::create_dir(&rootfs).map_err(BundleError::io("create", &rootfs))?;
    // The umask had its say, and a layer may have no entry for the root.
    set_mode(&rootfs, 0o755)?;
    if let Some((uid, gid)) = request.manner.ids.to_host((0, 0))
        && !request.manner.ids.is_empty()
    {
        std::os::unix::fs::chown(&rootfs, Some(uid), Some(gid))
            .map_err(BundleError::io("set the owner of", &rootfs))?;
    }
    let mut manner = request.manner.clone();
    manner.placeholders = manner.rootless || !can_make_devices(&place.scratch);
    let (notes, bytes) = apply(request.image, &rootfs, &manner, events, cancel)?;
    let task = events.start("note what was unpacked");
    let kept = match manner.rootless || manner.placeholders {
        true => Kept::Noted(notes),
        false => Kept::OnDisk,
    };
    let spool = tempfile::tempfile_in(&place.scratch)
        .map_err(BundleError::io("create a file in", &place.scratch))?;
    let record = Record::read(&rootfs, manner.mapped(kept), Spool::file(spool))
        .map_err(BundleError::io("read", request.dir))?;
    let config = match &request.bundle {
        Some(options) => {
            let name = place.target.file_name().unwrap_or_default();
            Some(runtime::config(
                &request.image.config,
                &rootfs,
                &name.to_string_lossy(),
                &manner,
                options,
            )?)
        }
        None => None,
    };
    let origin = Origin {
        image: request.location.clone(),
        manifest: request.image.descriptor.clone(),
        platform: request.image.config.platform(),
        manner,
    };
    let kept = place.scratch.join(state::IN_BUNDLE);
    state::write(&kept, &origin, &record).map_err(BundleError::io("write", &kept))?;
    if cancel.is_cancelled() {
        return Err(BundleError::Cancelled);
    }
    let entries = record.len();
    match config {
        Some(config) => {
            let path = place.scratch.join("config.json");
            fs::write(&path, config).map_err(BundleError::io("write", &path))?;
            place.become_bundle()?;
        }
        None => place.become_rootfs()?,
    }
    task.finish(Outcome::Done);
    Ok(Unpacked { entries, bytes })
}

/// Applies all layers; what the disk does not have of them, and how many bytes
/// their files have.
fn apply(
    image: &Image,
    rootfs: &Path,
    manner: &Manner,
    events: &Events,
    cancel: &Cancel,
) -> Result<(Notes, u64), BundleError> {
    let root = Root::open(rootfs).map_err(BundleError::io("open", rootfs))?;
    let options = UnpackOptions {
        owners: !manner.rootless,
        ids: (!manner.ids.is_empty()).then_some(&manner.ids),
        devices: match manner.placeholders {
            true => Devices::Placeholder,
            false => Devices::Create,
        },
        ..UnpackOptions::new(Form::Flat)
    };
    let mut notes = Notes::new(!options.owners);
    let (mut bytes, mut dropped) = (0, 0);
    let diff_ids = &image.config.rootfs.diff_ids;
    for (blob, diff_id) in image.manifest.layers.iter().zip(diff_ids) {
        let task = events.start(format!("unpack layer {}", blob.digest.short()));
        let tar = open(image, blob, diff_id, cancel)?;
        let tar = Reported {
            inner: tar,
            task: &task,
            done: 0,
            told: 0,
        };
        let result = unpack_onto(tar, &root, &options, notes);
        let done = match result {
            Ok(done) => done,
            Err(_) if cancel.is_cancelled() => return Err(BundleError::Cancelled),
            Err(source) => {
                let digest = blob.digest.to_string();
                return Err(BundleError::Layer { digest, source });
            }
        };
        notes = done.notes;
        bytes += done.bytes;
        dropped += done.skipped_xattrs;
        task.finish(Outcome::Done);
    }
    if dropped > 0 {
        events.warn(format!(
            "{dropped} extended attributes were left out: the host would take them for its own, \
             or {} can't have them",
            rootfs.display()
        ));
    }
    Ok((notes, bytes))
}

/// The tar of a layer, verified as it is read and read ahead of its use.
fn open(
    image: &Image,
    blob: &Descriptor,
    diff_id: &DiffId,
    cancel: &Cancel,
) -> Result<impl Read + use<>, BundleError> {
    let digest = || blob.digest.to_string();
    let Some(compression) = layer_compression(&blob.media_type) else {
        let kind = blob.media_type.clone();
        return Err(BundleError::Kind {
            digest: digest(),
            kind,
        });
    };
    let begin = || {
        let packed = cancel.watch(image.blobs.open(blob)?);
        let tar = compress::decompress(packed, compression)?;
        let tar = VerifyingReader::new(tar, diff_id.digest().clone(), None)?;
        compress::read_ahead(tar)
    };
    begin().map_err(|source| BundleError::Blob {
        digest: digest(),
        source,
    })
}

/// A reader that says how far it is.
struct Reported<'a, R> {
    inner: R,
    task: &'a Task,
    done: u64,
    told: u64,
}

impl<R: Read> Read for Reported<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        if self.done - self.told >= REPORT {
            self.told = self.done;
            self.task.progress("tar", self.done, None);
        }
        Ok(n)
    }
}

/// Where a directory is made, and where it shall be.
struct Place {
    /// Absolute.
    target: PathBuf,
    /// Beside the target, or in it where nothing can be beside it; ours alone.
    scratch: PathBuf,
    done: bool,
}

impl Place {
    /// Finds a place for `dir`.
    fn at(dir: &Path) -> Result<Self, BundleError> {
        let occupied = || BundleError::Occupied(dir.to_owned());
        let target = match fs::symlink_metadata(dir) {
            Ok(_) => {
                let mut entries = match fs::read_dir(dir) {
                    Ok(entries) => entries,
                    Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(occupied()),
                    Err(e) => return Err(BundleError::io("read", dir)(e)),
                };
                if entries.next().is_some() {
                    return Err(occupied());
                }
                dir.canonicalize().map_err(BundleError::io("find", dir))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = match dir.parent() {
                    Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                    Some(parent) => parent,
                    None => Path::new("/"),
                };
                let parent = parent
                    .canonicalize()
                    .map_err(BundleError::io("find", parent))?;
                let name = dir.file_name().ok_or_else(occupied)?;
                parent.join(name)
            }
            Err(e) => return Err(BundleError::io("look at", dir)(e)),
        };
        // The file of a directory that is gone may be replaced, nothing else.
        let kept = state::beside(&target);
        if kept.symlink_metadata().is_ok() && !state::is_state(&kept) {
            return Err(BundleError::Occupied(kept));
        }
        let parent = target.parent().unwrap_or(&target);
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        let scratch = tempfile::Builder::new()
            .prefix(&name)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(BundleError::io("create a directory in", parent))?
            .keep();
        Ok(Self {
            target,
            scratch,
            done: false,
        })
    }

    /// The scratch directory is a bundle now.
    fn become_bundle(mut self) -> Result<(), BundleError> {
        rename(&self.scratch, &self.target)?;
        self.done = true;
        Ok(())
    }

    /// The scratch directory has a root filesystem, and what is kept of it.
    fn become_rootfs(self) -> Result<(), BundleError> {
        let kept = state::beside(&self.target);
        rename(&self.scratch.join(state::IN_BUNDLE), &kept)?;
        rename(&self.scratch.join(ROOTFS), &self.target).inspect_err(|_| {
            let _ = fs::remove_file(&kept);
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.done {
            let _ = remove_tree(&self.scratch);
        }
    }
}

/// An empty directory at `to` is replaced.
fn rename(from: &Path, to: &Path) -> Result<(), BundleError> {
    fs::rename(from, to).map_err(BundleError::io("put into its place", to))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), BundleError> {
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(BundleError::io("set the mode of", path))
}

/// Whether a device can be made in `dir`.
fn can_make_devices(dir: &Path) -> bool {
    let path = dir.join("device");
    let number = rustix::fs::makedev(1, 3);
    let (kind, mode) = (
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
    );
    let made = rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, number).is_ok();
    let _ = fs::remove_file(&path);
    made
}
