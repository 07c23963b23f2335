//! A user namespace for processes without root's privileges.
//!
//! Inside it the process is root over the ids that are mapped, and everything
//! else, from unpacking a layer to running a step, works as it does for root.
//! So the whole program moves there, once, before it has threads: the process
//! that was started stays behind and waits.
//!
//! # Which ids
//! 1. a process that may write any map (root in a container) maps every id it
//!    has to itself;
//! 2. a plain user maps itself to root, and the ranges of `/etc/subuid` and
//!    `/etc/subgid` after it, with the programs `newuidmap` and `newgidmap`;
//! 3. where neither works, only itself to root: other owners cannot be kept.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::sys::process::{self, Child};

/// Where the helpers may be; a `PATH` is the user's to change, these are not.
const HELPER_DIRS: [&str; 2] = ["/usr/bin", "/bin"];
/// The kernel's limit on lines of a map.
const MOST_RANGES: usize = 340;

/// Which ids the namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mapped {
    /// All that the process outside has.
    All,
    /// The user's own, and ranges of subordinate ids.
    Ranges,
    /// The user's own only.
    Single,
}

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a user namespace: {what}")]
pub struct UserNamespaceError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl UserNamespaceError {
    /// The system's error number, where it is one of the system's errors.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EPERM)
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> UserNamespaceError {
    move |source| UserNamespaceError { what, source }
}

/// Whether this process can make mounts where it is, so that no user
/// namespace is needed. A child process tries it.
pub fn can_mount() -> bool {
    let tried = process::fork().and_then(|child| match child {
        Some(child) => child.wait(true),
        None => {
            let done = process::unshare(UnshareFlags::NEWNS);
            std::process::exit(i32::from(done.is_err()))
        }
    });
    tried
        .ok()
        .flatten()
        .is_some_and(|ended| ended.code == Some(0))
}

/// Goes on in a child process that is root in a new user namespace. Returns
/// there; the calling process waits for it, passes signals on, and exits as it
/// does. Call it before any thread is started.
///
/// # Errors
/// When the kernel refuses, or the process has threads.
pub fn enter_user_namespace() -> Result<Mapped, UserNamespaceError> {
    let (mut ready, mut say_ready) = io::pipe().map_err(failed("making a pipe"))?;
    let (mut mapped, mut say_mapped) = io::pipe().map_err(failed("making a pipe"))?;
    let ids = (rustix::process::geteuid(), rustix::process::getegid());
    match process::fork().map_err(failed("forking"))? {
        Some(child) => {
            drop((say_ready, mapped));
            let mut answer = [0; 5];
            ready
                .read_exact(&mut answer)
                .map_err(failed("hearing of the child"))?;
            let [0, errno @ ..] = answer else {
                let _ = child.wait(true);
                let errno = i32::from_le_bytes([answer[1], answer[2], answer[3], answer[4]]);
                return Err(failed("the kernel refuses (unshare)")(
                    io::Error::from_raw_os_error(errno),
                ));
            };
            let _ = errno;
            match map_ids(child, ids.0.as_raw(), ids.1.as_raw()) {
                Ok(kind) => {
                    let _ = say_mapped.write_all(&[kind as u8]);
                    drop(say_mapped);
                    wait_in_place_of(child)
                }
                Err(e) => {
                    child.kill();
                    let _ = child.wait(true);
                    Err(failed("mapping ids")(e))
                }
            }
        }
        None => {
            drop((ready, say_mapped));
            let entered =
                process::die_with_parent().and_then(|()| process::unshare(UnshareFlags::NEWUSER));
            let errno = entered
                .err()
                .map(|e| e.raw_os_error().unwrap_or(libc::EPERM));
            let mut answer = vec![u8::from(errno.is_some())];
            answer.extend(errno.unwrap_or(0).to_le_bytes());
            let said = say_ready.write_all(&answer);
            let mut kind = [0];
            if errno.is_some() || said.is_err() || mapped.read_exact(&mut kind).is_err() {
                std::process::exit(125);
            }
            let kind = match kind {
                [0] => Mapped::All,
                [1] => Mapped::Ranges,
                _ => Mapped::Single,
            };
            let groups = (kind != Mapped::Single).then_some(&[][..]);
            process::become_user(0, 0, groups).map_err(failed("becoming root in it"))?;
            // The change of user undid it.
            process::die_with_parent().map_err(failed("tying it to its parent"))?;
            Ok(kind)
        }
    }
}

/// Whether this process is in a user namespace with one id, so that it can
/// neither be nor make anything of another user.
pub(super) fn has_one_id() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().skip(2).eq(["1"])
}

/// Gives the one id that this process has another number, in a user namespace
/// of its own.
pub(super) fn renumber(uid: u32, gid: u32) -> io::Result<()> {
    // Otherwise the files to be written belong to the machine's root.
    let visible = rustix::process::DumpableBehavior::Dumpable;
    rustix::process::set_dumpable_behavior(visible)?;
    process::unshare(UnshareFlags::NEWUSER)?;
    let proc = Path::new("/proc/self");
    // It is denied already, or must be.
    let _ = std::fs::write(proc.join("setgroups"), "deny");
    write_map(&proc.join("uid_map"), &[(uid, 0, 1)])?;
    write_map(&proc.join("gid_map"), &[(gid, 0, 1)])
}

