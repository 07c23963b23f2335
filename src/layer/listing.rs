//! What a layer has in it, without the contents of files: enough to resolve a
//! path in an image that was never unpacked.
//!
//! Most layers have an entry for each directory on the way to what they
//! change. One that relies on what is below it (its paths lead through a link
//! of its own, or it links to another layer's file) has no listing: only
//! unpacking it on top of the others tells what it makes.
//!
//! The contents of `etc/passwd` and `etc/group` are kept: owners are looked up
//! in them.
//!
//! A layer may have millions of entries: they are kept as packed records, one
//! behind the other as they come, with a table of where the record of each path
//! begins.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::code::{Input, field, number};
use super::tar_read::{Item, Names, TarError, TarReader};
use super::{Change, Content, Entry, Kind, MAX_ENTRIES, MAX_TAR_BYTES, Meta, Mtime, path_order};

/// Begins what [`Listing::to_bytes`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-layer-2\n";
/// Files whose contents are kept.
const KEPT: [&str; 2] = ["etc/passwd", "etc/group"];
/// The most that is kept of one, in bytes.
const MAX_KEPT: u64 = 1 << 20;
/// Bytes that the records of one listing may have.
const MAX_BYTES: usize = 1 << 30;
/// zstd's level for a listing that is kept: names hardly need more.
const LEVEL: i32 = 1;

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is; never [`Kind::Hardlink`].
    pub kind: Kind,
    /// Its attributes.
    pub meta: Meta,
    /// Its content, for the few that are kept.
    pub content: Option<Vec<u8>>,
}

/// The entries of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// The records.
    bytes: Vec<u8>,
    /// Where they begin, in path order once the listing is settled.
    index: Vec<u32>,
    /// What lower layers have at these paths is gone.
    gone: BTreeSet<PathBuf>,
    /// What lower layers have in these directories is gone.
    opaque: BTreeSet<PathBuf>,
    /// Directories that it has something in, but no entry for.
    implied: BTreeSet<PathBuf>,
}

impl Listing {
    /// Reads the layer `tar` (not compressed) to its end. `None` when what it
    /// makes depends on what is below it.
    ///
    /// # Errors
    /// When it can't be read or makes no sense.
    pub fn read(tar: impl Read) -> Result<Option<Self>, TarError> {
        let mut reader = TarReader::new(tar, Names::Layer);
        let mut listing = Self::default();
        let mut plain = true;
        while let Some(item) = reader.next_entry()? {
            if !plain {
                continue;
            }
            plain = match item {
                Item::Put(entry) => {
                    let mut content = None;
                    if let Kind::File { size } = entry.kind
                        && is_kept(&entry.path)
                        && size <= MAX_KEPT
                    {
                        let mut bytes = Vec::new();
                        reader.body().read_to_end(&mut bytes)?;
                        content = Some(bytes);
                    }
                    listing.put(entry, content)
                }
                Item::Whiteout(path) => listing.mark(path, false),
                Item::Opaque(path) => listing.mark(path, true),
            } && listing.index.len() as u64 <= MAX_ENTRIES;
        }
        reader.finish(MAX_TAR_BYTES)?;
        Ok((plain && listing.settle()).then_some(listing))
    }

    /// Adds what a layer that is being made has. `false` when there is no
    /// listing of such a layer.
    pub fn add(&mut self, change: &Change) -> bool {
        match change {
            Change::Put(entry, content) => {
                let kept = match content {
                    Content::Bytes(bytes) if is_kept(&entry.path) => Some(bytes.to_vec()),
                    Content::None if is_kept(&entry.path) => Some(Vec::new()),
                    // Its content is seen only when the layer is written.
                    _ if is_kept(&entry.path) => return false,
                    _ => None,
                };
                self.put(entry.clone(), kept)
            }
            Change::Whiteout(path) => self.mark(path.clone(), false),
            Change::Opaque(path) => self.mark(path.clone(), true),
        }
    }

