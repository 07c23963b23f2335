//! The overlay snapshot: which directories to stack for a step.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::{Merged, attr};
use crate::context::Tree;
use crate::store::NewLayer;

/// The directories of one overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Lower directories, **highest first** as the kernel wants them. Never
    /// empty.
    pub lower: Vec<PathBuf>,
    /// The upper directory: what the step changes.
    pub upper: PathBuf,
    /// For overlayfs alone.
    pub work: PathBuf,
}

/// Mount options without which an upper directory is no layer: content must
/// not hide in other places.
pub const MOUNT_OPTIONS: [(&str, &str); 3] = [
    ("redirect_dir", "off"),
    ("metacopy", "off"),
    ("index", "off"),
];

/// What to mount for a step on top of `base` (lowest first) whose difference
/// goes into `layer`. The upper root takes over mode, owner, times and
/// attributes of the base's root, which it hides.
///
/// An overlay needs a lower directory even where there is no base: `empty` is
/// then used, which is to be an empty directory.
///
/// # Errors
/// When the base's root can't be read or the upper one can't be set up.
pub fn stack(base: &[PathBuf], layer: &NewLayer, empty: &Path) -> io::Result<Stack> {
    if !base.is_empty() {
        inherit_root(&Merged::new(base.to_vec())?, layer.fs())?;
    }
    let mut lower: Vec<PathBuf> = base.iter().rev().cloned().collect();
    if lower.is_empty() {
        lower.push(empty.to_owned());
    }
    Ok(Stack {
        lower,
        upper: layer.fs().to_owned(),
        work: layer.work().to_owned(),
    })
}

/// Gives the directory `to` the attributes of the root of `base`.
///
/// # Errors
/// When they can't be read or set. An owner that this process may not give
/// is left as it is.
pub fn inherit_root(base: &dyn Tree, to: &Path) -> io::Result<()> {
    let root = Path::new("");
    let Some(node) = base.lookup(root, true)? else {
        return Ok(());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(to, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&dir)?;
    if (stat.st_uid, stat.st_gid) != (node.meta.uid, node.meta.gid) {
        let uid = rustix::fs::Uid::from_raw(node.meta.uid);
        let gid = rustix::fs::Gid::from_raw(node.meta.gid);
        match rustix::fs::fchown(&dir, Some(uid), Some(gid)) {
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(node.meta.mode))?;
    let here = attr::xattrs(dir.as_fd(), OsStr::new(""))?;
    for (name, value) in base.xattrs(root)? {
        if here.get(&name) != Some(&value) {
            use std::os::unix::ffi::OsStrExt;
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&dir, OsStr::from_bytes(&name), &value, flags)?;
        }
    }
    let time = Timespec {
        tv_sec: node.meta.mtime.secs,
        tv_nsec: node.meta.mtime.nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(&dir, &times)?;
    Ok(())
}
