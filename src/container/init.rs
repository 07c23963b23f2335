//! The keeper: what a re-execution of shiplap does.
//!
//! It has one thread, no environment and no descriptor but the socket and
//! the output pipes. It leaves for new namespaces, forks the first process
//! and waits: for that process, to report how it ended, and for the socket's
//! other end, to kill the process when shiplap is gone.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::protocol::{self, CHILD_NAME, Failure, Method, Report, Request, Tried};
use super::spec::{Network, RunSpec};
use crate::sys::process::{self, Child};

/// Where the socket is after the start.
const CONTROL: i32 = 3;

/// Call this first in `main`: a process that was started to keep a container
/// does so and exits; any other process continues.
pub fn child_main() {
    if std::env::args_os().next().as_deref() != Some(OsStr::new(CHILD_NAME)) {
        return;
    }
    std::process::exit(match keep() {
        Ok(()) => 0,
        // The socket is gone or was never there: nobody to tell.
        Err(_) => 125,
    });
}

fn keep() -> std::io::Result<()> {
    // The socket arrives as standard input.
    let flags = rustix::io::fcntl_dupfd_cloexec(process::inherited(0)?, CONTROL)?;
    let control = UnixStream::from(flags);
    process::close_from(CONTROL, Some(control.as_raw_fd()));
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    process::duplicate_to(&null, 0)?;
    let request = protocol::receive(&control)?;
    let report = match request {
        Request::Probe {
            method,
            user_namespace,
            scratch,
        } => match probe(&method, user_namespace, &scratch) {
            Ok(works) => works,
            Err(failure) => Report::Failed(failure),
        },
        Request::Run(spec, method) => match keep_with(&spec, &method, &control, &null) {
            Ok(ended) => Report::Ended {
                code: ended.code,
                signal: ended.signal,
                cpu_seconds: ended.cpu_seconds,
                peak_memory_bytes: ended.peak_memory_bytes,
            },
            Err(failure) => Report::Failed(failure),
        },
    };
    protocol::send(&control, &report)
}

/// Leaves for new namespaces; the PID namespace is for the next child.
fn separate(network: Network) -> Result<(), Failure> {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    rustix::process::setsid().tried("starting a session")?;
    let mut flags = UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    match network {
        Network::Host => {}
        Network::None => flags |= UnshareFlags::NEWNET,
    }
    process::unshare(flags).tried("making namespaces (unshare)")
}

fn keep_with(
    spec: &RunSpec,
    method: &Method,
    control: &UnixStream,
    null: &OwnedFd,
) -> Result<process::Ended, Failure> {
    match method {
        Method::Namespaces => keep_run(spec, control, null),
        Method::Chroot | Method::Proot { .. } => {
            super::chroot::keep_run(spec, method, control, null)
        }
    }
}

/// Tries what every run needs.
fn probe(method: &Method, user_namespace: bool, scratch: &Path) -> Result<Report, Failure> {
    let mapped = match user_namespace {
        false => None,
        true => Some(
            super::userns::enter_user_namespace().map_err(|e| Failure::Setup {
                what: e.to_string(),
                errno: e.errno(),
            })?,
        ),
    };
    let no_overlay = match method {
        Method::Namespaces => {
            probe_namespaces()?;
            super::overlay::try_overlay(scratch)
                .err()
                .map(|f| f.to_string())
        }
        Method::Chroot => {
            super::chroot::probe(scratch)?;
            None
        }
        // That is tried with the program itself.
        Method::Proot { .. } => None,
    };
    Ok(Report::Works { no_overlay, mapped })
}

fn probe_namespaces() -> Result<(), Failure> {
    separate(Network::Host)?;
    process::unshare(UnshareFlags::NEWNS).tried("making a mount namespace (unshare)")?;
    super::rootfs::Stage::new().map(drop)
}

fn keep_run(
    spec: &RunSpec,
    control: &UnixStream,
    null: &OwnedFd,
) -> Result<process::Ended, Failure> {
    separate(spec.network)?;
    // The first process sees by it whether the keeper was gone before it was
    // tied to it.
    let (lifeline, held) = std::io::pipe().tried("making a pipe")?;
    let first = match process::fork().tried("forking")? {
        Some(child) => child,
        None => {
            drop(held);
            let failure = super::enter::enter(spec, control, lifeline.into());
            let _ = protocol::send(control, &Report::Failed(failure));
            std::process::exit(125);
        }
    };
    // Only the container may hold the pipes: their end is its end.
    for output in [1, 2] {
        process::duplicate_to(null, output).tried("letting go of the output")?;
    }
    wait(first, control)
}

/// Waits for `first` to end, killing it when the socket's other end closes.
fn wait(first: Child, control: &UnixStream) -> Result<process::Ended, Failure> {
    let pidfd = first.pidfd().ok();
    let timeout = match pidfd {
        Some(_) => None,
        None => Some(Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        }),
    };
    loop {
        if let Some(ended) = first.wait(false).tried("waiting for the process")? {
            return Ok(ended);
        }
        let mut polled = vec![PollFd::new(control, PollFlags::IN)];
        polled.extend(pidfd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                first.kill();
                return Err(e).tried("waiting for the process");
            }
        }
        let spoken = polled.first().is_some_and(|p| !p.revents().is_empty());
        // Nothing is ever sent after the request: this is the end.
        if spoken && !matches!((&mut &*control).read(&mut [0]), Ok(1..)) {
            first.kill();
            if let Some(ended) = first.wait(true).tried("waiting for the process")? {
                return Ok(ended);
            }
        }
    }
}
