//! Puts the root filesystem together, in a mount namespace of its own.
//!
//! Everything of ours (`/proc`, `/sys`, `/dev`) is built on a private tmpfs,
//! the *stage*, where no path can be somebody else's, and then moved as a
//! whole onto its mount point. Mount points in the root are open descriptors,
//! looked up inside the root, and never path names: what the root holds, or
//! what another container changes in a shared cache meanwhile, cannot lead a
//! mount elsewhere.
//!
//! # Mount points in the layer
//! For an overlay, what may be missing (`/proc`, `/etc/hosts`, targets of
//! mounts) is provided by one more lower layer, below all others, so that
//! nothing has to be made in the upper directory. What that cannot help with
//! is made and removed, see [`stub`](super::stub).
//!
//! # Devices
//! The root and everything mounted is `nodev`: a device node that a process
//! makes cannot be opened, whatever device cgroup there is. The six nodes of
//! `/dev` are single bind mounts from the stage.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::devices::{self, HostDevices};
use super::overlay::Layers;
use super::protocol::{Failure, Tried};
use super::spec::{MountKind, RootSpec, RunSpec};
use super::stub::{MountPoints, Stubs, Want};
use crate::sys::fs::{Root, proc_fd};

/// Where the stage may be: a directory that holds nothing we need, once
/// everything on the host is open.
const STAGES: [&str; 3] = ["/dev", "/mnt", "/tmp"];

/// Host details and doors that no build needs.
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Other filesystems that are mounted in the host's `/sys`.
const MASKED_BOUND_SYS: [&str; 7] = [
    "fs/bpf",
    "fs/cgroup",
    "fs/fuse/connections",
    "fs/pstore",
    "kernel/debug",
    "kernel/security",
    "kernel/tracing",
];
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Parts of `work` that are ours.
const WORK_OVERLAY: &str = "overlay";
const WORK_STUBS: &str = "stubs";

/// Absolute paths that are covered, and those that are read-only.
pub(super) fn hidden_paths() -> (Vec<String>, Vec<String>) {
    let below = |dir: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{dir}/{name}")).collect()
    };
    let mut masked = below("/proc", &MASKED_PROC);
    masked.extend(below("/sys", &MASKED_SYS));
    (masked, below("/proc", &READ_ONLY_PROC))
}

/// A private tmpfs to build on.
#[derive(Debug)]
pub(super) struct Stage {
    path: PathBuf,
    /// The host has the unified cgroup hierarchy.
    unified: bool,
}

impl Stage {
    /// Cuts this mount namespace off from all others and mounts the stage.
    pub(super) fn new() -> Result<Self, Failure> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).tried("making mounts private")?;
        const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
        let unified = rustix::fs::statfs("/sys/fs/cgroup")
            .is_ok_and(|s| s.f_type as u64 == CGROUP2_SUPER_MAGIC);
        Self::mount(&STAGES, unified)
    }

    /// Mounts the stage at the first of `places` that is there; mounts are
    /// private already.
    pub(super) fn at_first_of(places: &[&str]) -> Result<Self, Failure> {
        Self::mount(places, false)
    }

    fn mount(places: &[&str], unified: bool) -> Result<Self, Failure> {
        let mut tried = Ok(());
        for path in places {
            // Without NOEXEC, which binds of a script would inherit.
            let flags = MountFlags::NOSUID;
            tried = rustix::mount::mount("tmpfs", *path, "tmpfs", flags, c"mode=0700");
            if tried.is_ok() {
                let path = path.into();
                return Ok(Self { path, unified });
            }
        }
        Err(tried.err().unwrap_or(Errno::NOENT)).tried("mounting a tmpfs")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.at(name);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(e).tried(format!("making the directory {name}"))
            }
            _ => Ok(path),
        }
    }

    pub(super) fn file(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf, Failure> {
        let path = self.at(name);
        let made = fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777)));
        made.tried(format!("making the file {name}"))?;
        Ok(path)
    }
}

