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
//! A layer may have millions of entries: they are packed, in path order, and lie
//! in a file once they are many. Most layers come in that order.

mod packed;
mod paths;

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::packed::{Packed, Record};
pub use self::paths::Paths;
use super::code::{Input, field};
use super::pile::Spools;
use super::tar_read::{Item, Names, TarError, TarReader};
use super::{Change, Content, Entry, Kind, MAX_ENTRIES, MAX_TAR_BYTES, Meta, path_order};

/// Begins what [`Listing::to_bytes`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-layer-3\n";
/// Files whose contents are kept.
const KEPT: [&str; 2] = ["etc/passwd", "etc/group"];
/// The most that is kept of one, in bytes.
const MAX_KEPT: u64 = 1 << 20;
/// Bytes that the records of one listing may have.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes that are read at a time of a listing that is kept.
const MOST_READ: u64 = 64 << 10;
/// Bytes that one record has at the most.
const MAX_RECORD: usize = 16 << 20;
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

impl Listed {
    /// A hard link, of which all else is its target's.
    fn link(target: PathBuf) -> Self {
        Self {
            kind: Kind::Hardlink { target },
            meta: Meta::default(),
            content: None,
        }
    }
}

/// The entries of a layer.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Listing {
    /// In path order once the listing is settled.
    entries: Packed,
    /// What lower layers have at these paths is gone.
    gone: Paths,
    /// What lower layers have in these directories is gone.
    opaque: Paths,
    /// Directories that it has something in, but no entry for.
    implied: Paths,
}

/// Directories on the way to paths that come in order, while they are found.
#[derive(Debug)]
struct Lead {
    implied: Paths,
    /// The last path: what leads to it is known.
    last: PathBuf,
}

impl Lead {
    fn new(spools: Spools) -> Self {
        Self {
            implied: Paths::new(spools),
            last: PathBuf::new(),
        }
    }
}

impl Listing {
    /// An empty one. What it has lies in some of `spools`.
    pub fn new(spools: Spools) -> Self {
        Self {
            entries: Packed::new(spools.clone()),
            gone: Paths::new(spools.clone()),
            opaque: Paths::new(spools.clone()),
            implied: Paths::new(spools),
        }
    }

