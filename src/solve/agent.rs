//! SSH agents for RUN's `--mount=type=ssh`.
//!
//! A step never talks to an agent itself: between them stands a proxy in this
//! process, which lets a step list keys and sign with them, and nothing else.
//! It cannot add keys, take them away or lock the agent of the user.
//!
//! ```text
//! step ──▶ socket of the mount ──▶ proxy ──▶ the user's agent, or one of ours
//! ```
//! For private keys in files an `ssh-agent` of our own runs as long as the build
//! does. The keys are read by `ssh-add` from an open file: they are copied to no
//! other file, and are on no command line. When this process ends, however it
//! ends, the kernel ends that agent.
//!
//! # Specification
//! draft-ietf-sshm-ssh-agent: framing, message numbers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::StepError;
use crate::store::{Store, TempDir};
use crate::sys::fs::proc_fd;
use crate::sys::process;

/// What a step may ask for: the list of keys, and signatures.
const ALLOWED: [u8; 2] = [REQUEST_IDENTITIES, SIGN_REQUEST];
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// The answer "no", as a whole message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// No message is longer, in bytes: what OpenSSH's agent takes.
const MOST_BYTES: usize = 256 << 10;
/// An agent that does not listen by then never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a proxy looks whether it shall end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// The socket's name in its directory: the whole path may be longer than an
/// address of a socket can be.
const SOCKET: &str = "agent";
/// A private key is no longer, in bytes.
const MOST_KEY_BYTES: u64 = 100 << 10;

/// Where the keys of a `--mount=type=ssh` are.
#[derive(Debug, Clone)]
pub enum Agent {
    /// In an agent that listens here.
    Socket(PathBuf),
    /// In files.
    Keys(Arc<KeyAgent>),
}

/// An agent of our own, started when a step asks for it first.
#[derive(Debug)]
pub struct KeyAgent {
    keys: Vec<PathBuf>,
    programs: Programs,
    running: Mutex<Option<Running>>,
}

/// OpenSSH's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `ssh-agent`.
    pub agent: PathBuf,
    /// `ssh-add`.
    pub add: PathBuf,
}

#[derive(Debug)]
struct Running {
    dir: TempDir,
    /// The thread that holds the agent ends when this is dropped.
    _hold: Sender<()>,
}

/// Why a file is no key that can be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("can't read the key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is no private key", .0.display())]
    NoKey(PathBuf),
    /// It wants a passphrase, which nobody may be there to give.
    #[error("the key {} has a passphrase", .0.display())]
    Passphrase(PathBuf),
    /// A socket among keys, or several.
    #[error("{} is a socket; an id has one socket, or files with keys", .0.display())]
    Mixed(PathBuf),
}

impl Agent {
    /// The agent that `paths` mean: a socket, or files with private keys, for
    /// which `programs` finds OpenSSH's.
    ///
    /// # Errors
    /// When a file holds no key, or one with a passphrase.
    pub fn new<E: From<KeyError>>(
        paths: &[PathBuf],
        programs: impl FnOnce() -> Result<Programs, E>,
    ) -> Result<Self, E> {
        let is_socket = |path: &PathBuf| {
            let meta = std::fs::metadata(path);
            meta.is_ok_and(|meta| meta.file_type().is_socket())
        };
        match (paths, paths.iter().find(|path| is_socket(path))) {
            ([path], Some(_)) => return Ok(Self::Socket(path.clone())),
            (_, Some(socket)) => return Err(KeyError::Mixed(socket.clone()).into()),
            (_, None) => {}
        }
        for path in paths {
            check_key(path)?;
        }
        Ok(Self::Keys(Arc::new(KeyAgent {
            keys: paths.to_vec(),
            programs: programs()?,
            running: Mutex::new(None),
        })))
    }

    /// Where the agent listens; one of ours is started if need be.
    fn socket(&self, store: &Store) -> Result<PathBuf, StepError> {
        match self {
            Self::Socket(path) => Ok(path.clone()),
            Self::Keys(keys) => keys.socket(store),
        }
    }
}

