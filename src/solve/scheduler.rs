//! Runs the nodes of a directed graph, each after its inputs, several at once.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::event::Cancel;

struct State<E> {
    /// For each node, how many inputs are not done.
    waiting: Vec<usize>,
    ready: BTreeSet<usize>,
    running: usize,
    left: usize,
    failed: Option<E>,
}

/// Calls `work` once for every node `0..inputs.len()`, after all of the node's
/// `inputs`, on up to `jobs` threads; lower numbers go first.
///
/// After the first error no node is begun, `cancel` is set so that those under
/// way can stop, and that error is returned when they have.
pub(super) fn run<E: Send>(
    inputs: &[Vec<usize>],
    jobs: usize,
    cancel: &Cancel,
    work: &(dyn Fn(usize) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let mut dependents = vec![Vec::new(); inputs.len()];
    let mut waiting = vec![0; inputs.len()];
    for (node, of) in inputs.iter().enumerate() {
        let of: BTreeSet<usize> = of.iter().copied().collect();
        waiting[node] = of.len();
        for input in of {
            dependents[input].push(node);
        }
    }
    let ready = (0..inputs.len()).filter(|n| waiting[*n] == 0).collect();
    let state = Mutex::new(State {
        waiting,
        ready,
        running: 0,
        left: inputs.len(),
        failed: None,
    });
    let changed = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || {
        let mut state = lock();
        loop {
            if state.left == 0 || state.failed.is_some() {
                return;
            }
            let Some(node) = state.ready.pop_first() else {
                if state.running == 0 {
                    // Nothing runs and nothing is ready: a cycle, which a
                    // graph does not have.
                    return;
                }
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            let result = work(node);
            state = lock();
            state.running -= 1;
            state.left -= 1;
            match result {
                Ok(()) => {
                    for dependent in &dependents[node] {
                        state.waiting[*dependent] -= 1;
                        if state.waiting[*dependent] == 0 {
                            state.ready.insert(*dependent);
                        }
                    }
                }
                Err(e) => {
                    cancel.cancel();
                    state.failed.get_or_insert(e);
                }
            }
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.max(1).min(inputs.len().max(1)) {
            scope.spawn(worker);
        }
        worker();
    });
    match state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .failed
    {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn inputs_come_first_and_errors_stop_the_rest() {
        let inputs = [vec![], vec![0], vec![], vec![1, 2], vec![3, 3]];
        for jobs in 1..5 {
            let order = Mutex::new(Vec::new());
            run(&inputs, jobs, &Cancel::new(), &|n| {
                order.lock().unwrap().push(n);
                Ok::<(), ()>(())
            })
            .unwrap();
            let order = order.into_inner().unwrap();
            assert_eq!(order.len(), 5);
            for (node, of) in inputs.iter().enumerate() {
                let at = |n: usize| order.iter().position(|o| *o == n).unwrap();
                assert!(of.iter().all(|i| at(*i) < at(node)), "{order:?}");
            }
        }
        let ran = AtomicUsize::new(0);
        let cancel = Cancel::new();
        let result = run(&inputs, 2, &cancel, &|n| {
            ran.fetch_add(1, Ordering::SeqCst);
            if n == 1 { Err("no") } else { Ok(()) }
        });
        assert_eq!(result, Err("no"));
        assert!(cancel.is_cancelled() && ran.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn independent_nodes_run_at_the_same_time() {
        let barrier = std::sync::Barrier::new(2);
        run(&[vec![], vec![]], 2, &Cancel::new(), &|_| {
            barrier.wait();
            Ok::<(), ()>(())
        })
        .unwrap();
    }
}
