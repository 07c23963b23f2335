//! The container's first process: from the fork to the command.
//!
//! Order matters, and each step says what it needs: the root filesystem while
//! there are privileges; the working directory while it can be entered by
//! root; the filter before capabilities go; the user last.

use std::ffi::CString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::process::{Resource as Limited, Rlimit};
use rustix::thread::UnshareFlags;

use super::cgroup::Group;
use super::oci::Runtime;
use super::protocol::{self, Failure, Report, Tried};
use super::spec::{Network, Resource, RunSpec, Seccomp};
use super::streams;
use super::stub::Stubs;
use crate::sys::fs::Root;
use crate::sys::landlock::Ruleset;
use crate::sys::seccomp::Instruction;
use crate::sys::{capability, process};

/// Where commands are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files a process may have before it asks for more; more makes programs
/// slow that close every possible descriptor.
const OPEN_FILES: u64 = 1024;
/// What getcwd says of a directory outside the root begins otherwise.
const ROOTED: &[u8] = b"/";

/// Becomes the command of `spec` in `group`, or the runtime that runs it;
/// returns only what went wrong.
/// The keeper holds the one pipe open and speaks by it when the network is
/// connected, and waits for the network at the other.
pub(super) fn enter(
    spec: &RunSpec,
    (group, runtime): (Option<&Group>, Option<&Runtime<'_>>),
    control: &UnixStream,
    keeper: (PipeReader, PipeWriter),
) -> Failure {
    match prepare(spec, (group, runtime), control, keeper) {
        Ok(command) => command.execute(spec),
        Err(failure) => failure,
    }
}

/// What every first process does first, in `group` where there is one.
pub(super) fn separate(lifeline: PipeReader, group: Option<&Group>) -> Result<(), Failure> {
    tie(&lifeline)?;
    drop(lifeline);
    if let Some(group) = group {
        group.join()?;
    }
    // Without a process group of its own, `kill 0` would reach the keeper.
    rustix::process::setsid().tried("starting a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    process::new_keyring().tried("making a session keyring")?;
    normal_oom_score().tried("setting oom_score_adj")
}

/// Makes the process die with its keeper.
fn tie(lifeline: &PipeReader) -> Result<(), Failure> {
    process::die_with_parent().tried("tying the process to its keeper")?;
    if ended(lifeline) {
        std::process::exit(125);
    }
    Ok(())
}

fn prepare(
    spec: &RunSpec,
    (group, runtime): (Option<&Group>, Option<&Runtime<'_>>),
    control: &UnixStream,
    (mut lifeline, mut say_ready): (PipeReader, PipeWriter),
) -> Result<Command, Failure> {
    if let Network::Private(_) = spec.network {
        tie(&lifeline)?;
        process::unshare(UnshareFlags::NEWNET).tried("making a network namespace (unshare)")?;
        say_ready.write_all(&[0]).tried("reporting the network")?;
        if !matches!(lifeline.read(&mut [0]), Ok(1)) {
            std::process::exit(125);
        }
    }
    drop(say_ready);
    if let Some(runtime) = runtime {
        tie(&lifeline)?;
        return Err(runtime.enter(spec, control));
    }
    separate(lifeline, group)?;
    // The top of the cgroup namespace is the group that the process is in.
    process::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
        .tried("making a mount namespace (unshare)")?;
    rustix::system::sethostname(spec.hostname.as_bytes()).tried("setting the host name")?;
    match spec.network {
        Network::Host => {}
        Network::None | Network::Private(_) => {
            crate::sys::network::loopback_up().tried("bringing loopback up")?;
        }
    }
    let mut stubs = Stubs::default();
    let entered = super::rootfs::enter(spec, &mut stubs);
    protocol::send(control, &Report::Stubs(stubs)).tried("reporting")?;
    entered?;
    // All descriptors to the host's files are closed from here on.
    process::close_from(3, Some(control.as_raw_fd()));
    streams::take_terminal(spec.console, control)?;
    streams::set(spec)?;
    enter_work_dir(&spec.cwd)?;
    set_limits(spec)?;
    let command = Command::new(spec)?;
    set_labels(spec)?;
    hide_sockets(spec)?;
    set_privileges(spec)?;
    process::reset_signals().tried("resetting signals")?;
    // A change of user cleared it.
    process::die_with_parent().tried("tying the process to its keeper")?;
    Ok(command)
}

/// Abstract sockets belong to the network: where that is the host's, a process
/// could talk to the host's services (CVE-2020-15257). Older kernels cannot
/// keep them apart.
pub(super) fn hide_sockets(spec: &RunSpec) -> Result<(), Failure> {
    if spec.network != Network::Host || spec.insecure {
        return Ok(());
    }
    match Ruleset::without_abstract_sockets() {
        Ok(rules) => rules
            .restrict_self()
            .tried("hiding the host's abstract sockets (landlock)"),
        Err(_) => Ok(()),
    }
}

/// Whether the pipe's other end is closed.
fn ended(lifeline: &PipeReader) -> bool {
    let mut polled = [PollFd::new(lifeline, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0))
}

/// A process must not be harder to kill than what was started from a shell.
fn normal_oom_score() -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    match std::fs::read_to_string(path)?.trim().parse::<i32>() {
        Ok(score) if score < 0 => std::fs::write(path, "0"),
        _ => Ok(()),
    }
}

/// Enters the working directory without following what `/proc` offers as a
/// link to elsewhere (CVE-2024-21626).
pub(super) fn enter_work_dir(path: &str) -> Result<(), Failure> {
    let bad = |reason: String| Failure::Root {
        path: path.into(),
        reason: format!("cannot be the working directory: {reason}"),
    };
    let root = Root::open(Path::new("/")).tried("opening the root")?;
    let dir = root.open_dir(Path::new(path)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => bad("it does not exist".into()),
        io::ErrorKind::NotADirectory => bad("it is not a directory".into()),
        _ => bad(e.to_string()),
    })?;
    rustix::process::fchdir(&dir).tried("entering the working directory")?;
    let here = rustix::process::getcwd(Vec::new()).tried("asking for the working directory")?;
    match here.to_bytes().starts_with(ROOTED) {
        true => Ok(()),
        false => Err(bad("it is outside the root filesystem".into())),
    }
}

/// The soft and the hard limit on open files.
pub(super) fn open_files() -> (Option<u64>, Option<u64>) {
    let hard = rustix::process::getrlimit(Limited::Nofile).maximum;
    let soft = hard.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    (Some(soft), hard)
}

pub(super) fn set_limits(spec: &RunSpec) -> Result<(), Failure> {
    let set = |resource, soft, hard| {
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: soft,
                maximum: hard,
            },
        )
    };
    set(Limited::Core, Some(0), Some(0)).tried("limiting core files")?;
    let (soft, hard) = open_files();
    set(Limited::Nofile, soft, hard).tried("limiting open files")?;
    for limit in &spec.ulimits {
        set(limit.resource.into(), limit.soft, limit.hard)
            .tried(format!("setting the limit {:?}", limit.resource))?;
    }
    Ok(())
}

