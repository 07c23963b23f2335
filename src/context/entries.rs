//! Selected entries as a long list that is read in order, again and again.
//!
//! A selection may have millions of entries: they are kept as packed
//! [records](crate::layer::records).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Node;
use super::select::Found;
use crate::digest::Sha256;
use crate::layer::bits::Bits;
use crate::layer::code::{Input, field, number};
use crate::layer::first_names::Numbers;
pub use crate::layer::records::NewFile;
use crate::layer::records::{CHUNK, Cursor, Records};
use crate::layer::{Kind, Meta, Mtime, path_order};

/// Bytes of lists that are in memory when many are read at once.
const READ: usize = 4 << 20;
/// The fewest bytes of one list that are read at once.
const LEAST_READ: usize = 512;

/// A list of entries, or a part of one.
#[derive(Debug, Default)]
pub struct Entries {
    records: Arc<Records>,
    /// The place of the first record, and how many there are.
    begin: u64,
    len: u64,
    /// The files that have several names.
    shared: Arc<Bits>,
    sorted: bool,
}

impl Entries {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the file with this number has several names in the list.
    pub fn is_shared(&self, file: u32) -> bool {
        self.shared.has(file)
    }

    /// Whether the names of the entries are in path order.
    pub fn is_sorted(&self) -> bool {
        self.sorted
    }

    /// As many as `len` of the entries, from the one at [`place`](Reader::place)
    /// on.
    #[must_use]
    pub fn part(&self, place: u64, len: u64) -> Self {
        Self {
            records: Arc::clone(&self.records),
            begin: place,
            len,
            shared: Arc::clone(&self.shared),
            sorted: self.sorted,
        }
    }

    /// Reads the list from its beginning.
    pub fn read(&self) -> Reader {
        self.read_as_one_of(1)
    }

    /// Reads the list from its beginning while so many lists are read, so that
    /// what they hold together is bounded.
    pub fn read_as_one_of(&self, lists: usize) -> Reader {
        let chunk = (READ / lists.max(1)).clamp(LEAST_READ, CHUNK);
        let mut cursor = Cursor::new(Arc::clone(&self.records)).by(chunk);
        cursor.seek(self.begin);
        Reader {
            cursor,
            left: self.len,
        }
    }
}

/// Writes a list; numbers the files in it.
pub(super) struct Writer<'a> {
    new_file: NewFile<'a>,
    records: Records,
    /// The last name, as long as all are in path order.
    last: Option<PathBuf>,
    /// How many files there are, those with several names counted once.
    files: u32,
    /// Of this match's files with several names, the number of the entry that
    /// came first.
    linked: Numbers,
    firsts: Firsts,
    /// The files that have several names in the list.
    shared: Bits,
    /// Number of the next entry.
    number: u64,
}

impl<'a> Writer<'a> {
    /// An empty list.
    pub(super) fn new(new_file: NewFile<'a>) -> Self {
        Self {
            new_file,
            records: Records::default(),
            last: Some(PathBuf::new()),
            files: 0,
            linked: Numbers::default(),
            firsts: Firsts::default(),
            shared: Bits::default(),
            number: 0,
        }
    }

