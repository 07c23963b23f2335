//! Reads tars that nobody vouches for.
//!
//! Headers become [`Item`]s; where two headers disagree, the extended one
//! wins, and what other readers would understand differently is an error, not
//! a guess. Names come out relative, without `.` and `..`. Memory is bounded:
//! at most [`MAX_METADATA`] bytes are read in front of an entry, bodies are
//! streamed. Nothing here touches a file system.
//!
//! Understood beside ustar: extended headers (`x`; `g` as long as it changes
//! no entry), GNU long names, GNU sparse files in their four forms, base-256
//! numbers, headers from before ustar.
//!
//! # Specification
//! POSIX.1-2017 `pax`; the GNU tar manual, "Basic Tar Format", "Storing Sparse
//! Files"; image-spec `layer.md`.

mod entry;
mod sparse;

use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use self::entry::Extended;
use self::sparse::Region;
use super::ustar::{self, BLOCK, Block};
use super::{Entry, Kind, whiteout};

/// What may stand in front of one entry, in bytes: extended headers, long
/// names and sparse maps together.
pub const MAX_METADATA: u64 = 1 << 20;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// What names that begin with `.wh.` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Whiteouts, as in a layer; malformed ones are errors.
    Layer,
    /// Names like all others, as in an archive that ADD unpacks.
    Plain,
}

/// One element of an archive. The content of a file is
/// [`TarReader::body`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An entry.
    Put(Entry),
    /// What lower layers have at this path is gone.
    Whiteout(PathBuf),
    /// What lower layers have in this directory is gone.
    Opaque(PathBuf),
}

