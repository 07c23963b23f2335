//! The `oci` rung: a bundle handed to an OCI runtime (runc, crun).
//!
//! The container's first process puts the root filesystem together in a mount
//! namespace of its own, writes the bundle's `config.json` to a private tmpfs,
//! and becomes the runtime, which makes the container below it:
//!
//! ```text
//! keeper ──forks──▶ first process ──exec──▶ runtime ──▶ command
//!                   new PID and mount       namespaces, root, devices,
//!                   namespaces              capabilities, seccomp, cgroup
//! ```
//! The runtime is the first process of a PID namespace, so the kernel ends the
//! runtime and the container with it, whoever is killed; its state and the
//! bundle are on the tmpfs and go with the mount namespace. What remains is the
//! control group, which the keeper removes.
//!
//! # Specification
//! runtime-spec `config.md`, `config-linux.md`.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use super::capabilities::Capabilities;
use super::cgroup;
use super::protocol::{self, Failure, Report, Tried};
use super::rootfs::{self, Source};
use super::spec::{MountKind, Network, Resource, RunSpec, Seccomp};
use super::streams::{self, Console};
use super::stub::{MountPoints, Stubs, Want};
use crate::sys::fs::Root;
use crate::sys::{capability, process};

/// Where the private tmpfs may be: nothing that a runtime needs is there.
const PLACES: [&str; 4] = ["/mnt", "/media", "/srv", "/tmp"];
/// Number of the descriptor that the runtime writes its log to.
const LOG: i32 = 3;
/// The container's name; nobody else sees it.
const NAME: &str = "step";

/// What the keeper holds for a runtime.
#[derive(Debug)]
pub(super) struct Runtime<'a> {
    program: &'a Path,
    log: fs::File,
    /// The control group, from the top of the hierarchies.
    group: String,
}

impl<'a> Runtime<'a> {
    pub(super) fn new(program: &'a Path, spec: &RunSpec) -> Result<Self, Failure> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let log = rustix::fs::memfd_create(c"log", flags).tried("making a log")?;
        Ok(Self {
            program,
            log: log.into(),
            group: cgroup::runtime_group(&spec.limits)?,
        })
    }

    /// Removes what a runtime that was killed could not; the container is
    /// gone. Its last complaint, if it had one.
    pub(super) fn finish(mut self) -> Option<Failure> {
        cgroup::remove_everywhere(&self.group);
        let mut text = String::new();
        self.log.rewind().ok()?;
        self.log.read_to_string(&mut text).ok()?;
        let message = text.lines().filter_map(complaint).next_back()?;
        let name = self.program.file_name().unwrap_or_default();
        Some(Failure::Runtime {
            name: name.to_string_lossy().into_owned(),
            message,
        })
    }

    /// Becomes the runtime; returns only what went wrong.
    pub(super) fn enter(&self, spec: &RunSpec, control: &UnixStream) -> Failure {
        match self.prepare(spec, control) {
            Ok((path, args)) => {
                let error = process::execute(
                    &path,
                    &args,
                    &[c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()],
                );
                let name = self.program.display().to_string();
                Failure::NotExecutable {
                    reason: format!("{name}: {error}"),
                    name,
                }
            }
            Err(failure) => failure,
        }
    }

    fn prepare(
        &self,
        spec: &RunSpec,
        control: &UnixStream,
    ) -> Result<(CString, Vec<CString>), Failure> {
        process::unshare(UnshareFlags::NEWNS).tried("making a mount namespace (unshare)")?;
        process::new_keyring().tried("making a session keyring")?;
        let mut stubs = Stubs::default();
        let bundle = self.build(spec, &mut stubs);
        protocol::send(control, &Report::Stubs(stubs)).tried("reporting")?;
        let bundle = bundle?;
        match spec.console {
            Console::Output => {
                let null = fs::File::open("/dev/null").tried("opening /dev/null")?;
                process::duplicate_to(&null, 0).tried("setting standard input")?;
            }
            Console::Pipes => {}
            // The runtime shows on it the terminal that it makes inside.
            Console::Terminal { .. } => {
                rustix::process::setsid().tried("starting a session")?;
                streams::take_terminal(spec.console, control)?;
            }
        }
        process::duplicate_to(&self.log, LOG).tried("passing the log on")?;
        process::close_from(LOG + 1, Some(control.as_raw_fd()));
        super::enter::hide_sockets(spec)?;
        process::reset_signals().tried("resetting signals")?;
        let text = |text: &[u8]| CString::new(text).map_err(std::io::Error::from);
        let mut args = Vec::new();
        let log = format!("/proc/self/fd/{LOG}");
        for arg in [
            self.program.as_os_str().as_bytes(),
            b"--root",
            bundle.join("state").as_os_str().as_bytes(),
            b"--log",
            log.as_bytes(),
            b"--log-format",
            b"json",
            b"run",
            b"--bundle",
            bundle.as_os_str().as_bytes(),
            NAME.as_bytes(),
        ] {
            args.push(text(arg).tried("preparing the runtime")?);
        }
        let program = text(self.program.as_os_str().as_bytes()).tried("preparing the runtime")?;
        Ok((program, args))
    }

