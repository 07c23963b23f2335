//! The standard streams of a process: what they are inside, and how bytes get
//! there and back.
//!
//! A process never gets a descriptor of the caller's: what it was given it
//! could open again for more than it was meant for, and a terminal could be
//! typed into. It gets pipes, or a terminal of its own, and shiplap carries
//! the bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::Receiver;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

use super::output::{LONGEST, Lines};
use super::protocol::{self, Failure, Report, Tried};
use super::spec::RunSpec;
use crate::event::Stream;
use crate::sys::{process, pty};

/// What a process reads, and where its output goes.
#[derive(Clone, Copy)]
pub enum Io<'a> {
    /// It reads nothing. Each line of its output is handed on without its line
    /// end; a line longer than 64 KiB comes in parts.
    Lines(&'a (dyn Fn(Stream, &[u8]) + Sync)),
    /// Bytes go both ways as they are.
    Streams(&'a Streams<'a>),
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lines(_) => f.write_str("Lines"),
            Self::Streams(streams) => streams.fmt(f),
        }
    }
}

/// The caller's ends of a process's standard streams.
#[derive(Debug)]
pub struct Streams<'a> {
    /// What it reads; nothing where there is none.
    pub input: Option<BorrowedFd<'a>>,
    /// Its standard output, or all that its terminal shows.
    pub output: BorrowedFd<'a>,
    /// Its standard error.
    pub error: BorrowedFd<'a>,
    /// It gets a terminal of its own, as large as the one behind `output` or
    /// `input`; raw mode there is the caller's to set.
    pub terminal: bool,
    /// Signals to pass on. Where a process has no handler for one that would
    /// end it, it is ended, though the kernel spares the first process of a
    /// container. `SIGWINCH` means that the caller's terminal has another size.
    pub signals: Receiver<i32>,
}

impl Streams<'_> {
    /// How large the caller's terminal is.
    fn size(&self) -> Option<Winsize> {
        let ends = [Some(self.output), self.input].into_iter().flatten();
        ends.filter_map(|fd| rustix::termios::tcgetwinsize(fd).ok())
            .find(|size| size.ws_row > 0 && size.ws_col > 0)
    }
}

/// What the standard streams are inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Console {
    /// Nothing to read, and two pipes.
    #[default]
    Output,
    /// Three pipes; that for standard input follows the request.
    Pipes,
    /// A terminal, which the process makes and whose other end it sends.
    Terminal {
        /// Its size, where there is one that it could have.
        rows: u16,
        columns: u16,
    },
}

impl Console {
    pub(super) fn of(io: Io<'_>) -> Self {
        match io {
            Io::Lines(_) => Self::Output,
            Io::Streams(streams) if streams.terminal => {
                let size = streams.size();
                Self::Terminal {
                    rows: size.map_or(0, |s| s.ws_row),
                    columns: size.map_or(0, |s| s.ws_col),
                }
            }
            Io::Streams(streams) if streams.input.is_some() => Self::Pipes,
            Io::Streams(_) => Self::Output,
        }
    }

    pub(super) fn is_terminal(self) -> bool {
        matches!(self, Self::Terminal { .. })
    }
}

/// A pipe that says it can be written to takes this much without a pause
/// (`PIPE_BUF`), in bytes.
const PIECE: usize = 4096;

/// Sets standard input of the process that becomes the command, unless it was
/// given, and gives all streams to its user, who may then open `/dev/stdout`.
pub(super) fn set(spec: &RunSpec) -> Result<(), Failure> {
    if spec.console == Console::Output {
        // The container's own null device.
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .tried("opening /dev/null")?;
        process::duplicate_to(&null, 0).tried("setting standard input")?;
    }
    let owner = (Uid::from_raw(spec.user.uid), Gid::from_raw(spec.user.gid));
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let stat = rustix::fs::fstat(stream).tried("looking at a standard stream")?;
        // In a user namespace the owner may be nobody it knows.
        let _ = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => rustix::fs::fchown(stream, Some(owner.0), Some(owner.1)),
            FileType::CharacterDevice if spec.console.is_terminal() => {
                rustix::fs::fchown(stream, Some(owner.0), None)
            }
            _ => Ok(()),
        };
    }
    Ok(())
}

