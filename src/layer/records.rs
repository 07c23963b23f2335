//! Packed records as one long list that is read in order, again and again.
//!
//! There may be millions of them: from a size on they are in a file that has no
//! name. What a reader holds does not depend on how many there are.

use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a list that are kept in memory; the rest goes to a file.
const IN_MEMORY: usize = 4 << 20;
/// Bytes that are written and, at most, read at a time.
pub(crate) const CHUNK: usize = 64 << 10;

/// Makes a file for what is too long for the memory; it needs no name.
pub type NewFile<'a> = &'a (dyn Fn() -> io::Result<File> + 'a);

/// A list of records, which are bytes to it.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// What comes before `bytes`, and its length.
    file: Option<(File, u64)>,
    count: u64,
}

impl Records {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the record that `write` appends to what it is given; says where it
    /// is.
    ///
    /// # Errors
    /// When a file can't be made or written.
    pub fn push(
        &mut self,
        new_file: NewFile<'_>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<u64> {
        if self.bytes.len() >= IN_MEMORY || self.file.is_some() && self.bytes.len() >= CHUNK {
            self.spill(new_file)?;
        }
        let begin = self.end();
        let bytes = &mut self.bytes;
        let at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        write(bytes);
        // Names and attributes of a file are far below 4 GiB.
        let length = u32::try_from(bytes.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.count += 1;
        Ok(begin)
    }

    fn spill(&mut self, new_file: NewFile<'_>) -> io::Result<()> {
        let (file, len) = match &mut self.file {
            Some(known) => known,
            None => self.file.insert((new_file()?, 0)),
        };
        file.write_all_at(&self.bytes, *len)?;
        *len += self.bytes.len() as u64;
        self.bytes.clear();
        self.bytes.shrink_to(2 * CHUNK);
        Ok(())
    }

    /// Gives back what more records would have taken.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    #[cfg(test)]
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    fn end(&self) -> u64 {
        self.file.as_ref().map_or(0, |(_, len)| *len) + self.bytes.len() as u64
    }
}

/// Reads a list of records in order.
#[derive(Debug)]
pub struct Cursor<R> {
    records: R,
    /// Where in the list the next record is.
    next: u64,
    /// A part of the list's file, and where it begins.
    buffer: Vec<u8>,
    start: u64,
    /// Bytes that are read at a time.
    chunk: usize,
}

impl<R: Borrow<Records>> Cursor<R> {
    /// From the beginning.
    pub fn new(records: R) -> Self {
        Self {
            records,
            next: 0,
            buffer: Vec::new(),
            start: 0,
            chunk: CHUNK,
        }
    }

    /// Reads `chunk` bytes at a time, where many lists are read at once.
    #[must_use]
    pub fn by(mut self, chunk: usize) -> Self {
        self.chunk = chunk;
        self
    }

    /// The place of the next record.
    pub fn place(&self) -> u64 {
        self.next
    }

    /// Goes on with the record that is at `at`.
    pub fn seek(&mut self, at: u64) {
        self.next = at;
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When the file can't be read; there is nothing after it.
    pub fn next_record(&mut self) -> io::Result<Option<&[u8]>> {
        let end = self.records.borrow().end();
        if self.next >= end {
            return Ok(None);
        }
        let at = self.next;
        self.next = end;
        let head = self.bytes(at, 4)?.first_chunk::<4>().copied();
        let length = u32::from_le_bytes(head.unwrap_or_default());
        self.next = at + 4 + u64::from(length);
        match self.bytes(at + 4, length as usize) {
            Ok(_) => self.bytes(at + 4, length as usize).map(Some),
            Err(e) => {
                self.next = end;
                Err(e)
            }
        }
    }

    /// `length` bytes of the list from `at` on.
    fn bytes(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let place = |from: u64| usize::try_from(at - from).map_err(|_| broken());
        let records = self.records.borrow();
        let in_file = records.file.as_ref().map_or(0, |(_, len)| *len);
        if at >= in_file {
            let from = place(in_file)?;
            let bytes = records.bytes.get(from..from + length);
            return bytes.ok_or_else(broken);
        }
        let end = self.start + self.buffer.len() as u64;
        if at < self.start || at + length as u64 > end {
            let left = usize::try_from(in_file - at).unwrap_or(usize::MAX);
            self.buffer.resize(length.max(self.chunk).min(left), 0);
            if let Some((file, _)) = &records.file {
                file.read_exact_at(&mut self.buffer, at)?;
            }
            self.start = at;
        }
        let from = place(self.start)?;
        (self.buffer.get(from..from + length)).ok_or_else(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn record(n: u64) -> Vec<u8> {
        vec![n as u8; n as usize % 300]
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        for (count, spilled) in [
            (0, false),
            (1, false),
            (1, true),
            (100, true),
            (40_000, true),
        ] {
            let mut list = Records::default();
            let mut places = Vec::new();
            for n in 0..count {
                let write = |out: &mut Vec<u8>| out.extend(record(n));
                places.push(list.push(&tempfile::tempfile, write).unwrap());
            }
            if spilled {
                list.spill(&tempfile::tempfile).unwrap();
            }
            assert_eq!(list.has_file(), spilled);
            list.shrink();
            assert_eq!(list.len(), count);
            let list = Arc::new(list);
            // Two readers don't know of each other.
            let (mut one, mut two) = (Cursor::new(Arc::clone(&list)), Cursor::new(&*list).by(7));
            for n in 0..count {
                assert_eq!(one.next_record().unwrap(), Some(&record(n)[..]));
                assert_eq!(two.next_record().unwrap(), Some(&record(n)[..]));
            }
            assert_eq!(one.next_record().unwrap(), None);
            for (n, place) in places.iter().enumerate().rev().step_by(1_001) {
                one.seek(*place);
                assert_eq!(one.next_record().unwrap(), Some(&record(n as u64)[..]));
            }
        }
    }
}
