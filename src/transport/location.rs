//! Naming a place: `docker://…`, `oci:…`, and so on. Pure.

use std::fmt;
use std::path::PathBuf;

use crate::reference::{Reference, ReferenceError};

/// Where an image is, or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `docker://REFERENCE`: a registry.
    Registry(Reference),
    /// A bare name: the local store, then the registry.
    Name(String),
    /// `oci:DIR[:NAME]`: an OCI layout directory.
    Oci {
        /// The directory.
        path: PathBuf,
        /// The image in it.
        name: Option<String>,
    },
    /// `oci-archive:FILE[:NAME]`: an OCI layout in a tar.
    OciArchive {
        /// The file; `-` is standard output.
        path: PathBuf,
        /// The image in it.
        name: Option<String>,
    },
    /// `docker-archive:FILE[:REFERENCE]`: what `docker save` writes.
    DockerArchive {
        /// The file; `-` is standard output.
        path: PathBuf,
        /// The image in it.
        name: Option<String>,
    },
    /// `dir:DIR`: manifest and blobs as plain files, as skopeo has it.
    Dir(PathBuf),
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// A reference is wrong.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// There is no path.
    #[error("{0:?} names no file or directory")]
    NoPath(String),
    /// A transport that does not exist here.
    #[error(
        "{0:?} is no transport; use docker://, oci:, oci-archive:, docker-archive:, dir:, or a plain name"
    )]
    Transport(String),
    /// The name in a layout has characters that it can't have.
    #[error("{0:?} is no name for an image in a layout")]
    Name(String),
}

impl Location {
    /// Reads a place.
    ///
    /// # Errors
    /// When it is empty or malformed.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if let Some(reference) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(Reference::parse(reference)?));
        }
        if let Some((transport, rest)) = text.split_once("://") {
            let _ = rest;
            return Err(LocationError::Transport(cut(transport)));
        }
        let Some((transport, rest)) = text.split_once(':') else {
            return Self::bare(text);
        };
        match transport {
            "oci" => {
                let (path, name) = path_and_name(rest)?;
                Ok(Self::Oci {
                    path,
                    name: layout_name(name)?,
                })
            }
            "oci-archive" => {
                let (path, name) = path_and_name(rest)?;
                Ok(Self::OciArchive {
                    path,
                    name: layout_name(name)?,
                })
            }
            "docker-archive" => {
                let (path, name) = path_and_name(rest)?;
                if let Some(name) = &name
                    && !name.starts_with('@')
                {
                    Reference::parse(name)?;
                }
                Ok(Self::DockerArchive { path, name })
            }
            "dir" if rest.is_empty() => Err(LocationError::NoPath(cut(text))),
            "dir" => Ok(Self::Dir(PathBuf::from(rest))),
            "docker-daemon" | "containers-storage" | "ostree" | "tarball" | "sif" => {
                Err(LocationError::Transport(cut(transport)))
            }
            _ => Self::bare(text),
        }
    }

    fn bare(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(Reference::parse(text).map(|_| LocationError::NoPath(String::new()))?);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

fn path_and_name(rest: &str) -> Result<(PathBuf, Option<String>), LocationError> {
    let (path, name) = match rest.split_once(':') {
        Some((path, name)) => (path, Some(name)),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(LocationError::NoPath(cut(rest)));
    }
    let name = name.filter(|n| !n.is_empty()).map(str::to_owned);
    Ok((PathBuf::from(path), name))
}

fn layout_name(name: Option<String>) -> Result<Option<String>, LocationError> {
    match name {
        Some(name) if !is_layout_name(&name) => Err(LocationError::Name(cut(&name))),
        name => Ok(name),
    }
}

/// Names of images in a layout: visible ASCII without quotes or brackets.
pub(super) fn is_layout_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 512
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:@/+".contains(&b))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut with = |transport: &str, path: &PathBuf, name: &Option<String>| {
            write!(f, "{transport}:{}", path.display())?;
            match name {
                Some(name) => write!(f, ":{name}"),
                None => Ok(()),
            }
        };
        match self {
            Self::Oci { path, name } => with("oci", path, name),
            Self::OciArchive { path, name } => with("oci-archive", path, name),
            Self::DockerArchive { path, name } => with("docker-archive", path, name),
            Self::Dir(path) => with("dir", path, &None),
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}
