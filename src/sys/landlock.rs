//! Landlock: a process gives up access to files, for good and for all of its
//! children.
//!
//! # Specification
//! The kernel's `Documentation/userspace-api/landlock.rst`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// The same numbers on every architecture.
const CREATE_RULESET: libc::c_long = 444;
const ADD_RULE: libc::c_long = 445;
const RESTRICT_SELF: libc::c_long = 446;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: libc::c_uint = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_int = 1;

/// Rights on files of the first version: all from execute to make_sym.
const RIGHTS: u64 = (1 << 13) - 1;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// Those that a rule for something else than a directory may give.
const FILE_RIGHTS: u64 = 0b111 | TRUNCATE | IOCTL_DEV;
/// Execute, read a file, read a directory.
const READ: u64 = 0b1101;
/// Abstract sockets of others are out of reach.
const ABSTRACT_SOCKETS: u64 = 0b01;
/// And so are others for signals.
const SCOPES: u64 = 0b11;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The version of the interface; `None` where the kernel has no Landlock, or
/// it is switched off or refused.
pub fn version() -> Option<u32> {
    // SAFETY: a null attribute of size 0 asks for the version only.
    let version =
        unsafe { libc::syscall(CREATE_RULESET, std::ptr::null::<RulesetAttr>(), 0, VERSION) };
    u32::try_from(version).ok().filter(|v| *v > 0)
}

/// What a process may go on using.
#[derive(Debug)]
pub struct Ruleset {
    fd: OwnedFd,
    rights: u64,
}

impl Ruleset {
    /// Allows nothing yet, as far as this kernel can refuse it.
    ///
    /// # Errors
    /// Where there is no Landlock.
    pub fn new() -> io::Result<Self> {
        let version = version().ok_or(io::ErrorKind::Unsupported)?;
        let mut rights = RIGHTS;
        for (since, right) in [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)] {
            if version >= since {
                rights |= right;
            }
        }
        let scopes = if version >= 6 { SCOPES } else { 0 };
        Self::create(version, rights, scopes)
    }

    /// Leaves everything but abstract sockets that processes outside listen at.
    ///
    /// # Errors
    /// Where Landlock has no scopes: before Linux 6.12.
    pub fn without_abstract_sockets() -> io::Result<Self> {
        let version = version().filter(|v| *v >= 6);
        let version = version.ok_or(io::ErrorKind::Unsupported)?;
        Self::create(version, 0, ABSTRACT_SOCKETS)
    }

    fn create(version: u32, rights: u64, scoped: u64) -> io::Result<Self> {
        let attr = RulesetAttr {
            handled_access_fs: rights,
            handled_access_net: 0,
            scoped,
        };
        let size = match version {
            ..4 => 8,
            4..6 => 16,
            6.. => size_of::<RulesetAttr>(),
        };
        // SAFETY: the kernel reads `size` bytes of a live structure.
        let fd = unsafe { libc::syscall(CREATE_RULESET, &raw const attr, size, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the descriptor is new, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, rights })
    }

    /// Allows everything in the directory `dir`, or reading and executing only.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow(&self, dir: BorrowedFd<'_>, write: bool) -> io::Result<()> {
        self.add(dir, if write { self.rights } else { READ })
    }

    /// Allows everything with the one file `file`, which is no directory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow_file(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.add(file, self.rights & FILE_RIGHTS)
    }

    /// Allows reading and executing the one file `file`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow_reading(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.add(file, READ & FILE_RIGHTS)
    }

    fn add(&self, fd: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
        let attr = PathBeneathAttr {
            allowed_access: rights & self.rights,
            parent_fd: fd.as_raw_fd(),
        };
        // SAFETY: the kernel reads a live structure of the type that the rule
        // type asks for.
        let done = unsafe {
            libc::syscall(
                ADD_RULE,
                self.fd.as_raw_fd(),
                PATH_BENEATH,
                &raw const attr,
                0,
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives up everything else. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restrict_self(&self) -> io::Result<()> {
        // SAFETY: integers only.
        match unsafe { libc::syscall(RESTRICT_SELF, self.fd.as_raw_fd(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
