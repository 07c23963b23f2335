//! The index of a layer: its entries in order, where their contents are and
//! what digests they have, and where reading the blob can begin.
//!
//! It is made in one pass over the blob and answers what is in a layer without
//! reading it again; a file is then read from the place before it. An index
//! is a blob's, so it is right for as long as the blob's digest is. Its records,
//! some tens of bytes for each entry, stay in the file that they are kept in:
//! in memory is only where reading them can begin, and the
//! [`entries`](LayerIndex::entries) are read from there one by one.
//!
//! [`Listing`](super::listing::Listing) is its small relative, for a build: a
//! map without contents.

pub(crate) mod records;

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use self::records::{Cursor, Mark, Writer};
pub use self::records::{Spool, Stored};
use super::code::{self, Input};
use super::compress::{Compression, Restart, decompress_noting, read_ahead};
use super::tar_read::{Body, Item, Names, TarError, TarReader};
use super::{Entry, Kind, MAX_ENTRIES, MAX_TAR_BYTES};
use crate::digest::{DiffId, Digest, Hasher, Sha256};

/// Begins what [`LayerIndex::to_bytes`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-index-1\n";
/// Bytes that one index may have: no layer that is meant has more.
pub const MAX_INDEX_BYTES: usize = 1 << 30;
/// Zeros of holes that are hashed in one layer; a file with more of them has
/// the digest of its form.
pub(crate) const MAX_HOLES: u64 = 1 << 30;
/// Bytes of contents that are read at a time.
const BUFFER: usize = 128 << 10;
/// Bytes of an index that are read at first to find its beginning.
const HEAD: usize = 64 << 10;

/// The entries of a layer, and how to read it.
#[derive(Debug, Clone)]
pub struct LayerIndex {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// Places in the blob where reading can begin beside its start, in
    /// ascending order. None are needed where it is not compressed.
    pub restarts: Vec<Restart>,
    count: u64,
    marks: Vec<Mark>,
    records: Stored,
}

/// An element of a layer, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// What it is.
    pub item: Item,
    /// Of the content of a file that has one.
    pub digest: Option<Sha256>,
    /// Where its first header begins in the tar.
    pub header: u64,
    /// Where its stored bytes begin.
    pub data: u64,
    /// The file has holes, so that the stored bytes are not its content.
    pub sparse: bool,
}

impl LayerIndex {
    /// Reads `blob` to its end; the records are kept in memory.
    ///
    /// # Errors
    /// As [`make_in`](Self::make_in).
    pub fn make(
        blob: impl Read + Send + 'static,
        compression: Compression,
    ) -> Result<Self, TarError> {
        Self::make_in(Spool::memory(), blob, compression)
    }

    /// Reads `blob` to its end; the records are kept in `spool`.
    ///
    /// # Errors
    /// When it can't be read, is no layer, or has more entries or bytes than
    /// would be unpacked; when `spool` can't be written.
    pub fn make_in(
        mut spool: Spool,
        blob: impl Read + Send + 'static,
        compression: Compression,
    ) -> Result<Self, TarError> {
        let (tar, restarts) = decompress_noting(blob, compression)?;
        let hasher = Arc::new(Mutex::new(Hasher::new()));
        let hashing = Hashing {
            inner: tar,
            hasher: Arc::clone(&hasher),
        };
        let mut reader = TarReader::new(read_ahead(hashing)?, Names::Layer);
        let mut writer = Writer::default();
        let mut holes = MAX_HOLES;
        let mut buffer = vec![0; BUFFER];
        while let Some(item) = reader.next_entry()? {
            let (header, data) = (reader.header_offset(), reader.data_offset());
            let mut indexed = Indexed {
                item,
                digest: None,
                header,
                data,
                sparse: false,
            };
            if let Item::Put(Entry {
                kind: Kind::File { size: 1.. },
                ..
            }) = &indexed.item
            {
                let mut body = reader.body();
                let (digest, sparse) = content(&mut body, &mut holes, &mut buffer)?;
                indexed.digest = Some(digest);
                indexed.sparse = sparse;
            }
            writer.put(&mut spool, &indexed)?;
            if writer.count > MAX_ENTRIES || spool.len() > MAX_INDEX_BYTES as u64 {
                let reason = "the layer has more entries than would be unpacked";
                return Err(io::Error::other(reason).into());
            }
        }
        let tar_bytes = reader.finish(MAX_TAR_BYTES)?;
        let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self {
            diff_id: DiffId::new(hasher.clone().finish()),
            tar_bytes,
            compression,
            restarts: restarts.take(),
            count: writer.count,
            marks: writer.marks,
            records: spool.finish()?,
        })
    }

    /// How many elements it has: entries and whiteouts.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in the order of the tar.
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            index: self,
            cursor: Cursor::default(),
            failed: false,
        }
    }

    /// The last place before the offset `plain` of the tar where reading the
    /// blob can begin.
    pub fn restart_before(&self, plain: u64) -> Restart {
        if self.compression == Compression::Uncompressed {
            return Restart {
                packed: plain,
                plain,
            };
        }
        let after = self.restarts.partition_point(|r| r.plain <= plain);
        match after.checked_sub(1) {
            Some(at) => self.restarts[at],
            None => Restart::default(),
        }
    }

    /// Writes all of it, for [`open`](Self::open).
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.head())?;
        self.records.pieces(|piece| out.write_all(piece))
    }

    /// What is before the records.
    fn head(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(match self.compression {
            Compression::Uncompressed => 0,
            Compression::Gzip | Compression::GzipSingle => 1,
            Compression::Zstd => 2,
        });
        code::field(&mut out, self.diff_id.digest().as_str().as_bytes());
        code::number(&mut out, self.tar_bytes);
        code::number(&mut out, self.restarts.len() as u64);
        let mut last = Restart::default();
        for at in &self.restarts {
            code::number(&mut out, at.packed - last.packed);
            code::number(&mut out, at.plain - last.plain);
            last = *at;
        }
        code::number(&mut out, self.count);
        out
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// For anything else, and when it can't be read.
    pub fn open(stored: Stored) -> io::Result<Self> {
        let mut bytes = Vec::new();
        loop {
            let more = bytes.len().max(HEAD);
            let before = bytes.len();
            stored.read(before as u64, more, &mut bytes)?;
            let mut input = Input(&bytes);
            if let Some(mut index) = Self::parse_head(&mut input) {
                let begins = bytes.len() - input.0.len();
                index.records = stored.after(begins as u64);
                index.marks = records::survey(&index.records, index.count)?;
                return Ok(index);
            }
            if bytes.len() == before {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is no index of a layer",
                ));
            }
        }
    }

    fn parse_head(input: &mut Input<'_>) -> Option<Self> {
        if input.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let compression = match input.byte()? {
            0 => Compression::Uncompressed,
            1 => Compression::Gzip,
            2 => Compression::Zstd,
            _ => return None,
        };
        let diff_id = std::str::from_utf8(input.field()?).ok()?;
        let diff_id = DiffId::new(Digest::parse(diff_id).ok()?);
        let tar_bytes = input.number()?;
        let mut restarts = Vec::new();
        let mut last = Restart::default();
        for _ in 0..input.number()? {
            last.packed = last.packed.checked_add(input.number()?)?;
            last.plain = last.plain.checked_add(input.number()?)?;
            restarts.push(last);
        }
        Some(Self {
            diff_id,
            tar_bytes,
            compression,
            restarts,
            count: input.number()?,
            marks: Vec::new(),
            records: Stored::memory(Vec::new()),
        })
    }
}

