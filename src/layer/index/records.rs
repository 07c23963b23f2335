//! The records of an index: their form, and how they are read one after another
//! or from the middle without being in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Indexed;
use crate::digest::Sha256;
use crate::layer::code::{self, Input, to_path};
use crate::layer::tar_read::Item;
use crate::layer::{Entry, Kind, Meta, Mtime};

/// Bytes that are in memory before they go to the file of a [`Spool`].
const HELD: usize = 256 << 10;
/// Bytes that are read at first after a leap, and at most at a time while
/// records follow each other and are not longer.
const FIRST_READ: usize = 2 << 10;
const MOST_READ: usize = 64 << 10;
/// A record has a [`Mark`] if its number is a multiple of this.
pub(super) const EACH: u64 = 16;

/// Bytes that are written once and then read from any place: in memory, or in
/// a file that has no name.
#[derive(Debug, Default)]
pub struct Spool {
    held: Vec<u8>,
    file: Option<File>,
    written: u64,
}

impl Spool {
    /// In memory.
    pub fn memory() -> Self {
        Self::default()
    }

    /// In a file without a name in the directory `dir`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temporary(dir: &Path) -> io::Result<Self> {
        tempfile::tempfile_in(dir).map(Self::file)
    }

    /// In `file`, which is empty and nobody else's.
    pub(crate) fn file(file: File) -> Self {
        Self {
            file: Some(file),
            ..Self::default()
        }
    }

    /// The file, where there is one; nothing was written yet.
    pub(crate) fn into_file(self) -> Option<File> {
        self.file
    }

    /// What was written last; more is put behind it.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    /// Bytes that were written.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.held.len() as u64
    }

    /// Says that what is behind [`out`](Self::out) may go to the file.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if self.held.len() >= HELD {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.held, self.written)?;
            self.written += self.held.len() as u64;
            self.held.clear();
        }
        Ok(())
    }

    /// What was written, for reading.
    pub(crate) fn finish(mut self) -> io::Result<Stored> {
        if self.written > 0 {
            self.flush()?;
        }
        let len = self.len();
        Ok(match self.file {
            Some(file) if self.written > 0 => Stored::file(file, 0, len),
            _ => Stored::memory(self.held),
        })
    }
}

/// Bytes that don't change.
#[derive(Debug, Clone)]
pub struct Stored {
    place: Place,
    begins: u64,
    len: u64,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<Vec<u8>>),
    File(Arc<File>),
}

impl Stored {
    /// In memory.
    pub fn memory(bytes: Vec<u8>) -> Self {
        Self {
            begins: 0,
            len: bytes.len() as u64,
            place: Place::Memory(Arc::new(bytes)),
        }
    }

