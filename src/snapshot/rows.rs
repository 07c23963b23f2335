//! The entries of a tree's directories as a [table](super::copy::Table) has
//! them, and what a table that is to be kept says of each beside its status.
//!
//! ```text
//! row     flags u8, fingerprint u64 (little-endian), name [, detail], each
//!         behind its length
//! detail  kind, attributes
//! ```
//! Lengths, kinds and attributes are as in [`layer::code`](crate::layer::code).
//!
//! A directory's rows are sorted by name and lie in blocks, which are read one
//! at a time. In memory are the places of blocks: 16 bytes for each directory,
//! and for large ones the first name of each further block.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use crate::layer::code::{self, Input, field};
use crate::layer::index::{Spool, Stored};
use crate::layer::{Kind, Meta};

/// Bytes of a block, but for its last row.
const BLOCK: usize = 16 << 10;

/// Flags of a row.
const IS_DIR: u8 = 1;
const HAS_DETAIL: u8 = 2;

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) name: &'a [u8],
    pub(super) is_dir: bool,
    pub(super) fingerprint: u64,
    /// Empty where the table is not to be kept.
    pub(super) detail: &'a [u8],
}

impl<'a> Row<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut flags = if self.is_dir { IS_DIR } else { 0 };
        if !self.detail.is_empty() {
            flags |= HAS_DETAIL;
        }
        out.push(flags);
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        field(out, self.name);
        if !self.detail.is_empty() {
            field(out, self.detail);
        }
    }

    fn read(input: &mut Input<'a>) -> Option<Self> {
        let flags = input.byte()?;
        let fingerprint = u64::from_le_bytes(input.array()?);
        let name = input.field()?;
        let detail = match flags & HAS_DETAIL {
            0 => &[][..],
            _ => input.field()?,
        };
        Some(Self {
            name,
            is_dir: flags & IS_DIR != 0,
            fingerprint,
            detail,
        })
    }
}

/// The rows of all directories, which have numbers: the root is 0, and those
/// in one directory follow each other.
#[derive(Debug)]
pub(super) struct Rows {
    bytes: Stored,
    dirs: Vec<Dir>,
    /// The further blocks of large directories.
    more: HashMap<u32, Vec<Block>>,
    count: u64,
}

/// A directory: its first block, and the number of its first directory.
#[derive(Debug, Clone, Copy, Default)]
struct Dir {
    at: u64,
    len: u32,
    first_child: u32,
}

/// A further block of a directory.
#[derive(Debug)]
struct Block {
    at: u64,
    len: u32,
    /// Directories in the blocks before it.
    dirs: u32,
    /// Name of its first row.
    first: Box<[u8]>,
}

fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl Rows {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// Where block `n` of directory `dir` is, how long it is, and how many
    /// directories come before it.
    pub(super) fn block(&self, dir: u32, n: usize) -> Option<(u64, u32, u32)> {
        let Some(n) = n.checked_sub(1) else {
            let dir = self.dirs.get(dir as usize)?;
            return Some((dir.at, dir.len, 0));
        };
        let block = self.more.get(&dir)?.get(n)?;
        Some((block.at, block.len, block.dirs))
    }

    /// Writes all of it, for [`read_from`](Self::read_from).
    ///
    /// ```text
    /// rows    entries u64, directories u64, further blocks u64, bytes u64,
    ///         directory …, block …, the bytes
    /// dir     place u64, length u32, number of its first directory u32
    /// block   number of its directory u32, place u64, length u32, directories
    ///         before it u32, length of the name u32, first name
    /// ```
    /// Numbers are little-endian.
    pub(super) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let blocks: usize = self.more.values().map(Vec::len).sum();
        let numbers = [
            self.count,
            self.dirs.len() as u64,
            blocks as u64,
            self.bytes.len(),
        ];
        for number in numbers {
            out.write_all(&number.to_le_bytes())?;
        }
        for dir in &self.dirs {
            out.write_all(&dir.at.to_le_bytes())?;
            out.write_all(&dir.len.to_le_bytes())?;
            out.write_all(&dir.first_child.to_le_bytes())?;
        }
        let mut large: Vec<_> = self.more.iter().collect();
        large.sort_unstable_by_key(|(number, _)| **number);
        for (number, blocks) in large {
            for block in blocks {
                out.write_all(&number.to_le_bytes())?;
                out.write_all(&block.at.to_le_bytes())?;
                // A name of a file is never that long.
                let name = u32::try_from(block.first.len()).unwrap_or(u32::MAX);
                for number in [block.len, block.dirs, name] {
                    out.write_all(&number.to_le_bytes())?;
                }
                out.write_all(&block.first)?;
            }
        }
        self.bytes.pieces(|piece| out.write_all(piece))
    }

    /// Reads what [`write_to`](Self::write_to) wrote, to the end of `input`.
    /// The rows themselves stay there.
    ///
    /// # Errors
    /// When it can't be read, or is anything else.
    pub(super) fn read_from(mut input: BufReader<File>) -> io::Result<Self> {
        let mut numbers = [0; 4];
        for number in &mut numbers {
            *number = u64::from_le_bytes(array(&mut input)?);
        }
        let [count, dir_count, block_count, len] = numbers;
        let mut dirs = Vec::new();
        for _ in 0..dir_count {
            dirs.push(Dir {
                at: u64::from_le_bytes(array(&mut input)?),
                len: u32::from_le_bytes(array(&mut input)?),
                first_child: u32::from_le_bytes(array(&mut input)?),
            });
        }
        if dirs.is_empty() {
            return Err(damaged());
        }
        dirs.shrink_to_fit();
        let mut more: HashMap<u32, Vec<Block>> = HashMap::new();
        for _ in 0..block_count {
            let number = u32::from_le_bytes(array(&mut input)?);
            let at = u64::from_le_bytes(array(&mut input)?);
            let len = u32::from_le_bytes(array(&mut input)?);
            let dirs = u32::from_le_bytes(array(&mut input)?);
            let first = text(&mut input)?.into_boxed_slice();
            more.entry(number).or_default().push(Block {
                at,
                len,
                dirs,
                first,
            });
        }
        let begins = input.stream_position()?;
        let file = input.into_inner();
        if file.metadata()?.len().checked_sub(begins) != Some(len) {
            return Err(damaged());
        }
        Ok(Self {
            bytes: Stored::file(file, begins, len),
            dirs,
            more,
            count,
        })
    }
}

