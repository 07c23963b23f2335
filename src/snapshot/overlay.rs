//! The overlay snapshot: which directories to stack for a step, and what its
//! upper directory changes.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat, Timespec, Timestamps};

use super::attr::overlay_attr;
use super::diff::{Diff, Differ, Item, Place, Side, Source, at, root_change, size};
use super::names::{Mark, Names};
use super::{Merged, attr};
use crate::context::Tree;
use crate::layer::{Changes, Kind};
use crate::store::NewLayer;
use crate::sys::fs::lstat_at;

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

/// The part of `layers` (lowest first) that is seen: nothing below one whose
/// root is opaque, for which overlayfs does not look there, and of a directory
/// that is there several times the highest place. All that it has is seen
/// there, and overlayfs refuses to stack a directory twice.
///
/// # Errors
/// When a directory can't be read.
pub fn visible(layers: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut seen = HashSet::new();
    let mut highest_first = Vec::new();
    for layer in layers.into_iter().rev() {
        if !seen.insert(layer.clone()) {
            continue;
        }
        let root = Source::open(&layer)?;
        let hides_all = attr::dir_marks(root.0.as_fd())?.opaque;
        highest_first.push(layer);
        if hides_all {
            break;
        }
    }
    highest_first.reverse();
    Ok(highest_first)
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

/// The changes that the upper directory `upper` makes to `lower`, found while
/// they are asked for.
///
/// The overlay must be unmounted, or at least at rest, until the contents have
/// been read: they are opened one after the other, and one that is no longer
/// the file that was found is an error.
///
/// # Errors
/// When something can't be read, or `upper` was made with overlayfs features
/// (`redirect_dir`, `metacopy`) that hide content in other places.
pub fn changes(upper: &Path, lower: Arc<dyn Tree>) -> io::Result<Changes> {
    let source = Source::open(upper)?;
    let root = root_change(&source, &*lower)?;
    let marks = attr::dir_marks(source.0.as_fd())?;
    let first = UpperDir {
        in_lower: true,
        opaque: marks.opaque,
        xattr_whiteouts: marks.xattr_whiteouts,
    };
    let differ = Differ::new(source, lower, Upper { first });
    Ok(Box::new(Diff::new(Arc::new(differ), root)?))
}

/// An upper directory as a side of the difference.
struct Upper {
    first: UpperDir,
}

/// A directory of the upper tree.
#[derive(Clone, Copy)]
struct UpperDir {
    /// Whether the lower tree has a directory there.
    in_lower: bool,
    /// Whether nothing of the lower tree is seen in it.
    opaque: bool,
    xattr_whiteouts: bool,
}

impl Side for Upper {
    type Dir = UpperDir;
    type State = UpperDir;

    fn root(&self) -> UpperDir {
        self.first
    }

    fn again(&self) -> Self {
        Self { first: self.first }
    }

    fn list(
        &self,
        place: &Place<'_>,
        dir: UpperDir,
        names: &mut Names,
    ) -> io::Result<(UpperDir, bool)> {
        for n in 0..names.len() {
            let name = names.name(n);
            let removes = match names.kind(n) {
                FileType::CharacterDevice => attr::is_whiteout(&lstat_at(place.fd.as_fd(), name)?),
                FileType::Socket => true,
                FileType::RegularFile if dir.xattr_whiteouts => {
                    let stat = lstat_at(place.fd.as_fd(), name)?;
                    attr::is_xattr_whiteout(place.fd.as_fd(), name, &stat)?
                }
                _ => false,
            };
            if removes {
                let below = |name| place.lower.lookup(&place.path.join(name), false);
                let was = dir.in_lower && below(name)?.is_some();
                names.set_mark(n, if was { Mark::Gone } else { Mark::Nothing });
            }
        }
        if !dir.in_lower {
            return Ok((dir, false));
        }
        if dir.opaque {
            let (here, mut failed) = (names.len(), Ok(()));
            place.lower.each_name(place.path, &mut |name| {
                let name = name.as_encoded_bytes();
                if failed.is_ok() && !names.has(name, here) {
                    failed = names.push(name, FileType::Unknown, Mark::Gone);
                }
            })?;
            failed?;
            names.sort();
        }
        let gone = names.count(Mark::Gone);
        let mut before = 0;
        if gone >= 2 {
            place.lower.each_name(place.path, &mut |_| before += 1)?;
        }
        Ok((dir, gone >= 2 && gone == before))
    }

    fn end(&self, _: UpperDir) -> io::Result<()> {
        Ok(())
    }

    fn look(
        &self,
        place: &Place<'_>,
        dir: &mut UpperDir,
        name: &OsStr,
    ) -> io::Result<Option<(Item, Option<UpperDir>)>> {
        let path = place.path.join(name);
        let stat = lstat_at(place.fd.as_fd(), name).map_err(|e| at(&path, e))?;
        let read = read(place.fd, name, &stat).map_err(|e| at(&path, e))?;
        let Some((mut item, mark)) = read else {
            return Ok(None);
        };
        let node = if dir.in_lower {
            place.lower.lookup(&path, false)?
        } else {
            None
        };
        let kept = &place.source.1;
        let read = (&mut item.kind, &mut item.meta);
        kept.correct(place.lower, &path, read, node.as_ref())?;
        if let Some(node) = &node {
            let open = || place.source.open_file(&path, item.inode, size(&item.kind));
            item.changed = !item.equals(place.lower, &path, node, open)?;
        }
        let below = (item.kind == Kind::Dir).then(|| UpperDir {
            in_lower: node.is_some_and(|n| n.kind == Kind::Dir),
            opaque: dir.opaque || mark == Some(b'y'),
            xattr_whiteouts: mark == Some(b'x'),
        });
        Ok(Some((item, below)))
    }
}

/// An entry of an upper directory with what its mark of an opaque directory
/// says; `None` for a socket.
fn read(fd: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<Option<(Item, Option<u8>)>> {
    let Some(mut item) = Item::read(fd, name, stat)? else {
        return Ok(None);
    };
    let mut xattrs = attr::xattrs(fd.as_fd(), name)?;
    for feature in ["redirect", "metacopy"] {
        if overlay_attr(&xattrs, feature).is_some() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it was written by an overlay with {feature}, whose layers can't be read"),
            ));
        }
    }
    let mark = match overlay_attr(&xattrs, "opaque") {
        Some([mark]) => Some(*mark),
        _ => None,
    };
    xattrs.retain(|name, _| attr::is_content(name));
    item.meta.xattrs = xattrs;
    Ok(Some((item, mark)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..5).map(|n| dir.path().join(n.to_string())).collect();
        for layer in &layers {
            std::fs::create_dir(layer).unwrap();
        }
        assert_eq!(visible(layers.clone()).unwrap(), layers);
        let twice: Vec<PathBuf> = [0, 1, 0, 2, 2].map(|n| layers[n].clone()).into();
        let once = [1, 0, 2].map(|n| layers[n].clone());
        assert_eq!(visible(twice).unwrap(), once);
        let flags = rustix::fs::XattrFlags::empty();
        let marked = rustix::fs::lsetxattr(&layers[2], "user.overlay.opaque", b"y", flags);
        // Not every file system has such attributes.
        if marked.is_ok() {
            assert_eq!(visible(layers.clone()).unwrap(), layers[2..]);
        }
    }
}
