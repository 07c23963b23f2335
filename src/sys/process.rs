//! Processes: forking, waiting, signals, descriptors, execution.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::thread::UnshareFlags;

/// Heaps of the process.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;
/// Bytes of a block that gets pages of its own; more than the blocks that are
/// taken again and again have.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 3 << 20;
/// Free bytes that a heap keeps at its end.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 1 << 20;

/// Descriptors are looked for up to here where nothing lists them.
const MOST_DESCRIPTORS: RawFd = 65_536;
/// Numbers of signals go up to here, and their set takes this many bytes.
const HIGHEST_SIGNAL: i32 = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// How a child ended, and what it and the children it waited for used.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its exit code, when it exited.
    pub code: Option<i32>,
    /// The signal that killed it, otherwise.
    pub signal: Option<i32>,
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// The largest resident set of one of the processes.
    pub peak_memory_bytes: u64,
}

/// A child of [`fork`].
#[derive(Debug, Clone, Copy)]
pub struct Child(libc::pid_t);

impl Child {
    /// Its process id.
    pub fn id(self) -> i32 {
        self.0
    }

    /// Kills it; in a PID namespace's first process that means the namespace.
    pub fn kill(self) {
        // SAFETY: kill takes integers only, and the child is not reaped yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    /// Sends it a signal.
    pub fn signal(self, signal: i32) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, signal) };
    }

    /// A descriptor that becomes readable when it ends; an error where the
    /// kernel has none.
    pub fn pidfd(self) -> io::Result<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.0).ok_or(rustix::io::Errno::SRCH)?;
        Ok(rustix::process::pidfd_open(
            pid,
            rustix::process::PidfdFlags::empty(),
        )?)
    }

    /// Reaps it if it has ended; waits for that when `block` is set.
    pub fn wait(self, block: bool) -> io::Result<Option<Ended>> {
        Ok(self.wait_for(block)?.map(|(_, ended)| ended))
    }

    fn wait_for(self, block: bool) -> io::Result<Option<(Self, Ended)>> {
        let mut status = 0;
        // SAFETY: rusage is plain data for which zeros are valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let options = if block { 0 } else { libc::WNOHANG };
        let pid = loop {
            // SAFETY: both pointers are to live values of the right types.
            let pid = unsafe { libc::wait4(self.0, &raw mut status, options, &raw mut usage) };
            if pid >= 0 {
                break pid;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        };
        if pid == 0 {
            return Ok(None);
        }
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        let ended = Ended {
            code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        };
        Ok(Some((Self(pid), ended)))
    }
}

/// Forks. `None` in the child.
///
/// # Errors
/// When the process has other threads, whose locks the child would inherit.
pub fn fork() -> io::Result<Option<Child>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(
            "a process with several threads cannot fork",
        ));
    }
    // SAFETY: the process has one thread, so the child's state is whole.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Child(pid))),
    }
}

/// The calling process's next child that has ended, and how; `None` where
/// there is none yet (unless `block` is set) or none at all.
pub fn wait_any(block: bool) -> io::Result<Option<(Child, Ended)>> {
    match Child(-1).wait_for(block) {
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other,
    }
}

/// Whether the calling process has children, ended or not.
pub fn has_children() -> io::Result<bool> {
    // SAFETY: siginfo is plain data for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live value of the right type.
    match unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ECHILD) => Ok(false),
            e => Err(e),
        },
    }
}

/// Sends a signal to the process `pid`, if there is one and it may be.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes integers only.
    unsafe { libc::kill(pid, signal) };
}

/// Leaves namespaces for new ones.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: UnshareFlags::FILES, the one flag that can break descriptors
    // held by others, is taken out.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags - UnshareFlags::FILES) }?)
}

/// Gives every signal its default effect and blocks none.
pub fn reset_signals() -> io::Result<()> {
    // Asked of the kernel: the C library refuses the signals it uses itself,
    // which may have been inherited ignored. Zeros are the default action of
    // every architecture's structure, which no one has larger than this.
    let default = [0_u64; 8];
    for signal in 1..=HIGHEST_SIGNAL {
        // SAFETY: the kernel only reads the action, and it installs no
        // handler. KILL and STOP are refused, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                SIGNAL_SET_BYTES,
            )
        };
    }
    // SAFETY: the set is initialised by sigemptyset before it is used.
    let done = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Signals taken as messages instead of interruptions; the end of a child is
