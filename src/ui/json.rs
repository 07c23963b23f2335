//! One JSON object per line, for programs.
//!
//! The form is stable: fields and types are only ever added, and a change of
//! what is there raises `version`. Every object has `type` and `at`, the
//! seconds since the first one; readers skip types and fields they do not
//! know.
//!
//! | `type` | fields |
//! |---|---|
//! | `begin` | `version`: 1 |
//! | `started` | `id`, `name` |
//! | `log` | `id`, `stream`: `stdout` or `stderr`, `text`; where the line is no UTF-8, `text` has replacement characters and `base64` the bytes |
//! | `progress` | `id`, `item`, `done`, `total`: bytes or null |
//! | `finished` | `id`, `outcome`: `done`, `cached`, `failed` or `cancelled`, `seconds`, `error`: text or null, and where a command ran `cpuSeconds` and `peakMemoryBytes` |
//! | `warning` | `rule`: text or null, `message`, `line`: number or null |
//! | `note` | `message` |
//! | `error` | the last object of a command that failed: `message`, `causes`, `hints`: lists of text, `file`, `line`, `column`: where it has a place in a file, else null; no `at` |

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use shiplap::event::{Event, Outcome, Stream};

use super::{Renderer, Seen};

/// The renderer.
pub(super) struct Json {
    out: Box<dyn Write + Send>,
    seen: Seen,
    began: bool,
}

impl Json {
    /// Writes to `out`.
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            seen: Seen::default(),
            began: false,
        }
    }

    fn object(&mut self, at: Duration, mut value: Value) {
        // Whole milliseconds, so that the number is short.
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let at = at.as_millis() as f64 / 1000.0;
        value["at"] = json!(at);
        let _ = self.out.write_all(line(&value).as_bytes());
    }
}

/// `value` on one line. Control characters that JSON allows in strings are
/// escaped too, so that the stream is harmless on a terminal.
fn line(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if super::escape::is_dangerous(c) {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

impl Renderer for Json {
    fn event(&mut self, at: Duration, event: Event) {
        if !self.began {
            self.began = true;
            self.object(at, json!({"type": "begin", "version": 1}));
        }
        let value = match event {
            Event::Started { id, name } => json!({"type": "started", "id": id, "name": name}),
            Event::Log { id, stream, line } => {
                let stream = match stream {
                    Stream::Stdout => "stdout",
                    Stream::Stderr => "stderr",
                };
                let text = String::from_utf8_lossy(&line);
                let mut value = json!({"type": "log", "id": id, "stream": stream, "text": text});
                if std::str::from_utf8(&line).is_err() {
                    value["base64"] = base64::engine::general_purpose::STANDARD
                        .encode(&line)
                        .into();
                }
                value
            }
            Event::Progress {
                id,
                item,
                done,
                total,
            } => json!({
                "type": "progress", "id": id, "item": item, "done": done, "total": total,
            }),
            Event::Finished {
                id,
                outcome,
                seconds,
                usage,
            } => {
                let (outcome, error) = match outcome {
                    Outcome::Done => ("done", None),
                    Outcome::Cached => ("cached", None),
                    Outcome::Failed(message) => ("failed", Some(message)),
                    Outcome::Cancelled => ("cancelled", None),
                };
                let mut value = json!({
                    "type": "finished", "id": id, "outcome": outcome,
                    "seconds": seconds, "error": error,
                });
                if let Some(usage) = usage {
                    value["cpuSeconds"] = json!(usage.cpu_seconds);
                    value["peakMemoryBytes"] = json!(usage.peak_memory_bytes);
                }
                value
            }
            Event::Warning {
                rule,
                message,
                line,
            } => {
                if !self.seen.is_new(rule.as_ref(), &message, line) {
                    return;
                }
                json!({"type": "warning", "rule": rule, "message": message, "line": line})
            }
            Event::Note(message) => json!({"type": "note", "message": message}),
        };
        self.object(at, value);
    }
}

/// The last object of a command that failed; see the module's table.
pub(crate) fn error_object(
    message: &str,
    causes: &[String],
    hints: &[String],
    place: Option<(&str, u32, u32)>,
) -> String {
    let value = json!({
        "type": "error", "message": message, "causes": causes, "hints": hints,
        "file": place.map(|p| p.0), "line": place.map(|p| p.1), "column": place.map(|p| p.2),
    });
    line(&value)
}
