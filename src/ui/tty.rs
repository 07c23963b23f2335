//! A live picture for terminals.
//!
//! What is finished scrolls away as one line per task; below it stand the
//! tasks under way, each with its last lines of output, redrawn in place. The
//! cursor stays visible and no mode of the terminal is changed, so there is
//! nothing to restore, however the program ends. Lines are cut to the
//! terminal's width; when the window was made narrower, the number of rows
//! that the last picture takes now is counted anew.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use shiplap::event::{Event, Outcome, Usage};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::quiet::{TAIL_LINES, Tail};
use super::{FRAME, Renderer, Seen, escape, format, progress_line, warning_line};

/// Lines of output shown under a running task.
const LIVE_LINES: usize = 6;
/// Items of a task whose progress is shown.
const LIVE_ITEMS: usize = 6;

/// Columns and rows of the terminal.
type Size = (usize, usize);

/// The renderer.
pub(super) struct Tty {
    out: Box<dyn Write + Send>,
    size: Box<dyn Fn() -> Size + Send>,
    colors: bool,
    running: Vec<Task>,
    finished: usize,
    /// Lines that stay, to be written above the next picture.
    done: Vec<String>,
    /// Widths of the lines of the picture on the screen.
    pub(super) drawn: Vec<usize>,
    drawn_at: Option<Duration>,
    seen: Seen,
}

struct Task {
    id: u32,
    name: String,
    began: Duration,
    tail: Tail,
    /// The items moved last, with what is shown of them.
    items: VecDeque<(String, String)>,
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Good,
    Bad,
    Attention,
    Faint,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[36m",
            Self::Bad => "\x1b[31m",
            Self::Attention => "\x1b[33m",
            Self::Faint => "\x1b[2m",
        }
    }
}

/// The size of the terminal behind standard error.
pub(super) fn terminal_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => (80, 24),
    }
}

impl Tty {
    /// Draws on `out`, whose size is what `size` says.
    pub(super) fn new(
        out: Box<dyn Write + Send>,
        size: Box<dyn Fn() -> Size + Send>,
        colors: bool,
    ) -> Self {
        Self {
            out,
            size,
            colors,
            running: Vec::new(),
            finished: 0,
            done: Vec::new(),
            drawn: Vec::new(),
            drawn_at: None,
            seen: Seen::default(),
        }
    }

    fn task(&mut self, id: u32) -> Option<&mut Task> {
        self.running.iter_mut().find(|t| t.id == id)
    }

    fn paint(&self, text: &str, style: Style) -> String {
        match style.code() {
            "" => text.to_owned(),
            _ if !self.colors => text.to_owned(),
            code => format!("{code}{text}\x1b[0m"),
        }
    }

    fn finished(&mut self, id: u32, outcome: Outcome, seconds: f64, usage: Option<Usage>) {
        let Some(position) = self.running.iter().position(|t| t.id == id) else {
            return;
        };
        let task = self.running.remove(position);
        self.finished += 1;
        let (columns, _) = (self.size)();
        let time = format!("{}{}", format::seconds(seconds), super::used(usage));
        let (mark, end, style) = match &outcome {
            Outcome::Done => ("=>", time.as_str(), Style::Good),
            Outcome::Cached => ("=> CACHED", "", Style::Good),
            Outcome::Failed(_) => ("=> ERROR", time.as_str(), Style::Bad),
            Outcome::Cancelled => ("=> CANCELED", "", Style::Attention),
        };
        let line = spread(&format!("{mark} {}", task.name), end, columns);
        self.done.push(self.paint(&line, style));
        if let Outcome::Failed(message) = outcome {
            for line in task.tail.last(TAIL_LINES) {
                self.done.push(format!("   | {line}"));
            }
            let message = format!("   {}", escape::text(&message));
            self.done.push(self.paint(&message, Style::Bad));
        }
    }