/// Builds the root filesystem of `spec` and makes it the process's root.
/// `stubs` says what was made for it, whether it succeeds or not.
pub(super) fn enter(spec: &RunSpec, stubs: &mut Stubs) -> Result<(), Failure> {
    let sources = spec
        .mounts
        .iter()
        .map(|m| {
            Source::open(&m.kind).tried(format!("opening what to mount at {}", m.target.display()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let layers = open_root(spec, &sources)?;
    let devices = HostDevices::open();
    let granted = devices::open_granted(spec)?;
    let stage = Stage::new()?;
    let root_path = stage.dir("root")?;
    layers.mount(&root_path, spec.insecure)?;
    let root = Root::open(&root_path).tried("opening the root filesystem")?;
    let mut points = MountPoints::new(&root, layers.into_upper());
    let done = populate(spec, &sources, &stage, (&devices, &granted), &mut points);
    *stubs = points.finish()?;
    done?;
    if spec.read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY | nodev(spec.insecure);
        let held = flags_of(&root_path).tried("looking at the root")?;
        rustix::mount::mount_remount(&root_path, flags | held, c"")
            .tried("making the root read-only")?;
    }
    drop(root);
    pivot(&root_path)
}

/// The directories of the root filesystem; those of an overlay on top of one
/// that has all mount points.
pub(super) fn open_root(spec: &RunSpec, sources: &[Source]) -> Result<Layers, Failure> {
    match &spec.root {
        RootSpec::Overlay { lower, upper, work } => {
            make_stub_layer(&work.join(WORK_STUBS), spec, sources)
                .tried("making the layer of mount points")?;
            let mut all = vec![work.join(WORK_STUBS)];
            all.extend(lower.iter().cloned());
            Layers::open(&all, upper, &work.join(WORK_OVERLAY))
        }
        RootSpec::Dir { dir, .. } => Layers::single(dir),
    }
}

/// Mounts everything inside the root.
fn populate(
    spec: &RunSpec,
    sources: &[Source],
    stage: &Stage,
    (devices, more): (&HostDevices, &[OwnedFd]),
    points: &mut MountPoints<'_>,
) -> Result<(), Failure> {
    let devices = devices::make_nodes(stage, devices)?;
    let mut order: Vec<usize> = (0..spec.mounts.len()).collect();
    order.sort_by_key(|i| spec.mounts.get(*i).map(|m| m.target.components().count()));
    // Those in /dev/shm have to wait for /dev.
    let late = |i: &usize| {
        spec.mounts
            .get(*i)
            .is_some_and(|m| m.target.starts_with("/dev"))
    };
    let (late, early): (Vec<usize>, Vec<usize>) = order.into_iter().partition(late);
    let mount_all = |indexes: Vec<usize>, points: &mut MountPoints<'_>| {
        for i in indexes {
            if let (Some(mount), Some(source)) = (spec.mounts.get(i), sources.get(i)) {
                let what = || format!("mounting at {}", mount.target.display());
                let made = source.mount(&mount.kind, stage, i, spec.insecure)?;
                let want = if made.directory {
                    Want::Dir
                } else {
                    Want::File
                };
                let target = points.find(&mount.target, want)?;
                rustix::mount::mount_move(&made.path, proc_fd(target.as_fd())).tried(what())?;
            }
        }
        Ok(())
    };
    mount_all(early, points)?;
    for (name, content) in spec.etc_files() {
        let file = stage.file(name, content.as_bytes(), 0o644)?;
        let target = Path::new("/etc").join(name);
        if let Some(found) = points.find_own(&target, Want::FileOrLink)? {
            let what = || format!("mounting {}", target.display());
            let place = stage.file("place", b"", 0o600)?;
            bind(&file, &place, nodev(spec.insecure)).tried(what())?;
            rustix::mount::mount_move(&place, proc_fd(found.as_fd())).tried(what())?;
        }
    }
    let null = devices.join("null");
    for (target, tree) in [
        ("/proc", make_proc(stage, &null, spec.insecure)?),
        ("/sys", make_sys(stage, &null, spec.insecure)?),
        ("/dev", devices::make_dev(stage, &devices, spec, more)?),
    ] {
        let found = points.find(Path::new(target), Want::RealDir)?;
        rustix::mount::mount_move(&tree, proc_fd(found.as_fd()))
            .tried(format!("mounting {target}"))?;
    }
    mount_all(late, points)
}

pub(super) fn nodev(insecure: bool) -> MountFlags {
    match insecure {
        true => MountFlags::empty(),
        false => MountFlags::NODEV,
    }
}

/// Binds `source` to `target` with `flags`, which a plain bind would ignore,
/// beside those the source has, which a user namespace may not take away.
pub(super) fn bind(source: &Path, target: &Path, flags: MountFlags) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    if !flags.is_empty() {
        let held = flags_of(target)?;
        rustix::mount::mount_remount(target, MountFlags::BIND | flags | held, c"")?;
    }
    Ok(())
}

/// The same with all that is mounted below `source`.
fn bind_all(source: &Path, target: &Path, flags: MountFlags) -> io::Result<()> {
    rustix::mount::mount_bind_recursive(source, target)?;
    let table = fs::read("/proc/self/mountinfo")?;
    let places = table.split(|b| *b == b'\n').filter_map(mount_point);
    for place in places.filter(|place| place.starts_with(target)) {
        let limited = flags_of(&place).and_then(|held| {
            let flags = MountFlags::BIND | flags | held;
            Ok(rustix::mount::mount_remount(&place, flags, c"")?)
        });
        if let Err(error) = limited {
            if place == target {
                return Err(error);
            }
            // What can't be limited is not shown.
            rustix::mount::unmount(&place, UnmountFlags::DETACH)?;
        }
    }
    Ok(())
}

/// Where a line of `mountinfo` says that something is mounted.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut rest = line.split(|b| *b == b' ').nth(4)?;
    let mut path = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        path.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

fn flags_of(path: &Path) -> io::Result<MountFlags> {
    let held = rustix::fs::statvfs(path)?.f_flag;
    Ok([
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ]
    .into_iter()
    .filter(|(shown, _)| held.contains(*shown))
    .fold(MountFlags::empty(), |all, (_, flag)| all | flag))
}

/// Makes the root mount at `root` this process's root, and lets the old go.
fn pivot(root: &Path) -> Result<(), Failure> {
    rustix::process::chdir(root).tried("entering the root")?;
    rustix::process::pivot_root(".", ".").tried("changing the root (pivot_root)")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).tried("letting the old root go")?;
    rustix::process::chdir("/").tried("entering the root")
}

