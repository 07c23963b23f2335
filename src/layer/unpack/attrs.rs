//! Owners, extended attributes, modes and times of what was created.
//!
//! The order matters: changing the owner clears set-id bits and capabilities,
//! and writing attributes changes times.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::dirs::Dir;
use super::error::{Step, refuse};
use super::{UnpackError, Unpacker};
use crate::layer::{Meta, Mtime};
use crate::sys::fs::proc_fd;
use crate::sys::xattr::xattrs;

/// Whether a layer may set this attribute. The others have a meaning for
/// overlayfs, for security modules or for the host's own users.
fn is_allowed(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Sets the time of last change only.
pub(super) fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: mtime.nanos.into(),
        },
    }
}

/// Removes the attributes that a layer may set, but those in `keep`.
pub(super) fn remove_xattrs(
    fd: BorrowedFd<'_>,
    keep: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> io::Result<()> {
    for (name, _) in xattrs(fd)? {
        if is_allowed(&name) && !keep.contains_key(&name) {
            rustix::fs::fremovexattr(fd, OsStr::from_bytes(&name))?;
        }
    }
    Ok(())
}

type Owner = (Option<Uid>, Option<Gid>);

impl Unpacker<'_> {
    /// Whether the owner has to be set.
    fn owner(&mut self, path: &Path, meta: &Meta) -> Result<Option<Owner>, UnpackError> {
        let owner = (meta.uid, meta.gid);
        if self.options.owners {
            let here = self.options.ids.map_or(Some(owner), |i| i.to_host(owner));
            let Some((uid, gid)) = here else {
                let (uid, gid) = owner;
                return refuse(
                    path,
                    format!("it belongs to {uid}:{gid}, which the maps of ids don't have"),
                );
            };
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            return Ok(Some(owner));
        }
        if owner != self.ids {
            self.result.skipped_owners += 1;
        }
        Ok(None)
    }

    pub(super) fn chown_fd(
        &mut self,
        fd: BorrowedFd<'_>,
        path: &Path,
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        match self.owner(path, meta)? {
            Some((uid, gid)) => rustix::fs::fchown(fd, uid, gid).step("set the owner of", path),
            None => Ok(()),
        }
    }

    pub(super) fn xattrs_fd(
        &mut self,
        fd: BorrowedFd<'_>,
        path: &Path,
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        self.each_xattr(path, meta, |name, value| {
            rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
        })
    }

    fn each_xattr(
        &mut self,
        path: &Path,
        meta: &Meta,
        set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), UnpackError> {
        for (name, value) in &meta.xattrs {
            if !is_allowed(name) {
                self.result.skipped_xattrs += 1;
                continue;
            }
            match set(OsStr::from_bytes(name), value) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => self.result.skipped_xattrs += 1,
                // Links and devices can't have user attributes, and who may
                // not set owners may not set capabilities.
                Err(Errno::PERM) if !self.options.owners || name.starts_with(b"user.") => {
                    self.result.skipped_xattrs += 1;
                }
                Err(e) => return Err(e).step("set an extended attribute of", path),
            }
        }
        Ok(())
    }

    pub(super) fn file_attrs(
        &mut self,
        file: &File,
        path: &Path,
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        let fd = file.as_fd();
        self.chown_fd(fd, path, meta)?;
        self.xattrs_fd(fd, path, meta)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode)).step("set the mode of", path)?;
        rustix::fs::futimens(fd, &times(meta.mtime)).step("set the time of", path)
    }

    /// For entries that can't be opened: links, pipes, devices.
    pub(super) fn link_attrs(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner(path, meta)? {
            rustix::fs::chownat(&dir.fd, name, uid, gid, nofollow)
                .step("set the owner of", path)?;
        }
        if !meta.xattrs.is_empty() {
            let entry = proc_fd(dir.fd.as_fd()).join(name);
            self.each_xattr(path, meta, |name, value| {
                rustix::fs::lsetxattr(&entry, name, value, XattrFlags::empty())
            })?;
        }
        rustix::fs::utimensat(&dir.fd, name, &times(meta.mtime), nofollow)
            .step("set the time of", path)
    }

    /// [`link_attrs`](Self::link_attrs), and the mode, which links don't have.
    pub(super) fn node_attrs(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        self.link_attrs(dir, name, path, meta)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle =
            rustix::fs::openat(&dir.fd, name, flags, Mode::empty()).step("look at", path)?;
        let stat = rustix::fs::fstat(&handle).step("look at", path)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() {
            let changed = io::Error::other("it was replaced while it was unpacked");
            return Err(changed).step("set the mode of", path);
        }
        let mode = Mode::from_raw_mode(meta.mode);
        rustix::fs::chmod(proc_fd(handle.as_fd()), mode).step("set the mode of", path)?;
        rustix::fs::utimensat(&dir.fd, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .step("set the time of", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_attributes_are_set() {
        for (name, allowed) in [
            ("user.comment", true),
            ("security.capability", true),
            ("user.overlay.opaque", false),
            ("trusted.overlay.opaque", false),
            ("trusted.x", false),
            ("security.selinux", false),
            ("security.ima", false),
            ("system.posix_acl_access", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(name.as_bytes()), allowed, "{name}");
        }
    }
}
