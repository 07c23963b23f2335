//! Threads that all layers of a process share.
//!
//! Each layer has a lane of its own, and a thread that is free takes the oldest
//! job of the lane whose turn it is: two layers get half of the machine each,
//! however many jobs they have. Results come back in the order of the jobs.
//! How far a layer may run ahead shrinks as more are under way, so that their
//! memory together is bounded.
//!
//! Threads are started when there is work for them; a layer that is done in
//! one piece never needs one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use super::compress::Packers;

/// Threads that read files. More than cores: they wait for the disk.
const READERS: usize = 4;

/// The threads that compress and those that read files.
#[derive(Debug, Clone)]
pub struct Workers {
    pub(super) pack: Pool<Packers>,
    pub(super) read: Pool<()>,
}

impl Workers {
    /// `threads` that compress, one at least. None is started yet.
    pub fn new(threads: usize) -> Self {
        Self {
            pack: Pool::new(threads),
            read: Pool::new(READERS),
        }
    }

    /// How many threads compress.
    pub fn threads(&self) -> usize {
        self.pack.0.shared.threads
    }
}

impl Default for Workers {
    /// As many as there are cores.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

type Job<K> = Box<dyn FnOnce(&mut K) + Send>;

/// A few threads, each with a `K` that it works with. They end with the last
/// handle.
pub(super) struct Pool<K>(Arc<Handle<K>>);

struct Handle<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    queue: Mutex<Queue<K>>,
    work: Condvar,
    threads: usize,
}

struct Queue<K> {
    lanes: BTreeMap<u64, VecDeque<Job<K>>>,
    next_lane: u64,
    /// The lane that was served last.
    served: u64,
    started: usize,
    idle: usize,
    closed: bool,
}

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> std::fmt::Debug for Pool<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.0.shared.threads)
    }
}

impl<K> Drop for Handle<K> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl<K: Default + 'static> Pool<K> {
    pub(super) fn new(threads: usize) -> Self {
        Self(Arc::new(Handle {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue {
                    lanes: BTreeMap::new(),
                    next_lane: 1,
                    served: 0,
                    started: 0,
                    idle: 0,
                    closed: false,
                }),
                work: Condvar::new(),
                threads: threads.max(1),
            }),
        }))
    }

    /// A lane for one layer.
    pub(super) fn lane<R>(&self) -> Lane<K, R> {
        let mut queue = self.0.shared.lock();
        let id = queue.next_lane;
        queue.next_lane += 1;
        queue.lanes.insert(id, VecDeque::new());
        Lane {
            pool: self.clone(),
            id,
            results: VecDeque::new(),
        }
    }

    fn submit(&self, lane: u64, job: Job<K>) {
        let shared = &self.0.shared;
        let mut queue = shared.lock();
        queue.lanes.entry(lane).or_default().push_back(job);
        if queue.idle > 0 {
            shared.work.notify_one();
        } else if queue.started < shared.threads {
            let own = Arc::clone(shared);
            let thread = std::thread::Builder::new().name("layer".into());
            if thread.spawn(move || own.run()).is_ok() {
                queue.started += 1;
            } else if queue.started == 0 {
                // Slower, but it gets done.
                let job = queue.take();
                drop(queue);
                if let Some(job) = job {
                    job(&mut K::default());
                }
            }
        }
    }
}