/// one of them.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Takes these signals from now on, and `SIGCHLD`, for the whole process,
    /// which must have one thread.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is used, and
        // the descriptor is new.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals.iter().chain([&libc::SIGCHLD]) {
                libc::sigaddset(&raw mut set, *signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// The next signal that is not `SIGCHLD`; `None` after `SIGCHLD` or `patience`.
    pub fn next(&self, patience: std::time::Duration) -> Option<i32> {
        let mut polled = [rustix::event::PollFd::new(
            &self.0,
            rustix::event::PollFlags::IN,
        )];
        let timeout = rustix::event::Timespec::try_from(patience).ok()?;
        rustix::event::poll(&mut polled, Some(&timeout)).ok()?;
        let mut message = [0; size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::read(&self.0, &mut message).ok()?;
        let number = message.get(..length)?.first_chunk::<4>()?;
        let signal = i32::from_ne_bytes(*number);
        (signal != libc::SIGCHLD).then_some(signal)
    }
}

/// Closes every descriptor from `first` on, except `keep`.
///
/// The caller must not use descriptors it still holds above `first`; values
/// that own one must be forgotten or never dropped.
pub fn close_from(first: RawFd, keep: Option<RawFd>) {
    match keep.filter(|keep| *keep >= first) {
        None => close_range(first, RawFd::MAX),
        Some(keep) => {
            if keep > first {
                close_range(first, keep - 1);
            }
            close_range(keep + 1, RawFd::MAX);
        }
    }
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: closing descriptors is memory-safe; see `close_from` for owners.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    // Kernels before 5.9, and filters that refuse the call.
    let listed: Option<Vec<RawFd>> = std::fs::read_dir("/proc/self/fd").ok().map(|entries| {
        entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    });
    for fd in listed.unwrap_or_else(|| (0..MOST_DESCRIPTORS).collect()) {
        if (first..=last).contains(&fd) {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Takes ownership of a descriptor that this process was started with.
///
/// # Errors
/// When it is not open.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with integers only.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the caller is the one who takes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes descriptor number `number` another name of `fd`, open across exec.
pub fn duplicate_to(fd: impl AsFd, number: RawFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: dup2 with integers only; what `number` was is closed by design.
    if unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Joins a new, empty session keyring, so that keys of the caller are out of
/// reach. Nothing to do where the kernel has no keyrings or refuses the call.
pub fn new_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) };
    if done >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    }
}

/// Lets all threads share a few heaps, and large blocks lie outside of them.
///
/// A heap for each thread, as glibc has it, keeps much memory that other
/// threads have freed. And once a large block was freed, glibc takes further
/// ones from a heap: there a list that grows is copied, and leaves a hole.
pub fn share_heaps() {
    // SAFETY: it takes numbers, and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Lets this process have as many open files as it may ask for, 65,536 at most:
/// a stack of hundreds of layers takes more than the usual 1,024. Where the
/// limit can't be raised it stays.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 1 << 16;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|now| now < most) {
        let raised = Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        };
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Makes the first process of a namespace, or this one, die with its parent.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        rustix::process::Signal::KILL,
    ))?)
}

/// Has the child of `command` die with the thread that starts it, whatever
/// program it is: it gains no privileges by its file's bits, as those would undo
/// that.
pub fn tie(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let tie = move || {
        die_with_parent()?;
        rustix::thread::set_no_new_privs(true)?;
        let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        match u32::try_from(now) == Ok(parent) {
            true => Ok(()),
            // It was gone before.
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: between fork and exec only system calls are made, and nothing is
    // allocated.
    unsafe { command.pre_exec(tie) };
}

/// Makes this process the parent of descendants whose parents end.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: prctl with integers only.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets user, group and supplementary groups, real, effective and saved.
pub fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> io::Result<()> {
    if let Some(groups) = groups {
        let groups: Vec<libc::gid_t> = groups.to_vec();
        // SAFETY: length and pointer are of one live vector.
        if unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: integers only; the process has one thread.
    if unsafe { libc::setresgid(gid, gid, gid) } != 0
        || unsafe { libc::setresuid(uid, uid, uid) } != 0
    {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Becomes the program `path`; returns only when that fails.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let all = strings.iter().map(|s| s.as_ptr());
        all.chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with null and point to strings that live here.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// A copy of `program` in memory that nobody can change, not even through
/// `/proc/PID/exe` of a process that runs it (CVE-2019-5736).
pub fn sealed_copy(program: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(c"shiplap", flags | MemfdFlags::EXEC)
        // Kernels before 6.3 do not know the flag and need none.
        .or_else(|_| rustix::fs::memfd_create(c"shiplap", flags))?;
    let mut memory = File::from(memory);
    io::copy(&mut File::open(program)?, &mut memory)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    // What is open for writing cannot be executed.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let path = super::fs::proc_fd(memory.as_fd());
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_sealed_copy_is_whole_and_cannot_be_changed() {
        let program = std::env::current_exe().unwrap();
        let copy = sealed_copy(&program).unwrap();
        let path = crate::sys::fs::proc_fd(copy.as_fd());
        let mut content = Vec::new();
        File::open(&path)
            .unwrap()
            .read_to_end(&mut content)
            .unwrap();
        assert!(content == std::fs::read(&program).unwrap());
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(b"x"));
        assert!(written.is_err());
    }

    #[test]
    fn a_threaded_process_does_not_fork() {
        std::thread::scope(|s| {
            s.spawn(|| assert!(fork().is_err()));
        });
    }
}
