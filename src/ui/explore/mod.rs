//! A picture of an image that keys act on.
//!
//! [`picture`] has what is known of the image; [`state`] what is shown of it
//! and what keys do; [`draw`] makes a frame of that. All three are pure. The
//! loop here joins them with the terminal, while a thread reads the layers.

mod details;
mod draw;
mod filter;
pub(crate) mod page;
pub(crate) mod picture;
mod places;
mod rows;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod walk;

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use shiplap::event::Cancel;

use self::draw::Theme;
use self::picture::{Contents, Outline};
use self::state::{Key, State};
use super::screen::Screen;

/// How long a key is waited for before it is asked whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// The same while the layers are read, and before a look at what was read.
const WAIT_READING: Duration = Duration::from_millis(15);

/// Reads the layers.
pub(crate) type Load = Box<dyn FnOnce() -> anyhow::Result<Contents> + Send>;

/// Shows the image until the user has seen enough, or someone asks to stop.
///
/// `load` reads the layers beside it, and `bytes` says how much it has read.
///
/// # Errors
/// When the terminal is gone, and what `load` says.
pub(crate) fn run(
    outline: Outline,
    load: Load,
    bytes: &dyn Fn() -> u64,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("layers".into())
        .spawn(move || {
            // Nobody takes it when the user has left.
            let _ = sender.send(load());
        })?;
    let theme = Theme {
        colors: super::wants_colors(),
    };
    let mut screen = Screen::enter()?;
    let mut state = State::new(outline, screen.size()?);
    let mut failed = None;
    let mut reading = Some(receiver);
    let mut changed = true;
    while !state.quit && !cancel.is_cancelled() {
        if changed {
            screen.draw(|frame| draw::draw(frame, &state, theme))?;
        }
        let wait = match reading {
            Some(_) => WAIT_READING,
            None => WAIT,
        };
        changed = keys(&mut state, wait)?;
        if let Some(receiver) = reading.take() {
            changed |= state.read(bytes());
            match arrived(&receiver) {
                None => reading = Some(receiver),
                Some(Ok(contents)) => {
                    state.done(contents);
                    changed = true;
                }
                Some(Err(error)) => {
                    state.failed(format!("{error:#}"));
                    failed = Some(error);
                    changed = true;
                }
            }
        }
    }
    drop(screen);
    match failed {
        Some(error) => Err(error),
        None if cancel.is_cancelled() => anyhow::bail!("canceled"),
        None => Ok(()),
    }
}

/// What was read, as soon as it is there.
fn arrived(receiver: &Receiver<anyhow::Result<Contents>>) -> Option<anyhow::Result<Contents>> {
    match receiver.try_recv() {
        Ok(result) => Some(result),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => {
            Some(Err(anyhow::anyhow!("the reading thread has died")))
        }
    }
}

/// Waits for keys and does what they ask for; whether there was anything.
fn keys(state: &mut State, wait: Duration) -> io::Result<bool> {
    let mut changed = false;
    let mut wait = wait;
    // All that are there count before the next picture.
    while event::poll(wait)? {
        wait = Duration::ZERO;
        changed = true;
        match event::read()? {
            Event::Key(pressed) => {
                if let Some(key) = key(pressed) {
                    state.key(key);
                }
            }
            Event::Resize(width, height) => state.resized((width, height)),
            _ => {}
        }
    }
    Ok(changed)
}

fn key(pressed: KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    let control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    Some(match pressed.code {
        KeyCode::Char('c' | 'C') if control => Key::Interrupt,
        KeyCode::Char('u') if control => Key::Empty,
        KeyCode::Char('d') if control => Key::PageDown,
        KeyCode::Char('h') if control => Key::Backspace,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Tab | KeyCode::BackTab => Key::Tab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Esc => Key::Escape,
        _ => return None,
    })
}
