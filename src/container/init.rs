//! The keeper: what a re-execution of shiplap does.
//!
//! It has one thread, no environment and no descriptor but the socket and
//! the output pipes. It leaves for new namespaces, forks the first process
//! and waits: for that process, to report how it ended, and for the socket's
//! other end, to kill the process when shiplap is gone.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::cgroup::Group;
use super::network;
use super::oci::Runtime;
use super::protocol::{self, CHILD_NAME, Failure, Input, Method, Report, Request, Tried};
use super::signals;
use super::spec::{Network, RunSpec};
use super::streams::Console;
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
    if let Request::Run(spec, _) = &request
        && spec.console == Console::Pipes
    {
        let (Input, input) = protocol::receive_with(&control)?;
        process::duplicate_to(&input, 0)?;
    }
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
            Ok((ended, out_of_memory)) => Report::Ended {
                code: ended.code,
                signal: ended.signal,
                cpu_seconds: ended.cpu_seconds,
                peak_memory_bytes: ended.peak_memory_bytes,
                out_of_memory,
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
    let mut flags = UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    match network {
        // The first process makes its own: the keeper's helper has to stay
        // outside of it.
        Network::Host | Network::Private(_) => {}
        Network::None => flags |= UnshareFlags::NEWNET,
    }
    process::unshare(flags).tried("making namespaces (unshare)")
}

/// Runs `spec`; how it ended, and whether for want of memory.
fn keep_with(
    spec: &RunSpec,
    method: &Method,
    control: &UnixStream,
    null: &OwnedFd,
) -> Result<(process::Ended, bool), Failure> {
    if let Method::Oci { runtime } = method {
        let runtime = Runtime::new(runtime, spec)?;
        let ended = keep_run(spec, (None, Some(&runtime)), control, null);
        let complaint = runtime.finish();
        let ended = ended?;
        return match complaint {
            Some(complaint) if ended.code != Some(0) => Err(complaint),
            _ => Ok((ended, false)),
        };
    }
    let group = Group::create(&spec.limits)?;
    let ended = match method {
        Method::Namespaces | Method::Oci { .. } => {
            keep_run(spec, (group.as_ref(), None), control, null)
        }
        Method::Chroot | Method::Proot { .. } => {
            super::chroot::keep_run(spec, method, group.as_ref(), control, null)
        }
    };
    let out_of_memory = group.as_ref().is_some_and(Group::ran_out_of_memory);
    if let Some(group) = group {
        group.remove();
    }
    Ok((ended?, out_of_memory))
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
        Method::Namespaces | Method::Oci { .. } => {
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
    process::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
        .tried("making a mount namespace (unshare)")?;
    super::rootfs::Stage::new().map(drop)
}

fn keep_run(
    spec: &RunSpec,
    (group, runtime): (Option<&Group>, Option<&Runtime<'_>>),
    control: &UnixStream,
    null: &OwnedFd,
) -> Result<process::Ended, Failure> {
    // The helper has to be outside of all the namespaces to come.
    let mut guard = match spec.network {
        Network::Host | Network::None => None,
        Network::Private(helper) => Some(network::Guard::new(helper)?),
    };
    separate(spec.network)?;
    // The first process sees by it whether the keeper was gone before it was
    // tied to it.
    let (lifeline, mut held) = std::io::pipe().tried("making a pipe")?;
    let (mut ready, say_ready) = std::io::pipe().tried("making a pipe")?;
    let first = match process::fork().tried("forking")? {
        Some(child) => child,
        None => {
            drop((held, ready));
            let failure =
                super::enter::enter(spec, (group, runtime), control, (lifeline, say_ready));
            let _ = protocol::send(control, &Report::Failed(failure));
            std::process::exit(125);
        }
    };
    drop((lifeline, say_ready));
    if let Some(guard) = &mut guard {
        // It ends without a word when it has reported a failure.
        let has_one = matches!(ready.read(&mut [0]), Ok(1));
        if let Err(failure) = if has_one {
            guard.connect(first)
        } else {
            Ok(())
        } {
            first.kill();
            let _ = first.wait(true);
            return Err(failure);
        }
        let _ = held.write_all(&[0]);
    }
    // Only the container may hold the pipes: their end is its end.
    for stream in [0, 1, 2] {
        process::duplicate_to(null, stream).tried("letting go of the streams")?;
    }
    let ended = wait(first, runtime.is_none(), control);
    drop(guard);
    ended
}

/// Waits for `first` to end, killing it when the socket's other end closes.
/// `spared` is whether the kernel keeps signals from it that it has no handler
/// for.
fn wait(first: Child, spared: bool, control: &UnixStream) -> Result<process::Ended, Failure> {
    // What it was ended with in the kernel's stead.
    let mut ended_by = None;
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
            let signal = ended.signal.map(|signal| ended_by.unwrap_or(signal));
            return Ok(process::Ended { signal, ..ended });
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
        if !spoken {
            continue;
        }
        if let Some(signal) = signals::next(control) {
            if spared && signals::would_end(first, signal) {
                ended_by = Some(signal);
                first.kill();
            } else {
                first.signal(signal);
            }
        } else {
            first.kill();
            if let Some(ended) = first.wait(true).tried("waiting for the process")? {
                return Ok(ended);
            }
        }
    }
}