    fn mark(&mut self, path: PathBuf, opaque: bool) -> bool {
        if opaque {
            self.opaque.insert(path);
        } else {
            self.gone.insert(path);
        }
        true
    }

    fn put(&mut self, entry: Entry, content: Option<Vec<u8>>) -> bool {
        let Ok(at) = u32::try_from(self.bytes.len()) else {
            return false;
        };
        let Entry { path, kind, meta } = entry;
        let listed = Listed {
            kind,
            meta,
            content,
        };
        self.index.push(at);
        encode(&path, &listed, &mut self.bytes);
        self.bytes.len() <= MAX_BYTES
    }

    fn input(&self, at: u32) -> Input<'_> {
        Input(self.bytes.get(at as usize..).unwrap_or_default())
    }

    /// The tag and the path of the record at `at`.
    fn head(&self, at: u32) -> (u8, &Path) {
        let mut input = self.input(at);
        let tag = input.byte().unwrap_or_default();
        let path = input.field().unwrap_or_default();
        (tag, Path::new(OsStr::from_bytes(path)))
    }

    /// Where the record of `path` is.
    fn find(&self, path: &Path) -> Option<u32> {
        let compare = |at: &u32| path_order(self.head(*at).1, path);
        let found = self.index.binary_search_by(compare).ok()?;
        self.index.get(found).copied()
    }

    /// Whether it has a directory at `path`, if it has an entry for it.
    fn is_dir(&self, path: &Path) -> Option<bool> {
        Some(self.head(self.find(path)?).0 == b'd')
    }

    /// Puts the records in path order, the last one of each path. `false` when
    /// a path is a directory at one time and none at another.
    fn sort(&mut self) -> bool {
        let mut index = std::mem::take(&mut self.index);
        let order = |a: &u32, b: &u32| path_order(self.head(*a).1, self.head(*b).1);
        if !index.is_sorted_by(|a, b| order(a, b) == Ordering::Less) {
            index.sort_by(order);
            let mut plain = true;
            // The later one is `a`.
            index.dedup_by(|a, b| {
                let ((tag, path), (other, same)) = (self.head(*a), self.head(*b));
                let again = path == same;
                if again {
                    plain &= (tag == b'd') == (other == b'd');
                    *b = *a;
                }
                again
            });
            if !plain {
                return false;
            }
        }
        self.index = index;
        true
    }

    /// Whether every hard link names a file of this layer that came before it.
    fn links_are_own(&self) -> bool {
        self.index.iter().all(|at| {
            let (tag, path) = self.head(*at);
            if tag != b'h' {
                return true;
            }
            let Some((first, listed)) = self.target(*at) else {
                return false;
            };
            first < *at && listed.kind != Kind::Dir && (!is_kept(path) || listed.content.is_some())
        })
    }

    /// The file that the hard link at `at` is a name of.
    fn target(&self, mut at: u32) -> Option<(u32, Listed)> {
        loop {
            let (_, listed) = decode(&mut self.input(at))?;
            let Kind::Hardlink { target } = &listed.kind else {
                return Some((at, listed));
            };
            let next = self.find(target)?;
            // Links in a circle lead nowhere.
            if next >= at {
                return None;
            }
            at = next;
        }
    }

    /// Finds implied directories, when all entries are there. `false` when a
    /// path leads through something of this layer that is no directory, or a
    /// link is to a file of another one.
    pub fn settle(&mut self) -> bool {
        if !self.sort() || !self.links_are_own() {
            return false;
        }
        let mut implied = BTreeSet::new();
        let mut last: &Path = Path::new("");
        let entries = self.index.iter().map(|at| self.head(*at).1);
        let gone = self.gone.iter().map(PathBuf::as_path);
        let opaque = self.opaque.iter().map(PathBuf::as_path);
        let opaque = opaque.filter(|path| self.find(path).is_none());
        for path in entries.chain(gone).chain(opaque) {
            for above in path.ancestors().skip(1) {
                if above.as_os_str().is_empty() || above == last {
                    break;
                }
                match self.is_dir(above) {
                    Some(true) => break,
                    Some(false) => return false,
                    None => {
                        if !implied.insert(above.to_owned()) {
                            break;
                        }
                    }
                }
            }
            last = path.parent().unwrap_or(last);
        }
        for path in &self.opaque {
            match self.is_dir(path) {
                Some(false) => return false,
                None if !path.as_os_str().is_empty() => {
                    implied.insert(path.clone());
                }
                _ => {}
            }
        }
        self.implied = implied;
        true
    }

    /// The entry at `path`.
    pub fn get(&self, path: &Path) -> Option<Listed> {
        Some(self.target(self.find(path)?)?.1)
    }

    /// Whether there is something in the directory `path`, but no entry for it.
    pub fn implies(&self, path: &Path) -> bool {
        self.implied.contains(path)
    }

    /// Directories that it has something in, but no entry for.
    pub fn implied(&self) -> impl Iterator<Item = &Path> {
        self.implied.iter().map(PathBuf::as_path)
    }

    /// Whether lower layers' entry at `path` can't be seen.
    pub fn hides(&self, path: &Path) -> bool {
        if self.gone.contains(path) {
            return true;
        }
        path.ancestors().skip(1).any(|above| {
            self.gone.contains(above)
                || self.opaque.contains(above)
                || self.is_dir(above) == Some(false)
        })
    }

    /// All of it, for [`parse`](Self::parse).
    ///
    /// # Errors
    /// When it can't be compressed.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = zstd::Encoder::new(MAGIC.to_vec(), LEVEL)?;
        let mut record = Vec::new();
        for (tag, paths) in [(b'g', &self.gone), (b'o', &self.opaque)] {
            for path in paths {
                record.clear();
                record.push(tag);
                field(&mut record, path.as_os_str().as_bytes());
                out.write_all(&record)?;
            }
        }
        // Records of the same path are dropped when they are read again.
        out.write_all(&self.bytes)?;
        out.finish()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let packed = bytes.strip_prefix(MAGIC)?;
        let mut bytes = Vec::new();
        let unpacked = zstd::Decoder::with_buffer(packed).ok()?;
        let limit = MAX_BYTES as u64 + 1;
        unpacked.take(limit).read_to_end(&mut bytes).ok()?;
        let mut listing = Self::default();
        let mut input = Input(&bytes);
        while let Some(tag @ (b'g' | b'o')) = input.0.first() {
            input.byte();
            let path = PathBuf::from(OsStr::from_bytes(input.field()?));
            listing.mark(path, *tag == b'o');
        }
        let marks = bytes.len() - input.0.len();
        bytes.drain(..marks);
        let mut input = Input(&bytes);
        while !input.0.is_empty() {
            let at = bytes.len() - input.0.len();
            listing.index.push(u32::try_from(at).ok()?);
            decode(&mut input)?;
        }
        listing.bytes = bytes;
        listing.settle().then_some(listing)
    }
}

