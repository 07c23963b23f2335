//! Listing the directories of a tree on several threads, in the tree's order.
//!
//! One thread takes the listings, each directory before the ones below it. The
//! others list what will be asked for next, but never run far ahead: what
//! waits to be taken is bounded.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// More threads don't help: the kernel's directory locks are the limit.
const MAX_THREADS: usize = 4;
/// With fewer directories waiting than this, one thread is done sooner.
const WORTH_THREADS: usize = 16;
/// Entries that are listed before they are asked for.
const MAX_AHEAD: usize = 8 << 10;

/// What listing a directory gives.
pub(super) struct Listed<D, E> {
    /// What is kept of the directory.
    pub(super) entries: Vec<E>,
    /// Directories to list next, each with what `list` needs to know.
    pub(super) below: Vec<D>,
    /// What is left of the directory itself, to be listed after those.
    pub(super) rest: Option<D>,
}

/// A listing that was taken.
pub(super) struct Walked<E> {
    pub(super) entries: Vec<E>,
    /// Number of the first directory of `below`; the others follow it.
    pub(super) first: usize,
    /// Number of the rest, if there is one.
    pub(super) rest: Option<usize>,
}

enum Slot<D, E, X> {
    /// Nobody has begun.
    Waiting(D),
    Running,
    Done(Result<Walked<E>, X>),
}

struct State<D, E, X> {
    slots: HashMap<usize, Slot<D, E, X>>,
    /// Numbers of waiting directories, the last to be listed first; some may
    /// be waiting no longer.
    queue: Vec<usize>,
    next: usize,
    ahead: usize,
    closed: bool,
}

struct Shared<D, E, X, L> {
    state: Mutex<State<D, E, X>>,
    changed: Condvar,
    list: L,
}

/// Lists `top`, with the number 0, and what `take` asks for by its number. Each
/// directory can be taken once.
pub(super) fn walk<D: Send, E: Send, X: Send, T>(
    top: D,
    list: impl Fn(D) -> Result<Listed<D, E>, X> + Sync,
    take: impl FnOnce(&mut dyn FnMut(usize) -> Result<Walked<E>, X>) -> T,
) -> T {
    let shared = Shared {
        state: Mutex::new(State {
            slots: HashMap::from([(0, Slot::Waiting(top))]),
            queue: vec![0],
            next: 1,
            ahead: 0,
            closed: false,
        }),
        changed: Condvar::new(),
        list,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let mut helped = false;
        // Whatever becomes of this thread, the others stop.
        let _stop = Stop(&shared);
        take(&mut |number| {
            if !helped && shared.lock().queue.len() >= WORTH_THREADS {
                helped = true;
                for _ in 1..cores.min(MAX_THREADS) {
                    scope.spawn(|| shared.help());
                }
            }
            shared.take(number)
        })
    })
}

struct Stop<'a, D, E, X, L>(&'a Shared<D, E, X, L>);

impl<D, E, X, L> Drop for Stop<'_, D, E, X, L> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl<D, E, X, L> Shared<D, E, X, L> {
    fn lock(&self) -> MutexGuard<'_, State<D, E, X>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State<D, E, X>>) -> MutexGuard<'a, State<D, E, X>> {
        (self.changed.wait(guard)).unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D, E, X, L: Fn(D) -> Result<Listed<D, E>, X>> Shared<D, E, X, L> {
    fn take(&self, number: usize) -> Result<Walked<E>, X> {
        let mut state = self.lock();
        loop {
            match state.slots.remove(&number) {
                Some(Slot::Waiting(dir)) => {
                    if state.queue.last() == Some(&number) {
                        state.queue.pop();
                    }
                    drop(state);
                    let listed = (self.list)(dir);
                    return self.lock().admit(listed, &self.changed);
                }
                Some(Slot::Done(walked)) => {
                    let count = walked.as_ref().map_or(0, |w| w.entries.len());
                    let full = state.ahead >= MAX_AHEAD;
                    state.ahead -= count;
                    if full {
                        self.changed.notify_all();
                    }
                    return walked;
                }
                Some(Slot::Running) => {
                    state.slots.insert(number, Slot::Running);
                    state = self.wait(state);
                }
                None => {
                    return Ok(Walked {
                        entries: Vec::new(),
                        first: 0,
                        rest: None,
                    });
                }
            }
        }
    }

    /// Lists ahead until there is nothing more to do.
    fn help(&self) {
        let mut state = self.lock();
        while !state.closed {
            let next = match state.ahead < MAX_AHEAD {
                true => state.queue.pop(),
                false => None,
            };
            let Some(number) = next else {
                state = self.wait(state);
                continue;
            };
            let Some(slot) = state.slots.get_mut(&number) else {
                continue;
            };
            let dir = match std::mem::replace(slot, Slot::Running) {
                Slot::Waiting(dir) => dir,
                other => {
                    *slot = other;
                    continue;
                }
            };
            drop(state);
            let listed = (self.list)(dir);
            state = self.lock();
            let walked = state.admit(listed, &self.changed);
            state.ahead += walked.as_ref().map_or(0, |w| w.entries.len());
            state.slots.insert(number, Slot::Done(walked));
            self.changed.notify_all();
        }
    }
}

impl<D, E, X> State<D, E, X> {
    /// Numbers what a listing has found.
    fn admit(
        &mut self,
        listed: Result<Listed<D, E>, X>,
        changed: &Condvar,
    ) -> Result<Walked<E>, X> {
        let Listed {
            entries,
            below,
            rest,
        } = listed?;
        let first = self.next;
        let number = rest.as_ref().map(|_| first + below.len());
        self.next += below.len() + usize::from(rest.is_some());
        let slots = below.into_iter().chain(rest).map(Slot::Waiting);
        self.slots.extend((first..).zip(slots));
        self.queue.extend((first..self.next).rev());
        if first < self.next {
            changed.notify_all();
        }
        Ok(Walked {
            entries,
            first,
            rest: number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory is its depth and its number; the deepest have no directories.
    fn list((depth, number): (u32, u64)) -> Result<Listed<(u32, u64), u64>, String> {
        if number == 77_777 {
            return Err("77777".into());
        }
        let below = match depth {
            0 => Vec::new(),
            _ => (0..10).map(|n| (depth - 1, number * 10 + n)).collect(),
        };
        let entries = (0..10).map(|n| number * 10 + n).collect();
        Ok(Listed {
            entries,
            below,
            rest: None,
        })
    }

    fn all(depth: u32, number: u64) -> Result<Vec<u64>, String> {
        walk((depth, number), list, |take| {
            let mut out = Vec::new();
            let mut todo = vec![(depth, 0)];
            while let Some((depth, number)) = todo.pop() {
                let walked = take(number)?;
                match depth {
                    0 => out.extend(walked.entries),
                    _ => todo.extend((0..10).rev().map(|n| (depth - 1, walked.first + n))),
                }
            }
            Ok(out)
        })
    }

    #[test]
    fn everything_comes_in_order() {
        for depth in [0, 1, 4] {
            let last = 10_u64.pow(depth + 1);
            let expected: Vec<u64> = (last..2 * last).collect();
            assert_eq!(all(depth, 1).unwrap(), expected);
        }
    }

    #[test]
    fn a_failure_ends_it() {
        assert_eq!(all(5, 0).unwrap_err(), "77777");
    }
}
