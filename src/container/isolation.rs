//! The ways to isolate a process, and which of them work here.

use std::path::Path;
use std::str::FromStr;

use super::namespace::Namespaces;
use super::{Executor, RunError};

/// A way to isolate a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// The strongest that works here.
    #[default]
    Auto,
    /// Linux namespaces and an own root filesystem.
    Namespaces,
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(name: &str) -> Result<Self, IsolationError> {
        match name {
            "auto" | "default" => Ok(Self::Auto),
            "namespaces" => Ok(Self::Namespaces),
            _ => Err(IsolationError::Unknown(name.into())),
        }
    }
}

/// Why there is no isolation of the kind asked for.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// No such kind.
    #[error("there is no isolation named {0:?}; known are auto and namespaces")]
    Unknown(String),
    /// It does not work here.
    #[error("a process cannot be isolated with {name} here")]
    Refused {
        /// The kind that was tried.
        name: &'static str,
        /// What was refused.
        source: RunError,
    },
}

/// Finds an executor by trying. `program` is the shiplap program, whose
/// `main` begins with [`child_main`](super::child_main); a copy of it is kept
/// in memory.
///
/// # Errors
/// [`IsolationError::Refused`] when the kernel or a filter refuses what the
/// isolation needs.
pub fn executor(isolation: Isolation, program: &Path) -> Result<Box<dyn Executor>, IsolationError> {
    match isolation {
        Isolation::Auto | Isolation::Namespaces => {
            let name = "namespaces";
            let refused = |source| IsolationError::Refused { name, source };
            let executor = Namespaces::new(program).map_err(refused)?;
            executor.probe().map_err(refused)?;
            Ok(Box::new(executor))
        }
    }
}
