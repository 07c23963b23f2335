//! Visiting a tree on several threads, in order.
//!
//! Visits that lie ahead are done on other threads while the caller works on
//! what it has. What waits for the caller is bounded, so a tree of any size
//! can be walked.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// More threads don't help: the kernel's directory locks are the limit.
const MAX_THREADS: usize = 4;
/// With less work waiting than this, one thread is done sooner.
const WORTH_THREADS: usize = 16;
/// Finished visits that may wait for the caller.
const MAX_READY: usize = 32;

/// Does one piece of the work.
pub(super) trait Visitor: Send + Sync + 'static {
    /// What to visit.
    type Task: Send + 'static;
    /// What is found.
    type Found: Send + 'static;

    fn visit(&self, task: Self::Task) -> io::Result<Visit<Self::Task, Self::Found>>;
}

/// What a visit gives.
pub(super) struct Visit<T, F> {
    pub(super) found: F,
    /// What to visit next, in order: all of it comes before what comes after
    /// this visit.
    pub(super) next: Vec<T>,
}

/// The visits of a tree, depth first.
pub(super) struct Walk<V: Visitor> {
    visitor: Arc<V>,
    shared: Arc<Shared<V>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<V: Visitor> {
    list: Mutex<List<V>>,
    changed: Condvar,
}

/// The visits that the caller has not seen, in order, as a linked list.
struct List<V: Visitor> {
    nodes: Vec<Node<V>>,
    free: Vec<usize>,
    head: Option<usize>,
    waiting: usize,
    /// Visits that are done or being done.
    begun: usize,
    stop: bool,
}

struct Node<V: Visitor> {
    state: State<V>,
    next: Option<usize>,
}

enum State<V: Visitor> {
    Waiting(V::Task),
    Running,
    Ready(io::Result<V::Found>),
    /// The place is free.
    Free,
}

impl<V: Visitor> Walk<V> {
    /// A walk that begins with `first`. Nothing is visited yet.
    pub(super) fn new(visitor: Arc<V>, first: V::Task) -> Self {
        let mut list = List {
            nodes: Vec::new(),
            free: Vec::new(),
            head: None,
            waiting: 0,
            begun: 0,
            stop: false,
        };
        list.head = Some(list.add(first, None));
        Self {
            visitor,
            shared: Arc::new(Shared {
                list: Mutex::new(list),
                changed: Condvar::new(),
            }),
            threads: Vec::new(),
        }
    }

    /// The next visit's result; `None` at the end.
    pub(super) fn take(&mut self) -> Option<io::Result<V::Found>> {
        let mut list = self.shared.lock();
        loop {
            let head = list.head?;
            let state = std::mem::replace(&mut list.nodes[head].state, State::Running);
            match state {
                State::Ready(found) => {
                    list.head = list.nodes[head].next;
                    list.nodes[head].state = State::Free;
                    list.free.push(head);
                    list.begun -= 1;
                    let more = list.waiting >= WORTH_THREADS && self.threads.is_empty();
                    if list.begun + 1 == MAX_READY {
                        self.shared.changed.notify_all();
                    }
                    drop(list);
                    if more {
                        self.start();
                    }
                    return Some(found);
                }
                State::Waiting(task) => {
                    list.waiting -= 1;
                    list.begun += 1;
                    drop(list);
                    let visited = self.visitor.visit(task);
                    list = self.shared.lock();
                    list.finish(head, visited);
                    self.shared.changed.notify_all();
                }
                State::Running | State::Free => {
                    let waited = self.shared.changed.wait(list);
                    list = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn start(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores.min(MAX_THREADS) {
            let (visitor, shared) = (Arc::clone(&self.visitor), Arc::clone(&self.shared));
            let thread = std::thread::Builder::new().name("walk".into());
            // Without a thread the caller does it all.
            let Ok(thread) = thread.spawn(move || shared.work(&*visitor)) else {
                return;
            };
            self.threads.push(thread);
        }
    }
}

impl<V: Visitor> Drop for Walk<V> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A visitor that panics leaves a visit that never ends, and the
            // caller would have waited for that.
            let _ = thread.join();
        }
    }
}

impl<V: Visitor> Shared<V> {
    fn lock(&self) -> MutexGuard<'_, List<V>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, visitor: &V) {
        let mut list = self.lock();
        while !list.stop {
            let Some((number, task)) = list.begin() else {
                if list.head.is_none() {
                    return;
                }
                list = (self.changed.wait(list)).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(list);
            let catch = std::panic::AssertUnwindSafe(|| visitor.visit(task));
            let visited = std::panic::catch_unwind(catch)
                .unwrap_or_else(|_| Err(io::Error::other("a walking thread has died")));
            list = self.lock();
            list.finish(number, visited);
            self.changed.notify_all();
        }
    }
}

impl<V: Visitor> List<V> {
    fn add(&mut self, task: V::Task, next: Option<usize>) -> usize {
        let node = Node {
            state: State::Waiting(task),
            next,
        };
        self.waiting += 1;
        match self.free.pop() {
            Some(number) => {
                self.nodes[number] = node;
                number
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// The first visit that waits, if there is room for its result.
    fn begin(&mut self) -> Option<(usize, V::Task)> {
        if self.begun >= MAX_READY || self.waiting == 0 {
            return None;
        }
        let mut at = self.head;
        while let Some(number) = at {
            let node = &mut self.nodes[number];
            if matches!(node.state, State::Waiting(_)) {
                let State::Waiting(task) = std::mem::replace(&mut node.state, State::Running)
                else {
                    return None;
                };
                self.waiting -= 1;
                self.begun += 1;
                return Some((number, task));
            }
            at = node.next;
        }
        None
    }

    fn finish(&mut self, number: usize, visited: io::Result<Visit<V::Task, V::Found>>) {
        let found = visited.map(|visit| {
            let mut next = self.nodes[number].next;
            for task in visit.next.into_iter().rev() {
                next = Some(self.add(task, next));
            }
            self.nodes[number].next = next;
            visit.found
        });
        self.nodes[number].state = State::Ready(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts down: `n` has the children `n - 1` … `0`.
    struct Countdown(Option<u32>);

    impl Visitor for Countdown {
        type Task = (u32, Vec<u32>);
        type Found = Vec<u32>;

        fn visit(&self, (n, path): Self::Task) -> io::Result<Visit<Self::Task, Vec<u32>>> {
            if self.0 == Some(n) && path.len() > 3 {
                return Err(io::Error::other("that one"));
            }
            let below = |k: u32| {
                let mut path = path.clone();
                path.push(n - k);
                (k, path)
            };
            Ok(Visit {
                next: (0..n).rev().map(below).collect(),
                found: path,
            })
        }
    }

    #[test]
    fn visits_come_in_order() {
        let mut walk = Walk::new(Arc::new(Countdown(None)), (12, Vec::new()));
        let mut seen = Vec::new();
        while let Some(path) = walk.take() {
            seen.push(path.unwrap());
        }
        assert_eq!(seen.len(), 1 << 12);
        assert!(seen.is_sorted());
    }

    #[test]
    fn an_error_comes_in_its_place() {
        let mut walk = Walk::new(Arc::new(Countdown(Some(3))), (12, Vec::new()));
        let before = std::iter::from_fn(|| walk.take()).take_while(Result::is_ok);
        assert!(before.count() > 3);
    }

    #[test]
    fn a_walk_may_be_left_early() {
        let mut walk = Walk::new(Arc::new(Countdown(None)), (16, Vec::new()));
        for _ in 0..100 {
            walk.take().unwrap().unwrap();
        }
    }
}
