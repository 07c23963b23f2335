//! What to run: the request to an [`Executor`](super::Executor).
//!
//! It is plain data that crosses a socket to the container's first process,
//! so everything in it can be serialised; paths keep bytes that are no text.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::capabilities::Capabilities;
use super::cgroup::Limits;
use super::profile::Profile;
use super::streams::Console;

/// The root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSpec {
    /// Layer directories in overlay form, and where changes go.
    Overlay {
        /// Lowest first; may be empty.
        #[serde(with = "paths")]
        lower: Vec<PathBuf>,
        /// Receives what the process changes, and nothing else.
        #[serde(with = "path")]
        upper: PathBuf,
        /// An empty directory on the same filesystem as `upper`, for the
        /// executor's own use; its content is of no use afterwards.
        #[serde(with = "path")]
        work: PathBuf,
    },
    /// A directory that is changed in place.
    Dir {
        /// The directory.
        #[serde(with = "path")]
        dir: PathBuf,
        /// An empty directory on the same filesystem, for the executor's own
        /// use; its content is of no use afterwards.
        #[serde(with = "path")]
        work: PathBuf,
    },
}

/// Who runs it: numbers in the root filesystem's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, all of them.
    pub groups: Vec<u32>,
}

/// Which network the process sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The one shiplap has.
    #[default]
    Host,
    /// A loopback interface only.
    None,
    /// One of its own that reaches the outside by way of a helper program, and
    /// does not reach the host's loopback addresses.
    Private(Helper),
}

/// Programs that connect a [`Network::Private`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Helper {
    /// The first that is installed and works.
    #[default]
    Any,
    /// `pasta`.
    Pasta,
    /// `slirp4netns`.
    Slirp4netns,
}

impl Helper {
    /// The program's name.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Any | Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

/// Something to see at a path of the root filesystem, for this run only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the root filesystem. What is missing of it is made
    /// for the run and is in no layer.
    #[serde(with = "path")]
    pub target: PathBuf,
    /// What is there.
    pub kind: MountKind,
}

/// The kinds of [`Mount`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A directory, file or socket of the host.
    Bind {
        /// Path on the host; trusted.
        #[serde(with = "path")]
        source: PathBuf,
        /// Path below `source`, resolved as if `source` were `/`; not trusted.
        #[serde(with = "optional_path")]
        subpath: Option<PathBuf>,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// Directories seen as one, whose changes go to a directory of their own.
    Overlay {
        /// Lowest first, in overlay form.
        #[serde(with = "paths")]
        lower: Vec<PathBuf>,
        /// Receives the changes.
        #[serde(with = "path")]
        upper: PathBuf,
        /// An empty directory on the same filesystem as `upper`.
        #[serde(with = "path")]
        work: PathBuf,
        /// Path below the merged directory, resolved as if that were `/`.
        #[serde(with = "optional_path")]
        subpath: Option<PathBuf>,
        /// Whether that is a directory.
        directory: bool,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Most bytes it holds; the kernel's default when absent.
        size: Option<u64>,
    },
    /// A file in memory.
    File {
        /// What is in it.
        #[serde(with = "bytes")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl std::fmt::Debug for MountKind {
    // A file's content may be a secret and stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind {
                source,
                subpath,
                read_only,
            } => {
                write!(f, "Bind({source:?}, {subpath:?}, read_only: {read_only})")
            }
            Self::Overlay {
                lower,
                subpath,
                read_only,
                ..
            } => {
                write!(f, "Overlay({lower:?}, {subpath:?}, read_only: {read_only})")
            }
            Self::Tmpfs { size } => write!(f, "Tmpfs({size:?})"),
            Self::File {
                content,
                mode,
                uid,
                gid,
            } => {
                write!(f, "File({} bytes, {mode:o}, {uid}:{gid})", content.len())
            }
        }
    }
}

/// A limit on one resource of the process, as `ulimit` sets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Which resource.
    pub resource: Resource,
    /// The limit in force; none when absent.
    pub soft: Option<u64>,
    /// How far the process may raise it; no bound when absent.
    pub hard: Option<u64>,
}

