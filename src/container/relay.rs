//! Answers a socket in the tree by talking to an agent's socket outside of it,
//! for where the agent's own cannot be mounted there.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};

use crate::sys::fs::proc_fd;
use crate::sys::process;

/// Makes a socket in `dir` that listens, with owner and mode of `like`.
pub(super) fn listen(dir: BorrowedFd<'_>, name: &OsStr, like: &Stat) -> io::Result<OwnedFd> {
    let socket = UnixListener::bind(proc_fd(dir).join(name))?;
    let owner = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    // A process with one id can't give it away, and need not.
    let _ = rustix::fs::chownat(dir, name, Some(owner.0), Some(owner.1), flags);
    let mode = Mode::from_raw_mode(like.st_mode & 0o777);
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
    Ok(socket.into())
}

/// Answers until this process is killed.
pub(super) fn serve(relays: Vec<(OwnedFd, PathBuf)>) -> ! {
    let listeners: Vec<(UnixListener, PathBuf)> = relays
        .into_iter()
        .map(|(socket, agent)| (socket.into(), agent))
        .collect();
    loop {
        let mut polled: Vec<PollFd<'_>> = listeners
            .iter()
            .map(|(l, _)| PollFd::new(l, PollFlags::IN))
            .collect();
        if rustix::event::poll(&mut polled, None).is_err() {
            continue;
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        for ((listener, agent), _) in listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
            // One process for each connection: they end with the keeper.
            if let Ok((client, _)) = listener.accept()
                && let Ok(None) = process::fork()
            {
                let _ = talk(client, agent);
                std::process::exit(0);
            }
        }
        while let Ok(Some(_)) = process::wait_any(false) {}
    }
}

/// Carries bytes both ways until one side has no more.
fn talk(client: UnixStream, agent: &Path) -> io::Result<()> {
    // Its path may be longer than an address of a socket can be.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = rustix::fs::open(agent, flags, Mode::empty())?;
    let agent = UnixStream::connect(proc_fd(open.as_fd()))?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut polled = [
            PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::IN),
        ];
        rustix::event::poll(&mut polled, None)?;
        let ready = polled.map(|p| !p.revents().is_empty());
        for (ready, (mut from, mut to)) in ready
            .into_iter()
            .zip([(&client, &agent), (&agent, &client)])
        {
            if ready {
                match from.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => to.write_all(&buffer[..n])?,
                }
            }
        }
    }
}