    pub(super) fn files(&self) -> u32 {
        self.files
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Gives an entry its numbers.
    pub(super) fn count(&mut self, found: &mut Found) {
        if let Kind::File { .. } = found.node.kind {
            let mut first = self.number;
            if found.node.links > 1 {
                match self.linked.meet(found.node.inode) {
                    Some(known) => first = known,
                    None => self.linked.add(found.node.inode, first, u64::MAX),
                }
            }
            let file = match first == self.number {
                true => {
                    self.firsts.push(first, self.files);
                    self.files
                }
                false => self.firsts.file(first),
            };
            self.files = self.files.max(file.saturating_add(1));
            found.back = self.number - first;
            found.file = Some(file);
            if found.back > 0 {
                self.shared.insert(file);
            }
        }
        self.number += 1;
    }

    /// Adds an entry that has its numbers.
    pub(super) fn push(&mut self, found: &Found) -> io::Result<()> {
        match &mut self.last {
            Some(last) if path_order(last, &found.name).is_gt() => self.last = None,
            Some(last) => last.clone_from(&found.name),
            None => {}
        }
        self.records
            .push(self.new_file, |out| encode(found, out))
            .map(drop)
    }

    /// Ends a match: names of another one are other files.
    pub(super) fn end_match(&mut self) {
        self.linked = Numbers::default();
    }

    pub(super) fn finish(mut self) -> Entries {
        self.records.shrink();
        Entries {
            begin: 0,
            len: self.records.len(),
            records: Arc::new(self.records),
            shared: Arc::new(self.shared),
            sorted: self.last.is_some(),
        }
    }
}

/// Which entries are the first names of files: a bit for each entry.
#[derive(Debug, Default)]
struct Firsts(Vec<Word>);

#[derive(Debug, Clone, Copy, Default)]
struct Word {
    bits: u64,
    /// How many files come before.
    before: u32,
}

impl Firsts {
    /// Adds the entry with the next number that is one; so many files come
    /// before it.
    fn push(&mut self, number: u64, files: u32) {
        let (at, bit) = ((number / 64) as usize, number % 64);
        if self.0.len() <= at {
            let new = Word {
                bits: 0,
                before: files,
            };
            self.0.resize(at + 1, new);
        }
        if let Some(word) = self.0.get_mut(at) {
            word.bits |= 1 << bit;
        }
    }

    /// The number of the file of which the entry `number` is the first name.
    fn file(&self, number: u64) -> u32 {
        let (at, bit) = ((number / 64) as usize, number % 64);
        let word = self.0.get(at).copied().unwrap_or_default();
        word.before + (word.bits & ((1 << bit) - 1)).count_ones()
    }
}

impl Found {
    /// Appends its bytes, for [`unpack`](Self::unpack).
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        encode(self, out);
    }

    /// The entry that was packed, which nothing follows.
    pub(crate) fn unpack(input: &[u8]) -> Option<Self> {
        decode(input)
    }
}

/// Reads a list of entries in order.
#[derive(Debug)]
pub struct Reader {
    cursor: Cursor<Arc<Records>>,
    left: u64,
}

impl Reader {
    /// The place of the next entry.
    pub fn place(&self) -> u64 {
        self.cursor.place()
    }
}

impl Iterator for Reader {
    type Item = io::Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.cursor.next_record().transpose()?;
        Some(record.and_then(|r| decode(r).ok_or_else(|| io::ErrorKind::InvalidData.into())))
    }
}

/// Bits of a record's second byte.
const PASSAGE: u8 = 1;
const DIGEST: u8 = 2;
const XATTRS: u8 = 4;
const LINKED: u8 = 8;
const ITSELF: u8 = 16;
const PLACED: u8 = 32;

fn time(out: &mut Vec<u8>, time: Mtime) {
    out.extend_from_slice(&time.secs.to_le_bytes());
    out.extend_from_slice(&time.nanos.to_le_bytes());
}

