//! The ways to isolate a process, and which of them work here.
//!
//! They are the rungs of a ladder, strongest first. Whether one works is found
//! out by doing what it needs, in a child process, and never from the user's
//! id or the kernel's version: a container's seccomp profile, a policy or a
//! sysctl decides, and none of them can be asked.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::Executor;
use super::namespace::Namespaces;

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
        Isolation::Auto | Isolation::Namespaces => Ok(Arc::new(Namespaces::new(place)?)),
        Isolation::Chroot | Isolation::Proot | Isolation::Oci => Err(Refusal {
            reason: format!("{isolation} is not there"),
            remedy: String::new(),
        }),
    }
}
