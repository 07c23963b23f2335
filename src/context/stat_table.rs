//! Entries of the [stat cache](super::stats) in a file.
//!
//! ```text
//! magic | block … block | key of each block's first entry | entries, check
//! block: check, up to 50 entries of 81 bytes, sorted by device and inode
//! ```
//! The file may be torn, as nothing flushes it: each block has a check of its
//! own, the first bytes of its SHA-256, and the end has one of the rest. A
//! lookup reads one block; the ones that were read last are kept, and files
//! that lie together mostly have inodes that do.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use super::stats::Stamp;
use crate::digest::Sha256;
use crate::layer::Mtime;

/// Begins every file of entries; changes with their form.
const MAGIC: &[u8; 16] = b"shiplap-stats-2\n";
/// Bytes of one entry.
const ENTRY: usize = 81;
/// Entries in a block.
const BLOCK: u64 = 50;
/// Bytes of a check.
const CHECK: usize = 8;
/// Bytes of a key.
const KEY: usize = 16;
/// Blocks that are kept in memory: 4 MB.
const KEPT: usize = 1_000;
/// No table has more entries.
const MAX_ENTRIES: u64 = 100_000_000;

/// What is known of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) stamp: Stamp,
    pub(super) digest: Sha256,
    /// Savings that it was not seen in.
    pub(super) age: u8,
}

impl Entry {
    fn key(&self) -> (u64, u64) {
        (self.stamp.device, self.stamp.inode)
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        let stamp = &self.stamp;
        let mut rest = &mut out[..];
        let mut put = |bytes: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            rest = tail;
        };
        for number in [stamp.device, stamp.inode, stamp.size] {
            put(&number.to_le_bytes());
        }
        for time in [stamp.mtime, stamp.ctime] {
            put(&time.secs.to_le_bytes());
            put(&time.nanos.to_le_bytes());
        }
        put(&self.digest.0);
        put(&[self.age]);
        out
    }

    fn decode(bytes: &[u8; ENTRY]) -> Self {
        let long = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let time = |at: usize| {
            let mut nanos = [0; 4];
            nanos.copy_from_slice(&bytes[at + 8..at + 12]);
            Mtime {
                secs: long(at).cast_signed(),
                nanos: u32::from_le_bytes(nanos),
            }
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[48..80]);
        Self {
            stamp: Stamp {
                device: long(0),
                inode: long(8),
                size: long(16),
                mtime: time(24),
                ctime: time(36),
            },
            digest: Sha256(digest),
            age: bytes[80],
        }
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut out = [0; CHECK];
    out.copy_from_slice(&Sha256::of(bytes).0[..CHECK]);
    out
}

/// A table that is being written.
pub(super) struct TableWriter<'a> {
    out: &'a mut dyn Write,
    block: Vec<u8>,
    keys: Vec<u8>,
    count: u64,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            block: Vec::new(),
            keys: Vec::new(),
            count: 0,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// Adds an entry; they come in the order of their keys.
    pub(super) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.block.is_empty() {
            let (device, inode) = entry.key();
            self.keys.extend_from_slice(&device.to_le_bytes());
            self.keys.extend_from_slice(&inode.to_le_bytes());
        }
        self.block.extend_from_slice(&entry.encode());
        self.count += 1;
        match self.count.is_multiple_of(BLOCK) {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.out.write_all(&check(&self.block))?;
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.keys.extend_from_slice(&self.count.to_le_bytes());
        self.out.write_all(&self.keys)?;
        self.out.write_all(&check(&self.keys))
    }
}

/// A table in its file.
#[derive(Debug)]
pub(super) struct Table {
    file: File,
    count: u64,
    /// The key of each block's first entry.
    keys: Vec<(u64, u64)>,
    blocks: HashMap<usize, Vec<u8>>,
    /// Numbers of the blocks that are kept, the oldest first.
    kept: VecDeque<usize>,
    /// A bit for each entry.
    seen: Vec<u64>,
}

