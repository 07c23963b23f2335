//! The names by which a layer says that something is gone.
//!
//! Pure: names in, meaning out. How a removal looks on disk is
//! [`unpack`](super::unpack)'s business.
//!
//! # Specification
//! image-spec `layer.md#whiteouts`. The names that AUFS left in old layers
//! (`.wh..wh.aufs`, `.wh..wh.orph`, `.wh..wh.plnk`) mean nothing and are
//! skipped, with all below them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a whiteout's name begins with.
pub const PREFIX: &[u8] = b".wh.";
/// The name of the entry that makes its directory opaque.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];

/// What a path in a layer stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// An entry of that name.
    Plain,
    /// The path, which is not in this layer, is gone.
    Whiteout(PathBuf),
    /// What lower layers have in this directory is gone.
    Opaque(PathBuf),
    /// A leftover of AUFS, to be skipped.
    Ignored,
}

/// Reads `path`, which is relative and has neither `.` nor `..` in it.
///
/// # Errors
/// A reason, when the name is reserved for whiteouts but is none.
pub fn classify(path: &Path) -> Result<Meaning, &'static str> {
    let mut components = path.components().map(|c| c.as_os_str().as_bytes());
    if components.clone().any(|c| AUFS.contains(&c)) {
        return Ok(Meaning::Ignored);
    }
    let Some(name) = components.next_back() else {
        return Ok(Meaning::Plain);
    };
    if components.any(|c| c.starts_with(PREFIX)) {
        return Err("a directory in it has a name that only whiteouts have");
    }
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return Ok(Meaning::Plain);
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    if name == OPAQUE {
        return Ok(Meaning::Opaque(parent.to_owned()));
    }
    match rest {
        b"" => Err("the whiteout names nothing"),
        b"." | b".." => Err("the whiteout names a directory above it"),
        _ if rest.starts_with(PREFIX) => Err("the whiteout names a whiteout"),
        _ => Ok(Meaning::Whiteout(parent.join(OsStr::from_bytes(rest)))),
    }
}

/// Whether any component of `path` is reserved for whiteouts, so that no
/// layer can hold an entry of that name.
pub fn is_reserved(path: &Path) -> bool {
    path.components()
        .any(|c| c.as_os_str().as_bytes().starts_with(PREFIX))
}

/// The name in a layer that says `path` is gone; `None` for the root.
pub fn whiteout_name(path: &Path) -> Option<PathBuf> {
    let mut name = PREFIX.to_vec();
    name.extend_from_slice(path.file_name()?.as_bytes());
    Some(path.with_file_name(OsString::from_vec(name)))
}

/// The name in a layer that makes the directory `path` opaque.
pub fn opaque_name(path: &Path) -> PathBuf {
    path.join(OsStr::from_bytes(OPAQUE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_meaning() {
        let white = |p: &str| Ok(Meaning::Whiteout(p.into()));
        let opaque = |p: &str| Ok(Meaning::Opaque(p.into()));
        for (path, meaning) in [
            ("", Ok(Meaning::Plain)),
            ("a/b", Ok(Meaning::Plain)),
            ("a.wh.b", Ok(Meaning::Plain)),
            (".whx", Ok(Meaning::Plain)),
            (".wh.a", white("a")),
            ("d/.wh.a", white("d/a")),
            (".wh..hidden", white(".hidden")),
            (".wh....", white("...")),
            (".wh..wh..opq", opaque("")),
            ("d/e/.wh..wh..opq", opaque("d/e")),
            (".wh..wh.plnk/12.3", Ok(Meaning::Ignored)),
            (".wh..wh.aufs", Ok(Meaning::Ignored)),
        ] {
            assert_eq!(classify(Path::new(path)), meaning, "{path}");
        }
        for bad in [
            ".wh.",
            "a/.wh.",
            ".wh..",
            ".wh...",
            ".wh.a/b",
            "x/.wh./y",
            ".wh..wh.x",
        ] {
            assert!(classify(Path::new(bad)).is_err(), "{bad}");
            assert!(is_reserved(Path::new(bad)), "{bad}");
        }
    }

    #[test]
    fn names_lead_back() {
        for path in ["a", "d/a", "d/.x"] {
            let name = whiteout_name(Path::new(path)).unwrap();
            assert_eq!(classify(&name), Ok(Meaning::Whiteout(path.into())));
            let name = opaque_name(Path::new(path));
            assert_eq!(classify(&name), Ok(Meaning::Opaque(path.into())));
        }
        assert_eq!(whiteout_name(Path::new("")), None);
    }
}
