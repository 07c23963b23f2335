//! The executors with a keeper, on shiplap's side: they start it, carry
//! output, and see to it that nothing is left.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::isolation::{Isolation, RootKind};
use super::protocol::{self, CHILD_NAME, Failure, Inbox, Input, Method, Report, Request};
use super::spec::{RootSpec, RunSpec};
use super::streams::{self, Carrier, Console, Io, Streams, Waiting};
use super::stub::Stubs;
use super::userns::Mapped;
use super::{Executor, Exit, RunError};
use crate::event::Cancel;

/// How often [`Cancel`] is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// After this the keeper, which has been asked to end, is killed.
const PATIENCE: Duration = Duration::from_secs(3);
/// Tries to start the keeper while another thread's child still holds the
/// copy open for writing.
const BUSY_TRIES: u32 = 50;

/// Runs processes, each with a keeper of its own.
#[derive(Debug)]
pub(super) struct Keepers {
    /// A sealed copy of the program.
    program: OwnedFd,
    method: Method,
    root: RootKind,
}

/// What a probe found out.
#[derive(Debug, Clone)]
pub(super) struct Probed {
    /// Why an overlay can't be mounted, where it can't.
    pub(super) no_overlay: Option<String>,
    /// The ids of the user namespace that was asked for.
    pub(super) mapped: Option<Mapped>,
}

impl Keepers {
    /// Copies `program`, to be executed for every run.
    pub(super) fn new(program: &Path, method: Method) -> Result<Self, RunError> {
        let program =
            crate::sys::process::sealed_copy(program).map_err(|source| RunError::Start {
                what: "copying the program to memory",
                source,
            })?;
        Ok(Self {
            program,
            method,
            root: RootKind::Directory,
        })
    }

    /// The same with roots of this kind.
    pub(super) fn with_root(self, root: RootKind) -> Self {
        Self { root, ..self }
    }

    /// Whether it works here.
    pub(super) fn probe(&self, scratch: &Path, user_namespace: bool) -> Result<Probed, RunError> {
        let request = Request::Probe {
            method: self.method.clone(),
            user_namespace,
            scratch: scratch.to_owned(),
        };
        let mut run = self.start(&request, Console::Output)?;
        run.follow(Io::Lines(&|_, _| {}), &Cancel::new())?;
        run.works.take().ok_or(RunError::Lost)
    }

    fn start(&self, request: &Request, console: Console) -> Result<Run, RunError> {
        let failed = |what| move |source| RunError::Start { what, source };
        let (control, theirs) = UnixStream::pair().map_err(failed("making a socket"))?;
        let (stdout, their_stdout) = io::pipe().map_err(failed("making a pipe"))?;
        let (stderr, their_stderr) = io::pipe().map_err(failed("making a pipe"))?;
        let (their_stdin, stdin) = match console {
            Console::Pipes => {
                let (theirs, ours) = io::pipe().map_err(failed("making a pipe"))?;
                (Some(theirs), Some(OwnedFd::from(ours)))
            }
            Console::Output | Console::Terminal { .. } => (None, None),
        };
        let mut command = Command::new(crate::sys::fs::proc_fd(self.program.as_fd()));
        command
            .arg0(CHILD_NAME)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(their_stdout)
            .stderr(their_stderr);
        let mut tries = 0;
        let keeper = loop {
            match command.spawn() {
                Ok(child) => break child,
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) => return Err(failed("starting the keeper")(e)),
            }
        };
        drop(command);
        let mut run = Run {
            keeper,
            control,
            inbox: Inbox::default(),
            received: Vec::new(),
            carrier: Carrier::default(),
            stubs: Stubs::default(),
            failure: None,
            exit: None,
            works: None,
        };
        run.carrier = Carrier::new(stdout.into(), stderr.into(), stdin)
            .map_err(failed("listening to the process"))?;
        let sent = protocol::send(&run.control, request).and_then(|()| match &their_stdin {
            Some(stdin) => protocol::send_with(&run.control, &Input, stdin.as_fd()),
            None => Ok(()),
        });
        sent.map_err(failed("sending the request"))?;
        Ok(run)
    }
}

impl Executor for Keepers {
    fn isolation(&self) -> Isolation {
        match self.method {
            Method::Namespaces => Isolation::Namespaces,
            Method::Chroot => Isolation::Chroot,
            Method::Proot { .. } => Isolation::Proot,
            Method::Oci { .. } => Isolation::Oci,
        }
    }

    fn root(&self) -> RootKind {
        self.root
    }

    fn mounts(&self) -> bool {
        matches!(self.method, Method::Namespaces | Method::Oci { .. })
    }

    fn run(&self, spec: &RunSpec, io: Io<'_>, cancel: &Cancel) -> Result<Exit, RunError> {
        spec.check()?;
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let console = Console::of(io);
        let told = RunSpec {
            console,
            ..spec.clone()
        };
        let request = Request::Run(Box::new(told), self.method.clone());
        let mut run = self.start(&request, console)?;
        let followed = run.follow(io, cancel);
        run.end();
        let cleaned = match &spec.root {
            RootSpec::Overlay { upper, work, .. } => {
                super::rootfs::remove_work(work);
                run.stubs.remove(upper)
            }
            RootSpec::Dir { dir, .. } => run.stubs.remove(dir),
        };
        followed?;
        cleaned.map_err(|source| RunError::Setup {
            what: "removing mount points".into(),
            source,
        })?;
        run.exit.ok_or(RunError::Lost)
    }
}

