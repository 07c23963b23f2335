//! Runs without namespaces: a changed root, or `proot`'s view of one.
//!
//! This is for places where neither a namespace nor a mount can be made, as in
//! a container with Docker's default profile. The process sees the tree and
//! nothing else of the file system, by `chroot` and by Landlock, which keeps
//! it there whatever it finds; its capabilities are those that package
//! managers need, and none that leads out of a changed root, makes devices, or
//! looks into other processes. It has no new privileges, the filter of system
//! calls, no descriptor and no environment but its own.
//!
//! What it shares with shiplap is the process tree, the network and the host's
//! name. shiplap cannot be looked into (it is not dumpable, and Landlock
//! forbids it), nor have its limits or its priority changed, nor be sent signals
//! where the kernel's Landlock covers those (Linux 6.12).
//!
//! All descendants of the process, daemons included, become the keeper's
//! children when their parents end, and it ends them.

use std::fs;
use std::io::PipeReader;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::cgroup::Group;
use super::descendants;
use super::enter;
use super::placed::Placed;
use super::proot;
use super::protocol::{self, Failure, Method, Report, Tried};
use super::signals;
use super::spec::{Labels, Network, RootSpec, RunSpec};
use super::streams;
use crate::sys::capability;
use crate::sys::landlock::Ruleset;
use crate::sys::process::{self, Child, Ended};

/// What root keeps in a changed root.
const KEPT: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "SETFCAP",
    "NET_BIND_SERVICE",
    "AUDIT_WRITE",
];

/// How often orphans are looked for while the process runs.
const REAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Keeps one run, as `init::keep_run` does with namespaces.
pub(super) fn keep_run(
    spec: &RunSpec,
    method: &Method,
    group: Option<&Group>,
    control: &UnixStream,
    null: &OwnedFd,
) -> Result<Ended, Failure> {
    let by_root = || rustix::process::geteuid().is_root();
    if matches!(method, Method::Proot { .. }) && spec.user.uid != 0 && by_root() {
        // What that user makes would be root's: proot only pretends.
        return Err(Failure::Unavailable {
            what: "user other than root, when root uses it".into(),
        });
    }
    let RootSpec::Dir { dir, work } = &spec.root else {
        return Err(rustix::io::Errno::OPNOTSUPP).tried("mounting an overlay");
    };
    let spec = weaker(spec)?;
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(hidden).tried("hiding from other processes")?;
    rustix::process::setsid().tried("starting a session")?;
    process::adopt_orphans().tried("becoming the parent of orphans")?;
    let mut placed = Placed::new(dir, work)?;
    let filled = placed.fill(&spec, matches!(method, Method::Proot { .. }));
    let ended = filled.and_then(|()| run(&spec, (method, group), &mut placed, control, null));
    let killed = descendants::end_all().tried("ending the processes that the command left");
    let undone = placed.undo();
    let ended = ended?;
    killed?;
    undone?;
    Ok(ended)
}

/// `spec` with what can't be had taken out.
fn weaker(spec: &RunSpec) -> Result<RunSpec, Failure> {
    let refused = |reason: &str| Failure::Unavailable {
        what: reason.to_owned(),
    };
    if spec.insecure {
        return Err(refused("security=insecure"));
    }
    if spec.network != Network::Host {
        return Err(refused("a network of its own"));
    }
    if spec.read_only {
        return Err(refused("a read-only root"));
    }
    if !spec.devices.is_empty() {
        return Err(refused("a device of the host"));
    }
    if spec.labels != Labels::default() {
        return Err(refused("a label of a security module"));
    }
    let mut spec = spec.clone();
    spec.capabilities.keep_named(&KEPT);
    // Without privilege neither Landlock nor a filter can be had otherwise.
    spec.no_new_privileges = true;
    Ok(spec)
}

fn run(
    spec: &RunSpec,
    (method, group): (&Method, Option<&Group>),
    placed: &mut Placed,
    control: &UnixStream,
    null: &OwnedFd,
) -> Result<Ended, Failure> {
    let relays = std::mem::take(&mut placed.relays);
    let relay = match relays.is_empty() {
        true => None,
        false => match process::fork().tried("forking")? {
            Some(relay) => Some(relay),
            None => {
                let _ = process::die_with_parent();
                for stream in [0, 1, 2] {
                    let _ = process::duplicate_to(null, stream);
                }
                super::relay::serve(relays);
            }
        },
    };
    let (lifeline, held) = std::io::pipe().tried("making a pipe")?;
    let first = match process::fork().tried("forking")? {
        Some(child) => child,
        None => {
            drop(held);
            let failure = match begin(spec, (method, group), placed, control, lifeline) {
                Ok(command) => command.execute(spec),
                Err(failure) => failure,
            };
            let _ = protocol::send(control, &Report::Failed(failure));
            std::process::exit(125);
        }
    };
    // Only the run may hold the pipes: their end is its end.
    for stream in [0, 1, 2] {
        process::duplicate_to(null, stream).tried("letting go of the streams")?;
    }
    wait(first, method, relay, control)
}

