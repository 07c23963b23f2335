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

impl Store {
    /// The directory of the layer, if it is unpacked here: complete, never
    /// changed again, with whiteouts as overlayfs has them.
    pub fn layer_dir(&self, diff_id: &DiffId) -> Option<PathBuf> {
        let target = rustix::fs::readlink(self.layer_link(diff_id), Vec::new()).ok()?;
        let id = layer_id(target.to_str().ok()?.strip_prefix("../")?)?;
        let path = self.path("layers").join(id).join("fs");
        let kind = std::fs::symlink_metadata(&path).ok()?.file_type();
        kind.is_dir().then_some(path)
    }

    pub(super) fn layer_link(&self, diff_id: &DiffId) -> PathBuf {
        let digest = diff_id.digest();
        let name = format!("{}-{}", digest.algorithm(), digest.encoded());
        self.path("layers/by-diff-id").join(name)
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
