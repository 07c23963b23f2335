//! Shows what happens: the only writer to the terminal.
//!
//! One thread consumes the [`Event`]s of all work and hands them to one of
//! four renderers of the same stream ([`plain`], [`tty`], [`json`],
//! [`quiet`]). All of it goes to standard error; standard output is for
//! results ([`output`]). The channel is bounded, so a step that floods its
//! output is slowed down as by any pipe, and memory stays bounded too.

pub(crate) mod entry;
pub(crate) mod escape;
pub(crate) mod excerpt;
pub(crate) mod explore;
pub(crate) mod format;
mod json;
pub(crate) mod lazy;
pub(crate) mod output;
mod plain;
pub(crate) mod prompt;
mod quiet;
pub(crate) mod raw;
pub(crate) mod screen;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod tty;

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shiplap::event::{Event, EventSink, Events, Usage};

pub(crate) use json::error_object;

/// How many events may wait for the renderer.
const QUEUE: usize = 256;
/// Time between two pictures of the terminal renderer.
const FRAME: Duration = Duration::from_millis(100);

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Progress {
    /// `tty` where standard error is a terminal, else `plain`.
    #[default]
    Auto,
    /// Running steps with their last lines, kept up to date.
    Tty,
    /// One line for each thing that happens.
    Plain,
    /// One JSON object per line.
    Json,
    /// Only what goes wrong.
    Quiet,
}

/// Shows events in one form.
trait Renderer: Send {
    /// Takes an event that was received `at` after the start.
    fn event(&mut self, at: Duration, event: Event);
    /// Called now and then while nothing happens.
    fn tick(&mut self, _at: Duration) {}
    /// Called once, after the last event.
    fn finish(&mut self, _at: Duration) {}
}

/// The thread that shows events.
#[derive(Debug)]
pub(crate) struct Ui {
    sender: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Event(Event),
    Stop,
}

/// Sends into the bounded channel; a full one makes the work wait.
struct Sink(SyncSender<Message>);

impl EventSink for Sink {
    fn emit(&self, event: Event) {
        // When the thread is gone there is nobody left to tell.
        let _ = self.0.send(Message::Event(event));
    }
}

impl Ui {
    /// Starts showing.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(progress: Progress, colors: bool) -> io::Result<Self> {
        let renderer = renderer(progress, colors);
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ui".into())
            .spawn(move || consume(renderer, &receiver))?;
        Ok(Self {
            sender,
            thread: Some(thread),
        })
    }

    /// Where work reports to.
    pub(crate) fn events(&self) -> Events {
        Events::new(Arc::new(Sink(self.sender.clone())))
    }
}

impl Drop for Ui {
    /// Shows what was reported so far and takes the live picture away. What
    /// is reported later is lost.
    fn drop(&mut self) {
        let _ = self.sender.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn renderer(progress: Progress, colors: bool) -> Box<dyn Renderer> {
    let out: Box<dyn Write + Send> = Box::new(output::Messages);
    let on_terminal = io::stderr().is_terminal();
    match progress {
        Progress::Json => Box::new(json::Json::new(out)),
        Progress::Quiet => Box::new(quiet::Quiet::new(out)),
        Progress::Tty | Progress::Auto if on_terminal && !dumb_terminal() => {
            Box::new(tty::Tty::new(out, Box::new(tty::terminal_size), colors))
        }
        Progress::Plain | Progress::Auto | Progress::Tty => {
            Box::new(plain::Plain::new(out, on_terminal))
        }
    }
}

/// Whether the terminal can't move its cursor.
fn dumb_terminal() -> bool {
    std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb")
}

/// Whether standard error takes colours: it is a terminal that can do more
/// than print, and the user did not decline (`NO_COLOR`).
pub(crate) fn colors() -> bool {
    io::stderr().is_terminal() && !dumb_terminal() && wants_colors()
}

/// Whether the user did not decline colours.
fn wants_colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Columns of the terminal, 100 where there is none.
pub(crate) fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(100)
}

fn consume(mut renderer: Box<dyn Renderer>, receiver: &Receiver<Message>) {
    let began = Instant::now();
    loop {
        match receiver.recv_timeout(FRAME) {
            Ok(Message::Event(event)) => renderer.event(began.elapsed(), event),
            Err(RecvTimeoutError::Timeout) => renderer.tick(began.elapsed()),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    renderer.finish(began.elapsed());
}

/// Remembers warnings, so that each is shown once.
#[derive(Debug, Default)]
struct Seen(HashSet<(Option<String>, String, Option<u32>)>);

impl Seen {
    /// More different warnings than anybody reads; beyond, none is remembered.
    const MOST: usize = 10_000;

    /// Whether this warning was not seen before.
    fn is_new(&mut self, rule: Option<&String>, message: &str, line: Option<u32>) -> bool {
        if self.0.len() >= Self::MOST {
            return true;
        }
        self.0.insert((rule.cloned(), message.to_owned(), line))
    }
}

/// A warning on one line.
fn warning_line(rule: Option<&str>, message: &str, line: Option<u32>) -> String {
    let mut text = String::from("warning: ");
    if let Some(line) = line {
        text.push_str(&format!("line {line}: "));
    }
    text.push_str(&escape::text(message));
    if let Some(rule) = rule {
        text.push_str(&format!(" [{}]", escape::text(rule)));
    }
    text
}

/// What a command used, ` (CPU 0.8s, 12MB)`; nothing where there was none.
fn used(usage: Option<Usage>) -> String {
    let shown = usage.map(|u| {
        let time = format::seconds(u.cpu_seconds);
        format!(" (CPU {time}, {})", format::size(u.peak_memory_bytes))
    });
    shown.unwrap_or_default()
}

/// Progress of an item, `sha256:0123… 1.2MB / 5MB`.
fn progress_line(item: &str, done: u64, total: Option<u64>) -> String {
    let item = escape::text(item);
    let done = format::size(done);
    match total {
        Some(total) => format!("{item} {done} / {}", format::size(total)),
        None => format!("{item} {done}"),
    }
}
