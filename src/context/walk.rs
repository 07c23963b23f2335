//! Listing the directories of a tree on several threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// More threads don't help: the kernel's directory locks are the limit.
const MAX_THREADS: usize = 4;
/// With fewer directories waiting than this, one thread is done sooner.
const WORTH_THREADS: usize = 16;

/// What listing a directory gives.
pub(super) struct Listed<D, E> {
    /// What is kept of the directory.
    pub(super) entries: E,
    /// Directories to list next, each with what `list` needs to know.
    pub(super) below: Vec<D>,
}

/// The listings of a walk.
pub(super) struct Walked<E> {
    pub(super) entries: E,
    /// Number of the first directory of `below`; the others follow it.
    pub(super) first: usize,
}

struct State<D, E, X> {
    queue: Vec<(usize, D)>,
    running: usize,
    done: Vec<Option<Walked<E>>>,
    error: Option<(usize, X)>,
}

/// Lists `top` and all directories that this leads to. The numbers of the
/// results are their places; 0 is `top`.
pub(super) fn walk<D: Send, E: Send, X: Send>(
    top: D,
    list: impl Fn(D) -> Result<Listed<D, E>, X> + Sync,
) -> Result<Vec<Walked<E>>, X> {
    let state = Mutex::new(State {
        queue: vec![(0, top)],
        running: 0,
        done: vec![None],
        error: None,
    });
    let changed = Condvar::new();
    work(&state, &changed, &list, true);
    if !lock(&state).queue.is_empty() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..cores.min(MAX_THREADS) {
                scope.spawn(|| work(&state, &changed, &list, false));
            }
            work(&state, &changed, &list, false);
        });
    }
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.error {
        Some((_, error)) => Err(error),
        None => Ok(state.done.into_iter().flatten().collect()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works until all is done, or (when `alone`) until there is work for more.
fn work<D, E, X>(
    state: &Mutex<State<D, E, X>>,
    changed: &Condvar,
    list: &(impl Fn(D) -> Result<Listed<D, E>, X> + Sync),
    alone: bool,
) {
    let mut guard = lock(state);
    loop {
        let idle = guard.queue.is_empty() && guard.running == 0;
        if guard.error.is_some() || idle || (alone && guard.queue.len() >= WORTH_THREADS) {
            changed.notify_all();
            return;
        }
        let Some((number, dir)) = guard.queue.pop() else {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        guard.running += 1;
        drop(guard);
        let listed = list(dir);
        guard = lock(state);
        guard.running -= 1;
        match listed {
            Ok(listed) => {
                let first = guard.done.len();
                let count = listed.below.len();
                guard.done.resize_with(first + count, || None);
                let below = listed.below.into_iter().enumerate().rev();
                guard.queue.extend(below.map(|(i, d)| (first + i, d)));
                guard.done[number] = Some(Walked {
                    entries: listed.entries,
                    first,
                });
                if count > 0 {
                    changed.notify_all();
                }
            }
            Err(e) => {
                guard.error.get_or_insert((number, e));
            }
        }
    }
}