fn is_kept(path: &Path) -> bool {
    KEPT.iter().any(|kept| path == Path::new(kept))
}

fn encode(path: &Path, listed: &Listed, out: &mut Vec<u8>) {
    let (tag, a, b) = match &listed.kind {
        Kind::File { size } => (b'f', *size, 0),
        Kind::Dir => (b'd', 0, 0),
        Kind::Symlink { .. } => (b'l', 0, 0),
        Kind::Hardlink { .. } => (b'h', 0, 0),
        Kind::Char { major, minor } => (b'c', u64::from(*major), u64::from(*minor)),
        Kind::Block { major, minor } => (b'b', u64::from(*major), u64::from(*minor)),
        Kind::Fifo => (b'p', 0, 0),
    };
    out.push(tag);
    field(out, path.as_os_str().as_bytes());
    match &listed.kind {
        Kind::Symlink { target } => field(out, target.as_os_str().as_bytes()),
        Kind::Hardlink { target } => {
            // All else is that of its target.
            return field(out, target.as_os_str().as_bytes());
        }
        _ => {}
    }
    let meta = &listed.meta;
    for value in [a, b, meta.mode.into(), meta.uid.into(), meta.gid.into()] {
        number(out, value);
    }
    out.extend_from_slice(&meta.mtime.secs.to_le_bytes());
    number(out, meta.mtime.nanos.into());
    out.push(u8::from(listed.content.is_some()));
    if let Some(content) = &listed.content {
        field(out, content);
    }
    number(out, meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        field(out, name);
        field(out, value);
    }
}