impl<K: Default> Shared<K> {
    fn run(&self) {
        let mut kit = K::default();
        let mut queue = self.lock();
        while !queue.closed {
            match queue.take() {
                Some(job) => {
                    drop(queue);
                    let work = std::panic::AssertUnwindSafe(|| job(&mut kit));
                    // Who waits for the result sees that there is none.
                    if std::panic::catch_unwind(work).is_err() {
                        kit = K::default();
                    }
                    queue = self.lock();
                }
                None => {
                    queue.idle += 1;
                    queue = (self.work.wait(queue)).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            }
        }
    }
}

impl<K> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Queue<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Queue<K> {
    /// The oldest job of the next lane that has one.
    fn take(&mut self) -> Option<Job<K>> {
        let after = self.served + 1;
        let ready = |(id, jobs): (&u64, &VecDeque<Job<K>>)| (!jobs.is_empty()).then_some(*id);
        let lane = (self.lanes.range(after..).find_map(ready))
            .or_else(|| self.lanes.range(..after).find_map(ready))?;
        self.served = lane;
        self.lanes.get_mut(&lane)?.pop_front()
    }
}

/// One layer's jobs and their results.
pub(super) struct Lane<K, R> {
    pool: Pool<K>,
    id: u64,
    results: VecDeque<mpsc::Receiver<R>>,
}

impl<K, R> std::fmt::Debug for Lane<K, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lane({} pending)", self.results.len())
    }
}

impl<K: Default + 'static, R: Send + 'static> Lane<K, R> {
    /// Queues a job.
    pub(super) fn submit(&mut self, job: impl FnOnce(&mut K) -> R + Send + 'static) {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.results.push_back(receiver);
        let job = move |kit: &mut K| {
            // Nobody waits for it when the layer was given up.
            let _ = sender.send(job(kit));
        };
        self.pool.submit(self.id, Box::new(job));
    }

    /// How many results are still to be taken.
    pub(super) fn pending(&self) -> usize {
        self.results.len()
    }

    /// Waits for the oldest job's result; `None` when there is none.
    ///
    /// # Errors
    /// When the job has panicked.
    pub(super) fn next(&mut self) -> Option<io::Result<R>> {
        let result = self.results.pop_front()?;
        let lost = |_| io::Error::other("a worker thread has died");
        Some(result.recv().map_err(lost))
    }

    /// How many results this lane may leave untaken now.
    pub(super) fn share(&self) -> usize {
        let shared = &self.pool.0.shared;
        let lanes = shared.lock().lanes.len().max(1);
        shared.threads.div_ceil(lanes) + 1
    }
}

impl<K, R> Drop for Lane<K, R> {
    fn drop(&mut self) {
        let jobs = self.pool.0.shared.lock().lanes.remove(&self.id);
        // Outside of the lock: a job may hold files.
        drop(jobs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for threads in [1, 2, 7] {
            let pool: Pool<()> = Pool::new(threads);
            let mut lane = pool.lane();
            let mut got = Vec::new();
            for n in 0..100_u64 {
                lane.submit(move |()| {
                    std::thread::sleep(std::time::Duration::from_micros((n * 7919) % 300));
                    n * 2
                });
                while lane.pending() > 5 {
                    got.push(lane.next().unwrap().unwrap());
                }
            }
            while let Some(n) = lane.next() {
                got.push(n.unwrap());
            }
            assert_eq!(got, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_is_an_error_and_no_more() {
        let pool: Pool<()> = Pool::new(1);
        let mut lane = pool.lane();
        for n in 0..3 {
            lane.submit(move |()| {
                assert_ne!(n, 1);
                n
            });
        }
        assert_eq!(lane.next().unwrap().unwrap(), 0);
        assert!(lane.next().unwrap().is_err());
        assert_eq!(lane.next().unwrap().unwrap(), 2);
    }

    #[test]
    fn lanes_take_turns() {
        let pool: Pool<()> = Pool::new(1);
        let (gate, wait) = mpsc::channel::<()>();
        let mut first = pool.lane();
        first.submit(move |()| {
            let _ = wait.recv();
        });
        let order = Arc::new(Mutex::new(String::new()));
        let note = |name: char| {
            let order = Arc::clone(&order);
            move |(): &mut ()| order.lock().unwrap().push(name)
        };
        let mut second = pool.lane();
        for _ in 0..3 {
            first.submit(note('a'));
        }
        for _ in 0..3 {
            second.submit(note('b'));
        }
        gate.send(()).unwrap();
        while first.next().is_some() {}
        while second.next().is_some() {}
        let order = order.lock().unwrap();
        assert!(*order == "bababa" || *order == "ababab", "{order}");
    }
}
