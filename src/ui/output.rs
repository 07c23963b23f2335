//! The two standard streams.
//!
//! Standard output carries results and nothing else: a write that fails is an
//! error, except that a reader who has seen enough ends the program quietly.
//! Standard error carries everything else, and never makes the program fail:
//! when nobody can read it any more, what is said is lost.

use std::io::{self, Write};

/// A result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write to standard output")]
pub(crate) struct OutputError(#[source] io::Error);

/// The reader of standard output is gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output")]
pub(crate) struct OutputClosed;

/// Writes a result to standard output and flushes it.
///
/// # Errors
/// [`OutputClosed`] when the reader is gone, else [`OutputError`].
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => OutputClosed.into(),
            _ => OutputError(e).into(),
        })
}

/// Writes `value` to standard output as indented JSON with a line end.
///
/// # Errors
/// As [`result`].
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    result(&text)
}

/// Standard error as a writer that never fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Messages;

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a message to standard error.
pub(crate) fn message(text: &str) {
    let _ = Messages.write(text.as_bytes());
}