/// Passes signals on until the child ends, and ends alike.
fn wait_in_place_of(child: Child) -> ! {
    let signals = [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
    ];
    let listening = process::SignalFd::new(&signals);
    loop {
        let ended = match &listening {
            // Every look finds either a signal or the end.
            Ok(listening) => {
                if let Some(signal) = listening.next(Duration::from_millis(100)) {
                    child.signal(signal);
                }
                child.wait(false)
            }
            Err(_) => child.wait(true),
        };
        match ended {
            Ok(None) => {}
            Ok(Some(ended)) => {
                let code = ended.code.or(ended.signal.map(|s| 128 + s));
                std::process::exit(code.unwrap_or(1));
            }
            Err(_) => std::process::exit(1),
        }
    }
}

/// Lines of a map: first id inside, first id outside, how many.
type Ranges = Vec<(u32, u32, u32)>;

/// Gives `child`'s namespace its ids, as many as possible.
fn map_ids(child: Child, uid: u32, gid: u32) -> io::Result<Mapped> {
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let own = |file: &str| -> io::Result<Ranges> { Ok(held(&std::fs::read_to_string(file)?)) };
    let all = own("/proc/self/uid_map")
        .and_then(|uids| write_map(&proc.join("uid_map"), &uids))
        .and_then(|()| own("/proc/self/gid_map"))
        .and_then(|gids| write_map(&proc.join("gid_map"), &gids));
    if all.is_ok() {
        return Ok(Mapped::All);
    }
    let name = user_name(
        &std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
        uid,
    );
    let ranges = |file: &str, own: u32| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        subordinate(&text, name.as_deref(), uid, own)
    };
    let (uids, gids) = (ranges("/etc/subuid", uid), ranges("/etc/subgid", gid));
    if uids.len() > 1
        && gids.len() > 1
        && help("newuidmap", child, &uids).is_ok()
        && help("newgidmap", child, &gids).is_ok()
    {
        return Ok(Mapped::Ranges);
    }
    // A map is written once: what a helper did half stays. Only its own id
    // left means that nothing was written.
    write_map(&proc.join("uid_map"), &[(0, uid, 1)])?;
    std::fs::write(proc.join("setgroups"), "deny")?;
    write_map(&proc.join("gid_map"), &[(0, gid, 1)])?;
    Ok(Mapped::Single)
}

fn write_map(path: &Path, ranges: &[(u32, u32, u32)]) -> io::Result<()> {
    let lines: String = ranges
        .iter()
        .map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"))
        .collect();
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(lines.as_bytes())
}

/// The ids of a process whose map is `text`, each to itself.
fn held(text: &str) -> Ranges {
    let mut ranges: Ranges = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let inside = words.next()?.parse().ok()?;
            let count = words.nth(1)?.parse().ok()?;
            Some((inside, inside, count))
        })
        .collect();
    ranges.truncate(MOST_RANGES);
    ranges
}

/// The name of `uid` in a passwd file.
fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// `own` as 0, and the ranges that `text` gives the user after it.
fn subordinate(text: &str, name: Option<&str>, uid: u32, own: u32) -> Ranges {
    let number = uid.to_string();
    let mut ranges = vec![(0, own, 1)];
    let mut next = 1_u32;
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let (Some(who), Some(first), Some(count)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else {
            continue;
        };
        let after = next.checked_add(count);
        let fits = count > 0 && first.checked_add(count).is_some() && ranges.len() < MOST_RANGES;
        if let (true, true, Some(after)) = (Some(who) == name || who == number, fits, after) {
            ranges.push((next, first, count));
            next = after;
        }
    }
    ranges
}

/// Has a set-user-id helper write a map.
fn help(program: &str, child: Child, ranges: &Ranges) -> io::Result<()> {
    let trusted = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.uid() == 0 && m.mode() & 0o022 == 0)
    };
    let found = HELPER_DIRS
        .iter()
        .map(|d| Path::new(d).join(program))
        .find(trusted);
    let path = found.ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(path);
    command.arg(child.id().to_string());
    for (inside, outside, count) in ranges {
        command.args([inside.to_string(), outside.to_string(), count.to_string()]);
    }
    let output = command
        .env_clear()
        .stdin(std::process::Stdio::null())
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_come_from_the_files() {
        assert_eq!(
            held("         0          0 4294967295\n"),
            [(0, 0, u32::MAX)]
        );
        assert_eq!(
            held("0 1000 1\n1 100000 65536\nbad\n"),
            [(0, 0, 1), (1, 1, 65536)]
        );
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(user_name(passwd, 7), None);
        let subuid =
            "bob:5:5\nann:100000:65536\n1000:300000:10\nann:x:1\nann:4294967295:9\nann:1:0\n";
        assert_eq!(
            subordinate(subuid, Some("ann"), 1000, 1000),
            [(0, 1000, 1), (1, 100_000, 65536), (65537, 300_000, 10)]
        );
        assert_eq!(subordinate(subuid, None, 7, 8), [(0, 8, 1)]);
    }
}
