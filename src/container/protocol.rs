//! What passes between shiplap and the processes it starts.
//!
//! Each message is one JSON document after its length, 32 bits little-endian.
//! Some bring a descriptor with them.
//!
//! After the request shiplap sends no messages but single bytes, each the number
//! of a signal for the process.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::RunSpec;
use super::stub::Stubs;
use super::userns::Mapped;

/// Name (`argv[0]`) that tells a re-execution from a user's command.
pub(super) const CHILD_NAME: &str = "shiplap-container";

/// A message longer than this is a mistake.
const MOST_BYTES: usize = 1 << 30;

/// From shiplap to the keeper, once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Run this.
    Run(Box<RunSpec>, Method),
    /// Find out whether this works, and nothing else.
    Probe {
        method: Method,
        /// In a new user namespace.
        user_namespace: bool,
        /// A directory on the file system of the root filesystems.
        #[serde(with = "super::spec::path")]
        scratch: PathBuf,
    },
}

/// After a request that has a pipe for standard input: the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Input;

/// How to isolate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Method {
    /// See [`init`](super::init).
    Namespaces,
    /// See [`chroot`](super::chroot).
    Chroot,
    /// See [`proot`](super::proot).
    Proot {
        #[serde(with = "super::spec::path")]
        program: PathBuf,
    },
    /// See [`oci`](super::oci).
    Oci {
        #[serde(with = "super::spec::path")]
        runtime: PathBuf,
    },
}

/// From the keeper or the first process to shiplap.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Mount points that were made, to be removed after the end.
    Stubs(Stubs),
    /// It did not come to the command.
    Failed(Failure),
    /// The other end of the process's terminal comes with this.
    Terminal,
    /// The probe went well.
    Works {
        /// Why an overlay can't be mounted, where it can't.
        no_overlay: Option<String>,
        /// The ids of the user namespace that was asked for.
        mapped: Option<Mapped>,
    },
    /// The first process has ended, and the PID namespace with it.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        cpu_seconds: f64,
        peak_memory_bytes: u64,
        out_of_memory: bool,
    },
}

/// Why the command was not started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    /// A system call of the set-up failed.
    Setup { what: String, errno: i32 },
    /// The root filesystem has a trap or a gap.
    Root { path: String, reason: String },
    /// Something that this isolation has not.
    Unavailable { what: String },
    /// No such command.
    NotFound { name: String, reason: String },
    /// Not a program for this machine, or not permitted.
    NotExecutable { name: String, reason: String },
    /// The OCI runtime complained.
    Runtime { name: String, message: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setup { what, errno } => {
                write!(f, "{what}: {}", io::Error::from_raw_os_error(*errno))
            }
            Self::Root { path, reason } => write!(f, "{path} {reason}"),
            Self::Unavailable { what } => write!(f, "there is no {what}"),
            Self::NotFound { name, reason } | Self::NotExecutable { name, reason } => {
                write!(f, "{name}: {reason}")
            }
            Self::Runtime { name, message } => write!(f, "{name}: {message}"),
        }
    }
}

/// Says what was tried when a system call fails.
pub(super) trait Tried<T> {
    /// The failure, with `what` for people.
    fn tried(self, what: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|e| {
            let error: io::Error = e.into();
            let errno = error.raw_os_error();
            let what = what.into();
            Failure::Setup {
                what: match errno {
                    Some(_) => what,
                    None => format!("{what}: {error}"),
                },
                errno: errno.unwrap_or(libc::EIO),
            }
        })
    }
}

/// Sends one message.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
}

/// Receives one message, waiting for it.
pub(super) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Sends one short message, and a descriptor with it.
pub(super) fn send_with(
    to: impl AsFd,
    message: &impl Serialize,
    fd: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut frame = Vec::new();
    send(&mut frame, message)?;
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(
        to,
        &[io::IoSlice::new(&frame)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    match sent == frame.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Reads what there is, and takes the descriptors that come with it.
pub(super) fn read_with(
    from: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = rustix::net::recvmsg(
        from,
        &mut [io::IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(read.bytes)
}

/// Receives one message that brings a descriptor, waiting for it.
pub(super) fn receive_with<T: DeserializeOwned>(from: impl AsFd) -> io::Result<(T, OwnedFd)> {
    let (mut inbox, mut fds) = (Inbox::default(), Vec::new());
    loop {
        // No more than this message: the next may bring a descriptor too.
        let mut buffer = [0];
        match read_with(&from, &mut buffer, &mut fds)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => inbox.push(&buffer[..n]),
        }
        if let Some(message) = inbox.next() {
            let fd = fds.pop().ok_or(io::ErrorKind::InvalidData)?;
            return Ok((message?, fd));
        }
    }
}

/// Puts messages together from pieces as they arrive.
#[derive(Debug, Default)]
pub(super) struct Inbox(Vec<u8>);

impl Inbox {
    /// Takes bytes in.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Option<io::Result<T>> {
        let length = self.0.first_chunk::<4>().map(|l| u32::from_le_bytes(*l))? as usize;
        let body = self.0.get(4..4 + length)?;
        let message = serde_json::from_slice(body).map_err(Into::into);
        self.0.drain(..4 + length);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_with_their_message() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send_with(&here, &7_u32, writer.as_fd()).unwrap();
        send(&here, &8_u32).unwrap();
        drop(writer);
        let (number, fd) = receive_with::<u32>(&there).unwrap();
        assert_eq!(number, 7);
        assert_eq!(receive::<u32>(&there).unwrap(), 8);
        std::fs::File::from(fd).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        drop(here);
        assert!(receive_with::<u32>(&there).is_err());
    }

    #[test]
    fn messages_arrive_in_any_pieces() {
        let mut wire = Vec::new();
        for n in 0..3_u32 {
            send(&mut wire, &vec![n; 100]).unwrap();
        }
        assert_eq!(receive::<Vec<u32>>(&wire[..]).unwrap(), vec![0; 100]);
        for size in [1, 7, 4096] {
            let mut inbox = Inbox::default();
            let mut got = Vec::new();
            for piece in wire.chunks(size) {
                inbox.push(piece);
                while let Some(m) = inbox.next::<Vec<u32>>() {
                    got.push(m.unwrap()[0]);
                }
            }
            assert_eq!(got, [0, 1, 2]);
        }
        assert!(receive::<Vec<u32>>(&wire[..50]).is_err());
    }
}