impl From<Resource> for Limited {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Core => Self::Core,
            Resource::Cpu => Self::Cpu,
            Resource::Data => Self::Data,
            Resource::Fsize => Self::Fsize,
            Resource::Locks => Self::Locks,
            Resource::Memlock => Self::Memlock,
            Resource::Msgqueue => Self::Msgqueue,
            Resource::Nice => Self::Nice,
            Resource::Nofile => Self::Nofile,
            Resource::Nproc => Self::Nproc,
            Resource::Rss => Self::Rss,
            Resource::Rtprio => Self::Rtprio,
            Resource::Rttime => Self::Rttime,
            Resource::Sigpending => Self::Sigpending,
            Resource::Stack => Self::Stack,
            Resource::As => Self::As,
        }
    }
}

/// Says which labels the command is to have once it is executed. In `/proc`
/// of our own, which nobody can have put something else into.
fn set_labels(spec: &RunSpec) -> Result<(), Failure> {
    let labels = &spec.labels;
    if let Some(profile) = &labels.apparmor {
        let text = format!("exec {profile}");
        // The first is there since Linux 5.8.
        let paths = ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"];
        let done = paths.iter().map(|path| std::fs::write(path, &text));
        let done = done.reduce(|first, second| first.or(second));
        done.unwrap_or(Ok(()))
            .tried(format!("setting the AppArmor profile {profile}"))?;
    }
    if let Some(context) = &labels.selinux {
        std::fs::write("/proc/self/attr/exec", context)
            .tried(format!("setting the SELinux context {context}"))?;
    }
    Ok(())
}

/// The filter of system calls for a process whose capabilities are at most
/// `keep`; `None` where it may make all.
pub(super) fn filter_of(spec: &RunSpec, keep: u64) -> Option<Vec<Instruction>> {
    match &spec.seccomp {
        _ if spec.insecure => None,
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(super::seccomp::filter(keep)),
        Seccomp::Profile(profile) => Some(profile.compile(&spec.capabilities)),
    }
}

