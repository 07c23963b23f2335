//! A network of the container's own that reaches the outside: `pasta` or
//! `slirp4netns`, whichever is installed.
//!
//! The helper carries connections between the container's network namespace
//! and ordinary sockets of the host, without privileges there. Neither lets
//! the container reach the host's loopback addresses, and abstract sockets
//! belong to the network namespace that they are made in.
//!
//! ```text
//! keeper ──forks──▶ guard ──forks──▶ first of a PID namespace ──starts──▶ helper
//! ```
//! Helpers change their user, which makes the kernel forget that they are to
//! die with their parent. So the helper runs in a PID namespace of its own,
//! whose first process does nothing but wait for the keeper to let go of a
//! pipe; with it, the kernel ends the helper. The container does not see it.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;

use super::protocol::{Failure, Tried};
use super::spec::Helper;
use crate::sys::process::{self, Child};

/// Where helpers may be: a `PATH` is the user's to change, these are not.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];
/// Where the helpers answer name lookups in place of the host's resolver.
const RESOLVER: &str = "10.0.2.3";
/// Number of the descriptor by which a helper knows the namespace, or says
/// that it is ready.
const SHARED: i32 = 9;

/// The guard of a helper; both end when this is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    /// Takes the process's number; its end is the guard's.
    hold: Option<PipeWriter>,
    answer: PipeReader,
    process: Child,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hold = None;
        let _ = self.process.wait(true);
    }
}

impl Guard {
    /// Forks the guard. To be called before the keeper's children get a PID
    /// namespace, which the guard must not be in.
    pub(super) fn new(helper: Helper) -> Result<Self, Failure> {
        let what = "starting a network helper";
        let (answer, say) = std::io::pipe().tried(what)?;
        let (held, hold) = std::io::pipe().tried(what)?;
        let Some(process) = process::fork().tried(what)? else {
            drop((answer, hold));
            let done = guard(helper, held, say);
            std::process::exit(i32::from(done.is_err()))
        };
        Ok(Self {
            hold: Some(hold),
            answer,
            process,
        })
    }

