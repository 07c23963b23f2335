//! The ways to isolate a process, and which of them work here.
//!
//! They are the rungs of a ladder, strongest first. Whether one works is found
//! out by doing what it needs, in a child process, and never from the user's
//! id or the kernel's version: a container's seccomp profile, a policy or a
//! sysctl decides, and none of them can be asked.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::namespace::{Keepers, Probed};
use super::protocol::Method;
use super::userns::Mapped;
use super::{Executor, RunError};

/// A way to isolate a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// The strongest that works here.
    #[default]
    Auto,
    /// Linux namespaces and an own root filesystem.
    Namespaces,
    /// A changed root, for root where no mount can be made.
    Chroot,
    /// The `proot` program, for users without any privilege.
    Proot,
    /// An OCI runtime.
    Oci,
}

/// Those that [`Isolation::Auto`] tries, in this order.
const LADDER: [Isolation; 3] = [Isolation::Namespaces, Isolation::Chroot, Isolation::Proot];

impl Isolation {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Namespaces => "namespaces",
            Self::Chroot => "chroot",
            Self::Proot => "proot",
            Self::Oci => "oci",
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(name: &str) -> Result<Self, IsolationError> {
        match name {
            "" | "auto" | "default" => Ok(Self::Auto),
            // Buildah's name for namespaces of a plain user.
            "namespaces" | "rootless" => Ok(Self::Namespaces),
            "chroot" => Ok(Self::Chroot),
            "proot" => Ok(Self::Proot),
            "oci" => Ok(Self::Oci),
            _ => Err(IsolationError::Unknown(name.into())),
        }
    }
}

/// What a root filesystem is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    /// [`RootSpec::Overlay`](super::RootSpec::Overlay): nothing is copied.
    Overlay,
    /// [`RootSpec::Dir`](super::RootSpec::Dir): one plain tree.
    Directory,
}

/// Where an isolation is to work.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The shiplap program, whose `main` begins with
    /// [`child_main`](super::child_main); a copy of it is kept in memory.
    pub program: &'a Path,
    /// A directory on the file system of the root filesystems, to try things
    /// in.
    pub scratch: &'a Path,
    /// The kind of root to use; `None` is the better one that works.
    pub root: Option<RootKind>,
    /// The runtime of [`Isolation::Oci`].
    pub runtime: Option<&'a Path>,
}

/// Why an isolation does not work here, and what would make it work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What was tried and how it failed.
    pub reason: String,
    /// What would enable it.
    pub remedy: String,
}

/// Why there is no isolation of the kind asked for.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// No such kind.
    #[error("there is no isolation named {0:?}; known are auto, namespaces, chroot, proot and oci")]
    Unknown(String),
    /// It does not work here.
    #[error("a process cannot be isolated with {name} here")]
    Refused {
        /// The kind that was tried.
        name: &'static str,
        /// What was refused.
        source: Refusal,
    },
    /// None works here.
    #[error("a process cannot be isolated here: {}", tried(.0))]
    Nothing(Vec<(Isolation, Refusal)>),
}

fn tried(all: &[(Isolation, Refusal)]) -> String {
    let each = all.iter().map(|(rung, why)| format!("{rung}: {why}"));
    each.collect::<Vec<_>>().join("; ")
}

/// Finds an executor by trying.
///
/// # Errors
/// [`IsolationError::Refused`] when the kernel or a filter refuses what the
/// isolation needs, [`IsolationError::Nothing`] when that is so for all.
pub fn executor(
    isolation: Isolation,
    place: &Place<'_>,
) -> Result<Arc<dyn Executor>, IsolationError> {
    if isolation != Isolation::Auto {
        return rung(isolation, place).map_err(|source| IsolationError::Refused {
            name: isolation.name(),
            source,
        });
    }
    let mut refused = Vec::new();
    for isolation in LADDER {
        match rung(isolation, place) {
            Ok(executor) => return Ok(executor),
            Err(why) => refused.push((isolation, why)),
        }
    }
    Err(IsolationError::Nothing(refused))
}

/// Tries one rung.
fn rung(isolation: Isolation, place: &Place<'_>) -> Result<Arc<dyn Executor>, Refusal> {
    match isolation {
        Isolation::Auto | Isolation::Namespaces => {
            let (keepers, probed) = try_namespaces(place, false)?;
            let root = match (place.root, probed.no_overlay) {
                (Some(RootKind::Directory), _) => RootKind::Directory,
                (_, None) => RootKind::Overlay,
                (None, Some(_)) => RootKind::Directory,
                (Some(RootKind::Overlay), Some(why)) => return Err(no_overlay(why)),
            };
            Ok(Arc::new(keepers.with_root(root)))
        }
        Isolation::Chroot => Ok(Arc::new(hide(try_chroot(place)?))),
        Isolation::Proot => Ok(Arc::new(hide(try_proot(place)?))),
        Isolation::Oci => try_oci(place),
    }
}

