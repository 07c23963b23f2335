//! Visiting directories on several threads.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::sys::fs::lstat_at;

/// More threads don't help: the kernel's directory locks are the limit.
const MAX_THREADS: usize = 4;
/// With less work waiting than this, one thread is done sooner.
const WORTH_THREADS: usize = 16;

/// What a visit gives.
pub(super) struct Visit<W, U> {
    /// Directories to visit next.
    pub(super) children: Vec<W>,
    /// What is kept of this one.
    pub(super) result: U,
}

/// What was kept of a visit.
pub(super) struct Visited<U> {
    /// Number of the first child; the others follow it in their order.
    pub(super) first_child: usize,
    pub(super) result: U,
}

struct State<W, U> {
    queue: Vec<(usize, W)>,
    running: usize,
    results: Vec<Option<Visited<U>>>,
    error: Option<io::Error>,
}

/// Visits `first` and all that comes of it. The results' numbers are their
/// places: 0 is `first`, and a child's number is higher than its parent's.
pub(super) fn visit_all<W: Send, U: Send>(
    first: W,
    visit: impl Fn(W) -> io::Result<Visit<W, U>> + Sync,
) -> io::Result<Vec<Visited<U>>> {
    let state = Mutex::new(State {
        queue: vec![(0, first)],
        running: 0,
        results: vec![None],
        error: None,
    });
    let changed = Condvar::new();
    work(&state, &changed, &visit, true);
    let waiting = lock(&state).queue.len();
    if waiting > 0 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..cores.min(MAX_THREADS) {
                scope.spawn(|| work(&state, &changed, &visit, false));
            }
            work(&state, &changed, &visit, false);
        });
    }
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = state.error {
        return Err(error);
    }
    let results: Vec<_> = state.results.into_iter().flatten().collect();
    Ok(results)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes work until there is none, or (when `alone`) enough for more threads.
fn work<W, U>(
    state: &Mutex<State<W, U>>,
    changed: &Condvar,
    visit: &(impl Fn(W) -> io::Result<Visit<W, U>> + Sync),
    alone: bool,
) {
    let mut guard = lock(state);
    loop {
        let idle = guard.queue.is_empty() && guard.running == 0;
        if guard.error.is_some() || idle || (alone && guard.queue.len() >= WORTH_THREADS) {
            changed.notify_all();
            return;
        }
        let Some((number, task)) = guard.queue.pop() else {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        guard.running += 1;
        drop(guard);
        let visited = visit(task);
        guard = lock(state);
        guard.running -= 1;
        match visited {
            Ok(visit) => {
                let first_child = guard.results.len();
                let count = visit.children.len();
                guard.results.resize_with(first_child + count, || None);
                // The last is taken first: this keeps to the order of names.
                let numbered = visit.children.into_iter().enumerate().rev();
                guard
                    .queue
                    .extend(numbered.map(|(i, w)| (first_child + i, w)));
                guard.results[number] = Some(Visited {
                    first_child,
                    result: visit.result,
                });
                if count > 0 {
                    changed.notify_all();
                }
            }
            Err(e) => guard.error = Some(e),
        }
    }
}

/// The entries of an open directory, sorted by name.
pub(super) fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<(OsString, Stat)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let stat = lstat_at(dir, &name)?;
            Ok((name, stat))
        })
        .collect()
}

/// Opens `path` below `root` without following any link. A path may be longer
/// than the kernel takes at once.
pub(super) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let whole = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    for _ in 0..16 {
        match rustix::fs::openat2(root, whole, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => break,
            Err(e) => return Err(e.into()),
        }
    }
    let mut here: Option<OwnedFd> = None;
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut components = whole.components().peekable();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => OsStr::new("."),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let dir = here.as_ref().map_or(root, |fd| fd.as_fd());
        let flags = if components.peek().is_some() {
            step
        } else {
            flags
        };
        here = Some(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    }
    here.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