/// Removes from `work` what [`enter`] left there.
pub(super) fn remove_work(work: &Path) {
    // What cannot be removed is of no harm: the caller removes `work`. The
    // kernel's own directory has no permissions, which stop all but root.
    let inner = work.join(WORK_OVERLAY).join("work");
    let _ = fs::set_permissions(inner, fs::Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(work.join(WORK_OVERLAY));
    let _ = fs::remove_dir_all(work.join(WORK_STUBS));
}

/// Fills `layer` with everything that something is mounted on.
fn make_stub_layer(layer: &Path, spec: &RunSpec, sources: &[Source]) -> io::Result<()> {
    for dir in ["proc", "sys", "dev", "etc"] {
        fs::create_dir_all(layer.join(dir))?;
    }
    for (name, _) in spec.etc_files() {
        fs::File::create(layer.join("etc").join(name))?;
    }
    for (mount, source) in spec.mounts.iter().zip(sources) {
        let names = mount.target.components();
        let path: PathBuf = names
            .filter(|c| matches!(c, Component::Normal(_)))
            .collect();
        let path = layer.join(path);
        if matches!(
            &mount.kind,
            MountKind::Overlay {
                subpath: Some(_),
                ..
            }
        ) {
            // Whether that is a file is only known when it is mounted.
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
        } else if source.directory {
            fs::create_dir_all(&path)?;
        } else {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::File::create(&path)?;
        }
    }
    Ok(())
}

/// What to mount, found on the host before anything is mounted.
#[derive(Debug)]
pub(super) struct Source {
    directory: bool,
    bound: Option<OwnedFd>,
    layers: Option<Layers>,
}

/// Something mounted on the stage, to be moved.
pub(super) struct Mounted {
    pub(super) path: PathBuf,
    pub(super) directory: bool,
}

impl Source {
    pub(super) fn open(kind: &MountKind) -> io::Result<Self> {
        let mut source = Self {
            directory: true,
            bound: None,
            layers: None,
        };
        match kind {
            MountKind::Bind {
                source: path,
                subpath,
                ..
            } => {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let mut fd = rustix::fs::open(path, flags, Mode::empty())?;
                if let Some(subpath) = subpath {
                    fd = Root::from_fd(fd).open_at(subpath, flags, Mode::empty())?;
                }
                source.directory = is_dir(fd.as_fd())?;
                source.bound = Some(fd);
            }
            MountKind::Overlay {
                lower,
                upper,
                work,
                directory,
                ..
            } => {
                source.directory = *directory;
                let layers = Layers::open(lower, upper, work);
                source.layers = Some(layers.map_err(|f| match f {
                    Failure::Setup { errno, .. } => io::Error::from_raw_os_error(errno),
                    _ => io::ErrorKind::Other.into(),
                })?);
            }
            MountKind::Tmpfs { .. } => {}
            MountKind::File { .. } => source.directory = false,
        }
        Ok(source)
    }

    /// Mounts it on the stage, where nobody can interfere.
    pub(super) fn mount(
        &self,
        kind: &MountKind,
        stage: &Stage,
        index: usize,
        insecure: bool,
    ) -> Result<Mounted, Failure> {
        let what = || format!("mounting {kind:?}");
        let flags = |read_only: bool| match read_only {
            true => nodev(insecure) | MountFlags::RDONLY,
            false => nodev(insecure),
        };
        let place = |directory| match directory {
            true => stage.dir("place.d"),
            false => stage.file("place", b"", 0o600),
        };
        let (path, directory) = match kind {
            MountKind::Bind { read_only, .. } => {
                let path = place(self.directory)?;
                let Some(bound) = &self.bound else {
                    return Err(Errno::NOENT).tried(what());
                };
                bind_all(&proc_fd(bound.as_fd()), &path, flags(*read_only)).tried(what())?;
                (path, self.directory)
            }
            MountKind::Overlay {
                subpath, read_only, ..
            } => {
                let whole = stage.dir(&format!("overlay{index}"))?;
                if let Some(layers) = &self.layers {
                    layers.mount(&whole, insecure)?;
                }
                let root = Root::open(&whole).tried(what())?;
                let inside = subpath.as_deref().unwrap_or(Path::new("/"));
                let found = root
                    .open_at(inside, OFlags::PATH, Mode::empty())
                    .tried(what())?;
                let directory = is_dir(found.as_fd()).tried(what())?;
                let path = place(directory)?;
                bind(&proc_fd(found.as_fd()), &path, flags(*read_only)).tried(what())?;
                (path, directory)
            }
            MountKind::Tmpfs { size } => {
                let path = place(true)?;
                let options = match size {
                    Some(size) => format!("mode=1777,size={size}"),
                    None => "mode=1777".into(),
                };
                tmpfs(&path, flags(false) | MountFlags::NOSUID, &options).tried(what())?;
                (path, true)
            }
            MountKind::File {
                content,
                mode,
                uid,
                gid,
            } => {
                let file = stage.file(&format!("file{index}"), content, *mode)?;
                std::os::unix::fs::chown(&file, Some(*uid), Some(*gid)).tried(what())?;
                let path = place(false)?;
                let mut flags = flags(true) | MountFlags::NOSUID;
                if mode & 0o111 == 0 {
                    flags |= MountFlags::NOEXEC;
                }
                bind(&file, &path, flags).tried(what())?;
                (path, false)
            }
        };
        Ok(Mounted { path, directory })
    }
}

fn is_dir(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

pub(super) fn tmpfs(path: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount(
        "tmpfs", path, "tmpfs", flags, &*options,
    )?)
}

fn make_proc(stage: &Stage, null: &Path, insecure: bool) -> Result<PathBuf, Failure> {
    let proc = stage.dir("proc")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("proc", &proc, "proc", flags, None) {
        Ok(()) => {}
        // A container that hides parts of /proc lets nobody see them in
        // another one: then there is only the existing one.
        Err(Errno::PERM | Errno::ACCESS) => {
            rustix::mount::mount_bind_recursive("/proc", &proc).tried("binding /proc")?;
        }
        Err(e) => return Err(e).tried("mounting /proc"),
    }
    if !insecure {
        mask(stage, null, &proc, &MASKED_PROC)?;
        for name in READ_ONLY_PROC {
            let path = proc.join(name);
            match bind(&path, &path, flags | MountFlags::RDONLY) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).tried(format!("making /proc/{name} read-only"));
                }
                _ => {}
            }
        }
    }
    Ok(proc)
}

