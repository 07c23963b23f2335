//! From errors to messages and exit codes, in one place.
//!
//! | code | when |
//! |---|---|
//! | 0 | done |
//! | 1 | failed |
//! | 2 | wrong usage |
//! | that of the command | `run`; 125, 126 and 127 are its own, as docker has them |
//! | 129, 130, 143 | stopped by SIGHUP, SIGINT, SIGTERM |
//!
//! A message is `error: …` with its excerpt where there is one, `caused by: …`
//! for each cause, and `hint: …` lines. Errors of the library never mention
//! flags or files of the user's; hints do, and they are here.

use std::error::Error as StdError;
use std::io;
use std::ops::Range;

use anyhow::Error;
use shiplap::build::{BaseError, BuildError};
use shiplap::context::source::OpenError;
use shiplap::dockerfile::ParseError;
use shiplap::dockerfile::span::Span;
use shiplap::graph::PlanError;
use shiplap::registry::{Failure, RegistryError};
use shiplap::solve::StepError;
use shiplap::solve::agent::KeyError;
use shiplap::store::StoreError;
use shiplap::transport::TransportError;

use super::Session;
use crate::ui;
use crate::ui::excerpt::{Excerpt, Severity};
use crate::ui::output::{OutputClosed, OutputError};

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

/// What was run in the user's stead ended so; it has said itself what there is
/// to say.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with exit code {0}")]
pub(crate) struct Exited(pub(crate) u8);

/// An error that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Coded {
    /// The exit code.
    pub(crate) code: u8,
    /// The error itself.
    pub(crate) error: Error,
}

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
    /// A message about `span` of a file.
    pub(crate) fn new(
        message: String,
        file: &std::path::Path,
        text: &str,
        span: Span,
        hint: Option<String>,
    ) -> Self {
        Self {
            message,
            file: match file.display().to_string() {
                name if name == "-" => "standard input".into(),
                name => name,
            },
            text: text.to_owned(),
            span: span.start..span.end,
            hints: hint.into_iter().collect(),
            source: None,
        }
    }

    /// A Dockerfile that can't be read.
    pub(crate) fn parse(error: ParseError, file: &std::path::Path, text: &str) -> Self {
        Self::new(error.message, file, text, error.span, error.hint)
    }

    /// A Dockerfile that can't be planned; an error without a place stays as
    /// it is.
    pub(crate) fn plan(error: PlanError, file: &std::path::Path, text: &str) -> Error {
        match error.span {
            Some(span) => Self::new(error.message, file, text, span, error.hint).into(),
            None => error.into(),
        }
    }

    fn excerpt(&self) -> Excerpt<'_> {
        Excerpt {
            file: &self.file,
            source: &self.text,
            lines_before: 0,
            span: self.span.clone(),
            severity: Severity::Error,
            message: &self.message,
            label: "",
            notes: &[],
        }
    }
}

/// The error of a build with its place in a file, where it has one.
pub(crate) fn located(error: BuildError) -> Error {
    let message = error.to_string();
    let mut hints = Vec::new();
    let (place, source): (_, Option<Box<dyn StdError + Send + Sync>>) = match error {
        BuildError::Dockerfile {
            place: Some(place),
            hint,
            ..
        } => {
            hints.extend(hint);
            (place, None)
        }
        BuildError::Base {
            place: Some(place),
            hint,
            source,
            ..
        } => {
            hints.extend(hint);
            (place, Some(source))
        }
        BuildError::Step {
            place: Some(place),
            source,
            ..
        } => (place, Some(source)),
        BuildError::Ignore { place, .. } => (place, None),
        BuildError::Named { source, .. } if matches!(*source, BuildError::Ignore { .. }) => {
            return located(*source);
        }
        BuildError::Dockerfile {
            hint: Some(hint), ..
        } => {
            let error = anyhow::anyhow!(message);
            return Hinted { hint, error }.into();
        }
        other => return other.into(),
    };
    Located {
        message,
        file: match place.file.as_str() {
            "-" => "standard input".into(),
            _ => place.file,
        },
        text: place.text.to_string(),
        span: place.span.start..place.span.end,
        hints,
        source,
    }
    .into()
}