/// Resources that [`Ulimit`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Resource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
    As,
}

/// Which system calls a process may make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Those of Docker's default profile.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// Those of a profile.
    Profile(Box<Profile>),
}

/// Labels of security modules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// A profile of AppArmor.
    pub apparmor: Option<String>,
    /// A context of SELinux.
    pub selinux: Option<String>,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its node on the host; trusted.
    #[serde(with = "path")]
    pub source: PathBuf,
    /// Its node in the root filesystem, below `/dev`.
    #[serde(with = "path")]
    pub target: PathBuf,
}

/// What a user says about all runs: what they may do, and how much they may
/// use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// What root may do inside.
    pub capabilities: Capabilities,
    /// Which system calls there are.
    pub seccomp: Seccomp,
    /// Labels of security modules.
    pub labels: Labels,
    /// Whether set-user-id programs have no effect.
    pub no_new_privileges: bool,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Limits on all processes together.
    pub limits: Limits,
    /// Limits on each process.
    pub ulimits: Vec<Ulimit>,
    /// Most bytes that `/dev/shm` holds.
    pub shm_size: u64,
}

/// Bytes of `/dev/shm` unless told otherwise, as everywhere.
const SHM_SIZE: u64 = 64 << 20;

impl Default for Confinement {
    fn default() -> Self {
        Self {
            capabilities: Capabilities::default(),
            seccomp: Seccomp::default(),
            labels: Labels::default(),
            no_new_privileges: false,
            devices: Vec::new(),
            limits: Limits::default(),
            ulimits: Vec::new(),
            shm_size: SHM_SIZE,
        }
    }
}

/// One run of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Its root filesystem.
    pub root: RootSpec,
    /// The program and its arguments; without a `/`, the program is looked
    /// for in `PATH` of `env`.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute; it must exist.
    pub cwd: String,
    /// Who runs it.
    pub user: UserIds,
    /// The host's name inside.
    pub hostname: String,
    /// Which network it sees.
    pub network: Network,
    /// Content of `/etc/hosts`.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// More to see in the root filesystem.
    pub mounts: Vec<Mount>,
    /// What root may do inside.
    pub capabilities: Capabilities,
    /// Every capability, nothing masked or read-only, no filter of system
    /// calls: little protects the host then.
    pub insecure: bool,
    /// Whether set-user-id programs have no effect.
    pub no_new_privileges: bool,
    /// Most bytes that `/dev/shm` holds.
    pub shm_size: u64,
    /// Whether the root filesystem cannot be written to.
    pub read_only: bool,
    /// Limits beside the defaults.
    pub ulimits: Vec<Ulimit>,
    /// Limits on all its processes together.
    pub limits: Limits,
    /// Which system calls there are.
    pub seccomp: Seccomp,
    /// Labels of security modules.
    pub labels: Labels,
    /// Devices of the host, beside the usual ones.
    pub devices: Vec<Device>,
    /// What its standard streams are: the executor says.
    pub(super) console: Console,
}

/// What makes a [`RunSpec`] impossible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SpecError {
    #[error("there is no command to run")]
    NoCommand,
    #[error("{what} holds a NUL byte")]
    Nul { what: &'static str },
    #[error("the working directory {0:?} is not an absolute path")]
    WorkDir(String),
    #[error("cannot mount at {}: {reason}", target.display())]
    Target {
        target: PathBuf,
        reason: &'static str,
    },
    #[error("there is no capability named {0:?}")]
    Capability(String),
    #[error("an overlay takes at most {MOST_LAYERS} layers, this image has {0}: flatten it first")]
    Layers(usize),
}

/// Lower directories that an overlay may have. The kernel's limit is 500; one
/// is ours.
pub const MOST_LAYERS: usize = 499;