fn encode(found: &Found, out: &mut Vec<u8>) {
    let node = &found.node;
    let (kind, a, b) = match &node.kind {
        Kind::File { size } => (b'f', *size, found.file.unwrap_or_default().into()),
        Kind::Dir => (b'd', 0, 0),
        Kind::Symlink { .. } => (b'l', 0, 0),
        Kind::Hardlink { .. } => (b'h', 0, 0),
        Kind::Char { major, minor } => (b'c', u64::from(*major), u64::from(*minor)),
        Kind::Block { major, minor } => (b'b', u64::from(*major), u64::from(*minor)),
        Kind::Fifo => (b'p', 0, 0),
    };
    let bit = |is: bool, bit: u8| if is { bit } else { 0 };
    let flags = bit(found.passage, PASSAGE)
        | bit(node.digest.is_some(), DIGEST)
        | bit(!node.meta.xattrs.is_empty(), XATTRS)
        | bit(node.links > 1, LINKED)
        | bit(found.itself, ITSELF)
        | bit(found.place.is_some(), PLACED);
    out.extend_from_slice(&[kind, flags]);
    field(out, found.name.as_os_str().as_bytes());
    if let Some(place) = &found.place {
        field(out, place.as_os_str().as_bytes());
    }
    if let Kind::Symlink { target } | Kind::Hardlink { target } = &node.kind {
        field(out, target.as_os_str().as_bytes());
    }
    let meta = &node.meta;
    for value in [a, b, meta.mode.into(), meta.uid.into(), meta.gid.into()] {
        number(out, value);
    }
    time(out, meta.mtime);
    time(out, node.ctime);
    number(out, node.inode.0);
    number(out, node.inode.1);
    if node.links > 1 {
        number(out, node.links);
        number(out, found.back);
    }
    if let Some(digest) = &node.digest {
        out.extend_from_slice(&digest.0);
    }
    if !meta.xattrs.is_empty() {
        number(out, meta.xattrs.len() as u64);
        for (name, value) in &meta.xattrs {
            field(out, name);
            field(out, value);
        }
    }
}

fn read_time(input: &mut Input<'_>) -> Option<Mtime> {
    Some(Mtime {
        secs: i64::from_le_bytes(input.array()?),
        nanos: u32::from_le_bytes(input.array()?),
    })
}

