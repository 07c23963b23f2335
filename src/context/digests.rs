//! Digests of the files of a selection, by the files' numbers.
//!
//! There may be millions: from a number on they are in a file that has no name,
//! and a part of that is in memory. They are asked for and set more or less in
//! order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entries::NewFile;
use crate::digest::Sha256;

/// Digests that are kept in memory: 2 MiB.
const IN_MEMORY: usize = 64 << 10;
/// Digests that are read and written at a time.
const WINDOW: usize = 2 << 10;
/// Bytes of a digest.
const SIZE: usize = 32;
/// Stands for a digest that is not known, as the holes of a file do.
const UNKNOWN: [u8; SIZE] = [0; SIZE];

/// A digest for each number, for most of them perhaps none.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// All of them, or a part of what the file has.
    window: Vec<[u8; SIZE]>,
    /// The number of the window's first.
    start: usize,
    /// The file does not have the window as it is.
    changed: bool,
    file: Option<File>,
}

impl Digests {
    /// Makes room for the numbers below `count`.
    ///
    /// # Errors
    /// When they need a file and that can't be made or written.
    pub(super) fn reserve(&mut self, count: usize, new_file: NewFile<'_>) -> io::Result<()> {
        if count > IN_MEMORY && self.file.is_none() {
            self.file = Some(new_file()?);
            // One window after the other.
            let all = std::mem::take(&mut self.window);
            for (number, digests) in all.chunks(WINDOW).enumerate() {
                self.start = number * WINDOW;
                self.window = digests.to_vec();
                self.changed = true;
                self.write_back()?;
            }
        }
        Ok(())
    }

    /// Sets the digest of `number`, for which there is room.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub(super) fn set(&mut self, number: usize, digest: Sha256) -> io::Result<()> {
        let place = self.place(number)?;
        if self.window.len() <= place {
            self.window.resize(place + 1, UNKNOWN);
        }
        if let Some(known) = self.window.get_mut(place) {
            *known = digest.0;
        }
        self.changed = true;
        Ok(())
    }

    /// The digest of `number`, if it is known.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub(super) fn get(&mut self, number: usize) -> io::Result<Option<Sha256>> {
        let place = self.place(number)?;
        let known = self.window.get(place).filter(|known| **known != UNKNOWN);
        Ok(known.map(|known| Sha256(*known)))
    }

    /// The place of `number` in the window, which is moved there.
    fn place(&mut self, number: usize) -> io::Result<usize> {
        if self.file.is_none() {
            return Ok(number);
        }
        let place = number % WINDOW;
        if self.window.is_empty() || self.start != number - place {
            self.write_back()?;
            self.start = number - place;
            self.window.resize(WINDOW, UNKNOWN);
            self.window.fill(UNKNOWN);
            self.read()?;
        }
        Ok(place)
    }

    fn offset(&self) -> u64 {
        (self.start * SIZE) as u64
    }

    fn write_back(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.changed) {
            file.write_all_at(self.window.as_flattened(), self.offset())?;
        }
        self.changed = false;
        Ok(())
    }

    /// Fills the window, as far as the file has it.
    fn read(&mut self) -> io::Result<()> {
        let mut at = self.offset();
        let mut rest = self.window.as_flattened_mut();
        while let Some(file) = self.file.as_ref().filter(|_| !rest.is_empty()) {
            match file.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => {
                    at += n as u64;
                    rest = rest.get_mut(n..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_there() {
        let digest = |n: usize| Sha256::of(&n.to_le_bytes());
        for count in [10, IN_MEMORY, IN_MEMORY + 1, 2 * IN_MEMORY + 7] {
            let mut digests = Digests::default();
            assert_eq!(digests.get(count).unwrap(), None);
            let is_known = |n: usize| n % 3 == 1 || n / WINDOW % 2 == 1;
            for n in (0..count).filter(|n| is_known(*n)) {
                digests.reserve(n + 1, &tempfile::tempfile).unwrap();
                digests.set(n, digest(n)).unwrap();
            }
            digests.reserve(count, &tempfile::tempfile).unwrap();
            assert_eq!(digests.file.is_some(), count > IN_MEMORY);
            let expected = |n| is_known(n).then(|| digest(n));
            for n in 0..count {
                assert_eq!(digests.get(n).unwrap(), expected(n), "{n}");
            }
            // In another order, and while others are set.
            for n in (0..count).rev().step_by(701) {
                digests.set(n, digest(n + 1)).unwrap();
                digests.get(n / 2).unwrap();
                assert_eq!(digests.get(n).unwrap(), Some(digest(n + 1)));
            }
            assert_eq!(digests.get(count + WINDOW).unwrap(), None);
        }
    }
}
