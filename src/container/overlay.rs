//! Directories seen as one root filesystem.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::protocol::{Failure, Tried};
use super::rootfs::{Stage, bind, nodev};
use crate::sys::fs::proc_fd;

/// The directories that make up a filesystem, open.
#[derive(Debug)]
pub(super) struct Layers {
    /// Lowest first; alone it is the directory itself.
    lower: Vec<OwnedFd>,
    /// Upper and work directory of an overlay.
    upper: Option<(OwnedFd, OwnedFd)>,
}

impl Layers {
    pub(super) fn open(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(work).tried(format!("making {}", work.display()))?;
        Ok(Self {
            lower: lower
                .iter()
                .map(|p| open_dir(p))
                .collect::<Result<_, _>>()?,
            upper: Some((open_dir(upper)?, open_dir(work)?)),
        })
    }

    pub(super) fn single(dir: &Path) -> Result<Self, Failure> {
        Ok(Self {
            lower: vec![open_dir(dir)?],
            upper: None,
        })
    }

    pub(super) fn into_upper(self) -> Option<OwnedFd> {
        self.upper.map(|(upper, _)| upper)
    }

    /// Mounts at `target`, a path of the stage.
    pub(super) fn mount(&self, target: &Path, insecure: bool) -> Result<(), Failure> {
        let Some((upper, work)) = &self.upper else {
            let Some(dir) = self.lower.first() else {
                return Err(Errno::NOENT).tried("mounting the root filesystem");
            };
            return bind(&proc_fd(dir.as_fd()), target, nodev(insecure))
                .tried("mounting the root filesystem");
        };
        // Descriptors' numbers as names, from /proc/self/fd: they fit where
        // 500 paths do not, and no character in them means anything.
        let lower: Vec<String> = self.lower.iter().rev().map(number).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=nofollow,metacopy=off,index=off",
            lower.join(":"),
            number(upper),
            number(work),
        );
        rustix::process::chdir("/proc/self/fd").tried("entering /proc/self/fd")?;
        let mut done = Err(Errno::INVAL);
        // Nothing is kept of a run that a crash ends, so nothing is synced.
        // Kernels before 5.10 do not know that option. Without
        // the right to trusted attributes overlayfs keeps its own among the
        // users'.
        let owner = match has_trusted_xattrs(work) {
            true => "",
            false => ",userxattr",
        };
        for more in [format!("{owner},volatile"), owner.to_owned()] {
            let Ok(options) = std::ffi::CString::new(format!("{options}{more}")) else {
                break;
            };
            done = rustix::mount::mount("overlay", target, "overlay", nodev(insecure), &*options);
            if done != Err(Errno::INVAL) {
                break;
            }
        }
        rustix::process::chdir("/").tried("entering /")?;
        let hint = match done {
            Err(Errno::INVAL) => ", which the filesystem of the store may not support,",
            _ => "",
        };
        let count = self.lower.len();
        done.tried(format!("mounting an overlay{hint} of {count} layers"))
    }
}

/// Mounts layer directories at `target`, an absolute path, for processes
/// outside of any container: without devices and set-user-id programs. They
/// are read-only unless there are directories for changes and for overlayfs to
/// work in.
///
/// `lower` begins with the lowest and has at least two; one may be empty.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_layers(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    target: &Path,
) -> std::io::Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    let lower: Vec<OwnedFd> = lower.iter().map(|p| open(p)).collect::<Result<_, _>>()?;
    let numbers: Vec<String> = lower.iter().rev().map(number).collect();
    let mut options = format!(
        "lowerdir={},redirect_dir=nofollow,metacopy=off,index=off",
        numbers.join(":")
    );
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    let upper = match upper {
        Some((upper, work)) => Some((open(upper)?, open(work)?)),
        None => None,
    };
    match &upper {
        Some((upper, work)) => {
            options += &format!(",upperdir={},workdir={}", number(upper), number(work));
        }
        None => flags |= MountFlags::RDONLY,
    }
    let scratch = upper.as_ref().map(|(_, work)| work).or(lower.first());
    if scratch.is_some_and(|dir| !has_trusted_xattrs(dir)) {
        options += ",userxattr";
    }
    let options = std::ffi::CString::new(options)?;
    let here = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::chdir("/proc/self/fd")?;
    let done = rustix::mount::mount("overlay", target, "overlay", flags, &*options);
    rustix::process::fchdir(&here)?;
    Ok(done?)
}

/// A descriptor's number as a name, from `/proc/self/fd`.
fn number(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd().to_string()
}

/// Whether overlayfs may write its attributes where only root sees them. A user
/// namespace with all ids looks like none, so it is tried.
fn has_trusted_xattrs(work: &OwnedFd) -> bool {
    const NAME: &str = "trusted.shiplap";
    let path = proc_fd(work.as_fd());
    let set = rustix::fs::setxattr(&path, NAME, b"", rustix::fs::XattrFlags::empty());
    let _ = rustix::fs::removexattr(&path, NAME);
    set.is_ok()
}

/// Tries an overlay of directories in `scratch`, in the caller's own mount
/// namespace.
pub(super) fn try_overlay(scratch: &Path) -> Result<(), Failure> {
    let place = scratch.join("try");
    let dir = |name: &str| -> Result<PathBuf, Failure> {
        let path = place.join(name);
        fs::create_dir_all(&path).tried("making a directory")?;
        Ok(path)
    };
    let (lower, upper, work) = (dir("lower")?, dir("upper")?, dir("work")?);
    fs::create_dir_all(lower.join("dir")).tried("making a directory")?;
    fs::write(lower.join("dir/file"), b"x").tried("making a file")?;
    let layers = Layers::open(&[lower], &upper, &work)?;
    let stage = Stage::new()?;
    let merged = stage.dir("root")?;
    layers.mount(&merged, false)?;
    // What is removed becomes a device 0:0, which not every kernel lets
    // everybody make, and a removed directory takes an attribute.
    let removed = fs::remove_dir_all(merged.join("dir"));
    let unmounted = rustix::mount::unmount(&merged, UnmountFlags::DETACH);
    let _ = fs::set_permissions(work.join("work"), fs::Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(&place);
    removed.tried("removing a directory in an overlay")?;
    unmounted.tried("unmounting an overlay")
}

fn open_dir(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).tried(format!("opening {}", path.display()))
}
