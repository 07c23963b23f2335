//! The executors with a keeper, on shiplap's side: they start it, carry
//! output, and see to it that nothing is left.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::isolation::{Isolation, RootKind};
use super::output::{LONGEST, Lines};
use super::protocol::{self, CHILD_NAME, Failure, Inbox, Method, Report, Request};
use super::spec::{RootSpec, RunSpec};
use super::stub::Stubs;
use super::userns::Mapped;
use super::{Executor, Exit, RunError};
use crate::event::{Cancel, Stream};

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
        let mut run = self.start(&Request::Probe {
            method: self.method.clone(),
            user_namespace,
            scratch: scratch.to_owned(),
        })?;
        run.follow(&|_, _| {}, &Cancel::new())?;
        run.works.take().ok_or(RunError::Lost)
    }

    fn start(&self, request: &Request) -> Result<Run, RunError> {
        let failed = |what| move |source| RunError::Start { what, source };
        let (control, theirs) = UnixStream::pair().map_err(failed("making a socket"))?;
        let (stdout, their_stdout) = io::pipe().map_err(failed("making a pipe"))?;
        let (stderr, their_stderr) = io::pipe().map_err(failed("making a pipe"))?;
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
            pipes: [
                Pipe::new(Stream::Stdout, stdout),
                Pipe::new(Stream::Stderr, stderr),
            ],
            stubs: Stubs::default(),
            failure: None,
            exit: None,
            works: None,
        };
        if let Err(source) = protocol::send(&run.control, request) {
            run.end();
            return Err(failed("sending the request")(source));
        }
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

    fn run(
        &self,
        spec: &RunSpec,
        output: &(dyn Fn(Stream, &[u8]) + Sync),
        cancel: &Cancel,
    ) -> Result<Exit, RunError> {
        spec.check()?;
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let mut run = self.start(&Request::Run(Box::new(spec.clone()), self.method.clone()))?;
        let followed = run.follow(output, cancel);
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

/// One pipe of the process's output.
#[derive(Debug)]
struct Pipe {
    stream: Stream,
    /// `None` after its end.
    reader: Option<io::PipeReader>,
    lines: Lines,
}

impl Pipe {
    fn new(stream: Stream, reader: io::PipeReader) -> Self {
        Self {
            stream,
            reader: Some(reader),
            lines: Lines::default(),
        }
    }

    /// Reads once; whether there was anything.
    fn read(&mut self, buffer: &mut [u8], output: &dyn Fn(Stream, &[u8])) -> bool {
        let Some(reader) = &mut self.reader else {
            return false;
        };
        match reader.read(buffer) {
            Ok(0) => self.reader = None,
            Ok(n) => {
                let stream = self.stream;
                self.lines
                    .push(&buffer[..n], &mut |line| output(stream, line));
                return true;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.reader = None,
        }
        false
    }
}

/// A keeper under way.
#[derive(Debug)]
struct Run {
    keeper: Child,
    control: UnixStream,
    inbox: Inbox,
    pipes: [Pipe; 2],
    stubs: Stubs,
    failure: Option<Failure>,
    exit: Option<Exit>,
    works: Option<Probed>,
}

impl Run {
    /// Carries output and messages until the keeper has no more to say.
    fn follow(
        &mut self,
        output: &(dyn Fn(Stream, &[u8]) + Sync),
        cancel: &Cancel,
    ) -> Result<(), RunError> {
        let failed = |what| move |source: io::Error| RunError::Start { what, source };
        self.control
            .set_nonblocking(true)
            .map_err(failed("listening to the keeper"))?;
        for pipe in &self.pipes {
            if let Some(reader) = &pipe.reader {
                rustix::io::ioctl_fionbio(reader, true)
                    .map_err(|e| failed("listening to the process")(e.into()))?;
            }
        }
        let mut buffer = vec![0; LONGEST];
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
            let ready = self.wait().map_err(failed("waiting for the keeper"))?;
            for (pipe, ready) in self.pipes.iter_mut().zip([ready[1], ready[2]]) {
                if ready {
                    pipe.read(&mut buffer, output);
                }
            }
            if ready[0] && !self.listen().map_err(failed("listening to the keeper"))? {
                break;
            }
        }
        if self.exit.is_none() && self.failure.is_none() {
            self.wait_for_silence(&mut buffer, output);
        }
        // No writer is left, so what is still in the pipes is all there is.
        for pipe in &mut self.pipes {
            while pipe.read(&mut buffer, output) {}
            let stream = pipe.stream;
            pipe.lines.finish(&mut |line| output(stream, line));
        }
        if asked_to_end.is_some() {
            return Err(RunError::Cancelled);
        }
        match self.failure.take() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    /// After a keeper that ended without a word: the kernel is still killing
    /// what it kept, and the end of the pipes tells when that is done.
    fn wait_for_silence(&mut self, buffer: &mut [u8], output: &dyn Fn(Stream, &[u8])) {
        let began = Instant::now();
        while self.pipes.iter().any(|p| p.reader.is_some()) && began.elapsed() < PATIENCE {
            let read = self.pipes.iter_mut().map(|p| p.read(buffer, output));
            if !read.fold(false, |any, read| any | read) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Which of the socket and the two pipes can be read.
    fn wait(&self) -> io::Result<[bool; 3]> {
        let mut ready = [false; 3];
        let pipes = self
            .pipes
            .iter()
            .map(|p| p.reader.as_ref().map(AsFd::as_fd));
        let all: Vec<(usize, BorrowedFd<'_>)> = std::iter::once(Some(self.control.as_fd()))
            .chain(pipes)
            .enumerate()
            .filter_map(|(i, fd)| Some((i, fd?)))
            .collect();
        let mut polled: Vec<PollFd<'_>> = all
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for ((i, _), polled) in all.iter().zip(&polled) {
            ready[*i] = !polled.revents().is_empty();
        }
        Ok(ready)
    }

    /// Takes messages in; whether there may be more.
    fn listen(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match self.control.read(&mut buffer) {
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
