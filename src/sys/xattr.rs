//! Extended attributes.
//!
//! Names are bytes without the trailing NUL. A file system without extended
//! attributes has none.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::fs::proc_fd;

/// A list of names or a value may have this many bytes.
const MAX_BYTES: usize = 1 << 20;
/// Enough for most, in bytes.
const BYTES: usize = 256;
/// System calls of Linux 6.13; the numbers are the same on every machine.
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;

/// All extended attributes of `name` in `dir`, of `dir` itself for an empty
/// name; a link is not followed.
///
/// # Errors
/// When there is no such entry, and when it may not be looked at.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    /// The kernel is older, or a filter keeps the calls from us.
    static MISSING: AtomicBool = AtomicBool::new(false);
    let name = match name.is_empty() {
        true => OsStr::new("."),
        false => name,
    };
    // By way of /proc it takes four times as long.
    if !MISSING.load(Ordering::Relaxed) {
        match directly(dir, name) {
            Err(Errno::NOSYS | Errno::PERM) => MISSING.store(true, Ordering::Relaxed),
            found => return Ok(found?),
        }
    }
    by_path(dir, name)
}

fn directly(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Found> {
    let entry = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
    all(
        |names| list_at(dir, &entry, names),
        |attribute, value| get_at(dir, &entry, attribute, value),
    )
}

fn by_path(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Found> {
    // The directory's name below /proc spares a descriptor for each entry.
    let path = proc_fd(dir).join(name);
    Ok(all(
        |names| rustix::fs::llistxattr(&path, names),
        |attribute, value| rustix::fs::lgetxattr(&path, attribute, value),
    )?)
}

/// All extended attributes of what is open, if only as a place.
///
/// # Errors
/// When it may not be looked at.
pub fn xattrs(fd: BorrowedFd<'_>) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // An O_PATH descriptor takes no xattr call; its /proc name does, and the
    // magic link leads to the very inode that is open, link or not.
    let path = proc_fd(fd);
    Ok(all(
        |names| rustix::fs::listxattr(&path, names),
        |attribute, value| rustix::fs::getxattr(&path, attribute, value),
    )?)
}

type Found = BTreeMap<Vec<u8>, Vec<u8>>;

fn all(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Found> {
    let names = match whole(list) {
        Err(Errno::OPNOTSUPP) => return Ok(Found::new()),
        names => names?,
    };
    let mut found = Found::new();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        match whole(|value| get(name, value)) {
            // Gone since it was listed.
            Err(Errno::NODATA) => {}
            value => drop(found.insert(name.to_bytes().to_vec(), value?)),
        }
    }
    Ok(found)
}

/// What `read` writes, into a place that is large enough for it.
fn whole(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = [0; BYTES];
    match read(&mut bytes) {
        Ok(n) => return Ok(bytes[..n].to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    let mut bytes = vec![0; MAX_BYTES];
    let n = read(&mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

fn list_at(dir: BorrowedFd<'_>, entry: &CStr, names: &mut [u8]) -> rustix::io::Result<usize> {
    // SAFETY: the name and the place for the answer live until the call ends,
    // and no more than the place's size is written.
    let n = unsafe {
        libc::syscall(
            LISTXATTRAT,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            names.as_mut_ptr(),
            names.len(),
        )
    };
    written(n)
}

/// What `getxattrat` is given: `struct xattr_args`.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

fn get_at(
    dir: BorrowedFd<'_>,
    entry: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> rustix::io::Result<usize> {
    let mut args = XattrArgs {
        value: value.as_mut_ptr() as u64,
        size: u32::try_from(value.len()).map_err(|_| Errno::INVAL)?,
        flags: 0,
    };
    // SAFETY: the names, the arguments and the place that they point to live
    // until the call ends, and no more than the place's size is written.
    let n = unsafe {
        libc::syscall(
            GETXATTRAT,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw mut args,
            size_of::<XattrArgs>(),
        )
    };
    written(n)
}

fn written(n: libc::c_long) -> rustix::io::Result<usize> {
    usize::try_from(n)
        .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use rustix::fs::XattrFlags;

    use super::*;

    #[test]
    fn each_way_finds_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("none"), "").unwrap();
        std::fs::write(path("some"), "").unwrap();
        symlink("some", path("link")).unwrap();
        let long = vec![b'v'; 3000];
        let mut wanted = Found::new();
        for n in 0..10 {
            let name = format!("user.a-long-name-of-an-attribute-{n}");
            let value = &long[..n * 300];
            match rustix::fs::setxattr(path("some"), &name, value, XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP | Errno::NOSPC) => break,
                set => set.unwrap(),
            }
            wanted.insert(name.into_bytes(), value.to_vec());
        }
        if wanted.is_empty() {
            eprintln!("only that there are no attributes is tested: there are none here");
        }
        let dir = std::fs::File::open(temp.path()).unwrap();
        for (name, wanted) in [
            ("none", &Found::new()),
            ("link", &Found::new()),
            ("some", &wanted),
        ] {
            let own = |found: Found| -> Found {
                found
                    .into_iter()
                    .filter(|(name, _)| name.starts_with(b"user."))
                    .collect()
            };
            let name = OsStr::new(name);
            assert_eq!(&own(xattrs_at(dir.as_fd(), name).unwrap()), wanted);
            assert_eq!(&own(by_path(dir.as_fd(), name).unwrap()), wanted);
            match directly(dir.as_fd(), name) {
                Err(Errno::NOSYS | Errno::PERM) => eprintln!("no listxattrat here: not tested"),
                found => assert_eq!(&own(found.unwrap()), wanted),
            }
        }
        let file = std::fs::File::open(path("some")).unwrap();
        assert!(
            wanted
                .iter()
                .all(|own| xattrs(file.as_fd()).unwrap().get(own.0) == Some(own.1))
        );
        assert!(xattrs_at(dir.as_fd(), OsStr::new("")).is_ok());
        let missing = xattrs_at(dir.as_fd(), OsStr::new("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