/// Whether a file holds a private key that needs no passphrase.
fn check_key(path: &Path) -> Result<(), KeyError> {
    let read = || -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MOST_KEY_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().map_err(|source| KeyError::Read {
        path: path.to_owned(),
        source,
    })?;
    match has_passphrase(&text) {
        None => Err(KeyError::NoKey(path.to_owned())),
        Some(true) => Err(KeyError::Passphrase(path.to_owned())),
        Some(false) => Ok(()),
    }
}

/// Whether the text of a private key is encrypted; `None` where it is none.
fn has_passphrase(text: &str) -> Option<bool> {
    let text = text.trim_start();
    let kind = text.strip_prefix("-----BEGIN ")?;
    let (kind, body) = kind.split_once("-----")?;
    let kind = kind.strip_suffix("PRIVATE KEY")?;
    match kind.trim_end() {
        "ENCRYPTED" => Some(true),
        "OPENSSH" => {
            let body = body.split("-----END").next()?;
            let body: String = body.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(body);
            // The name of the cipher comes first.
            let bytes = bytes.ok()?;
            let rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
            let length = u32::from_be_bytes(*rest.first_chunk::<4>()?);
            let cipher = rest.get(4..4 + usize::try_from(length).ok()?)?;
            Some(cipher != b"none")
        }
        _ => Some(body.contains("Proc-Type: 4,ENCRYPTED")),
    }
}

impl KeyAgent {
    fn socket(&self, store: &Store) -> Result<PathBuf, StepError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match &mut *running {
            Some(started) => started,
            none => none.insert(self.start(store)?),
        };
        Ok(started.dir.path().join(SOCKET))
    }

    fn start(&self, store: &Store) -> Result<Running, StepError> {
        let fail = || StepError::io("can't start ssh-agent");
        let dir = store.temp_dir()?;
        let mut command = Command::new(&self.programs.agent);
        command
            .args(["-D", "-a", SOCKET])
            .env_clear()
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        process::tie(&mut command);
        let (hold, held) = channel::<()>();
        let (say, started) = channel();
        // A child that is tied to its parent ends with the thread that made it.
        let thread = std::thread::Builder::new().name("ssh-agent".into());
        let spawned = thread.spawn(move || match command.spawn() {
            Err(e) => drop(say.send(Err(e))),
            Ok(mut child) => {
                let _ = say.send(Ok(()));
                let _ = held.recv();
                let _ = child.kill();
                let _ = child.wait();
            }
        });
        spawned.map_err(fail())?;
        let started = started.recv().map_err(io::Error::other).and_then(|s| s);
        started.map_err(fail())?;
        let running = Running { dir, _hold: hold };
        let began = Instant::now();
        while UnixStream::connect(at(running.dir.path())?.1).is_err() {
            if began.elapsed() > PATIENCE {
                return Err(fail()(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for key in &self.keys {
            self.add(key, running.dir.path())?;
        }
        Ok(running)
    }

    fn add(&self, key: &Path, dir: &Path) -> Result<(), StepError> {
        let what = format!("can't give the key {} to ssh-agent", key.display());
        let fail = || StepError::io(what.clone());
        let file = File::open(key).map_err(fail())?;
        // By standard input the file may be readable to others, as files of
        // secrets in containers are.
        let output = Command::new(&self.programs.add)
            .args(["-q", "-"])
            .env_clear()
            .env("SSH_AUTH_SOCK", SOCKET)
            .env("SSH_ASKPASS_REQUIRE", "never")
            .current_dir(dir)
            .stdin(file)
            .output()
            .map_err(fail())?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let says = String::from_utf8_lossy(&output.stderr);
                Err(fail()(io::Error::other(says.trim().to_owned())))
            }
        }
    }
}

/// A directory, and the short path of the socket in it that is good as long as
/// the directory is open.
fn at(dir: &Path) -> Result<(std::os::fd::OwnedFd, PathBuf), StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(dir, flags, Mode::empty());
    let open = open
        .map_err(io::Error::from)
        .map_err(StepError::io("can't open the directory of a socket"))?;
    let path = proc_fd(open.as_fd()).join(SOCKET);
    Ok((open, path))
}

