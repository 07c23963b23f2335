//! Only what goes wrong: a task's last lines when it fails.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use shiplap::event::{Event, Outcome};

use super::{Renderer, escape};

/// Lines of output that are shown of a task that fails.
pub(super) const TAIL_LINES: usize = 40;
/// Longest part of a line that is kept, in bytes.
const TAIL_BYTES: usize = 4096;

/// The last lines of a task's output.
#[derive(Debug, Default)]
pub(super) struct Tail(std::collections::VecDeque<String>);

impl Tail {
    /// Adds a line, made harmless for the terminal.
    pub(super) fn push(&mut self, line: &[u8]) {
        // Of a very long line the end is kept: it may have been overwritten.
        let start = line.len().saturating_sub(TAIL_BYTES);
        let line = line.get(start..).unwrap_or_default();
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(escape::log(line, escape::Keep::Text));
    }

    /// The last `count` lines, oldest first.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &str> {
        let skip = self.0.len().saturating_sub(count);
        self.0.iter().skip(skip).map(String::as_str)
    }
}

/// The renderer.
pub(super) struct Quiet {
    out: Box<dyn Write + Send>,
    tasks: HashMap<u32, (String, Tail)>,
}

impl Quiet {
    /// Writes to `out`.
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            tasks: HashMap::new(),
        }
    }
}

impl Renderer for Quiet {
    fn event(&mut self, _at: Duration, event: Event) {
        match event {
            Event::Started { id, name } => {
                self.tasks.insert(id, (name, Tail::default()));
            }
            Event::Log { id, line, .. } => {
                if let Some((_, tail)) = self.tasks.get_mut(&id) {
                    tail.push(&line);
                }
            }
            Event::Finished { id, outcome, .. } => {
                let task = self.tasks.remove(&id);
                if let (Outcome::Failed(_), Some((name, tail))) = (outcome, task) {
                    let mut text = format!("{}:\n", escape::text(&name));
                    for line in tail.last(TAIL_LINES) {
                        text.push_str(&format!("  | {line}\n"));
                    }
                    let _ = self.out.write_all(text.as_bytes());
                }
            }
            Event::Progress { .. } | Event::Warning { .. } | Event::Note(_) => {}
        }
    }
}