/// The runtime itself is tried by the first run.
fn try_oci(place: &Place<'_>) -> Result<Arc<dyn Executor>, Refusal> {
    let Some(runtime) = place.runtime else {
        return Err(Refusal {
            reason: "no OCI runtime is installed".into(),
            remedy: "install runc or crun, or name one with --runtime".into(),
        });
    };
    let (_, probed) = try_namespaces(place, false)?;
    let root = match (place.root, probed.no_overlay) {
        (Some(RootKind::Directory), _) | (None, Some(_)) => RootKind::Directory,
        (_, None) => RootKind::Overlay,
        (Some(RootKind::Overlay), Some(why)) => return Err(no_overlay(why)),
    };
    let runtime = runtime.to_owned();
    let keepers = Keepers::new(place.program, Method::Oci { runtime });
    let keepers = keepers.map_err(|e| refused(&e, ""))?;
    Ok(Arc::new(keepers.with_root(root)))
}

fn no_overlay(why: String) -> Refusal {
    Refusal {
        reason: format!("an overlay can't be used for root filesystems: {why}"),
        remedy: "a store on a file system that overlayfs can write to, such as ext4 or xfs \
                 (--root DIR), or --snapshot=directory"
            .into(),
    }
}

/// Processes that share the process tree with this one must not look into it.
fn hide(keepers: Keepers) -> Keepers {
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    // Landlock forbids it as well.
    let _ = rustix::process::set_dumpable_behavior(hidden);
    keepers
}

fn refused(error: &RunError, remedy: &str) -> Refusal {
    use std::error::Error;
    let reason = match (error, error.source()) {
        (RunError::Setup { what, source }, _) => format!("{what}: {source}"),
        (_, Some(cause)) => format!("{error}: {cause}"),
        (_, None) => error.to_string(),
    };
    Refusal {
        reason,
        remedy: remedy.into(),
    }
}

fn try_namespaces(place: &Place<'_>, user_namespace: bool) -> Result<(Keepers, Probed), Refusal> {
    let remedy = match user_namespace {
        false => "root with CAP_SYS_ADMIN, as on a host or in a privileged container",
        true => {
            "leave to make user namespaces: a seccomp profile that allows unshare and mount \
             (Docker: --security-opt seccomp=unconfined; Kubernetes: seccompProfile Unconfined), \
             and the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns"
        }
    };
    let refuse = |e: RunError| refused(&e, remedy);
    let keepers = Keepers::new(place.program, Method::Namespaces).map_err(refuse)?;
    let probed = keepers
        .probe(place.scratch, user_namespace)
        .map_err(refuse)?;
    Ok((keepers, probed))
}

fn directory_only(place: &Place<'_>) -> Result<(), Refusal> {
    match place.root {
        Some(RootKind::Overlay) => Err(no_overlay("nothing can be mounted".into())),
        Some(RootKind::Directory) | None => Ok(()),
    }
}

fn try_chroot(place: &Place<'_>) -> Result<Keepers, Refusal> {
    directory_only(place)?;
    let remedy = "root with CAP_SYS_CHROOT and CAP_CHOWN, as in a container of Docker's";
    let refuse = |e: RunError| refused(&e, remedy);
    let keepers = Keepers::new(place.program, Method::Chroot).map_err(refuse)?;
    keepers.probe(place.scratch, false).map_err(refuse)?;
    Ok(keepers)
}

fn try_proot(place: &Place<'_>) -> Result<Keepers, Refusal> {
    directory_only(place)?;
    let program = super::proot::find()?;
    Keepers::new(place.program, Method::Proot { program }).map_err(|e| refused(&e, ""))
}

/// What trying one way to isolate came to.
#[derive(Debug, Clone)]
pub struct Rung {
    /// The rung.
    pub isolation: Isolation,
    /// In which of its forms.
    pub form: &'static str,
    /// What it is like here, or why it does not work.
    pub outcome: Result<String, Refusal>,
}

/// Tries everything, strongest first. Nothing is entered or chosen by it.
pub fn survey(place: &Place<'_>) -> Vec<Rung> {
    let root = |probed: &Probed| match &probed.no_overlay {
        None => "overlay roots".to_owned(),
        Some(why) => format!("directory roots ({why})"),
    };
    let ids = |probed: &Probed| match probed.mapped {
        Some(Mapped::All) => ", all ids",
        Some(Mapped::Ranges) => ", ids of /etc/subuid and /etc/subgid",
        Some(Mapped::Single) => {
            ", one id: other owners are not kept (for more: newuidmap and newgidmap, \
             and a range in /etc/subuid and /etc/subgid)"
        }
        None => "",
    };
    let namespaces = |user| {
        let tried = try_namespaces(place, user);
        tried.map(|(_, probed)| format!("{}{}", root(&probed), ids(&probed)))
    };
    let landlock = || match crate::sys::landlock::version() {
        Some(6..) => "directory roots, Landlock",
        Some(_) => "directory roots, Landlock without signals (before Linux 6.12)",
        None => "directory roots, without Landlock",
    };
    vec![
        Rung {
            isolation: Isolation::Namespaces,
            form: "as this user",
            outcome: namespaces(false),
        },
        Rung {
            isolation: Isolation::Namespaces,
            form: "in a user namespace",
            outcome: namespaces(true),
        },
        Rung {
            isolation: Isolation::Chroot,
            form: "",
            outcome: try_chroot(place).map(|_| landlock().to_owned()),
        },
        Rung {
            isolation: Isolation::Proot,
            form: "",
            outcome: try_proot(place).map(|_| landlock().to_owned()),
        },
        Rung {
            isolation: Isolation::Oci,
            form: "",
            outcome: try_oci(place).map(|_| {
                let runtime = place.runtime.unwrap_or(Path::new(""));
                format!("by way of {}", runtime.display())
            }),
        },
    ]
}