    /// `len` bytes of `file` from `begins` on.
    pub fn file(file: File, begins: u64, len: u64) -> Self {
        Self {
            place: Place::File(Arc::new(file)),
            begins,
            len,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Those from the offset `at` on.
    pub(crate) fn after(mut self, at: u64) -> Self {
        let at = at.min(self.len);
        self.begins += at;
        self.len -= at;
        self
    }

    /// Adds up to `most` bytes from the offset `at` on to `out`; fewer only
    /// where there are no more.
    pub(crate) fn read(&self, at: u64, most: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let left = self.len.saturating_sub(at);
        let count = usize::try_from(left).map_or(most, |left| most.min(left));
        let from = self.begins + at;
        match &self.place {
            Place::Memory(bytes) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let part = bytes.get(from..).and_then(|rest| rest.get(..count));
                out.extend_from_slice(part.unwrap_or_default());
            }
            Place::File(file) => {
                let old = out.len();
                out.resize(old + count, 0);
                file.read_exact_at(&mut out[old..], from)?;
            }
        }
        Ok(())
    }

    /// Gives all of them to `each`, piece by piece.
    pub(crate) fn pieces(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut piece = Vec::new();
        let mut at = 0;
        while at < self.len {
            piece.clear();
            self.read(at, MOST_READ, &mut piece)?;
            each(&piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// What reading can begin with at a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    offset: u64,
    end: u64,
    secs: i64,
}

/// What a record leaves out because it is as in the one before, or follows
/// from it.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    path: Vec<u8>,
    /// Where the last entry's content ended, if it has no holes.
    end: u64,
    secs: i64,
}

/// Bits of a record's first byte beside the kind.
const XATTRS: u8 = 0x80;
const SPARSE: u8 = 0x40;
const NANOS: u8 = 0x20;
const KIND: u8 = 0x1f;

/// Writes records.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) count: u64,
    pub(super) marks: Vec<Mark>,
    state: State,
}

impl Writer {
    pub(super) fn put(&mut self, spool: &mut Spool, indexed: &Indexed) -> io::Result<()> {
        if self.count.is_multiple_of(EACH) {
            self.marks.push(self.state.mark(spool.len()));
        }
        let out = spool.out();
        match &indexed.item {
            Item::Whiteout(_) => out.push(b'w' - b'a'),
            Item::Opaque(_) => out.push(b'o' - b'a'),
            Item::Put(entry) => out.push(tag(&entry.kind, &entry.meta, indexed.sparse)),
        }
        let state = &mut self.state;
        code::path(out, &mut state.path, indexed.path());
        code::number(out, indexed.header.saturating_sub(state.end));
        code::number(out, indexed.data.saturating_sub(indexed.header));
        state.end = indexed.data;
        if let Item::Put(entry) = &indexed.item {
            let digest = indexed.digest.as_ref();
            put_attributes(out, &mut state.secs, &entry.kind, &entry.meta, digest)?;
            if let Kind::File { size } = entry.kind {
                state.end = content_end(indexed.data, size, indexed.sparse);
            }
        }
        self.count += 1;
        spool.settle()
    }
}

/// The first byte of the record of an entry.
pub(crate) fn tag(kind: &Kind, meta: &Meta, sparse: bool) -> u8 {
    let mut tag = kind_letter(kind) - b'a';
    if !meta.xattrs.is_empty() {
        tag |= XATTRS;
    }
    if meta.mtime.nanos != 0 {
        tag |= NANOS;
    }
    if sparse {
        tag |= SPARSE;
    }
    tag
}

/// Whether the tag is of a file with holes.
pub(crate) fn is_sparse(tag: u8) -> bool {
    tag & SPARSE != 0
}

/// Writes what an entry has beside its tag, path and place.
pub(crate) fn put_attributes(
    out: &mut Vec<u8>,
    last_secs: &mut i64,
    kind: &Kind,
    meta: &Meta,
    digest: Option<&Sha256>,
) -> io::Result<()> {
    for n in [meta.mode, meta.uid, meta.gid] {
        code::number(out, n.into());
    }
    code::signed(out, meta.mtime.secs.wrapping_sub(*last_secs));
    *last_secs = meta.mtime.secs;
    if meta.mtime.nanos != 0 {
        code::number(out, meta.mtime.nanos.into());
    }
    match kind {
        Kind::File { size } => {
            code::number(out, *size);
            if *size > 0 {
                let digest = digest.ok_or_else(|| io::Error::other("a file has no digest"))?;
                out.extend_from_slice(&digest.0);
            }
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
    Ok(())
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

/// The letter that stands for a kind.
pub(crate) fn kind_letter(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => b'f',
        Kind::Dir => b'd',
        Kind::Symlink { .. } => b'l',
        Kind::Hardlink { .. } => b'h',
        Kind::Char { .. } => b'c',
        Kind::Block { .. } => b'b',
        Kind::Fifo => b'p',
    }
}

/// What [`put_attributes`] wrote, as it is there.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a> {
    letter: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Mtime,
    /// Bytes of a file, or the major number of a device.
    number: u64,
    minor: u32,
    digest: Option<Sha256>,
    target: &'a [u8],
    xattr_count: u64,
    xattrs: Input<'a>,
}

impl<'a> Attributes<'a> {
    /// `None` when they make no sense.
    pub(crate) fn read(tag: u8, secs: &mut i64, input: &mut Input<'a>) -> Option<Self> {
        let letter = b'a' + (tag & KIND);
        let mut found = Self {
            letter,
            mode: input.small()?,
            uid: input.small()?,
            gid: input.small()?,
            mtime: Mtime::default(),
            number: 0,
            minor: 0,
            digest: None,
            target: &[],
            xattr_count: 0,
            xattrs: Input(&[]),
        };
        *secs = secs.wrapping_add(input.signed()?);
        found.mtime.secs = *secs;
        if tag & NANOS != 0 {
            found.mtime.nanos = input.small()?;
        }
        match letter {
            b'f' => {
                found.number = input.number()?;
                if found.number > 0 {
                    found.digest = Some(Sha256(input.array()?));
                }
            }
            b'l' | b'h' => found.target = input.field()?,
            b'c' | b'b' => {
                found.number = input.small()?.into();
                found.minor = input.small()?;
            }
            b'd' | b'p' => {}
            _ => return None,
        }
        if tag & XATTRS != 0 {
            found.xattr_count = input.number()?;
            found.xattrs = input.clone();
            for _ in 0..found.xattr_count {
                input.field()?;
                input.field()?;
            }
        }
        Some(found)
    }

    /// As a value of its own.
    pub(crate) fn to_owned(&self) -> (Kind, Meta, Option<Sha256>) {
        let target = || to_path(self.target.to_vec());
        let major = self.number as u32;
        let minor = self.minor;
        let kind = match self.letter {
            b'f' => Kind::File { size: self.number },
            b'l' => Kind::Symlink { target: target() },
            b'h' => Kind::Hardlink { target: target() },
            b'c' => Kind::Char { major, minor },
            b'b' => Kind::Block { major, minor },
            b'p' => Kind::Fifo,
            _ => Kind::Dir,
        };
        let mut xattrs = BTreeMap::new();
        let mut input = self.xattrs.clone();
        for _ in 0..self.xattr_count {
            if let (Some(name), Some(value)) = (input.field(), input.field()) {
                xattrs.insert(name.to_vec(), value.to_vec());
            }
        }
        let meta = Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs,
        };
        (kind, meta, self.digest)
    }
}

/// A record as it is there. Its path is apart.
struct Record<'a> {
    tag: u8,
    header: u64,
    data: u64,
    /// Of all but whiteouts.
    attributes: Option<Attributes<'a>>,
}

impl State {
    fn mark(&self, offset: u64) -> Mark {
        Mark {
            offset,
            end: self.end,
            secs: self.secs,
        }
    }

