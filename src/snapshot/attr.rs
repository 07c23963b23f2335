//! From what the system says of an entry to kinds, metadata and markers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::layer::{Kind, Meta, Mtime};

/// Extended attributes as they are, by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The device that stands for a removed entry.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(super) fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        xattrs: BTreeMap::new(),
    }
}

// The field types differ between architectures.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
pub(super) fn ctime(stat: &Stat) -> Mtime {
    Mtime {
        secs: stat.st_ctime as i64,
        nanos: stat.st_ctime_nsec as u32,
    }
}

// The field types differ between architectures.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
pub(super) fn mtime(stat: &Stat) -> Mtime {
    Mtime {
        secs: stat.st_mtime as i64,
        nanos: stat.st_mtime_nsec as u32,
    }
}

/// The kind of the entry `name` in `dir`; `None` for a socket.
pub(super) fn kind(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<Option<Kind>> {
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    Ok(Some(match file_type(stat) {
        FileType::RegularFile => Kind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
        FileType::Directory => Kind::Dir,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
            Kind::Symlink {
                target: OsStr::from_bytes(target.to_bytes()).into(),
            }
        }
        FileType::CharacterDevice => Kind::Char { major, minor },
        FileType::BlockDevice => Kind::Block { major, minor },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket | FileType::Unknown => return Ok(None),
    }))
}

/// All extended attributes of `name` in `dir`, of `dir` itself for an empty
/// name; a link is not followed.
pub(super) fn xattrs(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Xattrs> {
    crate::sys::xattr::xattrs_at(dir, name)
}

const OVERLAY_PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// What the attribute `suffix` of overlayfs says, in either of its forms.
pub(super) fn overlay_attr<'a>(xattrs: &'a Xattrs, suffix: &str) -> Option<&'a [u8]> {
    OVERLAY_PREFIXES.iter().find_map(|prefix| {
        let name = [prefix, suffix.as_bytes()].concat();
        xattrs.get(&name).map(Vec::as_slice)
    })
}

/// Whether an attribute is part of an image's content: not what overlayfs or
/// the host's security modules keep for themselves.
pub(super) fn is_content(name: &[u8]) -> bool {
    const HOST: [&[u8]; 6] = [
        b"security.selinux",
        b"security.ima",
        b"security.evm",
        b"security.apparmor",
        b"security.SMACK64",
        b"system.nfs4_acl",
    ];
    !OVERLAY_PREFIXES.iter().any(|p| name.starts_with(p))
        && !HOST.contains(&name)
        && !name.starts_with(b"btrfs.")
}

/// How a directory of a layer relates to what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DirMarks {
    /// It hides what lower layers have.
    pub(super) opaque: bool,
    /// Some of its files may be whiteouts by attribute.
    pub(super) xattr_whiteouts: bool,
}

/// The marks of an open directory.
pub(super) fn dir_marks(dir: BorrowedFd<'_>) -> io::Result<DirMarks> {
    let mut marks = DirMarks::default();
    for name in [c"trusted.overlay.opaque", c"user.overlay.opaque"] {
        let mut value = [0; 4];
        match rustix::fs::fgetxattr(dir, name, &mut value[..]) {
            Ok(1) if value[0] == b'y' => marks.opaque = true,
            Ok(1) if value[0] == b'x' => marks.xattr_whiteouts = true,
            // Without the right to see trusted attributes there are none.
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(marks)
}

/// Whether the entry is a whiteout by attribute; asked only in directories
/// that say so.
pub(super) fn is_xattr_whiteout(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
) -> io::Result<bool> {
    Ok(file_type(stat) == FileType::RegularFile
        && stat.st_size == 0
        && overlay_attr(&xattrs(dir, name)?, "whiteout").is_some())
}