    /// Mounts the root filesystem and writes the bundle; its directory.
    fn build(&self, spec: &RunSpec, stubs: &mut Stubs) -> Result<PathBuf, Failure> {
        let open = |mount: &super::spec::Mount| {
            let what = format!("opening what to mount at {}", mount.target.display());
            Source::open(&mount.kind).tried(what)
        };
        let sources: Vec<Source> = spec.mounts.iter().map(open).collect::<Result<_, _>>()?;
        let layers = rootfs::open_root(spec, &sources)?;
        // The container's processes have numbers of the new PID namespace.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).tried("making mounts private")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("proc", "/proc", "proc", flags, None).tried("mounting /proc")?;
        let stage = rootfs::Stage::at_first_of(&PLACES)?;
        let root_path = stage.dir("rootfs")?;
        layers.mount(&root_path, spec.insecure)?;
        let root = Root::open(&root_path).tried("opening the root filesystem")?;
        let mut points = MountPoints::new(&root, layers.into_upper());
        let mounts = mounts(spec, &sources, &stage, &mut points);
        *stubs = points.finish()?;
        let config = config(spec, mounts?, &self.group)?;
        stage.dir("state")?;
        let config = serde_json::to_vec_pretty(&config)
            .map_err(std::io::Error::from)
            .tried("writing config.json")?;
        stage.file("config.json", &config, 0o600)?;
        Ok(stage.path().to_owned())
    }
}

/// The message of a line of a runtime's log that tells an error.
fn complaint(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    let level = value.get("level").and_then(Value::as_str);
    let message = value.get("msg")?.as_str()?;
    matches!(level, Some("error" | "fatal")).then(|| message.to_owned())
}

/// Everything to mount beside the runtime-spec's usual: the steps' mounts and
/// our files in `/etc`, made on the stage and bound from there.
fn mounts(
    spec: &RunSpec,
    sources: &[Source],
    stage: &rootfs::Stage,
    points: &mut MountPoints<'_>,
) -> Result<Vec<Value>, Failure> {
    let bind = |source: &Path, target: &Path, read_only: bool| {
        let mut options = vec!["rbind", "rprivate", "nosuid"];
        if !spec.insecure {
            options.push("nodev");
        }
        if read_only {
            options.push("ro");
        }
        json!({
            "destination": target.to_string_lossy(),
            "type": "bind",
            "source": source.to_string_lossy(),
            "options": options,
        })
    };
    let mut all = Vec::new();
    let mut order: Vec<usize> = (0..spec.mounts.len()).collect();
    order.sort_by_key(|i| spec.mounts.get(*i).map(|m| m.target.components().count()));
    for i in order {
        let (Some(mount), Some(source)) = (spec.mounts.get(i), sources.get(i)) else {
            continue;
        };
        let made = source.mount(&mount.kind, stage, i, spec.insecure)?;
        let (want, place) = match made.directory {
            true => (Want::Dir, stage.dir(&format!("mount{i}"))?),
            false => (Want::File, stage.file(&format!("mount{i}"), b"", 0o600)?),
        };
        rustix::mount::mount_move(&made.path, &place)
            .tried(format!("mounting at {}", mount.target.display()))?;
        // What is below /dev comes after the runtime's own /dev, which has
        // nothing of the image's in it.
        if !mount.target.starts_with("/dev") {
            points.find(&mount.target, want)?;
        }
        let read_only = match &mount.kind {
            MountKind::Bind { read_only, .. } | MountKind::Overlay { read_only, .. } => *read_only,
            MountKind::Tmpfs { .. } => false,
            MountKind::File { .. } => true,
        };
        all.push(bind(&place, &mount.target, read_only));
    }
    for (name, content) in spec.etc_files() {
        let file = stage.file(name, content.as_bytes(), 0o644)?;
        let target = Path::new("/etc").join(name);
        if points.find_own(&target, Want::FileOrLink)?.is_some() {
            all.push(bind(&file, &target, false));
        }
    }
    for target in ["/proc", "/sys", "/dev"] {
        points.find(Path::new(target), Want::RealDir)?;
    }
    Ok(all)
}