    /// Reads the next record, and its path if `paths` says so; `None` when it
    /// makes no sense.
    fn record<'a>(&mut self, input: &mut Input<'a>, paths: bool) -> Option<Record<'a>> {
        let tag = input.byte()?;
        if paths {
            input.path(&mut self.path)?;
        } else {
            input.number()?;
            input.field()?;
        }
        let header = self.end.checked_add(input.number()?)?;
        let data = header.checked_add(input.number()?)?;
        self.end = data;
        let attributes = match b'a' + (tag & KIND) {
            b'w' | b'o' => None,
            letter => {
                let found = Attributes::read(tag, &mut self.secs, input)?;
                if letter == b'f' {
                    self.end = content_end(data, found.number, is_sparse(tag));
                }
                Some(found)
            }
        };
        Some(Record {
            tag,
            header,
            data,
            attributes,
        })
    }
}

/// A place among bytes that are stored, and a part of them from there on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    /// Where `bytes` begin.
    begins: u64,
    at: usize,
    most: usize,
}

impl Window {
    /// Goes to the offset `at`.
    pub(crate) fn leap(&mut self, at: u64) {
        let inside = at.checked_sub(self.begins).map(usize::try_from);
        match inside {
            Some(Ok(inside)) if inside <= self.bytes.len() => self.at = inside,
            _ => {
                self.bytes.clear();
                (self.begins, self.at, self.most) = (at, 0, FIRST_READ);
            }
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.begins + self.at as u64
    }

    /// Reads something from here on with `read`, which may be called again
    /// when it wants more bytes than are there; `None` at the end.
    ///
    /// # Errors
    /// When the bytes can't be read or make no sense.
    pub(crate) fn take<T>(
        &mut self,
        stored: &Stored,
        mut read: impl for<'a> FnMut(&mut Input<'a>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        loop {
            let rest = &self.bytes[self.at..];
            let ends = self.begins + self.bytes.len() as u64 >= stored.len();
            if !rest.is_empty() {
                let mut input = Input(rest);
                if let Some(found) = read(&mut input) {
                    self.at = self.bytes.len() - input.0.len();
                    return Ok(Some(found));
                }
            }
            if ends {
                return match rest.is_empty() {
                    true => Ok(None),
                    false => Err(damaged()),
                };
            }
            self.bytes.drain(..self.at);
            self.begins += self.at as u64;
            self.at = 0;
            // A record that is longer than what is read at once takes several.
            let most = self.most.clamp(FIRST_READ, MOST_READ).max(self.bytes.len());
            stored.read(
                self.offset() + self.bytes.len() as u64,
                most,
                &mut self.bytes,
            )?;
            self.most = most * 2;
        }
    }
}

fn damaged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the index of a layer is damaged",
    )
}

