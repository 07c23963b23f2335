//! The container's `/dev`: nodes of our own, and those of the host that were
//! granted.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::protocol::{Failure, Tried};
use super::rootfs::{Stage, bind, tmpfs};
use super::spec::{Device, RunSpec};
use crate::sys::fs::proc_fd;

/// Name, major, minor.
pub(super) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The host's device nodes, for where none can be made.
#[derive(Debug)]
pub(super) struct HostDevices(Vec<Option<OwnedFd>>);

impl HostDevices {
    /// Opens those that are what their names say.
    pub(super) fn open() -> Self {
        let open = |(name, major, minor): (&str, u32, u32)| {
            let path = Path::new("/dev").join(name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
            let stat = rustix::fs::fstat(&fd).ok()?;
            let right = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && stat.st_rdev == rustix::fs::makedev(major, minor);
            right.then_some(fd)
        };
        Self(DEVICES.into_iter().map(open).collect())
    }
}

/// Device nodes of our own on the stage, so that changing their permissions
/// inside changes nothing outside. A user namespace cannot make nodes and gets
/// the host's, on a read-only mount: that keeps their permissions, which its
/// root may own, and does not hinder writing to the device.
pub(super) fn make_nodes(stage: &Stage, host: &HostDevices) -> Result<PathBuf, Failure> {
    let dir = stage.dir("devices")?;
    for ((name, major, minor), host) in DEVICES.into_iter().zip(&host.0) {
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        let path = dir.join(name);
        let what = || format!("making the device {name}");
        match rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, device) {
            Ok(()) => rustix::fs::chmod(&path, mode).tried(what())?,
            Err(Errno::PERM) => {
                let Some(host) = host else {
                    return Err(Errno::PERM).tried(what());
                };
                fs::File::create(&path).tried(what())?;
                bind(&proc_fd(host.as_fd()), &path, MountFlags::RDONLY).tried(what())?;
            }
            Err(e) => return Err(e).tried(what()),
        }
    }
    Ok(dir)
}

pub(super) fn make_dev(
    stage: &Stage,
    devices: &Path,
    spec: &RunSpec,
    more: &[OwnedFd],
) -> Result<PathBuf, Failure> {
    let dev = stage.dir("dev")?;
    let what = "making /dev";
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let nosuid = MountFlags::NOSUID | MountFlags::STRICTATIME | MountFlags::NODEV;
    tmpfs(&dev, nosuid, "mode=755,size=65536k").tried(what)?;
    for (name, ..) in DEVICES {
        let path = dev.join(name);
        fs::File::create(&path).tried(what)?;
        rustix::mount::mount_bind(devices.join(name), &path).tried(what)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name)).tried(what)?;
    }
    let pts = |options| {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("devpts", dev.join("pts"), "devpts", flags, options)
    };
    pts(c"newinstance,ptmxmode=0666,mode=0620,gid=5")
        // The group tty may not be mapped in a user namespace.
        .or_else(|_| pts(c"newinstance,ptmxmode=0666,mode=0620"))
        .tried("mounting /dev/pts")?;
    tmpfs(
        &dev.join("shm"),
        flags,
        &format!("mode=1777,size={}", spec.shm_size),
    )
    .tried("mounting /dev/shm")?;
    match rustix::mount::mount("mqueue", dev.join("mqueue"), "mqueue", flags, None) {
        // A kernel without POSIX message queues.
        Ok(()) | Err(Errno::NODEV) => {}
        Err(e) => return Err(e).tried("mounting /dev/mqueue"),
    }
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, dev.join(link)).tried(what)?;
    }
    for (device, node) in spec.devices.iter().zip(more) {
        // In a directory of our own, with nothing of the image's in it.
        let below = device.target.strip_prefix("/dev").unwrap_or(&device.target);
        let path = dev.join(below);
        let what = || format!("granting the device {}", device.source.display());
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).tried(what())?;
        }
        fs::File::create(&path).tried(what())?;
        rustix::mount::mount_bind(proc_fd(node.as_fd()), &path).tried(what())?;
    }
    Ok(dev)
}

/// Opens the devices that were granted.
pub(super) fn open_granted(spec: &RunSpec) -> Result<Vec<OwnedFd>, Failure> {
    let open = |device: &Device| {
        let what = format!("granting the device {}", device.source.display());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let node = rustix::fs::open(&device.source, flags, Mode::empty()).tried(&*what)?;
        let stat = rustix::fs::fstat(&node).tried(&*what)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice | FileType::BlockDevice => Ok(node),
            _ => Err(Errno::NODEV).tried(what),
        }
    };
    spec.devices.iter().map(open).collect()
}