/// The bundle's `config.json`.
fn config(spec: &RunSpec, more: Vec<Value>, group: &str) -> Result<Value, Failure> {
    let held = capability::permitted().tried("reading capabilities")?;
    let mut capabilities = match spec.insecure {
        true => Capabilities::all(),
        false => spec.capabilities.clone(),
    };
    capabilities.keep(held);
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "cgroup"}),
    ];
    match spec.network {
        // That of the runtime: the host's, or one that is connected already.
        Network::Host | Network::Private(_) => {}
        Network::None => namespaces.push(json!({"type": "network"})),
    }
    let mut mounts = usual_mounts(spec);
    mounts.extend(more);
    let (devices, allowed) = devices(spec)?;
    let mut config = document(spec, &capabilities, mounts);
    config["process"]["rlimits"] = json!(rlimits(spec));
    let linux = &mut config["linux"];
    linux["namespaces"] = json!(namespaces);
    linux["cgroupsPath"] = json!(group);
    linux["resources"] = resources(spec, allowed);
    linux["devices"] = json!(devices);
    Ok(config)
}

/// What every `config.json` has.
pub(super) fn document(spec: &RunSpec, capabilities: &Capabilities, mounts: Vec<Value>) -> Value {
    let names = capabilities.names();
    let (masked, read_only) = match spec.insecure {
        true => (Vec::new(), Vec::new()),
        false => rootfs::hidden_paths(),
    };
    let seccomp = match &spec.seccomp {
        _ if spec.insecure => None,
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(super::seccomp::as_filter(capabilities.mask())),
        Seccomp::Profile(profile) => Some(profile.resolve_here(capabilities)),
    };
    let mut config = json!({
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "process": {
            "terminal": spec.console.is_terminal(),
            "user": {
                "uid": spec.user.uid,
                "gid": spec.user.gid,
                "additionalGids": spec.user.groups,
                "umask": 0o022,
            },
            "args": spec.args,
            "env": spec.env,
            "cwd": spec.cwd,
            "capabilities": {"bounding": names, "effective": names, "permitted": names},
            "noNewPrivileges": spec.no_new_privileges,
        },
        "mounts": mounts,
        "linux": {
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "rootfsPropagation": "private",
        },
    });
    if let Console::Terminal { rows, columns } = spec.console
        && rows > 0
    {
        config["process"]["consoleSize"] = json!({"height": rows, "width": columns});
    }
    if let Some(filter) = seccomp {
        config["linux"]["seccomp"] = json!(filter);
    }
    if let Some(profile) = &spec.labels.apparmor {
        config["process"]["apparmorProfile"] = json!(profile);
    }
    if let Some(context) = &spec.labels.selinux {
        config["process"]["selinuxLabel"] = json!(context);
    }
    config
}

pub(super) fn usual_mounts(spec: &RunSpec) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let size = format!("size={}", spec.shm_size);
    let mut sys = vec!["nosuid", "noexec", "nodev"];
    if !spec.insecure {
        sys.push("ro");
    }
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", &size],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &sys),
    ]
}

