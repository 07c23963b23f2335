//! One line for each thing that happens, for logs and pipes.
//!
//! Every line about a task begins with `#` and its number, so lines of tasks
//! that run at once can be told apart:
//!
//! ```text
//! #3 [build 2/5] RUN make
//! #3 0.512 cc -c main.c
//! #3 DONE 1.2s
//! ```

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use shiplap::event::{Event, Outcome};

use super::{Renderer, Seen, escape, format, progress_line, warning_line};

/// Time between two lines about an item that is still under way.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Items of one task whose last line is remembered.
const MOST_ITEMS: usize = 1000;

/// The renderer.
pub(super) struct Plain {
    out: Box<dyn Write + Send>,
    on_terminal: bool,
    tasks: HashMap<u32, Task>,
    seen: Seen,
}

struct Task {
    began: Duration,
    items: HashMap<String, Item>,
}

struct Item {
    shown: Duration,
    complete: bool,
}

impl Plain {
    /// Writes to `out`; on a terminal, output of steps is made harmless.
    pub(super) fn new(out: Box<dyn Write + Send>, on_terminal: bool) -> Self {
        Self {
            out,
            on_terminal,
            tasks: HashMap::new(),
            seen: Seen::default(),
        }
    }

    fn line(&mut self, text: &str) {
        let _ = self.out.write_all(format!("{text}\n").as_bytes());
    }

    fn log(&mut self, at: Duration, id: u32, line: &[u8]) {
        let began = self.tasks.get(&id).map_or(at, |t| t.began);
        let seconds = at.saturating_sub(began).as_secs_f64();
        let mut bytes = format!("#{id} {seconds:.3} ").into_bytes();
        if self.on_terminal {
            bytes.extend(escape::log(line, escape::Keep::Colors).into_bytes());
        } else {
            bytes.extend(line);
        }
        bytes.push(b'\n');
        let _ = self.out.write_all(&bytes);
    }

    fn progress(&mut self, at: Duration, id: u32, item: String, done: u64, total: Option<u64>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let text = progress_line(&item, done, total);
        let complete = total.is_some_and(|t| done >= t);
        if let Some(known) = task.items.get_mut(&item) {
            let due = at.saturating_sub(known.shown) >= PROGRESS_EVERY;
            if known.complete || !(complete || due) {
                return;
            }
            known.shown = at;
            known.complete = complete;
        } else if task.items.len() < MOST_ITEMS {
            task.items.insert(
                item,
                Item {
                    shown: at,
                    complete,
                },
            );
        } else if !complete {
            return;
        }
        self.line(&format!("#{id} {text}"));
    }
}

impl Renderer for Plain {
    fn event(&mut self, at: Duration, event: Event) {
        match event {
            Event::Started { id, name } => {
                let began = at;
                let items = HashMap::new();
                self.tasks.insert(id, Task { began, items });
                self.line(&format!("#{id} {}", escape::text(&name)));
            }
            Event::Log { id, line, .. } => self.log(at, id, &line),
            Event::Progress {
                id,
                item,
                done,
                total,
            } => self.progress(at, id, item, done, total),
            Event::Finished {
                id,
                outcome,
                seconds,
                usage,
            } => {
                self.tasks.remove(&id);
                let end = match outcome {
                    Outcome::Done => {
                        format!("DONE {}{}", format::seconds(seconds), super::used(usage))
                    }
                    Outcome::Cached => "CACHED".into(),
                    Outcome::Failed(message) => format!("ERROR {}", escape::text(&message)),
                    Outcome::Cancelled => "CANCELED".into(),
                };
                self.line(&format!("#{id} {end}\n"));
            }
            Event::Warning {
                rule,
                message,
                line,
            } => {
                if self.seen.is_new(rule.as_ref(), &message, line) {
                    self.line(&warning_line(rule.as_deref(), &message, line));
                }
            }
            Event::Note(message) => self.line(&format!("note: {}", escape::text(&message))),
        }
    }
}
