//! What SIGINT, SIGTERM and SIGHUP do.
//!
//! The first one asks work that can be cancelled to stop, and ends a program
//! whose work can't; the second one, or five seconds without an end, ends the
//! program at once. Steps' processes go down with it. While a program runs in a
//! container in the user's stead, signals are passed on to it instead, until it
//! has not listened often enough. A signal that was ignored when the program
//! started (`nohup`, a shell's background job) stays ignored.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shiplap::event::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};

/// How long cancelled work may take to clean up.
const GRACE: Duration = Duration::from_secs(5);
/// Signals within this time are one.
const SAME: Duration = Duration::from_millis(100);

/// A program that was asked to end this often and goes on is ended.
const MOST_ASKED: u32 = 3;

/// Signals on their way to a program.
#[derive(Debug)]
struct PassedOn {
    to: Sender<i32>,
    /// The last one, and when it came.
    last: (i32, Instant),
    /// How often the program was asked to end.
    asked: u32,
}

/// What has to be put right when the program ends without its destructors.
type AtExit = Box<dyn Fn() + Send>;

/// The signals that came, and those who listen.
#[derive(Clone)]
pub(crate) struct Interrupts {
    cancel: Cancel,
    watched: Arc<AtomicBool>,
    received: Arc<AtomicI32>,
    /// When work was cancelled.
    when: Arc<Mutex<Option<Instant>>>,
    passed_on: Arc<Mutex<Option<PassedOn>>>,
    at_exit: Arc<Mutex<Option<AtExit>>>,
    /// Cancelled work may take as long as it needs.
    patient: Arc<AtomicBool>,
    handle: Option<Handle>,
}

impl std::fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupts")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Interrupts {
    /// Starts to handle signals. To be called before any other thread exists.
    ///
    /// # Errors
    /// When handlers or the thread can't be set up.
    pub(crate) fn install() -> io::Result<Self> {
        let mut interrupts = Self {
            cancel: Cancel::new(),
            watched: Arc::new(AtomicBool::new(false)),
            received: Arc::new(AtomicI32::new(0)),
            when: Arc::new(Mutex::new(None)),
            passed_on: Arc::new(Mutex::new(None)),
            at_exit: Arc::new(Mutex::new(None)),
            patient: Arc::new(AtomicBool::new(false)),
            handle: None,
        };
        let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status")?);
        let wanted = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(wanted)?;
        interrupts.handle = Some(signals.handle());
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
        if self.pass_on(signal) {
            return;
        }
        let first = self.received.swap(signal, Ordering::SeqCst) == 0;
        if !first && self.just_cancelled() {
            return;
        }
        if !first || !self.watched.load(Ordering::SeqCst) {
            self.exit(128 + signal);
        }
        let mut when = self.when.lock().unwrap_or_else(PoisonError::into_inner);
        *when = Some(Instant::now());
        drop(when);
        self.cancel.cancel();
        // Without this thread a cancelled build that hangs needs a second
        // signal, which is what happens when the thread can't be had.
        let shared = self.clone();
        let _ = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(GRACE);
            if !shared.patient.load(Ordering::SeqCst) {
                shared.exit(128 + signal);
            }
        });
    }

    fn exit(&self, code: i32) -> ! {
        let at_exit = self.at_exit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at_exit) = &*at_exit {
            at_exit();
        }
        signal_hook::low_level::exit(code)
    }

    /// Gives the signal to the program in the container, if there is one that
    /// shall have it; `false` is for this program.
    fn pass_on(&self, signal: i32) -> bool {
        let mut slot = self
            .passed_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(passed_on) = &mut *slot else {
            return false;
        };
        let (last, when) = std::mem::replace(&mut passed_on.last, (signal, Instant::now()));
        if matches!(signal, SIGINT | SIGTERM | SIGHUP) {
            // See `just_cancelled`.
            if last == signal && when.elapsed() < SAME {
                return true;
            }
            passed_on.asked += 1;
            if passed_on.asked >= MOST_ASKED {
                return false;
            }
        }
        passed_on.to.send(signal).is_ok()
    }

    /// From now on signals go to `to`: those that ask for an end the first two
    /// times, others always.
    pub(crate) fn hand_over(&self, to: Sender<i32>) {
        let mut slot = self
            .passed_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(PassedOn {
            to,
            last: (0, Instant::now()),
            asked: 0,
        });
        drop(slot);
        if let Some(handle) = &self.handle {
            for signal in [SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH] {
                // Without a handler it does what it does to any program.
                let _ = handle.add_signal(signal);
            }
        }
    }

    /// Does this first when the program ends at once; `None` is nothing more.
    pub(crate) fn at_exit(&self, action: Option<AtExit>) {
        *self.at_exit.lock().unwrap_or_else(PoisonError::into_inner) = action;
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

    /// [`cancel`](Self::cancel) for work that looks at it often, and then has
    /// much to take away: only a second signal ends it at once.
    pub(crate) fn cancel_patiently(&self) -> Cancel {
        self.patient.store(true, Ordering::SeqCst);
        self.cancel()
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
