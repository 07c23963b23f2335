//! Work on many threads, results in the order of the work.
//!
//! The caller bounds memory: it takes a result whenever
//! [`pending`](Ordered::pending) is as high as it wants it to be.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

type Task<J, R> = (J, mpsc::SyncSender<R>);

/// A few threads that each turn jobs into results.
pub(crate) struct Ordered<J, R> {
    jobs: Option<mpsc::Sender<Task<J, R>>>,
    results: VecDeque<mpsc::Receiver<R>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl<J, R> std::fmt::Debug for Ordered<J, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ordered({} threads)", self.threads.len())
    }
}

impl<J: Send + 'static, R: Send + 'static> Ordered<J, R> {
    /// Starts `threads` threads, one at least; `worker` makes what each of
    /// them works with.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn new<W>(threads: usize, worker: impl Fn() -> io::Result<W>) -> io::Result<Self>
    where
        W: FnMut(J) -> R + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel::<Task<J, R>>();
        let queue = Arc::new(Mutex::new(queue));
        let stop = Arc::new(AtomicBool::new(false));
        let mut pool = Self {
            jobs: Some(jobs),
            results: VecDeque::new(),
            stop,
            threads: Vec::new(),
        };
        for _ in 0..threads.max(1) {
            let mut work = worker()?;
            let queue = Arc::clone(&queue);
            let stop = Arc::clone(&pool.stop);
            let run = move || {
                loop {
                    let task = match queue.lock() {
                        Ok(queue) => queue.recv(),
                        Err(_) => return,
                    };
                    let Ok((job, result)) = task else { return };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Nobody waits for it when the caller has given up.
                    let _ = result.send(work(job));
                }
            };
            match std::thread::Builder::new().name("layer".into()).spawn(run) {
                Ok(thread) => pool.threads.push(thread),
                Err(_) if !pool.threads.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(pool)
    }

    /// Queues a job.
    pub(crate) fn submit(&mut self, job: J) {
        let (sender, receiver) = mpsc::sync_channel(1);
        if let Some(jobs) = &self.jobs {
            // Without a thread to take it, `next` says so.
            let _ = jobs.send((job, sender));
        }
        self.results.push_back(receiver);
    }

    /// How many results are still to be taken.
    pub(crate) fn pending(&self) -> usize {
        self.results.len()
    }

    /// Waits for the oldest job's result; `None` when there is none.
    ///
    /// # Errors
    /// When the thread that worked on it has panicked.
    pub(crate) fn next(&mut self) -> Option<io::Result<R>> {
        let result = self.results.pop_front()?;
        let lost = |_| io::Error::other("a worker thread has died");
        Some(result.recv().map_err(lost))
    }
}

impl<J, R> Drop for Ordered<J, R> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic was reported through the job that it cost.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for threads in [1, 2, 7] {
            let mut pool = Ordered::new(threads, || {
                Ok(|n: u64| {
                    std::thread::sleep(std::time::Duration::from_micros((n * 7919) % 300));
                    n * 2
                })
            })
            .unwrap();
            let mut got = Vec::new();
            for n in 0..100 {
                pool.submit(n);
                while pool.pending() > 5 {
                    got.push(pool.next().unwrap().unwrap());
                }
            }
            while let Some(n) = pool.next() {
                got.push(n.unwrap());
            }
            assert_eq!(got, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        let mut pool = Ordered::new(1, || {
            Ok(|n: u32| {
                assert_ne!(n, 1);
                n
            })
        })
        .unwrap();
        for n in 0..3 {
            pool.submit(n);
        }
        assert_eq!(pool.next().unwrap().unwrap(), 0);
        assert!(pool.next().unwrap().is_err());
        assert!(pool.next().unwrap().is_err());
    }
}
