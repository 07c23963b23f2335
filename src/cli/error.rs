//! From errors to messages and exit codes, in one place.
//!
//! | code | when |
//! |---|---|
//! | 0 | done |
//! | 1 | failed |
//! | 2 | wrong usage |
//! | 129, 130, 143 | stopped by SIGHUP, SIGINT, SIGTERM |
//!
//! A message is `error: …` with its excerpt where there is one, `caused by: …`
//! for each cause, and `hint: …` lines. Errors of the library never mention
//! flags or files of the user's; hints do, and they are here.

use std::io;
use std::ops::Range;

use anyhow::Error;

use super::Session;
use crate::ui;
use crate::ui::excerpt::{Excerpt, Severity};
use crate::ui::output::OutputClosed;

/// Arguments that can't be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Usage {
    /// As an error of a command.
    pub(crate) fn error(message: impl Into<String>) -> Error {
        Self(message.into()).into()
    }
}

/// What was asked for is answered with "no"; all has been said already.
#[derive(Debug, thiserror::Error)]
#[error("the answer is no")]
pub(crate) struct Negative;

/// Advice that a command adds to an error.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Hinted {
    /// The advice.
    pub(crate) hint: String,
    /// The error itself.
    pub(crate) error: Error,
}

/// An error with a place in a file whose text is at hand.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Located {
    /// What is wrong.
    pub(crate) message: String,
    /// The file's name as the user knows it.
    pub(crate) file: String,
    /// The file's text.
    pub(crate) text: String,
    /// The place, in bytes.
    pub(crate) span: Range<usize>,
    /// Advice.
    pub(crate) hints: Vec<String>,
    /// Why.
    #[source]
    pub(crate) source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Located {
    fn excerpt(&self) -> Excerpt<'_> {
        Excerpt {
            file: &self.file,
            source: &self.text,
            span: self.span.clone(),
            severity: Severity::Error,
            message: &self.message,
            label: "",
            notes: &[],
        }
    }
}

/// Tells the user about `error` and returns the exit code.
pub(crate) fn report(error: &Error, session: &Session) -> u8 {
    if find::<OutputClosed>(error).is_some() {
        return 0;
    }
    if let Some(code) = session.interrupts.exit_code() {
        ui::output::message("canceled\n");
        return code;
    }
    if find::<Negative>(error).is_some() {
        return 1;
    }
    let text = if session.json_messages.get() {
        as_json(error)
    } else {
        as_text(error, ui::colors())
    };
    ui::output::message(&text);
    if find::<Usage>(error).is_some() { 2 } else { 1 }
}

/// The first error of type `T` in the chain.
fn find<T: std::error::Error + Send + Sync + 'static>(error: &Error) -> Option<&T> {
    error.chain().find_map(|e| e.downcast_ref())
}

fn as_text(error: &Error, colors: bool) -> String {
    let paint = |text: &str, code: &str| {
        if colors {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let (message, causes) = messages(error);
    let mut text = match find::<Located>(error) {
        Some(located) => located.excerpt().render(width(), colors),
        None => prefixed(&paint("error:", "1;31"), "error:".len(), &message),
    };
    for cause in causes {
        text.push_str(&prefixed(
            &paint("caused by:", "1"),
            "caused by:".len(),
            &cause,
        ));
    }
    for hint in hints(error) {
        text.push_str(&prefixed(&paint("hint:", "1;36"), "hint:".len(), &hint));
    }
    text
}

fn as_json(error: &Error) -> String {
    let (message, causes) = messages(error);
    let located = find::<Located>(error);
    let place = located.map(|l| (l.file.as_str(), l.excerpt().line_column()));
    let place = place.map(|(file, (line, column))| (file, line, column));
    ui::error_object(&message, &causes, &hints(error), place)
}

/// `prefix message`; further lines of the message stand below its first one.
fn prefixed(prefix: &str, width: usize, message: &str) -> String {
    let message = ui::escape::lines(message).replace('\n', &format!("\n{}", " ".repeat(width + 1)));
    format!("{prefix} {message}\n")
}

/// The message and those of its causes. A cause that its parent's message
/// ends with already is left out.
fn messages(error: &Error) -> (String, Vec<String>) {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if messages.last().is_none_or(|last| !last.ends_with(&message)) {
            messages.push(message);
        }
    }
    let first = if messages.is_empty() {
        String::new()
    } else {
        messages.remove(0)
    };
    (first, messages)
}

/// What the user can do about it.
fn hints(error: &Error) -> Vec<String> {
    let mut hints = Vec::new();
    let mut hint = |text: &str| {
        if !hints.iter().any(|h| h == text) {
            hints.push(text.to_owned());
        }
    };
    for cause in error.chain() {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            hint(&hinted.hint);
        }
        if let Some(located) = cause.downcast_ref::<Located>() {
            located.hints.iter().for_each(|text| hint(text));
        }
        if cause.downcast_ref::<Usage>().is_some() {
            hint("see shiplap help, or add --help to the command");
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                hint("free some room, or keep the store elsewhere with --root DIR or SHIPLAP_ROOT");
            }
            Some(io::ErrorKind::ReadOnlyFilesystem) => {
                hint("choose a place that can be written to with --root DIR or SHIPLAP_ROOT");
            }
            _ => {}
        }
    }
    hints
}

/// Columns of the terminal, 100 where there is none.
fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn chains_are_listed_once_and_escaped() {
        let io = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::from(io)
            .context("can't write /x\x1b[2J\nat all")
            .context("can't build");
        insta::assert_snapshot!(as_text(&error, false), @r"
        error: can't build
        caused by: can't write /x\x1b[2J
                   at all
        caused by: no storage space
        hint: free some room, or keep the store elsewhere with --root DIR or SHIPLAP_ROOT
        ");
        let error = anyhow::anyhow!("no such file").context("can't open x: no such file");
        assert_eq!(
            as_text(&error, false),
            "error: can't open x: no such file\n"
        );
    }

    #[test]
    fn errors_with_a_place_show_it() {
        let error = Error::from(Located {
            message: "unknown instruction: RUNN".into(),
            file: "Dockerfile".into(),
            text: "FROM a\nRUNN b\n".into(),
            span: 7..11,
            hints: vec!["did you mean RUN?".into()],
            source: None,
        });
        insta::assert_snapshot!(as_text(&error, false), @r"
        error: unknown instruction: RUNN
         --> Dockerfile:2:1
          |
        2 | RUNN b
          | ^^^^
        hint: did you mean RUN?
        ");
        assert_eq!(
            as_json(&error),
            "{\"causes\":[],\"column\":1,\"file\":\"Dockerfile\",\"hints\":[\"did you mean RUN?\"],\
             \"line\":2,\"message\":\"unknown instruction: RUNN\",\"type\":\"error\"}\n"
        );
    }

    #[test]
    fn usage_is_found_below_context() {
        let error = Result::<(), _>::Err(Usage::error("no"))
            .context("x")
            .unwrap_err();
        assert!(find::<Usage>(&error).is_some());
    }
}
