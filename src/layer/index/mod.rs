//! The index of a layer: its entries in order, where their contents are and
//! what digests they have, and where reading the blob can begin.
//!
//! It is made in one pass over the blob and answers what is in a layer without
//! reading it again; a file is then read from the place before it. An index
//! is a blob's, so it is right for as long as the blob's digest is. In memory
//! it is the bytes that are kept, some tens for each entry; the
//! [`entries`](LayerIndex::entries) are made of them one by one.
//!
//! [`Listing`](super::listing::Listing) is its small relative, for a build: a
//! map without contents.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::code::{self, Input, to_path};
use super::compress::{Compression, Restart, decompress_noting, read_ahead};
use super::tar_read::{Body, Item, Names, TarError, TarReader};
use super::{Entry, Kind, Meta, Mtime};
use crate::digest::{DiffId, Digest, Hasher, Sha256};

/// Begins what [`LayerIndex::to_bytes`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-index-1\n";
/// Bytes that the tar of one layer may have, and entries: as for unpacking.
const MAX_TAR_BYTES: u64 = 100 << 30;
const MAX_ENTRIES: u64 = 10_000_000;
/// Bytes that one index may have: no layer that is meant has more.
pub const MAX_INDEX_BYTES: usize = 1 << 30;
/// Zeros of holes that are hashed in one layer; a file with more of them has
/// the digest of its form.
pub(crate) const MAX_HOLES: u64 = 1 << 30;
/// Bytes of contents that are read at a time.
const BUFFER: usize = 128 << 10;

/// The entries of a layer, and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    records: Vec<u8>,
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
    /// Reads `blob` to its end.
    ///
    /// # Errors
    /// When it can't be read, is no layer, or has more entries or bytes than
    /// would be unpacked.
    pub fn make(
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
            writer.put(&indexed).map_err(io::Error::other)?;
        }
        let tar_bytes = reader.finish(MAX_TAR_BYTES)?;
        let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self {
            diff_id: DiffId::new(hasher.clone().finish()),
            tar_bytes,
            compression,
            restarts: restarts.take(),
            count: writer.count,
            records: writer.records,
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
            input: Input(&self.records),
            state: State::default(),
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

    /// All of it, for [`parse`](Self::parse).
    pub fn to_bytes(&self) -> Vec<u8> {
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
        out.extend_from_slice(&self.records);
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes.strip_prefix(MAGIC)?);
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
        let index = Self {
            diff_id,
            tar_bytes,
            compression,
            restarts,
            count: input.number()?,
            records: input.0.to_vec(),
        };
        let mut input = Input(&index.records);
        let mut state = State::default();
        for _ in 0..index.count {
            state.record(&mut input)?;
        }
        input.0.is_empty().then_some(index)
    }
}

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

/// What a record leaves out because it is as in the one before, or follows
/// from it.
#[derive(Debug, Clone, Default)]
struct State {
    path: Vec<u8>,
    /// Where the last entry's content ended, if it has no holes.
    end: u64,
    secs: i64,
}

/// Bits of a record's first byte beside the kind.
const XATTRS: u8 = 0x80;
const SPARSE: u8 = 0x40;
const NANOS: u8 = 0x20;

#[derive(Debug, Default)]
struct Writer {
    records: Vec<u8>,
    count: u64,
    state: State,
}

