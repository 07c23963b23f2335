//! Runs one process in isolation.
//!
//! A [`RunSpec`] says what to run; an [`Executor`] runs it and reports output
//! as it comes. When [`Executor::run`] returns, however it ended, no process
//! and no mount of the run is left, and the root filesystem holds the
//! process's own changes only: mount points that had to be made are gone.
//!
//! # Who does what
//! ```text
//! shiplap (threads) ──spawns──▶ keeper ──forks──▶ first process ──exec──▶ command
//!   namespace.rs      sealed    init.rs           enter.rs, rootfs.rs
//!                     copy of   new PID, IPC,     new mount namespace: overlay,
//!                     itself    UTS, cgroup       /proc, /sys, /dev, pivot_root,
//!                               namespaces        capabilities, seccomp
//! ```
//! One socket joins the three. The request goes in by it; failures, mount
//! points to remove and the exit status come back. Its end in the keeper's
//! hand doubles as a lifeline: when shiplap is gone, or asks for an end, the
//! keeper kills the first process, and with it the kernel kills everything in
//! the PID namespace. The first process dies with the keeper as well.
//!
//! Output comes by pipes, input goes by one, and shiplap carries the bytes
//! ([`Io`]). For a terminal the first process makes one inside of the container
//! and sends its other end through the socket; an OCI runtime gets one of the
//! host's and makes its own inside. After the request the socket also takes
//! signals, which the keeper passes on.
//!
//! Where there are no namespaces the keeper runs [`chroot`] instead of what is
//! on the right: with it or `proot` the process gets another view of the files,
//! and what would be mounted is put into the tree ([`placed`]) by the keeper,
//! which also ends all descendants of the process. [`isolation`] finds out by
//! trying which of these ways works.
//!
//! This module does not know what a Dockerfile, an image or a cache is.
//!
//! # Specification
//! The view inside follows the OCI runtime-spec's `config-linux.md` (default
//! filesystems and devices) with Docker's default capabilities and masks.

mod bundle;
mod capabilities;
mod cgroup;
mod chroot;
mod descendants;
mod devices;
pub mod emulation;
mod enter;
mod init;
mod isolation;
mod namespace;
mod network;
mod oci;
mod output;
mod overlay;
mod placed;
mod profile;
mod proot;
mod protocol;
mod relay;
mod rootfs;
mod seccomp;
mod signals;
mod spec;
mod streams;
mod stub;
mod userns;

use std::path::PathBuf;

pub use bundle::{Owner, bundle_config};
pub use capabilities::Capabilities;
pub use cgroup::{Limits, Most};
pub use init::child_main;
pub use isolation::{Isolation, IsolationError, Place, Refusal, RootKind, Rung, executor, survey};
pub use network::private_resolv_conf;
pub use overlay::mount_layers;
pub use profile::{Profile, ProfileError};
pub use spec::{
    Confinement, Device, Helper, Labels, MOST_LAYERS, Mount, MountKind, Network, Resource,
    RootSpec, RunSpec, Seccomp, SpecError, Ulimit, UserIds,
};
pub use streams::{Io, Streams};
pub use userns::{Mapped, UserNamespaceError, can_mount, enter_user_namespace};

use crate::event::Cancel;

/// Runs processes in isolation.
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// Which rung it is; never [`Isolation::Auto`].
    fn isolation(&self) -> Isolation;

    /// The kind of root filesystem that [`run`](Self::run) takes.
    fn root(&self) -> RootKind;

    /// Whether [`RunSpec::mounts`] are mounted. Where they are not, they are
    /// put into the tree and taken away again: a [`MountKind::Bind`] of a
    /// directory is moved there and back, so nobody else may use it meanwhile,
    /// and [`MountKind::Overlay`] is refused.
    fn mounts(&self) -> bool;

    /// Runs `spec` to its end, its standard streams being `io`.
    ///
    /// # Errors
    /// When the process could not be started, or `cancel` was set and it was
    /// killed. A process that fails is no error but an [`Exit`].
    fn run(&self, spec: &RunSpec, io: Io<'_>, cancel: &Cancel) -> Result<Exit, RunError>;
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exit {
    /// Its exit code, when it exited by itself.
    pub code: Option<i32>,
    /// The signal that killed it, otherwise.
    pub signal: Option<i32>,
    /// User and system time of it and the children it waited for.
    pub cpu_seconds: f64,
    /// The largest resident set among those processes.
    pub peak_memory_bytes: u64,
    /// Whether the limit on memory had one of its processes killed.
    pub out_of_memory: bool,
}

impl Exit {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The exit code as a shell gives it: 128 and the signal's number for a
    /// process that was killed.
    pub fn status(&self) -> i32 {
        self.code.unwrap_or_else(|| 128 + self.signal.unwrap_or(0))
    }
}

/// Why nothing ran, or why it did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The container's processes could not be started.
    #[error("cannot start a container: {what}")]
    Start {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The container could not be set up.
    #[error("cannot set the container up: {what}")]
    Setup {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The root filesystem has something in the way.
    #[error("the root filesystem cannot be used: {} {reason}", path.display())]
    Root {
        /// Path in the root filesystem.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that was asked for and that this isolation has not.
    #[error("this isolation has no {what}")]
    Unavailable {
        /// What it lacks.
        what: String,
    },
    /// The command does not exist.
    #[error("command not found: {name}: {reason}")]
    NotFound {
        /// The command.
        name: String,
        /// Where it was looked for, or what it lacks.
        reason: String,
    },
    /// The command cannot be executed.
    #[error("cannot execute {name}: {reason}")]
    NotExecutable {
        /// The command.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The OCI runtime complained.
    #[error("{name} says: {message}")]
    Runtime {
        /// The runtime.
        name: String,
        /// Its last word.
        message: String,
    },
    /// The container's keeper ended without a word, for example killed by
    /// somebody else.
    #[error("the container's keeper was killed; nothing of the container is left")]
    Lost,
    /// It was asked to stop.
    #[error("cancelled")]
    Cancelled,
}
