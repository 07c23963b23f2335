//! Terminals that programs make: two ends, one of which behaves like a
//! keyboard and a screen.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// A new terminal: the end of who shows it, and the end of who runs in it. It
/// is one of the file system that `/dev/ptmx` belongs to, and the caller's
/// controlling terminal is another one still.
///
/// # Errors
/// When there is no `/dev/ptmx`, or no terminal is left.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
    let unlocked: libc::c_int = 0;
    // SAFETY: the request reads one integer, which lives here.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // By the descriptor and not by a name, which may be another file here.
    // SAFETY: the request takes flags, and what it returns is a new descriptor.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: nobody else owns it.
        fd => Ok((master, unsafe { OwnedFd::from_raw_fd(fd) })),
    }
}

/// Makes `terminal` the controlling terminal of the caller, which must lead a
/// session without one.
///
/// # Errors
/// When it leads none, or the terminal is another session's.
pub fn control(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn what_goes_in_comes_out() {
        let (master, slave) = open().unwrap();
        assert!(rustix::termios::isatty(&slave));
        File::from(slave.try_clone().unwrap())
            .write_all(b"hello\n")
            .unwrap();
        let mut seen = [0; 7];
        File::from(master).read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello\r\n");
    }
}