/// A proxy that serves one mount; dropping it ends it.
#[derive(Debug)]
pub(super) struct Proxy {
    dir: TempDir,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Serves `agent` on a socket with this mode and owner.
    pub(super) fn new(
        agent: &Agent,
        (mode, uid, gid): (u32, u32, u32),
        store: &Store,
    ) -> Result<Self, StepError> {
        let fail = || StepError::io("can't make a socket for the SSH agent");
        let agent = agent.socket(store)?;
        let dir = store.temp_dir()?;
        let (_open, path) = at(dir.path())?;
        let listener = UnixListener::bind(&path).map_err(fail())?;
        listener.set_nonblocking(true).map_err(fail())?;
        if store.layer_form().owners {
            chown(&path, Some(uid), Some(gid)).map_err(fail())?;
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(fail())?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("ssh proxy".into());
        let spawned = thread.spawn(move || serve(&listener, &agent, &seen));
        spawned.map_err(fail())?;
        Ok(Self { dir, ended })
    }

    /// Where the socket is.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

fn serve(listener: &UnixListener, agent: &Path, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        let mut polled = [PollFd::new(listener, PollFlags::IN)];
        if matches!(rustix::event::poll(&mut polled, Some(&LOOK)), Ok(0)) {
            continue;
        }
        let Ok((client, _)) = listener.accept() else {
            continue;
        };
        let agent = agent.to_owned();
        // It ends when the step closes its side, at the latest with the step.
        let _ = std::thread::Builder::new().spawn(move || {
            let _ = client.set_nonblocking(false);
            let _ = talk(&client, &agent);
        });
    }
}

/// Answers one connection until it is closed.
fn talk(mut client: &UnixStream, agent: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = rustix::fs::open(agent, flags, Mode::empty())?;
    let mut agent = UnixStream::connect(proc_fd(open.as_fd()))?;
    while let Some(question) = message(&mut client)? {
        let allowed = question.get(4).is_some_and(|kind| ALLOWED.contains(kind));
        if !allowed {
            client.write_all(&FAILURE)?;
            continue;
        }
        agent.write_all(&question)?;
        match message(&mut agent)? {
            Some(answer) => client.write_all(&answer)?,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// One message with its length before it; `None` at the end.
fn message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let size = u32::from_be_bytes(length) as usize;
    if size == 0 || size > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut whole = length.to_vec();
    whole.resize(4 + size, 0);
    from.read_exact(&mut whole[4..])?;
    Ok(Some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 1).unwrap();
        [&length.to_be_bytes()[..], &[kind], body].concat()
    }

    #[test]
    fn a_step_may_list_and_sign_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        // Answers with the question.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                while let Some(question) = message(&mut client).unwrap() {
                    client.write_all(&question).unwrap();
                }
            }
        });
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let proxy = std::thread::spawn(move || talk(&theirs, &path));
        for kind in 0..=255 {
            let question = framed(kind, b"body");
            ours.write_all(&question).unwrap();
            let answer = message(&mut ours).unwrap().unwrap();
            match kind {
                11 | 13 => assert_eq!(answer, question),
                _ => assert_eq!(answer, FAILURE, "{kind}"),
            }
        }
        ours.write_all(&[0xff; 8]).unwrap();
        assert!(proxy.join().unwrap().is_err());
    }

    #[test]
    fn keys_with_a_passphrase_are_told() {
        let openssh = |cipher: &str| {
            let length = u32::try_from(cipher.len()).unwrap().to_be_bytes();
            let bytes = [
                &b"openssh-key-v1\0"[..],
                &length,
                cipher.as_bytes(),
                b"rest",
            ]
            .concat();
            let body = base64::engine::general_purpose::STANDARD.encode(bytes);
            format!(
                "-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
            )
        };
        let pem = |kind: &str, body: &str| {
            format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
        };
        for (text, expected) in [
            (openssh("none"), Some(false)),
            (openssh("aes256-ctr"), Some(true)),
            (pem("RSA PRIVATE KEY", "MII"), Some(false)),
            (pem("PRIVATE KEY", "MII"), Some(false)),
            (pem("ENCRYPTED PRIVATE KEY", "MII"), Some(true)),
            (
                pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nMII"),
                Some(true),
            ),
            (pem("CERTIFICATE", "MII"), None),
            (pem("OPENSSH PRIVATE KEY", "%%"), None),
            ("ssh-ed25519 AAAA me".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(has_passphrase(&text), expected, "{text}");
        }
    }
}
