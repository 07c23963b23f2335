//! The terminal, handed over to a program in a container.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Keys come as they are typed, and none of them is a signal; until this is
/// dropped.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Sets the terminal that is standard input.
    ///
    /// # Errors
    /// When it is no terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }

    /// What dropping does, for an end that drops nothing.
    pub(crate) fn undo(&self) -> impl Fn() + Send + 'static {
        let before = self.before.clone();
        move || {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.undo()();
    }
}