fn decode(record: &[u8]) -> Option<Found> {
    let mut input = Input(record);
    let [kind, flags] = input.array()?;
    let name = input.path_field()?;
    let place = match flags & PLACED {
        0 => None,
        _ => Some(input.path_field()?),
    };
    let target = match kind {
        b'l' | b'h' => input.path_field()?,
        _ => PathBuf::new(),
    };
    let (a, b) = (input.number()?, input.number()?);
    let (mode, uid, gid) = (input.small()?, input.small()?, input.small()?);
    let device = || Some((u32::try_from(a).ok()?, u32::try_from(b).ok()?));
    let mut file = None;
    let kind = match kind {
        b'f' => {
            file = Some(u32::try_from(b).ok()?);
            Kind::File { size: a }
        }
        b'd' => Kind::Dir,
        b'l' => Kind::Symlink { target },
        b'h' => Kind::Hardlink { target },
        b'c' => device().map(|(major, minor)| Kind::Char { major, minor })?,
        b'b' => device().map(|(major, minor)| Kind::Block { major, minor })?,
        _ => Kind::Fifo,
    };
    let (mtime, ctime) = (read_time(&mut input)?, read_time(&mut input)?);
    let inode = (input.number()?, input.number()?);
    let (links, back) = match flags & LINKED {
        0 => (1, 0),
        _ => (input.number()?, input.number()?),
    };
    let digest = match flags & DIGEST {
        0 => None,
        _ => Some(Sha256(input.array()?)),
    };
    let mut xattrs = BTreeMap::new();
    if flags & XATTRS != 0 {
        for _ in 0..input.number()? {
            let name = input.field()?.to_vec();
            xattrs.insert(name, input.field()?.to_vec());
        }
    }
    Some(Found {
        name,
        node: Node {
            kind,
            meta: Meta {
                mode,
                uid,
                gid,
                mtime,
                xattrs,
            },
            ctime,
            inode,
            links,
            digest,
        },
        place,
        itself: flags & ITSELF != 0,
        passage: flags & PASSAGE != 0,
        file,
        back,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: u64) -> Found {
        let kind = match number % 7 {
            0 => Kind::Dir,
            1 => Kind::Symlink {
                target: format!("../t{number}").into(),
            },
            2 => Kind::Char {
                major: 5,
                minor: 1_000,
            },
            3 => Kind::Block { major: 8, minor: 0 },
            4 => Kind::Fifo,
            _ => Kind::File {
                size: number * number,
            },
        };
        Found {
            name: format!("d{}/n{number}", number / 100).into(),
            node: Node {
                kind,
                meta: Meta {
                    mode: 0o4755,
                    uid: u32::MAX,
                    gid: 7,
                    mtime: Mtime {
                        secs: -3,
                        nanos: 999_999_999,
                    },
                    xattrs: (0..number % 3)
                        .map(|n| (vec![b'x'; n as usize + 1], vec![0; 300]))
                        .collect(),
                },
                ctime: Mtime {
                    secs: i64::MAX,
                    nanos: 1,
                },
                inode: (u64::MAX, number / 2),
                links: 1 + number % 2,
                digest: number.is_multiple_of(5).then(|| Sha256::of(b"x")),
            },
            place: number
                .is_multiple_of(11)
                .then(|| format!("x/{number}").into()),
            itself: number.is_multiple_of(13),
            passage: number.is_multiple_of(3),
            file: None,
            back: 0,
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        for (count, sorted) in [(0, true), (1, true), (100, true), (40_000, false)] {
            let mut writer = Writer::new(&tempfile::tempfile);
            let mut written = Vec::new();
            for n in 0..count {
                let mut found = found(n);
                // What ends in 9 comes behind what has one more digit.
                found.name = format!("d/n{:0>4}", n).into();
                writer.count(&mut found);
                writer.push(&found).unwrap();
                written.push(found);
            }
            let list = writer.finish();
            assert_eq!(list.records.has_file(), count > 30_000);
            assert_eq!((list.len(), list.is_sorted()), (count, sorted));
            // Two readers don't know of each other.
            for (n, (one, two)) in list.read().zip(list.read()).enumerate() {
                assert_eq!(one.unwrap(), written[n]);
                assert_eq!(two.unwrap(), written[n]);
            }
            assert_eq!(list.read().count(), written.len());
            let mut reader = list.read();
            let from = reader.by_ref().take(count as usize / 3).count();
            let part = list.part(reader.place(), count / 2);
            let part: Vec<Found> = part.read().map(Result::unwrap).collect();
            assert!(part[..] == written[from..][..count as usize / 2]);
        }
    }

    #[test]
    fn other_names_may_come_much_later() {
        let mut writer = Writer::new(&tempfile::tempfile);
        let mut add = |number: u64, inode: u64, links: u64| {
            let mut found = found(number);
            found.node.inode.1 = inode;
            found.node.links = links;
            writer.count(&mut found);
            (found.file, found.back)
        };
        // A file with one name, something else, a file with two names.
        for n in 0..1_000 {
            let file = 2 * n as u32;
            assert_eq!(add(5, 2 * n, 1), (Some(file), 0));
            assert_eq!(add(7, 2 * n + 1, 2), (None, 0));
            assert_eq!(add(5, 2 * n + 1, 2), (Some(file + 1), 0));
        }
        for n in (0..1_000).rev() {
            let back = 3_000 + (999 - n) - (3 * n + 2);
            assert_eq!(add(5, 2 * n + 1, 2), (Some(2 * n as u32 + 1), back));
        }
        assert_eq!(add(5, 9_999, 2), (Some(2_000), 0));
    }

    #[test]
    fn names_of_one_file_have_one_number() {
        let mut writer = Writer::new(&tempfile::tempfile);
        let mut numbers = Vec::new();
        for (inode, links) in [(1, 1), (2, 2), (3, 1), (2, 2), (4, 1)] {
            let mut found = found(5);
            found.node.inode.1 = inode;
            found.node.links = links;
            writer.count(&mut found);
            numbers.push((found.file.unwrap(), found.back));
        }
        assert_eq!(numbers, [(0, 0), (1, 0), (2, 0), (1, 2), (3, 0)]);
        assert_eq!(writer.files(), 4);
        let list = writer.finish();
        let shared: Vec<bool> = (0..5).map(|n| list.is_shared(n)).collect();
        assert_eq!(shared, [false, true, false, false, false]);
    }
}
