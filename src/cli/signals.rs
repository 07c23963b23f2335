//! What SIGINT, SIGTERM and SIGHUP do.
//!
//! The first one asks work that can be cancelled to stop, and ends a program
//! whose work can't; the second one, or five seconds without an end, ends the
//! program at once. Steps' processes go down with it. A signal that was
//! ignored when the program started (`nohup`, a shell's background job) stays
//! ignored.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shiplap::event::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long cancelled work may take to clean up.
const GRACE: Duration = Duration::from_secs(5);
/// Signals within this time are one.
const SAME: Duration = Duration::from_millis(100);

/// The signals that came, and those who listen.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts {
    cancel: Cancel,
    watched: Arc<AtomicBool>,
    received: Arc<AtomicI32>,
    /// When work was cancelled.
    when: Arc<Mutex<Option<Instant>>>,
}

impl Interrupts {
    /// Starts to handle signals. To be called before any other thread exists.
    ///
    /// # Errors
    /// When handlers or the thread can't be set up.
    pub(crate) fn install() -> io::Result<Self> {
        let interrupts = Self {
            cancel: Cancel::new(),
            watched: Arc::new(AtomicBool::new(false)),
            received: Arc::new(AtomicI32::new(0)),
            when: Arc::new(Mutex::new(None)),
        };
        let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status")?);
        let wanted = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(wanted)?;
        let shared = interrupts.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    shared.handle(signal);
                }
            })?;
        Ok(interrupts)
    }

    fn handle(&self, signal: i32) {
        let first = self.received.swap(signal, Ordering::SeqCst) == 0;
        if !first && self.just_cancelled() {
            return;
        }
        if !first || !self.watched.load(Ordering::SeqCst) {
            signal_hook::low_level::exit(128 + signal);
        }
        let mut when = self.when.lock().unwrap_or_else(PoisonError::into_inner);
        *when = Some(Instant::now());
        drop(when);
        self.cancel.cancel();
        // Without this thread a cancelled build that hangs needs a second
        // signal, which is what happens when the thread can't be had.
        let _ = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(GRACE);
            signal_hook::low_level::exit(128 + signal);
        });
    }

    /// A terminal sends its signals to all processes of a job, and one that
    /// waits for us in front of a user namespace passes them on: the same
    /// signal may come twice.
    fn just_cancelled(&self) -> bool {
        let when = self.when.lock().unwrap_or_else(PoisonError::into_inner);
        when.is_some_and(|when| when.elapsed() < SAME)
    }

    /// What work that can be cancelled looks at. From now on the first signal
    /// does no more than cancel.
    pub(crate) fn cancel(&self) -> Cancel {
        self.watched.store(true, Ordering::SeqCst);
        self.cancel.clone()
    }

    /// The exit code for a program that was told to stop, 128 and the signal.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self.received.load(Ordering::SeqCst) {
            0 => None,
            signal => u8::try_from(128 + signal).ok(),
        }
    }
}

/// The mask of ignored signals in the text of `/proc/self/status`.
fn ignored_signals(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_mask_of_ignored_signals() {
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_signals(status), 0x1001);
        assert_eq!(ignored_signals("SigIgn:\tzz"), 0);
        assert_eq!(ignored_signals(""), 0);
    }
}