/// Reads records.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursor {
    window: Window,
    state: State,
    /// Number of the next record.
    next: u64,
}

impl Cursor {
    /// Reads the next record; what `made` makes of it.
    fn take<T>(
        &mut self,
        stored: &Stored,
        paths: bool,
        mut made: impl FnMut(&State, &Record<'_>) -> T,
    ) -> io::Result<Option<T>> {
        let state = &mut self.state;
        let (end, secs) = (state.end, state.secs);
        let found = self.window.take(stored, |input| {
            // What was read of it before, but for a path's part that it has in
            // common with the last one, counts for nothing.
            (state.end, state.secs) = (end, secs);
            let record = state.record(input, paths)?;
            Some(made(state, &record))
        })?;
        self.next += u64::from(found.is_some());
        Ok(found)
    }

    /// The next element.
    pub(super) fn element(&mut self, stored: &Stored) -> io::Result<Option<Indexed>> {
        self.take(stored, true, |state, record| {
            indexed(record, to_path(state.path.clone()))
        })
    }

    /// The element `number`, without its path.
    pub(super) fn nth(
        &mut self,
        stored: &Stored,
        marks: &[Mark],
        number: u64,
    ) -> io::Result<Option<Indexed>> {
        let ahead = number.checked_sub(self.next);
        if ahead.is_none_or(|ahead| ahead >= EACH) {
            let nearest = number / EACH;
            let mark = usize::try_from(nearest).ok().and_then(|at| marks.get(at));
            let Some(mark) = mark else { return Ok(None) };
            self.window.leap(mark.offset);
            (self.state.end, self.state.secs) = (mark.end, mark.secs);
            self.next = nearest * EACH;
        }
        while self.next < number {
            if self.take(stored, false, |_, _| ())?.is_none() {
                return Ok(None);
            }
        }
        self.take(stored, false, |_, record| indexed(record, PathBuf::new()))
    }
}

fn indexed(record: &Record<'_>, path: PathBuf) -> Indexed {
    let mut digest = None;
    let item = match &record.attributes {
        None if b'a' + (record.tag & KIND) == b'w' => Item::Whiteout(path),
        None => Item::Opaque(path),
        Some(attributes) => {
            let (kind, meta, content) = attributes.to_owned();
            digest = content;
            Item::Put(Entry { path, kind, meta })
        }
    };
    Indexed {
        item,
        digest,
        header: record.header,
        data: record.data,
        sparse: is_sparse(record.tag),
    }
}

/// Reads all of `count` records; where reading can begin.
///
/// # Errors
/// When they can't be read, make no sense, or are more or fewer.
pub(super) fn survey(stored: &Stored, count: u64) -> io::Result<Vec<Mark>> {
    let mut cursor = Cursor::default();
    let mut marks = Vec::new();
    loop {
        let mark = cursor.state.mark(cursor.window.offset());
        let number = cursor.next;
        if cursor.take(stored, true, |_, _| ())?.is_none() {
            break;
        }
        if number.is_multiple_of(EACH) {
            marks.push(mark);
        }
    }
    match cursor.next == count {
        true => Ok(marks),
        false => Err(damaged()),
    }
}