impl RunSpec {
    /// `args` as root in `root`, with every other field at its default.
    pub fn new(root: RootSpec, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            root,
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: "/".into(),
            user: UserIds::default(),
            hostname: "shiplap".into(),
            network: Network::Host,
            hosts: "127.0.0.1\tlocalhost\n::1\tlocalhost\n".into(),
            resolv_conf: String::new(),
            mounts: Vec::new(),
            capabilities: Capabilities::default(),
            insecure: false,
            no_new_privileges: false,
            shm_size: SHM_SIZE,
            read_only: false,
            ulimits: Vec::new(),
            limits: Limits::default(),
            seccomp: Seccomp::default(),
            labels: Labels::default(),
            devices: Vec::new(),
            console: Console::default(),
        }
    }

    /// The files that are its own in `/etc`, whatever the image has there: name
    /// and content.
    pub(super) fn etc_files(&self) -> [(&'static str, Cow<'_, str>); 3] {
        [
            ("hosts", self.hosts.as_str().into()),
            ("resolv.conf", self.resolv_conf.as_str().into()),
            ("hostname", format!("{}\n", self.hostname).into()),
        ]
    }

    /// Confines the process as `confinement` says.
    pub fn confine(&mut self, confinement: &Confinement) {
        let Confinement {
            capabilities,
            seccomp,
            labels,
            no_new_privileges,
            devices,
            limits,
            ulimits,
            shm_size,
        } = confinement.clone();
        self.capabilities = capabilities;
        self.seccomp = seccomp;
        self.labels = labels;
        self.no_new_privileges = no_new_privileges;
        self.devices = devices;
        self.limits = limits;
        self.ulimits = ulimits;
        self.shm_size = shm_size;
    }

    /// Whether it can be run at all, as far as that is known without trying.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.args.first().is_none_or(String::is_empty) {
            return Err(SpecError::NoCommand);
        }
        let nul = |what, strings: &[String]| match strings.iter().any(|s| s.contains('\0')) {
            true => Err(SpecError::Nul { what }),
            false => Ok(()),
        };
        nul("the command", &self.args)?;
        nul("the environment", &self.env)?;
        if !self.cwd.starts_with('/') || self.cwd.contains('\0') {
            return Err(SpecError::WorkDir(self.cwd.clone()));
        }
        if let RootSpec::Overlay { lower, .. } = &self.root
            && lower.len() > MOST_LAYERS
        {
            return Err(SpecError::Layers(lower.len()));
        }
        for mount in &self.mounts {
            check_target(&mount.target)?;
        }
        for device in &self.devices {
            check_device(&device.target)?;
        }
        Ok(())
    }
}