/// Makes the terminal that is asked for, sends its other end away, and makes it
/// this process's, which must lead a session.
pub(super) fn take_terminal(console: Console, control: impl AsFd) -> Result<(), Failure> {
    let Console::Terminal { rows, columns } = console else {
        return Ok(());
    };
    let (master, slave) = pty::open().tried("making a terminal")?;
    if rows > 0 {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size).tried("sizing the terminal")?;
    }
    protocol::send_with(control, &Report::Terminal, master.as_fd())
        .tried("sending the terminal")?;
    for number in [0, 1, 2] {
        process::duplicate_to(&slave, number).tried("setting standard streams")?;
    }
    pty::control(slave).tried("taking the terminal")
}

/// One of the descriptors that output comes from.
#[derive(Debug)]
struct Source {
    stream: Stream,
    /// `None` after its end.
    reader: Option<File>,
    lines: Lines,
    /// What the caller's end has not taken yet.
    waiting: Vec<u8>,
}

impl Source {
    fn new(stream: Stream, reader: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&reader, true)?;
        Ok(Self {
            stream,
            reader: Some(reader.into()),
            lines: Lines::default(),
            waiting: Vec::new(),
        })
    }

    /// Reads once; whether there was anything.
    fn read(&mut self, buffer: &mut [u8], io: Io<'_>) -> bool {
        let Some(reader) = &mut self.reader else {
            return false;
        };
        match reader.read(buffer) {
            Ok(0) => self.reader = None,
            Ok(n) => {
                let (bytes, stream) = (&buffer[..n], self.stream);
                match io {
                    Io::Lines(output) => self.lines.push(bytes, &mut |l| output(stream, l)),
                    Io::Streams(_) => self.waiting.extend_from_slice(bytes),
                }
                return true;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // A terminal that nobody has open any more says EIO.
            Err(_) => self.reader = None,
        }
        false
    }

    /// The caller's end.
    fn to<'a>(&self, io: Io<'a>) -> Option<BorrowedFd<'a>> {
        match io {
            Io::Lines(_) => None,
            Io::Streams(streams) => Some(match self.stream {
                Stream::Stdout => streams.output,
                Stream::Stderr => streams.error,
            }),
        }
    }

    /// Hands on what the caller's end takes now, or all of it when `wait` is
    /// set: nobody is held up who could still get a signal.
    fn push(&mut self, io: Io<'_>, wait: bool) {
        let Some(to) = self.to(io) else { return };
        let patience = (!wait).then_some(Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
        while !self.waiting.is_empty() {
            let mut polled = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
            if matches!(rustix::event::poll(&mut polled, patience.as_ref()), Ok(0)) {
                return;
            }
            let piece = self.waiting.get(..PIECE).unwrap_or(&self.waiting);
            match rustix::io::write(to, piece) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => {
                    // The process hears of it as it would without us.
                    self.waiting.clear();
                    self.reader = None;
                }
            }
        }
    }
}

/// Where input goes, and what of it did not fit yet.
#[derive(Debug, Default)]
struct Sink {
    to: Option<File>,
    waiting: Vec<u8>,
    /// The caller's end has no more.
    ended: bool,
    /// The end of input is told by closing.
    closes: bool,
}

/// All descriptors of a run's streams on this side.
#[derive(Debug, Default)]
pub(super) struct Carrier {
    sources: Vec<Source>,
    sink: Sink,
    /// The other end of the terminal, where there is one.
    terminal: Option<OwnedFd>,
}

/// What a descriptor is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Source(usize),
    Output(usize),
    Input,
    Sink,
}

impl Carrier {
    /// Of a process with output pipes, and one for its input.
    pub(super) fn new(
        stdout: OwnedFd,
        stderr: OwnedFd,
        input: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let mut carrier = Self {
            sources: vec![
                Source::new(Stream::Stdout, stdout)?,
                Source::new(Stream::Stderr, stderr)?,
            ],
            sink: Sink::default(),
            terminal: None,
        };
        if let Some(input) = input {
            rustix::io::ioctl_fionbio(&input, true)?;
            carrier.sink.to = Some(input.into());
            carrier.sink.closes = true;
        }
        Ok(carrier)
    }