fn make_sys(stage: &Stage, null: &Path, insecure: bool) -> Result<PathBuf, Failure> {
    let sys = stage.dir("sys")?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if !insecure {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount("sysfs", &sys, "sysfs", flags, None) {
        Ok(()) => {}
        // It shows the network, which a user namespace does not own.
        Err(Errno::PERM | Errno::ACCESS) => {
            rustix::mount::mount_bind_recursive("/sys", &sys).tried("binding /sys")?;
            let held = flags_of(&sys).tried("binding /sys")?;
            rustix::mount::mount_remount(&sys, MountFlags::BIND | flags | held, c"")
                .tried("making /sys read-only")?;
            return mask(stage, null, &sys, &MASKED_SYS)
                .and_then(|()| mask(stage, null, &sys, &MASKED_BOUND_SYS))
                .map(|()| sys);
        }
        Err(e) => return Err(e).tried("mounting /sys"),
    }
    if stage.unified {
        let path = sys.join("fs/cgroup");
        rustix::mount::mount("cgroup2", path, "cgroup2", flags, None)
            .tried("mounting /sys/fs/cgroup")?;
    }
    if !insecure {
        mask(stage, null, &sys, &MASKED_SYS)?;
    }
    Ok(sys)
}

/// Covers files with `/dev/null` and directories with an empty one.
fn mask(stage: &Stage, null: &Path, below: &Path, names: &[&str]) -> Result<(), Failure> {
    let empty = stage.at("empty");
    if !empty.exists() {
        stage.dir("empty")?;
        let flags =
            MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID;
        bind(&empty, &empty, flags).tried("making an empty directory")?;
    }
    for name in names {
        let path = below.join(name);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let cover = if meta.is_dir() { empty.as_path() } else { null };
        rustix::mount::mount_bind(cover, &path).tried(format!("masking {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt2/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt2/a b\c")));
        assert_eq!(
            mount_point(br"1 2 3:4 / /x\0 rw"),
            Some(PathBuf::from(r"/x\0"))
        );
        assert_eq!(mount_point(b""), None);
    }
}