/// Tells the user about `error` and returns the exit code.
pub(crate) fn report(error: &Error, session: &Session) -> u8 {
    if find::<OutputClosed>(error).is_some() {
        return 0;
    }
    if let Some(Coded { code, error }) = error.downcast_ref() {
        return match find::<Exited>(error) {
            Some(Exited(code)) => *code,
            None => match report(error, session) {
                1 | 2 => *code,
                other => other,
            },
        };
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
        Some(located) => located.excerpt().render(ui::width(), colors),
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

/// `error` and what it only passes on: an error that is transparent stands in
/// the chain for the one inside it.
fn layers<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut layers = vec![error];
    while let Some(inner) = layers.last().and_then(|last| passed_on(*last)) {
        layers.push(inner);
    }
    layers
}

fn passed_on<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref() {
        Some(TransportError::Registry(inner)) => return Some(inner),
        Some(TransportError::Store(inner)) => return Some(inner),
        Some(TransportError::Image(inner)) => return Some(inner),
        _ => {}
    }
    match error.downcast_ref() {
        Some(BuildError::Store(inner)) => return Some(inner),
        Some(BuildError::Context(inner)) => return Some(inner),
        _ => {}
    }
    match error.downcast_ref() {
        Some(OpenError::Http(inner)) => return Some(inner),
        Some(OpenError::Git(inner)) => return Some(inner),
        Some(OpenError::Stream(inner)) => return Some(inner),
        _ => {}
    }
    match error.downcast_ref() {
        Some(BaseError::Transport(inner)) => return Some(inner),
        Some(BaseError::Store(inner)) => return Some(inner),
        _ => {}
    }
    if let Some(StepError::Store(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(StepError::Layer(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

/// What the user can do about it.
fn hints(error: &Error) -> Vec<String> {
    let mut hints = Vec::new();
    let mut hint = |text: &str| {
        if !hints.iter().any(|h| h == text) {
            hints.push(text.to_owned());
        }
    };
    for cause in error.chain().flat_map(layers) {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            hint(&hinted.hint);
        }
        if let Some(located) = cause.downcast_ref::<Located>() {
            located.hints.iter().for_each(|text| hint(text));
        }
        if let Some(hinting) = cause.downcast_ref::<RegistryError>() {
            hinting.hint().iter().for_each(|text| hint(text));
            match &*hinting.failure {
                Failure::Status { status: 401, .. } => {
                    hint(&format!(
                        "run shiplap login {}, or give --creds USER:PASSWORD or --authfile FILE",
                        hinting.registry
                    ));
                }
                Failure::Tls(_) => {
                    hint("--cert-dir DIR has the CA certificate; --insecure skips the check");
                }
                Failure::RealmRefused { host, .. } => {
                    hint(&format!("to trust it, add --trust-token-server {host}"));
                }
                _ => {}
            }
        }
        match cause.downcast_ref() {
            Some(BuildError::NoDockerfile {
                similar: Some(similar),
                ..
            }) => hint(&format!(
                "the context has a file {similar:?}; give it with -f FILE"
            )),
            Some(BuildError::NoDockerfile { .. }) => {
                hint("name it with -f FILE, or give another directory as the context");
            }
            _ => {}
        }
        if let Some(KeyError::Passphrase(_)) = cause.downcast_ref() {
            hint("give the key to an agent with ssh-add, and the agent to the build with --ssh ID");
        }
        if let Some(OpenError::Directory { .. }) = cause.downcast_ref() {
            hint(
                "a context is a directory, - for standard input, or a URL of a tar or a git repository",
            );
        }
        if let Some(BaseError::NotPulled(name)) = cause.downcast_ref() {
            hint(&format!(
                "fetch it with shiplap pull {name}, or build without --pull=never"
            ));
        }
        if let Some(StoreError::NoImage { .. }) = cause.downcast_ref() {
            hint("shiplap images lists what is there; shiplap pull fetches from a registry");
        }
        if let Some(StoreError::Unsafe { .. } | StoreError::Foreign { .. }) = cause.downcast_ref() {
            hint("choose another store with --root DIR or SHIPLAP_ROOT");
        }
        if let Some(StepError::Refused {
            hint: Some(text), ..
        }) = cause.downcast_ref()
        {
            hint(text);
        }
        if let Some(plan) = cause.downcast_ref::<PlanError>() {
            plan.hint.iter().for_each(|text| hint(text));
        }
        if cause.downcast_ref::<Usage>().is_some() {
            hint("see shiplap help, or add --help to the command");
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            _ if find::<OutputError>(error).is_some() => {}
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
    fn hints_are_found_inside_errors_that_pass_on() {
        let none = || StoreError::NoImage { text: "x".into() };
        for error in [
            Error::from(none()),
            BuildError::Store(none()).into(),
            Error::from(none().into_io()).context("can't build"),
            StepError::Store(none()).into(),
        ] {
            assert_eq!(hints(&error).len(), 1, "{error:#}");
        }
    }

    #[test]
    fn usage_is_found_below_context() {
        let error = Result::<(), _>::Err(Usage::error("no"))
            .context("x")
            .unwrap_err();
        assert!(find::<Usage>(&error).is_some());
    }
}
