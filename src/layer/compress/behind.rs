//! Writing on a thread of its own.

use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

/// With less to write, a thread is not worth it.
const WORTH_A_THREAD: usize = 1 << 20;
/// Pieces that wait to be written.
const AHEAD: usize = 2;

/// Writes to `W` beside the caller, a little later.
///
/// Without [`finish`](Self::finish) an error may be lost, and the writer is.
#[derive(Debug)]
pub(in crate::layer) struct Behind<W> {
    state: State<W>,
    written: usize,
}

#[derive(Debug)]
enum State<W> {
    Here(W),
    Beside(SyncSender<Vec<u8>>, JoinHandle<io::Result<W>>),
    Failed,
}

impl<W: Write + Send + 'static> Behind<W> {
    pub(in crate::layer) fn new(inner: W) -> Self {
        Self {
            state: State::Here(inner),
            written: 0,
        }
    }

    /// Waits until all is written.
    pub(in crate::layer) fn finish(mut self) -> io::Result<W> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Here(inner) => Ok(inner),
            State::Beside(sender, thread) => {
                drop(sender);
                join(thread)
            }
            State::Failed => Err(io::Error::other("writing has failed before")),
        }
    }

    /// Moves the writer to a thread once there is enough to do.
    fn start(&mut self) -> io::Result<()> {
        let State::Here(mut inner) = std::mem::replace(&mut self.state, State::Failed) else {
            return Ok(());
        };
        let (sender, pieces) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
        let thread = std::thread::Builder::new().name("blob".into());
        let thread = thread.spawn(move || {
            for piece in pieces {
                inner.write_all(&piece)?;
            }
            Ok(inner)
        })?;
        self.state = State::Beside(sender, thread);
        Ok(())
    }
}

impl<W> Drop for Behind<W> {
    /// What was written is gone when this returns.
    fn drop(&mut self) {
        if let State::Beside(sender, thread) = std::mem::replace(&mut self.state, State::Failed) {
            drop(sender);
            drop(join(thread));
        }
    }
}

fn join<W>(thread: JoinHandle<io::Result<W>>) -> io::Result<W> {
    let lost = |_| Err(io::Error::other("the writing thread has died"));
    thread.join().unwrap_or_else(lost)
}

impl<W: Write + Send + 'static> Write for Behind<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written = self.written.saturating_add(bytes.len());
        if self.written > WORTH_A_THREAD && matches!(self.state, State::Here(_)) {
            self.start()?;
        }
        match &mut self.state {
            State::Here(inner) => return inner.write(bytes),
            State::Beside(sender, _) if sender.send(bytes.to_vec()).is_ok() => {
                return Ok(bytes.len());
            }
            State::Beside(..) | State::Failed => {}
        }
        // The thread ends early only with an error.
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Beside(sender, thread) => {
                drop(sender);
                join(thread)?;
                Err(io::Error::other("the writing thread has ended"))
            }
            State::Here(_) | State::Failed => Err(io::Error::other("writing has failed before")),
        }
    }

    /// What is beside stays there.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