/// Gives up what the command must not have. Root's permitted set after exec is
/// the bounding set; another user's is empty.
pub(super) fn set_privileges(spec: &RunSpec) -> Result<(), Failure> {
    let alone = super::userns::has_one_id();
    if alone && (spec.user.uid, spec.user.gid) != (0, 0) {
        super::userns::renumber(spec.user.uid, spec.user.gid)
            .tried(format!("becoming user {}:{}", spec.user.uid, spec.user.gid))?;
    }
    let held = capability::permitted().tried("reading capabilities")?;
    let keep = match spec.insecure {
        true => held,
        false => held & spec.capabilities.mask(),
    };
    capability::limit_bounding(keep).tried("limiting capabilities")?;
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).tried("setting no_new_privs")?;
    }
    let filter = filter_of(spec, keep);
    if let Some(filter) = filter {
        crate::sys::seccomp::install(&filter).tried("filtering system calls (seccomp)")?;
    }
    if alone {
        crate::sys::seccomp::install(&super::seccomp::pretending())
            .tried("filtering system calls (seccomp)")?;
    }
    let user = &spec.user;
    let groups = may_set_groups().then_some(&user.groups[..]);
    process::become_user(user.uid, user.gid, groups)
        .tried(format!("becoming user {}:{}", user.uid, user.gid))?;
    let keep = if user.uid == 0 { keep } else { 0 };
    capability::set(keep).tried("setting capabilities")
}

/// Whether groups can be given up and taken: not where a user namespace has
/// one id only.
fn may_set_groups() -> bool {
    !std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "deny")
}

/// What to execute, in the form the kernel takes.
pub(super) struct Command {
    /// Paths to try, in this order.
    pub(super) candidates: Vec<CString>,
    pub(super) args: Vec<CString>,
    pub(super) env: Vec<CString>,
}

impl Command {
    pub(super) fn new(spec: &RunSpec) -> Result<Self, Failure> {
        let strings = |all: &[String]| {
            let strings = all.iter().map(|s| CString::new(s.as_str()));
            strings
                .collect::<Result<Vec<_>, _>>()
                .map_err(io::Error::from)
                .tried("preparing the command")
        };
        let name = spec.args.first().map(String::as_str).unwrap_or_default();
        let candidates = if name.contains('/') {
            vec![name.to_owned()]
        } else {
            let directories = search_path(&spec.env).split(':');
            directories
                .map(|d| {
                    if d.is_empty() {
                        format!("./{name}")
                    } else {
                        format!("{d}/{name}")
                    }
                })
                .collect()
        };
        Ok(Self {
            candidates: strings(&candidates)?,
            args: strings(&spec.args)?,
            env: strings(&spec.env)?,
        })
    }

    pub(super) fn execute(&self, spec: &RunSpec) -> Failure {
        let name = spec.args.first().cloned().unwrap_or_default();
        let mut refused = None;
        for path in &self.candidates {
            let error = process::execute(path, &self.args, &self.env);
            let exists = rustix::fs::stat(path.as_c_str()).is_ok();
            let shown = String::from_utf8_lossy(path.to_bytes()).into_owned();
            match error.raw_os_error() {
                Some(libc::ENOENT) if exists => {
                    return Failure::NotFound {
                        name,
                        reason: format!(
                            "{shown} exists, but the interpreter of its #! line or its dynamic \
                             loader does not"
                        ),
                    };
                }
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => refused = refused.or(Some(shown)),
                Some(libc::ENOEXEC) => {
                    return Failure::NotExecutable {
                        name,
                        reason: format!(
                            "exec format error: {shown} is a program for another kind of machine, \
                             or a script without a #! line"
                        ),
                    };
                }
                _ => {
                    return Failure::NotExecutable {
                        name,
                        reason: format!("{shown}: {error}"),
                    };
                }
            }
        }
        match refused {
            Some(path) => Failure::NotExecutable {
                name,
                reason: format!(
                    "permission denied: {path} is not an executable file for this user"
                ),
            },
            None if name.contains('/') => Failure::NotFound {
                name,
                reason: "no such file in the root filesystem".into(),
            },
            None => Failure::NotFound {
                name,
                reason: format!("it is in no directory of PATH ({})", search_path(&spec.env)),
            },
        }
    }
}

/// The value of `PATH`, the last one where there are several.
fn search_path(env: &[String]) -> &str {
    let found = env.iter().rev().find_map(|e| e.strip_prefix("PATH="));
    found.filter(|p| !p.is_empty()).unwrap_or(DEFAULT_PATH)
}