fn rlimits(spec: &RunSpec) -> Vec<Value> {
    let limit = |name: &str, soft: Option<u64>, hard: Option<u64>| {
        json!({
            "type": format!("RLIMIT_{}", name.to_uppercase()),
            "soft": soft.unwrap_or(u64::MAX),
            "hard": hard.unwrap_or(u64::MAX),
        })
    };
    let given = |resource: Resource| spec.ulimits.iter().any(|u| u.resource == resource);
    let mut all = Vec::new();
    if !given(Resource::Core) {
        all.push(limit("core", Some(0), Some(0)));
    }
    if !given(Resource::Nofile) {
        let (soft, hard) = super::enter::open_files();
        all.push(limit("nofile", soft, hard));
    }
    for ulimit in &spec.ulimits {
        let name = format!("{:?}", ulimit.resource);
        all.push(limit(&name, ulimit.soft, ulimit.hard));
    }
    all
}

/// Devices that were granted, and the rules that let them be used.
fn devices(spec: &RunSpec) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let (mut devices, mut allowed) = (Vec::new(), vec![json!({"allow": false, "access": "rwm"})]);
    if spec.insecure {
        allowed = vec![json!({"allow": true, "access": "rwm"})];
    }
    for device in &spec.devices {
        let what = || format!("granting the device {}", device.source.display());
        let stat = rustix::fs::stat(&device.source).tried(what())?;
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::CharacterDevice => "c",
            rustix::fs::FileType::BlockDevice => "b",
            _ => return Err(rustix::io::Errno::NODEV).tried(what()),
        };
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        devices.push(json!({
            "path": device.target.to_string_lossy(),
            "type": kind, "major": major, "minor": minor,
            "fileMode": stat.st_mode & 0o777, "uid": stat.st_uid, "gid": stat.st_gid,
        }));
        allowed.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": "rw",
        }));
    }
    Ok((devices, allowed))
}

fn resources(spec: &RunSpec, devices: Vec<Value>) -> Value {
    use cgroup::Most;
    let number = |most: Most| match most {
        Most::Of(n) => json!(n),
        Most::Unlimited => json!(-1),
    };
    let limits = &spec.limits;
    let mut all = json!({"devices": devices});
    if let Some(memory) = limits.memory {
        all["memory"]["limit"] = json!(memory);
    }
    if let Some(swap) = limits.memory_swap {
        all["memory"]["swap"] = number(swap);
    }
    if let Some(pids) = limits.pids {
        all["pids"]["limit"] = number(pids);
    }
    for (name, value) in [
        ("quota", limits.cpu_quota.map(|n| json!(n))),
        ("period", limits.cpu_period.map(|n| json!(n))),
        ("shares", limits.cpu_shares.map(|n| json!(n))),
        ("cpus", limits.cpuset_cpus.as_ref().map(|n| json!(n))),
        ("mems", limits.cpuset_mems.as_ref().map(|n| json!(n))),
    ] {
        if let Some(value) = value {
            all["cpu"][name] = value;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_says_what_the_request_does() {
        let root = super::super::RootSpec::Dir {
            dir: "/r".into(),
            work: "/w".into(),
        };
        let mut spec = RunSpec::new(root, ["true"]);
        spec.limits.memory = Some(5);
        spec.limits.pids = Some(cgroup::Most::Unlimited);
        spec.user.uid = 7;
        spec.network = Network::None;
        let config = config(&spec, Vec::new(), "/g").unwrap();
        assert_eq!(config["linux"]["resources"]["memory"]["limit"], 5);
        assert_eq!(config["linux"]["resources"]["pids"]["limit"], -1);
        assert_eq!(config["process"]["user"]["uid"], 7);
        let kinds = config["linux"]["namespaces"].as_array().unwrap();
        assert!(kinds.contains(&json!({"type": "network"})));
        assert_eq!(
            config["linux"]["seccomp"]["defaultAction"],
            "SCMP_ACT_ERRNO"
        );
        spec.insecure = true;
        let config = super::config(&spec, Vec::new(), "/g").unwrap();
        assert!(config["linux"].get("seccomp").is_none());
    }

    #[test]
    fn complaints_are_found_in_logs() {
        let line = r#"{"level":"error","msg":"runc run failed: no","time":"x"}"#;
        assert_eq!(complaint(line).as_deref(), Some("runc run failed: no"));
        assert_eq!(complaint(r#"{"level":"warning","msg":"hm"}"#), None);
        assert_eq!(complaint("text"), None);
    }
}
