//! Unpacked layers: directories in the form that overlayfs stacks.
//!
//! A layer's directory is made under its final path and never renamed, so it
//! can be a lower directory of running steps before its diffID is known;
//! [`NewLayer::publish`] adds the link that makes it findable.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::lock::{Session, is_session_id};
use super::{Store, StoreError};
use crate::digest::DiffId;
use crate::layer::unpack::{Devices, Form, UnpackOptions};

impl Store {
    /// The directory of the layer, if it is unpacked here: complete, never
    /// changed again, with whiteouts as overlayfs has them.
    pub fn layer_dir(&self, diff_id: &DiffId) -> Option<PathBuf> {
        self.layer_behind(&self.layer_link(diff_id))
    }

    /// The directory that a link leads to.
    pub(super) fn layer_behind(&self, link: &Path) -> Option<PathBuf> {
        let target = rustix::fs::readlink(link, Vec::new()).ok()?;
        let id = layer_id(target.to_str().ok()?.strip_prefix("../")?)?;
        let path = self.path("layers").join(id).join("fs");
        let kind = std::fs::symlink_metadata(&path).ok()?.file_type();
        kind.is_dir().then_some(path)
    }

    pub(super) fn layer_link(&self, diff_id: &DiffId) -> PathBuf {
        let digest = diff_id.digest();
        let form = self.layer_form().suffix();
        let name = format!("{}-{}{form}", digest.algorithm(), digest.encoded());
        self.path("layers/by-diff-id").join(name)
    }

    /// What this process can make of a layer on the store's file system. It is
    /// tried, once.
    pub fn layer_form(&self) -> LayerForm {
        *self.inner.form.get_or_init(|| {
            // Where nothing can be written there is nothing to unpack.
            self.try_form().unwrap_or_default()
        })
    }

    fn try_form(&self) -> Result<LayerForm, StoreError> {
        let session = self.session()?;
        let path = session.path("f");
        std::fs::write(&path, b"").map_err(StoreError::io("create", &path))?;
        let none = rustix::fs::XattrFlags::empty();
        let form = LayerForm {
            user_xattr: rustix::fs::setxattr(&path, "trusted.shiplap", b"", none).is_err(),
            owners: std::os::unix::fs::chown(&path, Some(1), Some(1)).is_ok(),
            devices: {
                let device = session.path("n");
                let (kind, mode) = (rustix::fs::FileType::CharacterDevice, Mode::RUSR);
                let number = rustix::fs::makedev(1, 3);
                let made = rustix::fs::mknodat(rustix::fs::CWD, &device, kind, mode, number);
                let _ = std::fs::remove_file(&device);
                made.is_ok()
            },
        };
        let _ = std::fs::remove_file(&path);
        Ok(form)
    }

    /// Makes directories for a layer that is about to be filled.
    ///
    /// # Errors
    /// When they can't be made.
    pub fn new_layer(&self) -> Result<NewLayer, StoreError> {
        let session = self.session()?;
        loop {
            let id = format!("{}-{:x}", session.id, session.number());
            let dir = self.path("layers").join(&id);
            match rustix::fs::mkdir(&dir, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(StoreError::io("create", &dir)(e)),
            }
            let layer = NewLayer {
                store: self.clone(),
                id,
                fs: dir.join("fs"),
                work: dir.join("work"),
                dir,
                kept: false,
                _session: session,
            };
            let root = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
            for (path, mode) in [(&layer.fs, root), (&layer.work, Mode::RWXU)] {
                rustix::fs::mkdir(path, mode)
                    // The umask had its say.
                    .and_then(|()| rustix::fs::chmod(path, mode))
                    .map_err(StoreError::io("create", path))?;
            }
            return Ok(layer);
        }
    }
}

/// What a process can make of a layer. Layers in different forms are kept
/// apart: what one process can do, another may not even see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerForm {
    /// Overlayfs' marks are `user.*` attributes, not `trusted.*`.
    pub user_xattr: bool,
    /// Entries have their owners on disk. Otherwise they are in the
    /// [notes](crate::layer::notes).
    pub owners: bool,
    /// Devices are devices, not empty files with a note.
    pub devices: bool,
}

impl Default for LayerForm {
    fn default() -> Self {
        Self {
            user_xattr: false,
            owners: true,
            devices: true,
        }
    }
}

impl LayerForm {
    /// How layers are unpacked so.
    pub fn unpack_options<'a>(self, form: Form) -> UnpackOptions<'a> {
        UnpackOptions {
            owners: self.owners,
            devices: match self.devices {
                true => Devices::Create,
                false => Devices::Placeholder,
            },
            ..UnpackOptions::new(form)
        }
    }

    /// At the end of links' names.
    fn suffix(self) -> String {
        let mut suffix = String::new();
        for (differs, letter) in [
            (self.user_xattr, 'x'),
            (!self.owners, 'o'),
            (!self.devices, 'd'),
        ] {
            if differs {
                if suffix.is_empty() {
                    suffix.push('.');
                }
                suffix.push(letter);
            }
        }
        suffix
    }
}

/// `<session>-<number>`, or nothing: no other name leads anywhere.
pub(super) fn layer_id(text: &str) -> Option<&str> {
    let (session, number) = text.split_once('-')?;
    let is_number =
        !number.is_empty() && number.len() <= 16 && number.bytes().all(|b| b.is_ascii_hexdigit());
    (is_session_id(session) && is_number).then_some(text)
}

/// The session that made the layer `id`.
pub(super) fn session_of(id: &OsStr) -> Option<&str> {
    Some(layer_id(id.to_str()?)?.split_once('-')?.0)
}

/// An unpacked layer in the making. Dropped without
/// [`publish`](Self::publish), it goes to the trash.
#[derive(Debug)]
pub struct NewLayer {
    store: Store,
    id: String,
    dir: PathBuf,
    fs: PathBuf,
    work: PathBuf,
    kept: bool,
    _session: Arc<Session>,
}

impl NewLayer {
    /// A short name, unique in the store.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The layer's tree, mode 0755 to begin with. It stays at this path.
    pub fn fs(&self) -> &Path {
        &self.fs
    }

    /// An empty directory on the same file system, for overlayfs to work in.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Leaves the directory as it is, for a record of [`Store::attach`] that
    /// leads to it.
    pub fn keep(mut self) {
        self.kept = true;
        let _ = self.store.trash(&self.work);
    }

    /// Makes the tree findable as `diff_id`; nothing in it may change from now
    /// on. Returns the directory that is found: another one where another
    /// process was first, and then this one stays usable until this process
    /// ends.
    ///
    /// # Errors
    /// When the link can't be made; the layer then goes to the trash.
    pub fn publish(mut self, diff_id: &DiffId) -> Result<PathBuf, StoreError> {
        let link = self.store.layer_link(diff_id);
        let target = format!("../{}", self.id);
        // A second try is for a link that leads nowhere.
        for _ in 0..2 {
            match rustix::fs::symlink(&target, &link) {
                Ok(()) => {
                    self.kept = true;
                    let _ = self.store.trash(&self.work);
                    return Ok(self.fs.clone());
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(StoreError::io("create the link", &link)(e)),
            }
            if let Some(found) = self.store.layer_dir(diff_id) {
                self.kept = true;
                return Ok(found);
            }
            std::fs::remove_file(&link).map_err(StoreError::io("remove", &link))?;
        }
        Err(StoreError::Damaged {
            path: link,
            reason: "it leads nowhere and comes back when it is removed".into(),
        })
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.store.trash(&self.dir);
        }
    }
}