impl PartialEq for LayerIndex {
    /// Whether both say the same, wherever they are kept.
    fn eq(&self, other: &Self) -> bool {
        let all = |index: &Self| {
            let mut bytes = Vec::new();
            index.write(&mut bytes).ok().map(|()| bytes)
        };
        match (all(self), all(other)) {
            (Some(one), Some(two)) => one == two,
            _ => false,
        }
    }
}

impl Eq for LayerIndex {}

/// The digest of what `body` has, and whether it has holes.
fn content<R: Read>(
    body: &mut Body<'_, R>,
    holes: &mut u64,
    buffer: &mut [u8],
) -> Result<(Sha256, bool), TarError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut hasher = Hasher::new();
    let mut sparse = false;
    loop {
        let mut hole = body.skip_hole();
        if hole > 0 {
            sparse = true;
            if hole > *holes {
                // So large that only its length is looked at.
                hasher.update(b"hole");
                hasher.update(&hole.to_le_bytes());
                continue;
            }
            *holes -= hole;
            while hole > 0 {
                let n = hole.min(ZEROS.len() as u64);
                hasher.update(&ZEROS[..n as usize]);
                hole -= n;
            }
        }
        match body.read(buffer) {
            Ok(0) => return Ok((hasher.finish_raw(), sparse)),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Hashes what passes.
struct Hashing<R> {
    inner: R,
    hasher: Arc<Mutex<Hasher>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let mut hasher = self.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        hasher.update(&buf[..n]);
        Ok(n)
    }
}

/// The elements of an index in the order of the tar. An error ends them.
#[derive(Debug)]
pub struct Entries<'a> {
    index: &'a LayerIndex,
    cursor: Cursor,
    failed: bool,
}

impl Iterator for Entries<'_> {
    type Item = io::Result<Indexed>;

    fn next(&mut self) -> Option<io::Result<Indexed>> {
        if self.failed {
            return None;
        }
        let next = self.cursor.element(&self.index.records).transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// Reads elements of one index from any place; cheap where they follow each
/// other.
#[derive(Debug, Clone, Default)]
pub struct Lookup {
    cursor: Cursor,
}

impl Lookup {
    /// The element `number`, counted from 0, without its path; `None` where
    /// `index`, which is always the same, has no such.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get(&mut self, index: &LayerIndex, number: u64) -> io::Result<Option<Indexed>> {
        self.cursor.nth(&index.records, &index.marks, number)
    }
}

impl Indexed {
    /// The path that it is about.
    pub fn path(&self) -> &Path {
        match &self.item {
            Item::Put(entry) => &entry.path,
            Item::Whiteout(path) | Item::Opaque(path) => path,
        }
    }
}

#[cfg(test)]
mod tests;