/// The record that `input` begins with, and its path.
fn decode<'a>(input: &mut Input<'a>) -> Option<(&'a Path, Listed)> {
    let tag = input.byte()?;
    let path = Path::new(OsStr::from_bytes(input.field()?));
    let target = match tag {
        b'l' | b'h' => PathBuf::from(OsStr::from_bytes(input.field()?)),
        _ => PathBuf::new(),
    };
    if tag == b'h' {
        let listed = Listed {
            kind: Kind::Hardlink { target },
            meta: Meta::default(),
            content: None,
        };
        return Some((path, listed));
    }
    let (a, b) = (input.number()?, input.number()?);
    let device = || Some((u32::try_from(a).ok()?, u32::try_from(b).ok()?));
    let kind = match tag {
        b'f' => Kind::File { size: a },
        b'd' => Kind::Dir,
        b'l' => Kind::Symlink { target },
        b'c' => device().map(|(major, minor)| Kind::Char { major, minor })?,
        b'b' => device().map(|(major, minor)| Kind::Block { major, minor })?,
        b'p' => Kind::Fifo,
        _ => return None,
    };
    let mut small = || u32::try_from(input.number()?).ok();
    let (mode, uid, gid) = (small()?, small()?, small()?);
    let mtime = Mtime {
        secs: i64::from_le_bytes(input.array()?),
        nanos: u32::try_from(input.number()?).ok()?,
    };
    let content = match input.byte()? {
        0 => None,
        _ => Some(input.field()?.to_vec()),
    };
    let mut xattrs = BTreeMap::new();
    for _ in 0..input.number()? {
        let name = input.field()?.to_vec();
        xattrs.insert(name, input.field()?.to_vec());
    }
    let meta = Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    };
    let listed = Listed {
        kind,
        meta,
        content,
    };
    Some((path, listed))
}

/// Passes changes on and lists them; whoever wants the listing asks when all
/// have passed.
#[derive(Debug)]
pub struct Listening<I> {
    inner: I,
    listing: std::sync::Arc<std::sync::Mutex<Option<Listing>>>,
}

impl<I> Listening<I> {
    /// Listens to `inner`; the listing is there at its end, `None` if there is
    /// none.
    pub fn new(inner: I) -> (Self, std::sync::Arc<std::sync::Mutex<Option<Listing>>>) {
        let listing = std::sync::Arc::new(std::sync::Mutex::new(Some(Listing::default())));
        let shared = std::sync::Arc::clone(&listing);
        (Self { inner, listing }, shared)
    }
}

