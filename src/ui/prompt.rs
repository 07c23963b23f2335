//! Asking the person at the terminal.

use std::io::{self, IsTerminal, Read};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use shiplap::event::Cancel;

use super::output;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Whether there is someone to ask.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal()
}

/// Asks `question` and reads a line, unseen when it is `secret`.
///
/// # Errors
/// When standard input can't be read or someone asks to stop.
pub(crate) fn ask(question: &str, secret: bool, cancel: &Cancel) -> io::Result<String> {
    output::message(&format!("{question}: "));
    let silence = secret.then(Silence::begin).transpose()?;
    let answer = read_line(cancel);
    if silence.is_some() {
        // The line end that was typed was not shown.
        output::message("\n");
    }
    answer
}

fn read_line(cancel: &Cancel) -> io::Result<String> {
    let stdin = io::stdin();
    let step = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let mut line = Vec::new();
    loop {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let mut byte = [0];
        // Byte by byte: nothing of what follows may be taken away.
        if stdin.lock().read(&mut byte)? == 0 || byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
        if line.len() > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
        }
    }
    let text = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(text.trim_end_matches('\r').to_owned())
}

/// Until it is dropped, the terminal does not show what is typed.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut now = before.clone();
        now.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &now)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // There is nothing left to do when even this fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