    /// Connects the network namespace of `process` with the outside.
    pub(super) fn connect(&mut self, process: Child) -> Result<(), Failure> {
        let what = "starting a network helper";
        if let Some(hold) = &mut self.hold {
            hold.write_all(&process.id().to_le_bytes()).tried(what)?;
        }
        // One zero is the sign; anything else is the reason why there is none.
        let mut text = Vec::new();
        let mut byte = [0];
        while let Ok(1) = self.answer.read(&mut byte) {
            match byte {
                [0] => return Ok(()),
                [other] => text.push(other),
            }
        }
        Err(Failure::Setup {
            what: format!(
                "giving the container a network of its own: {} (looked for in {})",
                String::from_utf8_lossy(&text),
                DIRECTORIES.join(", ")
            ),
            errno: libc::ENOENT,
        })
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let paths = DIRECTORIES.iter().map(|d| Path::new(d).join(name));
    paths.into_iter().find(|p| p.is_file())
}

/// The guard: makes the PID namespace, and waits for its first process.
fn guard(helper: Helper, mut held: PipeReader, mut say: PipeWriter) -> std::io::Result<()> {
    process::die_with_parent()?;
    let mut number = [0; 4];
    // Nothing comes where the container was not made.
    held.read_exact(&mut number)?;
    process::unshare(UnshareFlags::NEWPID)?;
    let Some(first) = process::fork()? else {
        process::die_with_parent()?;
        let number = i32::from_le_bytes(number);
        let choice: &[Helper] = match helper {
            Helper::Any => &[Helper::Pasta, Helper::Slirp4netns],
            Helper::Pasta => &[Helper::Pasta],
            Helper::Slirp4netns => &[Helper::Slirp4netns],
        };
        let mut reasons = Vec::new();
        for helper in choice {
            let name = helper.program();
            let Some(program) = find(name) else {
                reasons.push(format!("{name} is not installed"));
                continue;
            };
            match run(number, *helper, &program, &mut held, &mut say) {
                Ok(()) => std::process::exit(0),
                Err(reason) => reasons.push(format!("{name} says: {}", reason.trim())),
            }
        }
        let _ = say.write_all(reasons.join("; ").replace('\0', "").as_bytes());
        std::process::exit(1);
    };
    drop(say);
    first.wait(true)?;
    Ok(())
}

/// The first process of the helper's PID namespace. Comes back when the
/// helper failed, or is not needed any more.
fn run(
    number: i32,
    helper: Helper,
    program: &Path,
    held: &mut PipeReader,
    say: &mut PipeWriter,
) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    match helper {
        Helper::Slirp4netns => {
            let (mut ready, is_ready) = std::io::pipe().map_err(text)?;
            process::duplicate_to(is_ready.as_fd(), SHARED).map_err(text)?;
            drop(is_ready);
            command
                .args(["--configure", "--mtu=65520", "--disable-host-loopback"])
                .args(["--enable-sandbox", "--enable-seccomp", "-r"])
                .arg(SHARED.to_string())
                .arg(number.to_string())
                .arg("tap0")
                .stderr(Stdio::piped());
            let mut child = command.spawn().map_err(text)?;
            // Only the helper may hold it, so that its end is seen.
            drop(process::inherited(SHARED).map_err(text)?);
            let mut byte = [0];
            if !matches!(ready.read(&mut byte), Ok(1)) {
                let mut said = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    let _ = stderr.read_to_string(&mut said);
                }
                return Err(said);
            }
        }
        Helper::Pasta | Helper::Any => {
            // By a descriptor: once it has given its privileges up, it could
            // not go through the other process's directory in /proc.
            let path = format!("/proc/{number}/ns/net");
            let namespace: OwnedFd = std::fs::File::open(path).map_err(text)?.into();
            process::duplicate_to(&namespace, SHARED).map_err(text)?;
            let said = command
                .args(["--config-net", "--quiet", "--no-map-gw", "--netns-only"])
                .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
                .args(["--runas", "0:0", "--dns-forward", RESOLVER, "--netns"])
                .arg(format!("/proc/self/fd/{SHARED}"))
                .output()
                .map_err(text)?;
            // It goes to the background when it is ready.
            if !said.status.success() {
                return Err(last_line(&String::from_utf8_lossy(&said.stderr)));
            }
        }
    }
    say.write_all(&[0]).map_err(text)?;
    let _ = held.read(&mut [0]);
    Ok(())
}

/// What a program said last that is no complaint about the log.
fn last_line(text: &str) -> String {
    let mut lines = text.lines().filter(|l| !l.contains("syslog"));
    lines.next_back().unwrap_or("it failed").to_owned()
}

/// The content of `/etc/resolv.conf` for a container with a network of its
/// own, given the host's: resolvers at loopback addresses cannot be reached
/// from it, the helper's can.
pub fn private_resolv_conf(host: &str) -> String {
    let is_server = |line: &str| line.split_whitespace().next() == Some("nameserver");
    let reachable = |line: &str| {
        let address = line.split_whitespace().nth(1).unwrap_or_default();
        let address = address.split('%').next().unwrap_or_default();
        let address = address.parse::<std::net::IpAddr>();
        address.is_ok_and(|a| !a.is_loopback() && !a.is_unspecified())
    };
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines() {
        if is_server(line) && !reachable(line) {
            continue;
        }
        servers += usize::from(is_server(line));
        text.push_str(line);
        text.push('\n');
    }
    if servers == 0 {
        text.push_str(&format!("nameserver {RESOLVER}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_of_the_host_alone_are_replaced() {
        for (host, inside) in [
            (
                "nameserver 127.0.0.53\nsearch a\n",
                "search a\nnameserver 10.0.2.3\n",
            ),
            (
                "nameserver 9.9.9.9\nnameserver ::1\n",
                "nameserver 9.9.9.9\n",
            ),
            ("nameserver fe80::1%eth0\n", "nameserver fe80::1%eth0\n"),
            ("", "nameserver 10.0.2.3\n"),
        ] {
            assert_eq!(private_resolv_conf(host), inside);
        }
    }
}