/// Becomes the process that the command is executed in.
fn begin(
    spec: &RunSpec,
    (method, group): (&Method, Option<&Group>),
    placed: &Placed,
    control: &UnixStream,
    lifeline: PipeReader,
) -> Result<enter::Command, Failure> {
    enter::separate(lifeline, group)?;
    rustix::thread::set_no_new_privs(true).tried("setting no_new_privs")?;
    // The tree has none to make one of.
    streams::take_terminal(spec.console, control)?;
    let command = match method {
        Method::Proot { program } => {
            confine(placed, |rules| proot::allow(rules, program, spec))?;
            process::close_from(3, Some(control.as_raw_fd()));
            streams::set(spec)?;
            enter::set_limits(spec)?;
            proot::command(program, spec)?
        }
        Method::Chroot | Method::Namespaces | Method::Oci { .. } => {
            rustix::process::fchdir(placed.root()).tried("entering the root")?;
            rustix::process::chroot(".").tried("changing the root (chroot)")?;
            rustix::process::chdir("/").tried("entering the root")?;
            confine(placed, |_| Ok(()))?;
            process::close_from(3, Some(control.as_raw_fd()));
            streams::set(spec)?;
            enter::enter_work_dir(&spec.cwd)?;
            enter::set_limits(spec)?;
            enter::Command::new(spec)?
        }
    };
    let others = super::seccomp::to_oneself_only();
    crate::sys::seccomp::install(&others).tried("filtering system calls (seccomp)")?;
    match method {
        Method::Proot { .. } => {
            // Root may go this way too, and keeps what it needs then.
            let held = capability::permitted().tried("reading capabilities")?;
            let keep = held & spec.capabilities.mask();
            if held != 0 {
                capability::limit_bounding(keep).tried("limiting capabilities")?;
            }
            capability::set(keep).tried("setting capabilities")?;
            let own = super::seccomp::without(&proot::UNTRANSLATED);
            for filter in std::iter::once(own).chain(enter::filter_of(spec, keep)) {
                crate::sys::seccomp::install(&filter).tried("filtering system calls (seccomp)")?;
            }
        }
        Method::Chroot | Method::Namespaces | Method::Oci { .. } => {
            enter::set_privileges(spec)?;
        }
    }
    process::reset_signals().tried("resetting signals")?;
    // A change of user cleared it.
    process::die_with_parent().tried("tying the process to its keeper")?;
    Ok(command)
}

/// Leaves the process the tree and what `more` allows, where there is Landlock.
fn confine(
    placed: &Placed,
    more: impl FnOnce(&Ruleset) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let what = "confining the process (landlock)";
    let Ok(rules) = Ruleset::new() else {
        return Ok(());
    };
    rules.allow(placed.root(), true).tried(what)?;
    more(&rules)?;
    rules.restrict_self().tried(what)
}

/// Tries what every run in a changed root needs.
pub(super) fn probe(scratch: &Path) -> Result<(), Failure> {
    process::adopt_orphans().tried("becoming the parent of orphans")?;
    let file = scratch.join("try-owner");
    fs::write(&file, b"").tried("making a file")?;
    let owned = std::os::unix::fs::chown(&file, Some(1), Some(1));
    let _ = fs::remove_file(&file);
    owned.tried("giving a file to another user (chown)")?;
    rustix::process::chroot(scratch).tried("changing the root (chroot)")?;
    rustix::thread::set_no_new_privs(true).tried("setting no_new_privs")?;
    let filter = super::seccomp::filter(0);
    crate::sys::seccomp::install(&filter).tried("filtering system calls (seccomp)")
}

/// Waits for `first` to end, and ends everything when the socket's other end
/// closes.
fn wait(
    first: Child,
    method: &Method,
    relay: Option<Child>,
    control: &UnixStream,
) -> Result<Ended, Failure> {
    let pidfd = first.pidfd().ok();
    loop {
        while let Some((child, ended)) = process::wait_any(false).tried("waiting")? {
            if child.id() == first.id() {
                return Ok(ended);
            }
        }
        let mut polled = vec![PollFd::new(control, PollFlags::IN)];
        polled.extend(pidfd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match rustix::event::poll(&mut polled, Some(&REAP)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).tried("waiting for the process"),
        }
        if let Method::Proot { .. } = method {
            descendants::end_leftovers(first, relay);
        }
        let spoken = polled.first().is_some_and(|p| !p.revents().is_empty());
        if !spoken {
            continue;
        }
        if let Some(signal) = signals::next(control) {
            let to = match method {
                // It does not pass on what it gets itself.
                Method::Proot { .. } => signals::child_of(first),
                Method::Chroot | Method::Namespaces | Method::Oci { .. } => None,
            };
            process::signal(to.unwrap_or(first.id()), signal);
        } else {
            first.kill();
            loop {
                match process::wait_any(true).tried("waiting for the process")? {
                    Some((child, ended)) if child.id() == first.id() => return Ok(ended),
                    Some(_) => {}
                    None => return Err(rustix::io::Errno::CHILD).tried("waiting"),
                }
            }
        }
    }
}
