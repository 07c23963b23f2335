//! What is below a layer, where the layer has no entry for a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Gid, Uid, XattrFlags};
use rustix::io::Errno;

use super::dirs::{Dir, set};
use super::error::Step;
use super::{Lower, UnpackError};
use crate::layer::listing::Paths;
use crate::layer::{Kind, Meta};
use crate::sys::fs::Root;

/// Whether what is below the layer in `root` can be seen at `real`: no
/// directory on the way is opaque, and below the layer they are directories.
pub(super) fn shows_through(
    root: &Root,
    real: &Path,
    lower: &dyn Lower,
) -> Result<bool, UnpackError> {
    // From the top: further down a path would lead through what is none.
    let parents: Vec<&Path> = real.ancestors().skip(1).collect();
    for parent in parents.into_iter().rev() {
        let is_dir = parent.as_os_str().is_empty()
            || lower
                .entry(parent)
                .step("look below the layer at", parent)?
                .is_some_and(|entry| entry.kind == Kind::Dir);
        if !is_dir {
            return Ok(false);
        }
        let Ok(fd) = root.open_dir(parent) else {
            continue;
        };
        for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
            let mut value = [0; 1];
            if rustix::fs::fgetxattr(&fd, name, &mut value[..]).is_ok() && value == *b"y" {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Gives a directory the owner and extended attributes of another.
pub(super) fn adopt(dir: &Dir, path: &Path, meta: &Meta) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    match rustix::fs::fchown(&dir.fd, Some(uid), Some(gid)) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(e) => return Err(e).step("set the owner of", path),
    }
    for (name, value) in &meta.xattrs {
        match rustix::fs::fsetxattr(&dir.fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e).step("set an extended attribute of", path),
        }
    }
    Ok(())
}

/// See [`super::settle`].
pub(super) fn settle(root: &Root, implied: &Paths, lower: &dyn Lower) -> Result<bool, UnpackError> {
    for path in implied {
        let path = path.as_path();
        if !shows_through(root, path, lower)? {
            continue;
        }
        let Some(below) = lower.entry(path).step("look below the layer at", path)? else {
            continue;
        };
        match below.kind {
            Kind::Dir => {}
            // A link leads elsewhere; what is no directory may be an error.
            _ => return Ok(false),
        }
        let meta = &below.meta;
        let fd = root.open_dir(path).step("open", path)?;
        let ino = rustix::fs::fstat(&fd).step("look at", path)?.st_ino;
        let dir = Dir { fd, ino };
        adopt(&dir, path, meta)?;
        set(&dir.fd, path, Some(meta.mode), meta.mtime)?;
    }
    Ok(true)
}