pub(super) fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads bytes behind their length, u32.
pub(super) fn text(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = u32::from_le_bytes(array(input)?);
    let mut bytes = Vec::new();
    // A wrong length takes no more than there is.
    input.take(len.into()).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != u64::from(len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Reads the rows of one directory, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    dir: u32,
    /// What is in memory.
    block: Vec<u8>,
    next_block: usize,
    /// The row's place in the block, and that of the next one.
    at: usize,
    end: usize,
    /// Directories before the row, and before the next one.
    dirs: u32,
    dirs_end: u32,
}

impl Reader {
    pub(super) fn new(dir: u32) -> Self {
        Self {
            dir,
            block: Vec::new(),
            next_block: 0,
            at: 0,
            end: 0,
            dirs: 0,
            dirs_end: 0,
        }
    }

    /// The row, and its number if it is a directory; `None` behind the last.
    pub(super) fn row(&mut self, rows: &Rows) -> io::Result<Option<(Row<'_>, Option<u32>)>> {
        while self.at == self.block.len() {
            let Some((at, len, dirs)) = rows.block(self.dir, self.next_block) else {
                return Ok(None);
            };
            self.block.clear();
            rows.bytes.read(at, len as usize, &mut self.block)?;
            if self.block.len() != len as usize {
                return Err(damaged());
            }
            self.next_block += 1;
            (self.at, self.dirs) = (0, dirs);
        }
        let mut input = Input(&self.block[self.at..]);
        let row = Row::read(&mut input).ok_or_else(damaged)?;
        self.end = self.block.len() - input.0.len();
        self.dirs_end = self.dirs.saturating_add(row.is_dir.into());
        let first = rows.dirs.get(self.dir as usize).map(|dir| dir.first_child);
        let child = first.and_then(|first| first.checked_add(self.dirs));
        Ok(Some((row, child.filter(|_| row.is_dir))))
    }

    /// Goes to the row of `name`. That is soon done if it is not far behind
    /// where this is.
    pub(super) fn find(
        &mut self,
        rows: &Rows,
        name: &[u8],
    ) -> io::Result<Option<(Row<'_>, Option<u32>)>> {
        let blocks = rows.more.get(&self.dir);
        let block = blocks.map_or(0, |all| all.partition_point(|b| &*b.first <= name));
        let is_ahead = self.next_block == block + 1
            && (self.row(rows)?).is_some_and(|(row, _)| row.name <= name);
        if !is_ahead {
            self.block.clear();
            (self.next_block, self.at) = (block, 0);
        }
        loop {
            let row = self.row(rows)?;
            match row.map(|(row, _)| row.name.cmp(name)) {
                Some(Ordering::Less) => self.advance(),
                Some(Ordering::Equal) => return self.row(rows),
                Some(Ordering::Greater) | None => return Ok(None),
            }
        }
    }

    /// Goes on behind the row that was read last.
    pub(super) fn advance(&mut self) {
        (self.at, self.dirs) = (self.end, self.dirs_end);
    }

    /// Goes back to the first row.
    pub(super) fn rewind(&mut self) {
        if self.next_block > 1 {
            self.block.clear();
            self.next_block = 0;
        }
        (self.at, self.dirs) = (0, 0);
    }
}

/// Takes the rows of directories, in any order.
#[derive(Debug, Default)]
pub(super) struct Writer {
    spool: Spool,
    dirs: Vec<Dir>,
    more: HashMap<u32, Vec<Block>>,
    count: u64,
}

/// Rows of one directory that come next, for a [`Writer`].
#[derive(Debug)]
pub(super) struct Next {
    dir: u32,
    bytes: Vec<u8>,
    count: u64,
    /// Directories among all rows, and in the blocks before.
    dirs: u32,
    dirs_before: u32,
    is_first: bool,
}

impl Next {
    /// The rows of directory `dir`.
    pub(super) fn new(dir: u32) -> Self {
        Self {
            dir,
            bytes: Vec::new(),
            count: 0,
            dirs: 0,
            dirs_before: 0,
            is_first: true,
        }
    }

    /// Adds a row; whether the writer should have them now.
    #[must_use]
    pub(super) fn push(&mut self, row: Row<'_>) -> bool {
        row.write(&mut self.bytes);
        self.count += 1;
        self.dirs += u32::from(row.is_dir);
        self.bytes.len() >= BLOCK
    }
}

impl Writer {
    /// One that keeps them in `spool`.
    pub(super) fn new(spool: Spool) -> Self {
        Self {
            spool,
            dirs: vec![Dir::default()],
            ..Self::default()
        }
    }

    /// Gives `count` directories, which are in the directory `dir`, numbers;
    /// the first of those.
    pub(super) fn enter(&mut self, dir: u32, count: u32) -> io::Result<u32> {
        let many = || io::Error::other("there are too many directories");
        let first = u32::try_from(self.dirs.len()).map_err(|_| many())?;
        let end = first.checked_add(count).ok_or_else(many)?;
        self.dirs[dir as usize].first_child = first;
        self.dirs.resize(end as usize, Dir::default());
        Ok(first)
    }

    /// Takes the rows out of `next`.
    pub(super) fn put(&mut self, next: &mut Next) -> io::Result<()> {
        let first = match Row::read(&mut Input(&next.bytes)) {
            None => return Ok(()),
            Some(_) if next.is_first => None,
            Some(row) => Some(row.name.into()),
        };
        let at = self.spool.len();
        let len = u32::try_from(next.bytes.len()).map_err(io::Error::other)?;
        match first {
            None => {
                let dir = &mut self.dirs[next.dir as usize];
                (dir.at, dir.len) = (at, len);
            }
            Some(first) => self.more.entry(next.dir).or_default().push(Block {
                at,
                len,
                dirs: next.dirs_before,
                first,
            }),
        }
        self.spool.out().extend_from_slice(&next.bytes);
        self.spool.settle()?;
        self.count += next.count;
        next.bytes.clear();
        next.count = 0;
        next.dirs_before = next.dirs;
        next.is_first = false;
        Ok(())
    }

    /// All of them.
    pub(super) fn finish(mut self) -> io::Result<Rows> {
        self.dirs.shrink_to_fit();
        Ok(Rows {
            bytes: self.spool.finish()?,
            dirs: self.dirs,
            more: self.more,
            count: self.count,
        })
    }
}

/// What a table that is kept says of an entry.
pub(super) fn detail(kind: &Kind, meta: &Meta) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        // A tree on disk has none: every name is a file.
        Kind::Hardlink { .. } => code::kind(&mut out, &Kind::File { size: 0 }),
        kind => code::kind(&mut out, kind),
    }
    code::meta(&mut out, meta);
    out
}

/// Reads what [`detail`] wrote; `None` for anything else.
pub(super) fn parse_detail(bytes: &[u8]) -> Option<(Kind, Meta)> {
    let mut input = Input(bytes);
    let kind = input.kind()?;
    if matches!(kind, Kind::Hardlink { .. }) {
        return None;
    }
    let meta = input.meta()?;
    input.0.is_empty().then_some((kind, meta))
}