    /// Takes over the terminal of the process.
    pub(super) fn take_terminal(&mut self, master: OwnedFd, io: Io<'_>) -> io::Result<()> {
        self.sources
            .push(Source::new(Stream::Stdout, master.try_clone()?)?);
        if let Io::Streams(streams) = io
            && streams.input.is_some()
        {
            self.sink.to = Some(master.try_clone()?.into());
        }
        self.terminal = Some(master);
        Ok(())
    }

    /// Gives the terminal the size that the caller's has now.
    pub(super) fn resize(&self, streams: &Streams<'_>) {
        if let (Some(terminal), Some(size)) = (&self.terminal, streams.size()) {
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// What to wait for.
    pub(super) fn waits<'a>(
        &'a self,
        io: Io<'a>,
    ) -> impl Iterator<Item = (Waiting, BorrowedFd<'a>, PollFlags)> {
        let sources = self.sources.iter().enumerate();
        let sources = sources.filter_map(move |(n, source)| {
            if !source.waiting.is_empty() {
                return Some((Waiting::Output(n), source.to(io)?, PollFlags::OUT));
            }
            let fd = source.reader.as_ref()?.as_fd();
            Some((Waiting::Source(n), fd, PollFlags::IN))
        });
        let sink = &self.sink;
        let input = match io {
            Io::Streams(streams) => streams.input,
            Io::Lines(_) => None,
        };
        let input = input
            .filter(|_| sink.to.is_some() && sink.waiting.is_empty() && !sink.ended)
            .map(|fd| (Waiting::Input, fd, PollFlags::IN));
        let to = (sink.to.as_ref())
            .filter(|_| !sink.waiting.is_empty())
            .map(|to| (Waiting::Sink, to.as_fd(), PollFlags::OUT));
        sources.chain(input).chain(to)
    }

    /// Goes on with what is ready.
    pub(super) fn carry(&mut self, ready: Waiting, buffer: &mut [u8], io: Io<'_>) {
        match (ready, io) {
            (Waiting::Source(n), _) => {
                if let Some(source) = self.sources.get_mut(n) {
                    source.read(buffer, io);
                    source.push(io, false);
                }
            }
            (Waiting::Output(n), _) => {
                if let Some(source) = self.sources.get_mut(n) {
                    source.push(io, false);
                }
            }
            (Waiting::Input, Io::Streams(streams)) => {
                let Some(input) = streams.input else { return };
                match rustix::io::read(input, &mut *buffer) {
                    Ok(0) => self.sink.ended = true,
                    Ok(n) => self.sink.waiting.extend_from_slice(&buffer[..n]),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(_) => self.sink.ended = true,
                }
                self.sink.push();
            }
            (Waiting::Sink, _) => self.sink.push(),
            (Waiting::Input, Io::Lines(_)) => {}
        }
    }

    /// Whether somebody may still write output.
    pub(super) fn is_open(&self) -> bool {
        self.sources.iter().any(|s| s.reader.is_some())
    }

    /// Takes what there is now; whether there was anything.
    pub(super) fn drain(&mut self, buffer: &mut [u8], io: Io<'_>) -> bool {
        let read = self.sources.iter_mut().map(|source| {
            let read = source.read(buffer, io);
            source.push(io, true);
            read
        });
        read.fold(false, |any, read| any | read)
    }

    /// After the last writer has gone: what is still in the pipes is all there
    /// is.
    pub(super) fn finish(&mut self, buffer: &mut [u8], io: Io<'_>) {
        for source in &mut self.sources {
            source.push(io, true);
            while source.read(buffer, io) {
                source.push(io, true);
            }
            if let Io::Lines(output) = io {
                let stream = source.stream;
                source.lines.finish(&mut |line| output(stream, line));
            }
        }
    }
}

impl Sink {
    /// Writes what fits.
    fn push(&mut self) {
        if let Some(to) = &mut self.to {
            match to.write(&self.waiting) {
                Ok(n) => {
                    self.waiting.drain(..n);
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => {
                    self.to = None;
                    self.waiting.clear();
                }
            }
        }
        if self.ended && self.closes && self.waiting.is_empty() {
            self.to = None;
        }
    }
}

/// Room for what is read at a time.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; LONGEST]
}