    /// The lines of the picture, at most `rows - 1`, none longer than
    /// `columns - 1`.
    fn picture(&self, at: Duration, (columns, rows): Size) -> Vec<(String, Style)> {
        if self.running.is_empty() {
            return Vec::new();
        }
        let head = format!(
            "{}  {} running, {} done",
            format::seconds(at.as_secs_f64()),
            self.running.len(),
            self.finished
        );
        let mut lines = vec![(cut(&head, columns), Style::Plain)];
        let room = rows.saturating_sub(2).max(1);
        // Names come first when there is not room for all: each task has one.
        let names = self.running.len().min(room);
        let mut spare = room - names;
        for task in self.running.iter().take(names) {
            let time = format::seconds(at.saturating_sub(task.began).as_secs_f64());
            let line = spread(&format!("=> {}", task.name), &time, columns);
            lines.push((line, Style::Plain));
            let details: Vec<String> = task
                .items
                .iter()
                .map(|(_, text)| format!("   {text}"))
                .chain(task.tail.last(LIVE_LINES).map(|l| format!("   | {l}")))
                .collect();
            let shown = details.len().min(spare).min(LIVE_LINES);
            spare -= shown;
            for detail in details.iter().skip(details.len() - shown) {
                lines.push((cut(detail, columns), Style::Faint));
            }
        }
        lines
    }

    /// Takes the last picture away, writes what stays, and draws anew.
    fn draw(&mut self, at: Duration, with_picture: bool) {
        let size = (self.size)();
        let mut text = String::new();
        let rows: usize = self
            .drawn
            .iter()
            .map(|width| width.div_ceil(size.0.max(1)).max(1))
            .sum();
        if rows > 0 {
            // More rows than the window has can't be reached.
            text.push_str(&format!("\x1b[{}A", rows.min(size.1.max(1))));
        }
        text.push_str("\r\x1b[J");
        for line in self.done.drain(..) {
            text.push_str(&line);
            text.push('\n');
        }
        let picture = if with_picture {
            self.picture(at, size)
        } else {
            Vec::new()
        };
        self.drawn = picture.iter().map(|(line, _)| line.width()).collect();
        for (line, style) in picture {
            text.push_str(&self.paint(&line, style));
            text.push('\n');
        }
        self.drawn_at = Some(at);
        let _ = self.out.write_all(text.as_bytes());
    }

    fn draw_if_due(&mut self, at: Duration) {
        if self
            .drawn_at
            .is_none_or(|last| at.saturating_sub(last) >= FRAME)
        {
            self.draw(at, true);
        }
    }
}

impl Renderer for Tty {
    fn event(&mut self, at: Duration, event: Event) {
        match event {
            Event::Started { id, name } => self.running.push(Task {
                id,
                name: escape::text(&name).into_owned(),
                began: at,
                tail: Tail::default(),
                items: VecDeque::new(),
            }),
            Event::Log { id, line, .. } => {
                if let Some(task) = self.task(id) {
                    task.tail.push(&line);
                }
            }
            Event::Progress {
                id,
                item,
                done,
                total,
            } => {
                if let Some(task) = self.task(id) {
                    let text = progress_line(&item, done, total);
                    task.items.retain(|(known, _)| *known != item);
                    if task.items.len() == LIVE_ITEMS {
                        task.items.pop_front();
                    }
                    if total.is_none_or(|t| done < t) {
                        task.items.push_back((item, text));
                    }
                }
            }
            Event::Finished {
                id,
                outcome,
                seconds,
                usage,
            } => self.finished(id, outcome, seconds, usage),
            Event::Warning {
                rule,
                message,
                line,
            } => {
                if self.seen.is_new(rule.as_ref(), &message, line) {
                    let text = warning_line(rule.as_deref(), &message, line);
                    self.done.push(self.paint(&text, Style::Attention));
                }
            }
            Event::Note(message) => {
                let text = format!("note: {}", escape::text(&message));
                self.done.push(text);
            }
        }
        self.draw_if_due(at);
    }

    fn tick(&mut self, at: Duration) {
        if !self.running.is_empty() || !self.done.is_empty() {
            self.draw_if_due(at);
        }
    }

    fn finish(&mut self, at: Duration) {
        self.draw(at, false);
    }
}

/// `text` cut to one column less than `columns`, so that no terminal wraps it.
fn cut(text: &str, columns: usize) -> String {
    let most = columns.saturating_sub(1);
    if text.width() <= most {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut width = 0;
    for c in text.chars() {
        width += c.width().unwrap_or(0);
        if width >= most {
            break;
        }
        out.push(c);
    }
    if most > 0 {
        out.push('…');
    }
    out
}

/// `left`, cut where needed, and `right` at the right edge.
fn spread(left: &str, right: &str, columns: usize) -> String {
    if right.is_empty() {
        return cut(left, columns);
    }
    let left = cut(left, columns.saturating_sub(right.len() + 1));
    let gap = columns
        .saturating_sub(1 + left.width() + right.len())
        .max(1);
    cut(&format!("{left}{}{right}", " ".repeat(gap)), columns)
}
