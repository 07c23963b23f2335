//! What happens while work is done, as plain data.
//!
//! Work reports to an [`Events`]; whoever listens (a terminal, a log, a test)
//! implements [`EventSink`]. Nothing comes back: an event never carries a
//! decision.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// All messages of an error and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        let message = c.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = c.source();
    }
    text
}

/// Which stream of a build container a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The work was done.
    Done,
    /// The result was known and nothing was run.
    Cached,
    /// It failed; the message is for people.
    Failed(String),
    /// It was given up because something else failed.
    Cancelled,
}

/// What a command and its children used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time.
    pub cpu_seconds: f64,
    /// The largest resident set of one process.
    pub peak_memory_bytes: u64,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A task began.
    Started {
        /// Number of the task, unique within one [`Events`].
        id: u32,
        /// What people call it, `[build 2/5] RUN make`.
        name: String,
    },
    /// A line of output, without its line end; it may be any bytes.
    Log {
        /// The task.
        id: u32,
        /// Where it came from.
        stream: Stream,
        /// The line.
        line: Vec<u8>,
    },
    /// Part of a task moved on.
    Progress {
        /// The task.
        id: u32,
        /// What moved, for example a short digest.
        item: String,
        /// Bytes done so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A task ended.
    Finished {
        /// The task.
        id: u32,
        /// How.
        outcome: Outcome,
        /// Seconds since it began.
        seconds: f64,
        /// What its command used, where it had one.
        usage: Option<Usage>,
    },
    /// Something to tell the user that is no error.
    Warning {
        /// The rule of the linter, where one found it.
        rule: Option<String>,
        /// What to tell.
        message: String,
        /// One-based line in the Dockerfile, where there is one.
        line: Option<u32>,
    },
    /// A remark for the log.
    Note(String),
}

/// Receives events, from any thread.
pub trait EventSink: Send + Sync {
    /// Takes one event; must not block for long.
    fn emit(&self, event: Event);
}

/// Drops every event.
#[derive(Debug, Clone, Copy)]
pub struct NullSink;

impl EventSink for NullSink {
    fn emit(&self, _: Event) {}
}

/// Sends every event into a channel.
#[derive(Debug)]
pub struct ChannelSink(pub std::sync::mpsc::Sender<Event>);

impl EventSink for ChannelSink {
    fn emit(&self, event: Event) {
        // A listener that is gone is not the work's concern.
        let _ = self.0.send(event);
    }
}

/// Hands out task numbers and passes events on; cheap to clone.
#[derive(Clone)]
pub struct Events {
    sink: Arc<dyn EventSink>,
    next: Arc<AtomicU32>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Reports to `sink`.
    pub fn new(sink: Arc<dyn EventSink>) -> Self {
        Self {
            sink,
            next: Arc::new(AtomicU32::new(1)),
        }
    }

    /// Reports to nobody.
    pub fn none() -> Self {
        Self::new(Arc::new(NullSink))
    }

    /// Passes `event` on.
    pub fn emit(&self, event: Event) {
        self.sink.emit(event);
    }

    /// Begins a task. It counts as cancelled if it is dropped unfinished.
    pub fn start(&self, name: impl Into<String>) -> Task {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.emit(Event::Started {
            id,
            name: name.into(),
        });
        Task {
            events: self.clone(),
            id,
            began: Instant::now(),
            finished: false,
            usage: OnceLock::new(),
        }
    }

    /// Passes a warning on.
    pub fn warn(&self, message: impl Into<String>) {
        self.emit(Event::Warning {
            rule: None,
            message: message.into(),
            line: None,
        });
    }

    /// Passes a remark on.
    pub fn note(&self, message: impl Into<String>) {
        self.emit(Event::Note(message.into()));
    }
}

/// A task under way.
#[derive(Debug)]
pub struct Task {
    events: Events,
    id: u32,
    began: Instant,
    finished: bool,
    usage: OnceLock<Usage>,
}

impl Task {
    /// Notes what the task's command used.
    pub fn used(&self, usage: Usage) {
        let _ = self.usage.set(usage);
    }

    /// What the task's command used, as far as that is known.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.get().copied()
    }

    /// Reports a line of output.
    pub fn log(&self, stream: Stream, line: Vec<u8>) {
        self.events.emit(Event::Log {
            id: self.id,
            stream,
            line,
        });
    }

    /// Reports bytes done.
    pub fn progress(&self, item: &str, done: u64, total: Option<u64>) {
        self.events.emit(Event::Progress {
            id: self.id,
            item: item.into(),
            done,
            total,
        });
    }

    /// Ends the task.
    pub fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if !self.finished {
            self.finished = true;
            self.events.emit(Event::Finished {
                id: self.id,
                outcome,
                seconds: self.began.elapsed().as_secs_f64(),
                usage: self.usage(),
            });
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

/// Asks work to stop; cheap to clone, looked at between two pieces of work.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Request>);

#[derive(Debug, Default)]
struct Request {
    made: std::sync::atomic::AtomicBool,
    /// What this work is a part of.
    whole: Option<Cancel>,
}

impl Cancel {
    /// Not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a part of the work: it stops with the whole, but not the whole with
    /// it.
    pub fn part(&self) -> Self {
        Self(Arc::new(Request {
            whole: Some(self.clone()),
            ..Request::default()
        }))
    }

    /// Asks everyone who holds a clone to stop.
    pub fn cancel(&self) {
        self.0.made.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_cancelled(&self) -> bool {
        let asked = self.0.made.load(Ordering::SeqCst);
        asked || self.0.whole.as_ref().is_some_and(Self::is_cancelled)
    }

    /// What `inner` reads, as long as nobody asks to stop; then an error.
    pub fn watch<R>(&self, inner: R) -> Watched<R> {
        Watched {
            inner,
            cancel: self.clone(),
        }
    }
}

/// A reader that fails when someone asked to stop.
#[derive(Debug)]
pub struct Watched<R> {
    inner: R,
    cancel: Cancel,
}

impl<R: io::Read> io::Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("it was cancelled"));
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_stops_with_the_whole_and_not_the_other_way_round() {
        let whole = Cancel::new();
        let (one, other) = (whole.part(), whole.part().part());
        one.cancel();
        assert!(one.is_cancelled() && !whole.is_cancelled() && !other.is_cancelled());
        whole.cancel();
        assert!(other.is_cancelled());
    }
}
