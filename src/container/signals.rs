//! Signals for the process of a run, which shiplap passes on.

use std::io::Read;
use std::os::unix::net::UnixStream;

use crate::sys::process::Child;

/// Those that end a process by default and are passed on.
const DEADLY: [i32; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// The signal that has come; `None` is the end of everything.
pub(super) fn next(mut control: &UnixStream) -> Option<i32> {
    let mut number = [0];
    match control.read(&mut number) {
        Ok(1..) => Some(i32::from(number[0])),
        Ok(0) | Err(_) => None,
    }
}

/// Whether `signal` would end the process if it were not the first of its
/// namespace: it neither has a handler for it nor ignores it.
pub(super) fn would_end(process: Child, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()));
    DEADLY.contains(&signal) && status.is_ok_and(|status| !is_cared_for(&status, signal))
}

/// Whether the text of a `/proc/PID/status` says that a signal is caught or
/// ignored.
fn is_cared_for(status: &str, signal: i32) -> bool {
    let bit = 1_u64 << (signal - 1);
    let masks = status.lines().filter_map(|line| {
        let mask = line
            .strip_prefix("SigCgt:")
            .or_else(|| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask) & bit != 0
}

/// The first child of a process.
pub(super) fn child_of(process: Child) -> Option<i32> {
    let id = process.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_read_from_masks() {
        let status =
            "SigBlk:\t0000000000000002\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000002\n";
        assert!(is_cared_for(status, libc::SIGINT));
        assert!(is_cared_for(status, libc::SIGPIPE));
        assert!(!is_cared_for(status, libc::SIGTERM));
    }
}
