//! Bytes that are read as memory and lie in a file.
//!
//! A file that can't be read any more ends the process, as swapped memory that
//! can't be read does. What was read counts as memory of the process until it is
//! given back; that happens whenever much of the file has been read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Parts that may be read before all are given back.
const MOST_READ: usize = 8;

/// Bytes that are added part by part, each of which is read as a slice.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Has no name, and nobody else has it.
    file: File,
    parts: Vec<Part>,
    /// Parts with bytes that were read.
    read: AtomicUsize,
}

/// A part that was added at once.
#[derive(Debug)]
struct Part {
    start: NonNull<u8>,
    len: usize,
    /// Bytes of the parts before it.
    before: u64,
    /// Where it begins in the file: at a page.
    offset: u64,
    is_read: AtomicBool,
}

// SAFETY: it is only read but for `&mut`, and by nobody else.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// In `file`, which is empty, has no name and is nobody else's: what is
    /// read must not change.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            parts: Vec::new(),
            read: AtomicUsize::new(0),
        }
    }

    /// How many bytes were added.
    pub(crate) fn len(&self) -> u64 {
        self.parts.last().map_or(0, |p| p.before + p.len as u64)
    }

    /// Adds a part, which is not empty.
    ///
    /// # Errors
    /// When it can't be written or the file can't be mapped. Then nothing was
    /// added.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        let page = rustix::param::page_size() as u64;
        let last = self.parts.last();
        let offset = last.map_or(0, |p| (p.offset + p.len as u64).next_multiple_of(page));
        self.file.write_all_at(bytes, offset)?;
        // SAFETY: a new mapping at a place that the kernel chooses. All of it
        // is in the file, which nobody else can make shorter.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes.len(),
                ProtFlags::READ,
                MapFlags::SHARED,
                &self.file,
                offset,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.parts.push(Part {
            start,
            len: bytes.len(),
            before: self.len(),
            offset,
            is_read: AtomicBool::new(false),
        });
        Ok(())
    }

    /// The last part that begins at the place `at` or before it.
    fn part(&self, at: u64) -> Option<&Part> {
        let number = self.parts.partition_point(|part| part.before <= at);
        self.parts.get(number.checked_sub(1)?)
    }

    /// The bytes from the place `at` to the end of its part; none behind the
    /// last one.
    pub(crate) fn from(&self, at: u64) -> &[u8] {
        let Some(part) = self.part(at) else {
            return &[];
        };
        if !part.is_read.swap(true, Ordering::Relaxed)
            && self.read.fetch_add(1, Ordering::Relaxed) >= MOST_READ
        {
            self.give_back();
            part.is_read.store(true, Ordering::Relaxed);
        }
        // SAFETY: it is mapped as long as `self` lives, and changes only by
        // `set`, which takes all of `self`.
        let bytes = unsafe { std::slice::from_raw_parts(part.start.as_ptr(), part.len) };
        bytes.get((at - part.before) as usize..).unwrap_or_default()
    }

    /// Puts `bytes` in the place of those from `at` on, all in one part.
    ///
    /// # Errors
    /// When they can't be written.
    pub(crate) fn set(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let fits = |part: &&Part| at - part.before + bytes.len() as u64 <= part.len as u64;
        let part = self.part(at).filter(fits);
        let part = part.ok_or(io::ErrorKind::InvalidInput)?;
        // What is mapped is the file's own page.
        self.file
            .write_all_at(bytes, part.offset + at - part.before)
    }

    /// Parts that were read count no longer as memory; who still has bytes of
    /// one gets them from the file again.
    fn give_back(&self) {
        self.read.store(1, Ordering::Relaxed);
        for part in &self.parts {
            if part.is_read.load(Ordering::Relaxed) {
                part.is_read.store(false, Ordering::Relaxed);
                // SAFETY: exactly what was mapped. Pages of a file are read
                // from it again, so nobody sees a difference.
                let _ =
                    unsafe { madvise(part.start.as_ptr().cast(), part.len, Advice::LinuxDontNeed) };
            }
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for part in &self.parts {
            // SAFETY: exactly what was mapped, and nobody has it any more.
            let _ = unsafe { munmap(part.start.as_ptr().cast(), part.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_are_given_back() {
        let mut mapped = Mapped::new(tempfile::tempfile().unwrap());
        assert!(mapped.from(0).is_empty());
        let part = |n: usize| vec![n as u8; 5000 + n];
        let count = 3 * MOST_READ;
        for n in 0..count {
            mapped.add(&part(n)).unwrap();
        }
        let mut before = Vec::new();
        for n in 0..count {
            before.push(mapped.parts[n].before);
            // Bytes that someone has stay as they are.
            let first = mapped.from(10);
            assert_eq!(mapped.from(before[n] + 7), &part(n)[7..]);
            assert_eq!(first, &part(0)[10..]);
            let read = mapped
                .parts
                .iter()
                .filter(|p| p.is_read.load(Ordering::Relaxed));
            assert!(read.count() <= MOST_READ + 1);
        }
        mapped.set(before[2] + 1, b"xyz").unwrap();
        assert_eq!(mapped.from(before[2])[..5], [2, b'x', b'y', b'z', 2]);
        let end = mapped.len();
        assert!(mapped.from(end).is_empty() && mapped.from(end + 9).is_empty());
        assert!(mapped.set(end - 1, b"12").is_err() && mapped.set(end, b"1").is_err());
    }
}
