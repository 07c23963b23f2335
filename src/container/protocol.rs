//! What passes between shiplap and the processes it starts.
//!
//! Each message is one JSON document after its length, 32 bits little-endian.

use std::io::{self, Read, Write};
use std::path::PathBuf;

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
