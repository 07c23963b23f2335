//! Why files can't be copied to where they should go.

use std::io;
use std::path::{Path, PathBuf};

/// Why a copy can't be planned. Paths are those in the image.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Several sources need a directory to go to.
    #[error("with more than one source the destination {0:?} must be a directory and end with a /")]
    NeedsDirectory(String),
    /// A file would replace a directory.
    #[error("cannot copy a file onto the directory {:?}", in_image(.0))]
    FileOntoDirectory(PathBuf),
    /// A directory would replace something else.
    #[error("cannot copy a directory onto {:?}, which is not a directory", in_image(.0))]
    DirectoryOntoFile(PathBuf),
    /// Something on the way to the destination is no directory.
    #[error(
        "cannot create {:?}: {:?} is not a directory",
        in_image(path),
        in_image(blocker)
    )]
    NotADirectory {
        /// What was to be made.
        path: PathBuf,
        /// What is in the way.
        blocker: PathBuf,
    },
    /// Links that lead in a circle, or too many of them.
    #[error("too many symbolic links on the way to {:?}", in_image(.0))]
    TooManyLinks(PathBuf),
    /// The name of an inline or downloaded file is no file name.
    #[error("{0:?} can't be the name of a file")]
    BadName(String),
    /// What waits for its turn can't be put aside, or had back.
    #[error("storing what is copied to {:?}", in_image(path))]
    Waiting {
        /// Where it goes, or a directory above that.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The destination's tree can't be read.
    #[error("reading {:?} at the destination", in_image(path))]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A path as steps in the image see it.
fn in_image(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}