impl Table {
    /// `None` where the file is no table.
    pub(super) fn open(file: File) -> Option<Self> {
        let size = file.metadata().ok()?.len();
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).ok()?;
        let mut count = [0; 8];
        let end = size.checked_sub((8 + CHECK) as u64)?;
        file.read_exact_at(&mut count, end).ok()?;
        let count = u64::from_le_bytes(count);
        if magic != *MAGIC || count > MAX_ENTRIES {
            return None;
        }
        let blocks = count.div_ceil(BLOCK);
        let begin = MAGIC.len() as u64 + count * ENTRY as u64 + blocks * CHECK as u64;
        if begin + blocks * KEY as u64 != end {
            return None;
        }
        let mut tail = vec![0; usize::try_from(size - begin).ok()?];
        file.read_exact_at(&mut tail, begin).ok()?;
        let (keys, sum) = tail.split_last_chunk::<CHECK>()?;
        if check(keys) != *sum {
            return None;
        }
        let (keys, _) = keys.as_chunks::<8>();
        let (pairs, _) = keys.as_chunks::<2>();
        let pair = |[a, b]: &[[u8; 8]; 2]| (u64::from_le_bytes(*a), u64::from_le_bytes(*b));
        let keys = pairs.iter().take(usize::try_from(blocks).ok()?).map(pair);
        Some(Self {
            file,
            count,
            keys: keys.collect(),
            blocks: HashMap::new(),
            kept: VecDeque::new(),
            seen: vec![0; usize::try_from(count.div_ceil(64)).ok()?],
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// The entries of a block; none where it is not whole.
    fn read(&self, block: usize) -> Vec<u8> {
        let number = block as u64;
        let entries = self.count.saturating_sub(number * BLOCK).min(BLOCK);
        // At most a few kilobytes.
        let length = usize::try_from(entries).unwrap_or(0) * ENTRY;
        let mut bytes = vec![0; CHECK + length];
        let at = MAGIC.len() as u64 + number * (BLOCK * ENTRY as u64 + CHECK as u64);
        if self.file.read_exact_at(&mut bytes, at).is_err() {
            return Vec::new();
        }
        let whole = bytes
            .split_first_chunk()
            .is_some_and(|(sum, b)| check(b) == *sum);
        bytes.drain(..CHECK);
        if whole { bytes } else { Vec::new() }
    }

    /// The entry with this very stamp; it was seen then.
    pub(super) fn get(&mut self, stamp: &Stamp) -> Option<Entry> {
        let key = (stamp.device, stamp.inode);
        let block = self
            .keys
            .partition_point(|first| *first <= key)
            .checked_sub(1)?;
        if !self.blocks.contains_key(&block) {
            if self.kept.len() >= KEPT
                && let Some(oldest) = self.kept.pop_front()
            {
                self.blocks.remove(&oldest);
            }
            self.blocks.insert(block, self.read(block));
            self.kept.push_back(block);
        }
        let (entries, _) = self.blocks.get(&block)?.as_chunks::<ENTRY>();
        let at = entries.partition_point(|e| Entry::decode(e).key() < key);
        let entry = Entry::decode(entries.get(at)?);
        if entry.stamp != *stamp {
            return None;
        }
        let number = block * BLOCK as usize + at;
        *self.seen.get_mut(number / 64)? |= 1 << (number % 64);
        Some(entry)
    }

    /// The entry with the number `n` as it is now: older by one where it was
    /// not seen.
    fn aged(&self, n: u64, entry: Entry) -> Entry {
        let at = usize::try_from(n).unwrap_or(usize::MAX);
        let seen = (self.seen.get(at / 64)).is_some_and(|bits| bits >> (at % 64) & 1 == 1);
        Entry {
            age: match seen {
                true => 0,
                false => entry.age.saturating_add(1),
            },
            ..entry
        }
    }

    /// All entries, by their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        (0..self.keys.len()).flat_map(move |block| {
            let bytes = self.read(block);
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            let first = block as u64 * BLOCK;
            let entries: Vec<Entry> = (first..)
                .zip(entries)
                .map(|(n, bytes)| self.aged(n, Entry::decode(bytes)))
                .collect();
            entries
        })
    }
}

/// Sorted new entries, in memory or in a file.
pub(super) enum Run {
    Memory(Vec<Entry>),
    File(File, u64),
}

impl Run {
    /// Of two with the same key, the later one stays.
    pub(super) fn sorted(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(Entry::key);
        entries.reverse();
        entries.dedup_by_key(|e| e.key());
        entries.reverse();
        Self::Memory(entries)
    }

    /// Puts entries into `file`.
    pub(super) fn write(entries: Vec<Entry>, file: File) -> io::Result<Self> {
        let sorted = Self::sorted(entries);
        let Self::Memory(entries) = &sorted else {
            return Ok(sorted);
        };
        let mut out = io::BufWriter::with_capacity(64 << 10, &file);
        for entry in entries {
            out.write_all(&entry.encode())?;
        }
        out.flush()?;
        drop(out);
        let count = entries.len() as u64;
        Ok(Self::File(file, count))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(entries) => entries.len() as u64,
            Self::File(_, count) => *count,
        }
    }

    fn read(self) -> Entries<'static> {
        match self {
            Self::Memory(entries) => Box::new(entries.into_iter().map(Ok)),
            Self::File(file, count) => {
                let from = From { file, at: 0 };
                let mut from = io::BufReader::with_capacity(64 << 10, from);
                Box::new((0..count).map(move |_| {
                    let mut bytes = [0; ENTRY];
                    from.read_exact(&mut bytes)?;
                    Ok(Entry::decode(&bytes))
                }))
            }
        }
    }
}

/// Reads a file from its beginning, wherever it stands.
struct From {
    file: File,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

type Entries<'a> = Box<dyn Iterator<Item = io::Result<Entry>> + 'a>;

/// New entries and a table's, in the order of their keys; of several with the
/// same key, the newest.
pub(super) struct Merge<'a> {
    /// The table first, then the runs, the newest last.
    sources: Vec<Entries<'a>>,
    heads: Vec<Option<Entry>>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(runs: Vec<Run>, table: Option<&'a Table>) -> io::Result<Self> {
        let mut sources: Vec<Entries<'a>> = vec![match table {
            Some(table) => Box::new(table.iter().map(Ok)),
            None => Box::new(std::iter::empty()),
        }];
        sources.extend(runs.into_iter().map(|run| -> Entries<'a> { run.read() }));
        let mut heads = Vec::with_capacity(sources.len());
        for source in &mut sources {
            heads.push(source.next().transpose()?);
        }
        Ok(Self { sources, heads })
    }

    /// The next entry, and whether it is new.
    pub(super) fn next(&mut self) -> io::Result<Option<(Entry, bool)>> {
        let Some(key) = self.heads.iter().flatten().map(Entry::key).min() else {
            return Ok(None);
        };
        let mut found = None;
        for (n, (head, source)) in self.heads.iter_mut().zip(&mut self.sources).enumerate() {
            if let Some(entry) = *head
                && entry.key() == key
            {
                found = Some((entry, n > 0));
                *head = source.next().transpose()?;
            }
        }
        Ok(found)
    }
}