    /// Reads the layer `tar` (not compressed) to its end. `None` when what it
    /// makes depends on what is below it.
    ///
    /// # Errors
    /// When it can't be read or makes no sense.
    pub fn read(tar: impl Read, spools: Spools) -> Result<Option<Self>, TarError> {
        let mut reader = TarReader::new(tar, Names::Layer);
        let mut listing = Self::new(spools);
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
                Item::Whiteout(path) => listing.mark(&path, false),
                Item::Opaque(path) => listing.mark(&path, true),
            } && listing.len() as u64 <= MAX_ENTRIES;
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
            Change::Whiteout(path) => self.mark(path, false),
            Change::Opaque(path) => self.mark(path, true),
        }
    }

    fn mark(&mut self, path: &Path, opaque: bool) -> bool {
        let paths = match opaque {
            true => &mut self.opaque,
            false => &mut self.gone,
        };
        paths.is_last(path) || paths.push(path).is_some()
    }

    fn put(&mut self, entry: Entry, content: Option<Vec<u8>>) -> bool {
        let Entry { path, kind, meta } = entry;
        let mut listed = Listed {
            kind,
            meta,
            content,
        };
        // A layer has seconds only.
        listed.meta.mtime.nanos = 0;
        self.entries.add(&path, &listed).is_some() && self.entries.bytes().len() <= MAX_BYTES
    }

    /// Entries, and what is gone.
    fn len(&self) -> usize {
        self.entries.len() + self.gone.len() + self.opaque.len()
    }

    fn find(&self, path: &Path) -> Option<Record<'_>> {
        Some(self.entries.find(path)?.1)
    }

    /// Whether it has a directory at `path`, if it has an entry for it.
    fn is_dir(&self, path: &Path) -> Option<bool> {
        Some(self.find(path)?.is_dir())
    }

    /// Whether every hard link names a file of this layer; with `before`, one
    /// that comes before it in path order.
    fn links_are_own(&self, before: bool) -> bool {
        let mut walk = self.entries.walk();
        while let Some(record) = walk.next_record() {
            let path = walk.path();
            let Some(target) = record.target(path) else {
                continue;
            };
            let named = self.named(path, target.clone());
            let is_own = named.is_some_and(|named| {
                !named.is_dir()
                    && (!is_kept(path) || named.has_content())
                    && (!before || path_order(&target, path).is_lt())
            });
            if !is_own {
                return false;
            }
        }
        true
    }

    /// What the hard link at `path`, which is to `target`, is a name of.
    fn named(&self, path: &Path, mut target: PathBuf) -> Option<Record<'_>> {
        let mut path = path.to_owned();
        loop {
            let record = self.find(&target)?;
            let Some(further) = record.target(&target) else {
                return Some(record);
            };
            // Links in a circle lead nowhere.
            if path_order(&target, &path).is_ge() {
                return None;
            }
            (path, target) = (target, further);
        }
    }

    /// Finds implied directories, when all entries are there. `false` when a
    /// path leads through something of this layer that is no directory, or a
    /// link is to a file of another one.
    pub fn settle(&mut self) -> bool {
        let in_order = !self.entries.is_loose();
        self.entries.settle().is_some()
            && self.gone.settle().is_some()
            && self.opaque.settle().is_some()
            && self.links_are_own(in_order)
            && self.imply().is_some()
    }

    /// Finds implied directories. `None` when a path leads through something
    /// that is no directory.
    fn imply(&mut self) -> Option<()> {
        self.implied = Paths::new(self.entries.bytes().spools());
        let mut lead = Lead::new(self.entries.bytes().spools());
        let mut walk = self.entries.walk();
        while walk.next_record().is_some() {
            self.lead(&mut lead, walk.path())?;
        }
        self.implied = lead.implied;
        self.implied.settle()?;
        let mut lead = Lead::new(self.entries.bytes().spools());
        for path in &self.gone {
            self.lead(&mut lead, &path)?;
        }
        for path in &self.opaque {
            match self.is_dir(&path) {
                Some(true) => {}
                Some(false) => return None,
                None => {
                    self.lead(&mut lead, &path)?;
                    if !path.as_os_str().is_empty() {
                        lead.implied.push(&path)?;
                    }
                }
            }
        }
        for path in &lead.implied {
            self.implied.push(&path)?;
        }
        self.implied.settle()
    }

    /// Adds the directories on the way to `path` for which there is no entry.
    fn lead(&self, lead: &mut Lead, path: &Path) -> Option<()> {
        let mut new = Vec::new();
        for above in path.ancestors().skip(1) {
            let is_known = lead.last != above && lead.last.starts_with(above);
            if above.as_os_str().is_empty() || is_known {
                break;
            }
            match self.is_dir(above) {
                Some(true) => break,
                Some(false) => return None,
                None if self.implied.contains(above) => break,
                None => new.push(above),
            }
        }
        for above in new.into_iter().rev() {
            lead.implied.push(above)?;
        }
        lead.last.clear();
        lead.last.push(path);
        Some(())
    }

    /// The entry at `path`.
    pub fn get(&self, path: &Path) -> Option<Listed> {
        let record = self.find(path)?;
        match record.target(path) {
            None => record.listed(),
            Some(target) => self.named(path, target)?.listed(),
        }
    }

    /// Whether there is something in the directory `path`, but no entry for it.
    pub fn implies(&self, path: &Path) -> bool {
        self.implied.contains(path)
    }

    /// Directories that it has something in, but no entry for.
    pub fn implied(&self) -> &Paths {
        &self.implied
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
    /// When it can't be compressed, or has more than `most` bytes then.
    pub fn to_bytes(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut out = zstd::Encoder::new(MAGIC.to_vec(), LEVEL)?;
        let mut put = |bytes: &[u8]| -> io::Result<()> {
            out.write_all(bytes)?;
            match out.get_ref().len() > most {
                true => Err(io::ErrorKind::FileTooLarge.into()),
                false => Ok(()),
            }
        };
        let mut record = Vec::new();
        for (tag, paths) in [(b'g', &self.gone), (b'o', &self.opaque)] {
            for path in paths {
                record.clear();
                record.push(tag);
                field(&mut record, path.as_os_str().as_bytes());
                put(&record)?;
            }
        }
        for piece in self.entries.bytes().pieces() {
            put(piece)?;
        }
        let bytes = out.finish()?;
        match bytes.len() > most {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(bytes),
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn parse(bytes: &[u8], spools: Spools) -> Option<Self> {
        let packed = bytes.strip_prefix(MAGIC)?;
        let unpacked = zstd::Decoder::with_buffer(packed).ok()?;
        let mut unpacked = unpacked.take(MAX_BYTES + 1);
        let mut listing = Self::new(spools);
        let mut path = Vec::new();
        let mut held = Vec::new();
        // Records that are not whole yet are read further.
        loop {
            let more = (&mut unpacked).take(MOST_READ.max(held.len() as u64));
            let is_end = { more }.read_to_end(&mut held).ok()? == 0;
            let mut at = 0;
            while at < held.len() {
                match listing.take(&held[at..], &mut path) {
                    Some(len) => at += len,
                    None if is_end || held.len() - at > MAX_RECORD => return None,
                    None => break,
                }
            }
            held.drain(..at);
            if is_end {
                break;
            }
        }
        listing.gone.settle()?;
        listing.opaque.settle()?;
        listing.entries.settle()?;
        (listing.links_are_own(false) && listing.imply().is_some()).then_some(listing)
    }

    /// Adds what `input` begins with; how many bytes that has.
    fn take(&mut self, input: &[u8], path: &mut Vec<u8>) -> Option<usize> {
        // The first entry begins with nothing that is as in the one before.
        if let (0, Some(tag @ (b'g' | b'o'))) = (self.entries.len(), input.first()) {
            let mut rest = Input(&input[1..]);
            let gone = Path::new(OsStr::from_bytes(rest.field()?));
            return self
                .mark(gone, *tag == b'o')
                .then(|| input.len() - rest.0.len());
        }
        self.entries.take(input, path)
    }
}

fn is_kept(path: &Path) -> bool {
    KEPT.iter().any(|kept| path == Path::new(kept))
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
    pub fn new(
        inner: I,
        spools: Spools,
    ) -> (Self, std::sync::Arc<std::sync::Mutex<Option<Listing>>>) {
        let listing = Some(Listing::new(spools));
        let listing = std::sync::Arc::new(std::sync::Mutex::new(listing));
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::layer::Mtime;
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
        let (listening, heard) = Listening::new(changes.into_iter().map(Ok), Spools::default());
        for change in listening {
            tar.change(change.unwrap()).unwrap();
        }
        let read = Listing::read(&tar.finish().unwrap()[..], Spools::default()).unwrap();
        // The same from the changes as from the layer.
        assert_eq!(*heard.lock().unwrap(), read);
        if let Some(listing) = &read {
            let bytes = listing.to_bytes(1 << 30).unwrap();
            assert_eq!(
                Listing::parse(&bytes, Spools::default()).as_ref(),
                Some(listing)
            );
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
        let implied: Vec<PathBuf> = listing.implied().iter().collect();
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
    fn many_entries_are_found_in_whatever_order_they_come() {
        let mut changes = Vec::new();
        for dir in 0..20 {
            changes.push(entry(&format!("d{dir:02}"), Kind::Dir));
            for n in 0..40 {
                // Sizes tell them apart; every fifth is one of two names.
                let path = format!("d{dir:02}/a/file-{n:02}");
                changes.push(file(&path, &"x".repeat(dir + n)));
                if n % 5 == 0 {
                    changes.push(link(&format!("{path}.link"), &path));
                }
            }
        }
        let sorted = listing(changes).unwrap();
        let mut other = Listing::default();
        for dir in (0..20).rev() {
            for n in (0..40).rev() {
                let path = format!("d{dir:02}/a/file-{n:02}");
                assert!(other.add(&file(&path, &"x".repeat(dir + n))));
                if n % 5 == 0 {
                    let further = format!("{path}.more");
                    assert!(other.add(&link(&further, &path)));
                    assert!(other.add(&link(&format!("{path}.link"), &further)));
                }
            }
            assert!(other.add(&entry(&format!("d{dir:02}"), Kind::Dir)));
        }
        assert!(other.settle());
        let bytes = other.to_bytes(1 << 30).unwrap();
        assert_eq!(
            Listing::parse(&bytes, Spools::default()).as_ref(),
            Some(&other)
        );
        for dir in 0..20 {
            for n in 0..40 {
                let path = format!("d{dir:02}/a/file-{n:02}");
                let found = sorted.get(Path::new(&path)).unwrap();
                let size = (dir + n) as u64;
                assert_eq!(found.kind, Kind::File { size });
                assert_eq!(other.get(Path::new(&path)).as_ref(), Some(&found));
                let link = format!("{path}.link");
                let expected = (n % 5 == 0).then_some(found);
                assert_eq!(sorted.get(Path::new(&link)), expected);
                assert_eq!(other.get(Path::new(&link)), expected);
            }
            assert!(sorted.implies(Path::new(&format!("d{dir:02}/a"))));
            assert!(other.implies(Path::new(&format!("d{dir:02}/a"))));
        }
        assert_eq!(sorted.get(Path::new("d00/a/file-99")), None);
    }

    #[test]
    fn a_link_names_what_came_before_it() {
        let good = [
            vec![file("b", "b"), link("a", "b")],
            vec![file("c", "c"), link("a", "c"), link("b", "a")],
        ];
        for changes in good {
            assert!(listing(changes).is_some());
        }
        let bad = [
            vec![link("a", "b"), file("b", "b")],
            vec![link("a", "b"), link("b", "a")],
            vec![link("a", "a")],
            vec![entry("d", Kind::Dir), link("e", "d")],
        ];
        for changes in bad {
            assert_eq!(listing(changes), None);
        }
    }

    #[test]
    fn only_its_own_form_is_read() {
        let bytes = listing(vec![file("a", "a"), file("etc/group", "b")])
            .unwrap()
            .to_bytes(1 << 30)
            .unwrap();
        for cut in 0..bytes.len() {
            assert_eq!(
                Listing::parse(&bytes[..cut], Spools::default()),
                None,
                "{cut}"
            );
        }
    }

    #[test]
    fn what_is_gone_implies_directories_too() {
        let mut listing = listing(vec![
            file("x/f", "1"),
            Change::Whiteout("a/g".into()),
            Change::Whiteout("a/g/h".into()),
            Change::Opaque("x".into()),
            Change::Opaque("a/b/c".into()),
        ])
        .unwrap();
        for _ in 0..2 {
            let implied: Vec<PathBuf> = listing.implied().iter().collect();
            let wanted = ["a", "a/b", "a/b/c", "a/g", "x"];
            assert_eq!(implied, wanted.map(PathBuf::from));
            assert!(wanted.iter().all(|path| listing.implies(Path::new(path))));
            // Asked once more it says the same.
            assert!(listing.settle());
        }
    }

    #[test]
    fn very_many_names_lie_in_a_file() {
        let spools = || {
            let file = || tempfile::tempfile().unwrap();
            Spools::new(move || super::super::index::Spool::file(file()))
        };
        let name = |n: u32| format!("{:08x}{}", n.wrapping_mul(0x9e37_79b9), "x".repeat(120));
        let mut names: Vec<String> = (0..30_000).map(name).collect();
        let kind = |n: usize| Kind::File { size: n as u64 };
        let make = |names: &[String], spools: Spools| {
            let mut listing = Listing::new(spools);
            for (n, name) in names.iter().enumerate() {
                assert!(listing.add(&entry(name, kind(n))));
            }
            assert!(listing.settle());
            listing
        };
        let loose = make(&names, spools());
        assert_eq!(loose, make(&names, Spools::default()));
        for (n, name) in names.iter().enumerate() {
            assert_eq!(loose.get(Path::new(name)).unwrap().kind, kind(n));
        }
        let bytes = loose.to_bytes(1 << 30).unwrap();
        assert_eq!(Listing::parse(&bytes, spools()).as_ref(), Some(&loose));
        names.sort();
        let sorted = make(&names, spools());
        assert_eq!(sorted, make(&names, Spools::default()));
        assert_eq!(
            sorted.get(Path::new(&names[20_000])).unwrap().kind,
            kind(20_000)
        );
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