/// Whether a mount may be at `target`: not where the container's own mounts
/// are, since what is mounted there decides what the others protect.
fn check_target(target: &Path) -> Result<(), SpecError> {
    let refuse = |reason| {
        Err(SpecError::Target {
            target: target.into(),
            reason,
        })
    };
    if !target.is_absolute() {
        return refuse("the path is not absolute");
    }
    let mut names = Vec::new();
    for part in target.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => return refuse("the path has .. in it"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    match names.first().and_then(|n| n.to_str()) {
        None if names.is_empty() => refuse("it is the root filesystem itself"),
        Some("proc" | "sys") => refuse("nothing can be mounted in /proc and /sys"),
        // Scripts of RUN stand in /dev/pipes, a directory that is nobody else's.
        Some("dev") if names.get(1).is_none_or(|n| *n != "shm" && *n != "pipes") => {
            refuse("in /dev, only /dev/shm can be mounted over")
        }
        _ => Ok(()),
    }
}

/// Whether a device may be at `target`: below `/dev`, beside our own.
fn check_device(target: &Path) -> Result<(), SpecError> {
    let refuse = |reason| {
        Err(SpecError::Target {
            target: target.into(),
            reason,
        })
    };
    let mut parts = target.components();
    let begins = parts.next() == Some(Component::RootDir)
        && parts.next() == Some(Component::Normal("dev".as_ref()));
    let names: Vec<_> = parts.collect();
    let plain = names.iter().all(|p| matches!(p, Component::Normal(_)));
    match names.first() {
        Some(Component::Normal(first)) if begins && plain => {
            match OUR_DEV.iter().any(|ours| first == ours) {
                true => refuse("the container has its own there"),
                false => Ok(()),
            }
        }
        _ => refuse("devices can only be below /dev"),
    }
}

/// Names in `/dev` that are not for others.
const OUR_DEV: [&str; 16] = [
    "null", "zero", "full", "random", "urandom", "tty", "console", "pts", "shm", "mqueue", "ptmx",
    "fd", "stdin", "stdout", "stderr", "pipes",
];

pub(super) mod path {
    //! A path as text where it is text, otherwise as a list of bytes.
    use super::{Deserialize, Path, PathBuf, Serialize};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(super) enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    impl From<&Path> for Form {
        fn from(path: &Path) -> Self {
            match path.to_str() {
                Some(text) => Self::Text(text.into()),
                None => Self::Bytes(path.as_os_str().as_bytes().into()),
            }
        }
    }

    impl From<Form> for PathBuf {
        fn from(form: Form) -> Self {
            match form {
                Form::Text(text) => text.into(),
                Form::Bytes(bytes) => OsString::from_vec(bytes).into(),
            }
        }
    }

    pub(in super::super) fn serialize<S: serde::Serializer>(
        path: &Path,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        Form::from(path).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<PathBuf, D::Error> {
        Form::deserialize(from).map(Into::into)
    }
}

mod paths {
    use super::path::Form;
    use super::{Deserialize, PathBuf, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(
        all: &[PathBuf],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let forms: Vec<Form> = all.iter().map(|p| p.as_path().into()).collect();
        forms.serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let forms = Vec::<Form>::deserialize(from)?;
        Ok(forms.into_iter().map(Into::into).collect())
    }
}

mod optional_path {
    use super::path::Form;
    use super::{Deserialize, PathBuf, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Form::from).serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Form>::deserialize(from)?.map(Into::into))
    }
}

mod bytes {
    use super::{Deserialize, Serialize};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        STANDARD.encode(bytes).serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_spec_survives_the_wire() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/a\xff,:\\b"));
        let root = RootSpec::Overlay {
            lower: vec!["/l".into(), odd.clone()],
            upper: odd.clone(),
            work: "/w".into(),
        };
        let mut spec = RunSpec::new(root, ["sh", "-c", "true"]);
        let file = MountKind::File {
            content: b"\0\xffs".into(),
            mode: 0o400,
            uid: 1,
            gid: 2,
        };
        spec.mounts = vec![
            Mount {
                target: odd,
                kind: file,
            },
            Mount {
                target: "/x".into(),
                kind: MountKind::Bind {
                    source: "/s".into(),
                    subpath: Some("y".into()),
                    read_only: true,
                },
            },
        ];
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<RunSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn capabilities_have_names() {
        let mut set = Capabilities::default();
        assert_eq!(set.mask(), 0xa80425fb);
        set.drop("cap_net_raw").unwrap();
        set.add("SYS_PTRACE").unwrap();
        assert_eq!(set.mask(), 0xa80425fb - (1 << 13) + (1 << 19));
        set.drop("ALL").unwrap();
        assert_eq!(set, Capabilities::none());
        assert!(set.add("CAP_FLY").is_err());
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let spec = |change: fn(&mut RunSpec)| {
            let mut spec = RunSpec::new(
                RootSpec::Dir {
                    dir: "/r".into(),
                    work: "/w".into(),
                },
                ["true"],
            );
            change(&mut spec);
            spec.check()
        };
        assert_eq!(spec(|_| {}), Ok(()));
        assert_eq!(spec(|s| s.args.clear()), Err(SpecError::NoCommand));
        assert!(spec(|s| s.env.push("a=\0".into())).is_err());
        assert!(spec(|s| s.cwd = "x".into()).is_err());
        for (target, good) in [
            ("/a/b", true),
            ("/dev/shm", true),
            ("/dev/shm/x", true),
            ("/procx", true),
            ("/", false),
            ("//.", false),
            ("a", false),
            ("/a/../b", false),
            ("/proc/self/attr", false),
            ("/./proc", false),
            ("/sys", false),
            ("/dev", false),
            ("/dev/null", false),
        ] {
            assert_eq!(check_target(Path::new(target)).is_ok(), good, "{target}");
        }
    }
}
