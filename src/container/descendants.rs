//! The processes below the keeper, where no PID namespace ends them.

use std::fs;
use std::time::{Duration, Instant};

use crate::sys::process::{self, Child};

/// Processes that can't be ended within this time are left.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Kills every descendant. They are stopped first, so that none can make new
/// ones while others are killed.
pub(super) fn end_all() -> std::io::Result<()> {
    let began = Instant::now();
    loop {
        while let Some(_ended) = process::wait_any(false)? {}
        let mut stopped = Vec::new();
        loop {
            let mut new = below(&processes(), me());
            new.retain(|p| !stopped.contains(p));
            if new.is_empty() || began.elapsed() > PATIENCE {
                break;
            }
            for pid in new {
                process::signal(pid, libc::SIGSTOP);
                stopped.push(pid);
            }
        }
        if stopped.is_empty() && !process::has_children()? {
            return Ok(());
        }
        for pid in &stopped {
            process::signal(*pid, libc::SIGKILL);
        }
        if began.elapsed() > PATIENCE {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills what a command of `proot` left, once it has ended itself: `proot`
/// waits for all of that, however long it takes. What is below `spared` is
/// none of the command's.
pub(super) fn end_leftovers(proot: Child, spared: Option<Child>) {
    let began = Instant::now();
    loop {
        let all = processes();
        let left = leftovers(&all, me(), proot.id(), spared.map(Child::id));
        if left.is_empty() {
            return;
        }
        if began.elapsed() > PATIENCE {
            proot.kill();
            return;
        }
        for pid in left {
            process::signal(pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The command is the child of `proot`; what it leaves, `keeper` adopts.
fn leftovers(all: &[(i32, i32)], keeper: i32, proot: i32, spared: Option<i32>) -> Vec<i32> {
    if all.iter().any(|(_, parent)| *parent == proot) {
        return Vec::new();
    }
    let mut left = below(all, keeper);
    let apart = spared.map(|s| below(all, s)).unwrap_or_default();
    left.retain(|pid| *pid != proot && Some(*pid) != spared && !apart.contains(pid));
    left
}

fn me() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// All that live, each with its parent.
fn processes() -> Vec<(i32, i32)> {
    let Ok(proc) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let living = proc.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may have anything in it.
        let mut rest = stat.rsplit_once(") ")?.1.split(' ');
        let state = rest.next()?;
        let parent = rest.next()?.parse().ok()?;
        (state != "Z").then_some((pid, parent))
    });
    living.collect()
}

/// Those below `top`, by their parents' ids.
fn below(all: &[(i32, i32)], top: i32) -> Vec<i32> {
    let mut found = vec![top];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(c, _)| *c));
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_what_has_no_command_any_more() {
        // Keeper 10, relay 11 with a connection 12, proot 13.
        let mut all = vec![(10, 1), (11, 10), (12, 11), (13, 10), (99, 1)];
        assert!(leftovers(&all, 10, 13, Some(11)).is_empty());
        // A daemon, while the command runs and afterwards.
        all.extend([(14, 13), (15, 10), (16, 15)]);
        assert!(leftovers(&all, 10, 13, Some(11)).is_empty());
        all.retain(|(pid, _)| *pid != 14);
        assert_eq!(leftovers(&all, 10, 13, Some(11)), [15, 16]);
        assert_eq!(leftovers(&all, 10, 13, None), [11, 15, 12, 16]);
    }

    #[test]
    fn this_process_is_below_its_parent() {
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        assert!(below(&processes(), parent).contains(&me()));
    }
}