impl Writer {
    fn put(&mut self, indexed: &Indexed) -> Result<(), &'static str> {
        let out = &mut self.records;
        let (kind, path) = match &indexed.item {
            Item::Whiteout(path) => (b'w' - b'a', path),
            Item::Opaque(path) => (b'o' - b'a', path),
            Item::Put(entry) => (kind_code(&entry.kind), &entry.path),
        };
        let mut flags = 0;
        if let Item::Put(Entry { meta, .. }) = &indexed.item {
            flags |= if meta.xattrs.is_empty() { 0 } else { XATTRS };
            flags |= if meta.mtime.nanos == 0 { 0 } else { NANOS };
        }
        flags |= if indexed.sparse { SPARSE } else { 0 };
        out.push(kind | flags);
        code::path(out, &mut self.state.path, path);
        code::number(out, indexed.header.saturating_sub(self.state.end));
        code::number(out, indexed.data.saturating_sub(indexed.header));
        self.state.end = indexed.data;
        if let Item::Put(entry) = &indexed.item {
            let meta = &entry.meta;
            for n in [meta.mode, meta.uid, meta.gid] {
                code::number(out, n.into());
            }
            code::signed(out, meta.mtime.secs.wrapping_sub(self.state.secs));
            self.state.secs = meta.mtime.secs;
            if meta.mtime.nanos != 0 {
                code::number(out, meta.mtime.nanos.into());
            }
            match &entry.kind {
                Kind::File { size } => {
                    code::number(out, *size);
                    if *size > 0 {
                        let digest = indexed.digest.ok_or("a file has no digest")?;
                        out.extend_from_slice(&digest.0);
                    }
                    self.state.end = content_end(indexed.data, *size, indexed.sparse);
                }
                Kind::Symlink { target } | Kind::Hardlink { target } => {
                    code::field(out, target.as_os_str().as_encoded_bytes());
                }
                Kind::Char { major, minor } | Kind::Block { major, minor } => {
                    code::number(out, u64::from(*major));
                    code::number(out, u64::from(*minor));
                }
                Kind::Dir | Kind::Fifo => {}
            }
            if !meta.xattrs.is_empty() {
                code::number(out, meta.xattrs.len() as u64);
                for (name, value) in &meta.xattrs {
                    code::field(out, name);
                    code::field(out, value);
                }
            }
        }
        self.count += 1;
        if self.count > MAX_ENTRIES || out.len() > MAX_INDEX_BYTES {
            return Err("the layer has more entries than would be unpacked");
        }
        Ok(())
    }
}

/// Where the next header is looked for.
fn content_end(data: u64, size: u64, sparse: bool) -> u64 {
    match sparse {
        true => data,
        false => size
            .checked_next_multiple_of(512)
            .map_or(data, |padded| data.saturating_add(padded)),
    }
}

fn kind_code(kind: &Kind) -> u8 {
    let letter = match kind {
        Kind::File { .. } => b'f',
        Kind::Dir => b'd',
        Kind::Symlink { .. } => b'l',
        Kind::Hardlink { .. } => b'h',
        Kind::Char { .. } => b'c',
        Kind::Block { .. } => b'b',
        Kind::Fifo => b'p',
    };
    letter - b'a'
}

impl State {
    /// Reads the next record; `None` when it makes no sense.
    fn record(&mut self, input: &mut Input<'_>) -> Option<Indexed> {
        let tag = input.byte()?;
        let letter = b'a' + (tag & 0x1f);
        input.path(&mut self.path)?;
        let header = self.end.checked_add(input.number()?)?;
        let data = header.checked_add(input.number()?)?;
        self.end = data;
        let sparse = tag & SPARSE != 0;
        let path = to_path(self.path.clone());
        let mut indexed = Indexed {
            item: Item::Whiteout(PathBuf::new()),
            digest: None,
            header,
            data,
            sparse,
        };
        indexed.item = match letter {
            b'w' => Item::Whiteout(path),
            b'o' => Item::Opaque(path),
            _ => {
                let mut meta = Meta {
                    mode: input.small()?,
                    uid: input.small()?,
                    gid: input.small()?,
                    mtime: Mtime::default(),
                    xattrs: BTreeMap::new(),
                };
                self.secs = self.secs.wrapping_add(input.signed()?);
                meta.mtime.secs = self.secs;
                if tag & NANOS != 0 {
                    meta.mtime.nanos = input.small()?;
                }
                let kind = match letter {
                    b'f' => {
                        let size = input.number()?;
                        if size > 0 {
                            indexed.digest = Some(Sha256(input.take(32)?.try_into().ok()?));
                        }
                        self.end = content_end(data, size, sparse);
                        Kind::File { size }
                    }
                    b'd' => Kind::Dir,
                    b'l' => Kind::Symlink {
                        target: input.path_field()?,
                    },
                    b'h' => Kind::Hardlink {
                        target: input.path_field()?,
                    },
                    b'c' | b'b' => {
                        let (major, minor) = (input.small()?, input.small()?);
                        match letter {
                            b'c' => Kind::Char { major, minor },
                            _ => Kind::Block { major, minor },
                        }
                    }
                    b'p' => Kind::Fifo,
                    _ => return None,
                };
                if tag & XATTRS != 0 {
                    for _ in 0..input.number()? {
                        let (name, value) = (input.field()?, input.field()?);
                        meta.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
                Item::Put(Entry { path, kind, meta })
            }
        };
        Some(indexed)
    }
}

/// The elements of an index in the order of the tar.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    input: Input<'a>,
    state: State,
}

impl Iterator for Entries<'_> {
    type Item = Indexed;

    fn next(&mut self) -> Option<Indexed> {
        self.state.record(&mut self.input)
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