/// Why an archive can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be had.
    #[error("can't read the archive")]
    Read(#[from] io::Error),
    /// The archive breaks the format, or says something with more than one
    /// meaning.
    #[error("the archive is malformed at byte {offset}{}: {reason}", of(.name))]
    Malformed {
        /// Where the entry's header begins.
        offset: u64,
        /// The entry's name with special characters escaped, if it has one.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

fn of(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!(" ({name})")
    }
}

/// Reads an archive entry by entry.
#[derive(Debug)]
pub struct TarReader<R: Read> {
    inner: BufReader<R>,
    names: Names,
    position: u64,
    header: u64,
    data: u64,
    state: State,
    body: BodyState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    End,
    Failed,
}

/// Where in the current file the reader is.
#[derive(Debug, Default)]
struct BodyState {
    name: String,
    /// Position in the file, and its size.
    at: u64,
    size: u64,
    /// The stretches that are stored, those already passed left out.
    regions: std::collections::VecDeque<Region>,
    /// Stored bytes still to be read, and the padding behind them.
    stored: u64,
    padding: usize,
}

impl<R: Read> TarReader<R> {
    /// Starts at the beginning of an archive that is not compressed.
    pub fn new(reader: R, names: Names) -> Self {
        Self {
            inner: BufReader::with_capacity(BUFFER, reader),
            names,
            position: 0,
            header: 0,
            data: 0,
            state: State::Reading,
            body: BodyState::default(),
        }
    }

    /// How many bytes of the archive have been read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the current entry's first header begins.
    pub fn header_offset(&self) -> u64 {
        self.header
    }

    /// Where the current entry's stored bytes begin.
    pub fn data_offset(&self) -> u64 {
        self.data
    }

    /// The next element, or `None` at the end of the archive. What is left of
    /// the current body is skipped.
    ///
    /// The archive ends with two blocks of zeros or where the input ends between
    /// two entries, be it without the padding of the last. An error is final.
    pub fn next_entry(&mut self) -> Result<Option<Item>, TarError> {
        match self.state {
            State::Reading => {}
            State::End => return Ok(None),
            State::Failed => return Err(self.malformed("", "reading it has failed before")),
        }
        self.state = State::Failed;
        let item = loop {
            self.skip_body()?;
            match self.read_entry()? {
                Some(entry) => {
                    if let Some(item) = self.interpret(entry)? {
                        break Some(item);
                    }
                }
                None => break None,
            }
        };
        self.state = match item {
            Some(_) => State::Reading,
            None => State::End,
        };
        Ok(item)
    }

    /// The content of the current entry; empty for all but regular files.
    pub fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    /// Reads to the end of the input, so that all its bytes have been seen by
    /// whoever hashes them, and says how many there were.
    ///
    /// # Errors
    /// When more than `limit` bytes in all are there.
    pub fn finish(mut self, limit: u64) -> Result<u64, TarError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.inner.read(&mut buffer) {
                Ok(0) => return Ok(self.position),
                Ok(n) => self.position += n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            if self.position > limit {
                let reason = format!("it has more than the {limit} bytes that are allowed");
                return Err(self.malformed("", reason));
            }
        }
    }

    fn malformed(&self, name: &str, reason: impl Into<String>) -> TarError {
        TarError::Malformed {
            offset: self.header,
            name: name.into(),
            reason: reason.into(),
        }
    }

    /// Reads headers up to one that stands for an entry, and prepares its
    /// body. `None` at the end.
    fn read_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.header = self.position;
        let mut extended = Extended::default();
        let mut metadata = 0;
        loop {
            let Some(block) = self.read_header()? else {
                if metadata > 0 {
                    return Err(self.malformed("", "an extended header stands before the end"));
                }
                return Ok(None);
            };
            let fail = |reason: &str| self.malformed("", reason);
            let kind = block[ustar::TYPE];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                return self.finish_entry(&block, extended, metadata).map(Some);
            }
            let size = ustar::SIZE
                .number(&block)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| fail("a header's size is no number"))?;
            metadata += size.saturating_add(BLOCK as u64);
            if metadata > MAX_METADATA {
                return Err(fail("more than 1 MiB of headers stand before one entry"));
            }
            let bytes = self.read_metadata(size)?;
            let added = match kind {
                b'x' => extended.add_records(&bytes),
                b'g' => entry::check_global(&bytes),
                b'L' => extended.add_long_name(&bytes),
                _ => extended.add_long_link(&bytes),
            };
            added.map_err(|reason| self.malformed("", reason))?;
        }
    }

    fn finish_entry(
        &mut self,
        block: &Block,
        extended: Extended,
        metadata: u64,
    ) -> Result<Entry, TarError> {
        let name = extended.display_name(block);
        let fail = |header, reason: String| TarError::Malformed {
            offset: header,
            name: name.clone(),
            reason,
        };
        let header = self.header;
        let (entry, stored, form) = extended
            .entry(block)
            .map_err(|reason| fail(header, reason))?;
        let size = match entry.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        let mut left = stored;
        let regions = match form {
            None => Ok(vec![(0, size)]),
            Some(form) => {
                let budget = MAX_METADATA.saturating_sub(metadata);
                let mut input = sparse::Input::new(budget, |block: &mut Block| {
                    self.inner.read_exact(block)?;
                    self.position += BLOCK as u64;
                    Ok(())
                });
                let regions = form.read(block, &mut input, &mut left);
                regions.map_err(|e| match e {
                    sparse::SparseError::Read(e) => truncated(e, &name),
                    sparse::SparseError::Malformed(reason) => fail(header, reason.into()),
                })
            }
        }?;
        sparse::check(&regions, left, size).map_err(|reason| fail(header, reason.into()))?;
        self.data = self.position;
        self.body = BodyState {
            name,
            at: 0,
            size,
            regions: regions.into_iter().filter(|r| r.1 > 0).collect(),
            stored: left,
            padding: ustar::padding(stored),
        };
        Ok(entry)
    }

    fn interpret(&self, entry: Entry) -> Result<Option<Item>, TarError> {
        if self.names == Names::Plain {
            return Ok(Some(Item::Put(entry)));
        }
        let fail = |reason: &str| Err(self.malformed(&self.body.name, reason));
        let item = match whiteout::classify(&entry.path) {
            Err(reason) => return fail(reason),
            Ok(whiteout::Meaning::Ignored) => return Ok(None),
            Ok(whiteout::Meaning::Plain) => return Ok(Some(Item::Put(entry))),
            Ok(whiteout::Meaning::Whiteout(path)) => Item::Whiteout(path),
            Ok(whiteout::Meaning::Opaque(path)) => Item::Opaque(path),
        };
        // AUFS made its whiteouts hard links of one file.
        match entry.kind {
            Kind::File { .. } | Kind::Hardlink { .. } => Ok(Some(item)),
            _ => fail("a whiteout must be a regular file"),
        }
    }

    /// The next header; `None` for two blocks of zeros, and at the end of the
    /// input, before which one of them may be missing.
    fn read_header(&mut self) -> Result<Option<Block>, TarError> {
        let Some(block) = self.read_block()? else {
            return Ok(None);
        };
        let is_zero = |block: &Block| block.iter().all(|b| *b == 0);
        if is_zero(&block) {
            return match self.read_block()? {
                Some(next) if !is_zero(&next) => {
                    Err(self.malformed("", "an entry stands behind a lone block of zeros"))
                }
                _ => Ok(None),
            };
        }
        if !ustar::is_sealed(&block) {
            return Err(self.malformed("", "a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    fn read_block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK];
        let mut len = 0;
        while len < BLOCK {
            match self.inner.read(&mut block[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.position += len as u64;
        match len {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(self.malformed("", "it ends in the middle of a header")),
        }
    }

    fn read_metadata(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut bytes = Vec::new();
        let padded = size + ustar::padding(size) as u64;
        let n = (&mut self.inner).take(padded).read_to_end(&mut bytes)?;
        self.position += n as u64;
        if n as u64 != padded {
            return Err(self.malformed("", "it ends in the middle of an extended header"));
        }
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    fn skip_body(&mut self) -> Result<(), TarError> {
        let rest = self.body.stored + self.body.padding as u64;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        self.position += skipped;
        // Some writers (umoci insert) leave out the padding behind the last file.
        if skipped < self.body.stored {
            let name = std::mem::take(&mut self.body.name);
            return Err(self.malformed(&name, "it ends in the middle of a file"));
        }
        self.body = BodyState::default();
        Ok(())
    }
}

fn truncated(e: io::Error, name: &str) -> TarError {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        let text = format!("the archive ends in the middle of {name}");
        return TarError::Read(io::Error::new(e.kind(), text));
    }
    TarError::Read(e)
}

/// The content of one file; holes of a sparse one read as zeros.
#[derive(Debug)]
pub struct Body<'a, R: Read>(&'a mut TarReader<R>);

impl<R: Read> Body<'_, R> {
    /// Passes the hole that begins here, if one does, and returns its length.
    pub fn skip_hole(&mut self) -> u64 {
        let hole = self.0.body.hole();
        self.0.body.at += hole;
        hole
    }
}

impl BodyState {
    fn hole(&self) -> u64 {
        let next = self.regions.front().map_or(self.size, |r| r.0);
        next.saturating_sub(self.at)
    }
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        let body = &mut reader.body;
        let fit = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(buf.len());
        let hole = fit(body.hole());
        if hole > 0 {
            buf[..hole].fill(0);
            body.at += hole as u64;
            return Ok(hole);
        }
        let Some(region) = body.regions.front() else {
            return Ok(0);
        };
        // Empty regions were left out, and a hole before it has been dealt with.
        let end = region.0 + region.1;
        let want = fit(end - body.at);
        if want == 0 {
            return Ok(0);
        }
        let n = reader.inner.read(&mut buf[..want])?;
        if n == 0 {
            let text = format!("the archive ends in the middle of {}", body.name);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        body.at += n as u64;
        body.stored -= n as u64;
        reader.position += n as u64;
        if body.at == end {
            body.regions.pop_front();
        }
        Ok(n)
    }
}

#[cfg(test)]
pub(crate) mod raw;
// The tests are tables.
#[cfg(test)]
#[allow(clippy::too_many_lines, clippy::type_complexity)]
mod tests;