/// A keeper under way.
#[derive(Debug)]
struct Run {
    keeper: Child,
    control: UnixStream,
    inbox: Inbox,
    /// Descriptors that came with messages.
    received: Vec<OwnedFd>,
    carrier: Carrier,
    stubs: Stubs,
    failure: Option<Failure>,
    exit: Option<Exit>,
    works: Option<Probed>,
}

impl Run {
    /// Carries bytes, signals and messages until the keeper has no more to say.
    fn follow(&mut self, io: Io<'_>, cancel: &Cancel) -> Result<(), RunError> {
        let failed = |what| move |source: io::Error| RunError::Start { what, source };
        self.control
            .set_nonblocking(true)
            .map_err(failed("listening to the keeper"))?;
        let mut buffer = streams::buffer();
        let mut asked_to_end: Option<Instant> = None;
        loop {
            match asked_to_end {
                None if cancel.is_cancelled() => {
                    let _ = self.control.shutdown(Shutdown::Write);
                    asked_to_end = Some(Instant::now());
                }
                Some(when) if when.elapsed() > PATIENCE => {
                    let _ = self.keeper.kill();
                }
                _ => {}
            }
            if let Io::Streams(streams) = io {
                self.pass_signals_on(streams);
            }
            let (spoken, ready) = self.wait(io).map_err(failed("waiting for the keeper"))?;
            for ready in ready {
                self.carrier.carry(ready, &mut buffer, io);
            }
            if spoken && !self.listen(io).map_err(failed("listening to the keeper"))? {
                break;
            }
        }
        if self.exit.is_none() && self.failure.is_none() {
            self.wait_for_silence(&mut buffer, io);
        }
        self.carrier.finish(&mut buffer, io);
        if asked_to_end.is_some() {
            return Err(RunError::Cancelled);
        }
        match self.failure.take() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    fn pass_signals_on(&mut self, streams: &Streams<'_>) {
        for signal in streams.signals.try_iter() {
            if streams.terminal && signal == libc::SIGWINCH {
                self.carrier.resize(streams);
            } else if let Ok(number) = u8::try_from(signal) {
                // A keeper that is gone has nothing to pass it on to.
                let _ = (&self.control).write(&[number]);
            }
        }
    }

    /// After a keeper that ended without a word: the kernel is still killing
    /// what it kept, and the end of the pipes tells when that is done.
    fn wait_for_silence(&mut self, buffer: &mut [u8], io: Io<'_>) {
        let began = Instant::now();
        while self.carrier.is_open() && began.elapsed() < PATIENCE {
            if !self.carrier.drain(buffer, io) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whether the keeper has spoken, and which streams can go on.
    fn wait(&self, io: Io<'_>) -> io::Result<(bool, Vec<Waiting>)> {
        let waits: Vec<_> = self.carrier.waits(io).collect();
        let mut polled = vec![PollFd::new(&self.control, PollFlags::IN)];
        let streams = waits.iter();
        polled.extend(streams.map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
        let spoken = ready.next() == Some(true);
        let ready = waits.iter().zip(ready).filter(|(_, ready)| *ready);
        Ok((spoken, ready.map(|((waiting, ..), _)| *waiting).collect()))
    }

    /// Takes messages in; whether there may be more.
    fn listen(&mut self, io: Io<'_>) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match protocol::read_with(&self.control, &mut buffer, &mut self.received) {
            Ok(0) => return Ok(false),
            Ok(n) => self.inbox.push(&buffer[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            // The keeper was killed with our request unread.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(e),
        }
        while let Some(message) = self.inbox.next() {
            match message? {
                Report::Stubs(stubs) => self.stubs = stubs,
                Report::Failed(failure) => self.failure = Some(failure),
                Report::Terminal => {
                    if let Some(master) = self.received.pop() {
                        self.carrier.take_terminal(master, io)?;
                    }
                }
                Report::Works { no_overlay, mapped } => {
                    self.works = Some(Probed { no_overlay, mapped });
                }
                Report::Ended {
                    code,
                    signal,
                    cpu_seconds,
                    peak_memory_bytes,
                    out_of_memory,
                } => {
                    self.exit = Some(Exit {
                        code,
                        signal,
                        cpu_seconds,
                        peak_memory_bytes,
                        out_of_memory,
                    });
                }
            }
        }
        Ok(true)
    }

    /// Makes sure that the keeper, and all it kept, is gone.
    fn end(&mut self) {
        let _ = self.control.shutdown(Shutdown::Both);
        let began = Instant::now();
        loop {
            match self.keeper.try_wait() {
                Ok(Some(_)) | Err(_) => return,
                Ok(None) => {}
            }
            if began.elapsed() > PATIENCE {
                let _ = self.keeper.kill();
                let _ = self.keeper.wait();
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end();
    }
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Setup { what, errno } => Self::Setup {
                what,
                source: io::Error::from_raw_os_error(errno),
            },
            Failure::Root { path, reason } => Self::Root {
                path: path.into(),
                reason,
            },
            Failure::Unavailable { what } => Self::Unavailable { what },
            Failure::NotFound { name, reason } => Self::NotFound { name, reason },
            Failure::NotExecutable { name, reason } => Self::NotExecutable { name, reason },
            Failure::Runtime { name, message } => Self::Runtime { name, message },
        }
    }
}