impl<I: Iterator<Item = io::Result<Change>>> Iterator for Listening<I> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.inner.next();
        let mut slot = (self.listing.lock()).unwrap_or_else(std::sync::PoisonError::into_inner);
        let keep = match (&item, slot.as_mut()) {
            (Some(Ok(change)), Some(listing)) => listing.add(change),
            (None, Some(listing)) => listing.settle(),
            _ => true,
        };
        if !keep {
            *slot = None;
        }
        drop(slot);
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar_write::TarWriter;

    fn entry(path: &str, kind: Kind) -> Change {
        let entry = Entry {
            path: path.into(),
            kind,
            meta: Meta {
                mode: 0o640,
                uid: 3,
                gid: 4,
                mtime: Mtime { secs: -5, nanos: 0 },
                xattrs: BTreeMap::from([(b"user.x".to_vec(), b"y".to_vec())]),
            },
        };
        Change::Put(entry, Content::None)
    }

    fn file(path: &str, content: &str) -> Change {
        let bytes: std::sync::Arc<[u8]> = content.as_bytes().into();
        match entry(
            path,
            Kind::File {
                size: bytes.len() as u64,
            },
        ) {
            Change::Put(entry, _) => Change::Put(entry, Content::Bytes(bytes)),
            other => other,
        }
    }

    fn link(path: &str, target: &str) -> Change {
        entry(
            path,
            Kind::Hardlink {
                target: target.into(),
            },
        )
    }

    fn listing(changes: Vec<Change>) -> Option<Listing> {
        let mut tar = TarWriter::new(Vec::new(), None);
        let (listening, heard) = Listening::new(changes.into_iter().map(Ok));
        for change in listening {
            tar.change(change.unwrap()).unwrap();
        }
        let read = Listing::read(&tar.finish().unwrap()[..]).unwrap();
        // The same from the changes as from the layer.
        assert_eq!(*heard.lock().unwrap(), read);
        if let Some(listing) = &read {
            let bytes = listing.to_bytes().unwrap();
            assert_eq!(Listing::parse(&bytes).as_ref(), Some(listing));
        }
        read
    }

    #[test]
    fn what_is_where() {
        let listing = listing(vec![
            entry("etc", Kind::Dir),
            file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            link("etc/zz", "etc/passwd"),
            entry("dev/null", Kind::Char { major: 1, minor: 3 }),
            entry("fifo", Kind::Fifo),
            entry(
                "l",
                Kind::Symlink {
                    target: "/etc".into(),
                },
            ),
            Change::Whiteout("old/gone".into()),
            Change::Opaque("etc".into()),
        ])
        .unwrap();
        let passwd = listing.get(Path::new("etc/passwd")).unwrap();
        assert_eq!(
            passwd.content.as_deref(),
            Some(&b"root:x:0:0::/:/bin/sh\n"[..])
        );
        assert_eq!(listing.get(Path::new("etc/zz")).as_ref(), Some(&passwd));
        let implied: Vec<&Path> = listing.implied().collect();
        assert_eq!(implied, [Path::new("dev"), Path::new("old")]);
        for (path, hidden) in [
            ("etc", false),
            ("etc/other", true),
            ("old", false),
            ("old/gone", true),
            ("old/gone/x", true),
            ("old/there", false),
            ("l/x", true),
            ("dev/x", false),
        ] {
            assert_eq!(listing.hides(Path::new(path)), hidden, "{path}");
        }
    }

    #[test]
    fn layers_that_lean_on_others_have_none() {
        for changes in [
            vec![link("a", "b")],
            vec![
                entry("l", Kind::Symlink { target: "d".into() }),
                file("l/x", "x"),
            ],
            vec![file("f", "f"), link("etc/passwd", "f")],
        ] {
            assert_eq!(listing(changes), None);
        }
    }

    #[test]
    fn only_its_own_form_is_read() {
        let bytes = listing(vec![file("a", "a"), file("etc/group", "b")])
            .unwrap()
            .to_bytes()
            .unwrap();
        for cut in 0..bytes.len() {
            assert_eq!(Listing::parse(&bytes[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn the_last_of_a_name_counts_and_order_does_not() {
        let sorted = listing(vec![
            entry("a", Kind::Dir),
            file("a/b", "12"),
            file("a-b", "1"),
        ]);
        let other = listing(vec![
            file("a-b", "123"),
            file("a/b", "12"),
            file("a-b", "1"),
            entry("a", Kind::Dir),
        ]);
        let (sorted, other) = (sorted.unwrap(), other.unwrap());
        for path in ["a", "a/b", "a-b", "a/c", ""] {
            assert_eq!(sorted.get(Path::new(path)), other.get(Path::new(path)));
        }
        let size = |listing: &Listing| listing.get(Path::new("a-b")).map(|l| l.kind);
        assert_eq!(size(&other), Some(Kind::File { size: 1 }));
        // Whether it hides what is below can't be told from one entry.
        assert_eq!(listing(vec![entry("a", Kind::Dir), file("a", "x")]), None);
    }
}
