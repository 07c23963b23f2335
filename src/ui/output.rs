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
    result_bytes(text.as_bytes())
}

/// [`result`] for bytes that need not be text.
///
/// # Errors
/// As [`result`].
pub(crate) fn result_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => OutputClosed.into(),
            _ => OutputError(e).into(),
        })
}

/// Writes `value` to standard output as indented JSON with a line end, as it is
/// made.
///
/// # Errors
/// As [`stream`].
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    stream(|out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        Ok(out.write_all(b"\n")?)
    })
}

/// Bytes of a result that are written at a time.
const PIECE: usize = 64 << 10;

/// Writes a result of any size to standard output while `make` makes it.
///
/// # Errors
/// What `make` says, else as [`result`].
pub(crate) fn stream(
    make: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut pieces = Pieces {
        held: Vec::with_capacity(PIECE),
        failed: None,
    };
    let made = make(&mut pieces).and_then(|()| Ok(pieces.flush()?));
    match pieces.failed {
        // What `make` says then is only that it could not write.
        Some(error) => Err(error),
        None => made,
    }
}

/// Standard output, written in large pieces.
struct Pieces {
    held: Vec<u8>,
    failed: Option<anyhow::Error>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.held.len() + bytes.len() > PIECE {
            self.flush()?;
        }
        self.held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed.is_none() {
            self.failed = result_bytes(&self.held).err();
        }
        self.held.clear();
        match self.failed {
            Some(_) => Err(io::Error::other("can't write to standard output")),
            None => Ok(()),
        }
    }
}

/// Copies a result of any size to standard output.
///
/// # Errors
/// What `reader` says, else as [`result`].
pub(crate) fn copy(mut reader: impl io::Read) -> anyhow::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            n => result_bytes(&buffer[..n])?,
        }
    }
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
