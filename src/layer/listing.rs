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

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::tar_read::{Item, Names, TarError, TarReader};
use super::{Change, Content, Entry, Kind, Meta, Mtime};

/// Begins what [`Listing::to_bytes`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-layer-1\n";
/// Files whose contents are kept.
const KEPT: [&str; 2] = ["etc/passwd", "etc/group"];
/// The most that is kept of one, in bytes.
const MAX_KEPT: u64 = 1 << 20;
/// Bytes that the tar of one layer may have, and entries: as for unpacking.
const MAX_TAR_BYTES: u64 = 100 << 30;
const MAX_ENTRIES: usize = 10_000_000;

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
    entries: BTreeMap<PathBuf, Listed>,
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
            } && listing.entries.len() <= MAX_ENTRIES;
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
        let Entry { path, kind, meta } = entry;
        let listed = match kind {
            Kind::Hardlink { target } => match self.entries.get(&target) {
                Some(first) if first.kind != Kind::Dir => {
                    if is_kept(&path) && first.content.is_none() {
                        return false;
                    }
                    first.clone()
                }
                // Of a lower layer.
                _ => return false,
            },
            kind => Listed {
                kind,
                meta,
                content,
            },
        };
        if listed.kind != Kind::Dir
            && let Some(before) = self.entries.get(&path)
            && before.kind == Kind::Dir
        {
            let below: Vec<PathBuf> = self.below(&path).map(|(p, _)| p.clone()).collect();
            for path in below {
                self.entries.remove(&path);
            }
        }
        self.entries.insert(path, listed);
        true
    }

    /// The entries below `dir`, in path order.
    fn below<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Listed)> {
        let from = (Bound::Excluded(dir), Bound::Unbounded);
        self.entries
            .range::<Path, _>(from)
            .take_while(move |(path, _)| path.starts_with(dir))
    }

    /// Finds implied directories. `false` when a path leads through something
    /// of this layer that is no directory.
    pub fn settle(&mut self) -> bool {
        let mut implied = BTreeSet::new();
        let paths = self.entries.keys().chain(&self.gone);
        for path in paths.chain(
            self.opaque
                .iter()
                .filter(|o| !self.entries.contains_key(*o)),
        ) {
            for above in path.ancestors().skip(1) {
                if above.as_os_str().is_empty() {
                    break;
                }
                match self.entries.get(above) {
                    Some(listed) if listed.kind == Kind::Dir => break,
                    Some(_) => return false,
                    None => {
                        if !implied.insert(above.to_owned()) {
                            break;
                        }
                    }
                }
            }
        }
        for path in &self.opaque {
            match self.entries.get(path) {
                Some(listed) if listed.kind != Kind::Dir => return false,
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
    pub fn get(&self, path: &Path) -> Option<&Listed> {
        self.entries.get(path)
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
                || (self.entries.get(above)).is_some_and(|e| e.kind != Kind::Dir)
        })
    }

    /// All of it, for [`parse`](Self::parse).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for (tag, paths) in [(b'g', &self.gone), (b'o', &self.opaque)] {
            for path in paths {
                out.push(tag);
                field(&mut out, path.as_os_str().as_bytes());
            }
        }
        for (path, listed) in &self.entries {
            encode(path, listed, &mut out);
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes.strip_prefix(MAGIC)?);
        let mut listing = Self::default();
        while let Some(tag) = input.byte() {
            let path = PathBuf::from(OsStr::from_bytes(input.field()?));
            match tag {
                b'g' => {
                    listing.gone.insert(path);
                }
                b'o' => {
                    listing.opaque.insert(path);
                }
                tag => {
                    let listed = decode(tag, &mut input)?;
                    listing.entries.insert(path, listed);
                }
            }
        }
        listing.settle().then_some(listing)
    }
}

fn is_kept(path: &Path) -> bool {
    KEPT.iter().any(|kept| path == Path::new(kept))
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    // Paths, attributes and kept contents are far below 4 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn encode(path: &Path, listed: &Listed, out: &mut Vec<u8>) {
    let (tag, a, b) = match &listed.kind {
        Kind::File { size } => (b'f', *size, 0),
        Kind::Dir => (b'd', 0, 0),
        Kind::Symlink { .. } | Kind::Hardlink { .. } => (b'l', 0, 0),
        Kind::Char { major, minor } => (b'c', u64::from(*major), u64::from(*minor)),
        Kind::Block { major, minor } => (b'b', u64::from(*major), u64::from(*minor)),
        Kind::Fifo => (b'p', 0, 0),
    };
    out.push(tag);
    field(out, path.as_os_str().as_bytes());
    if let Kind::Symlink { target } | Kind::Hardlink { target } = &listed.kind {
        field(out, target.as_os_str().as_bytes());
    }
    let meta = &listed.meta;
    for number in [a, b, meta.mode.into(), meta.uid.into(), meta.gid.into()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&meta.mtime.secs.to_le_bytes());
    out.extend_from_slice(&meta.mtime.nanos.to_le_bytes());
    out.push(u8::from(listed.content.is_some()));
    if let Some(content) = &listed.content {
        field(out, content);
    }
    let count = u32::try_from(meta.xattrs.len()).unwrap_or(0);
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in meta.xattrs.iter().take(count as usize) {
        field(out, name);
        field(out, value);
    }
}

fn decode(tag: u8, input: &mut Input<'_>) -> Option<Listed> {
    let target = match tag {
        b'l' => PathBuf::from(OsStr::from_bytes(input.field()?)),
        _ => PathBuf::new(),
    };
    let (a, b) = (input.long()?, input.long()?);
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
    let mut small = || u32::try_from(input.long()?).ok();
    let (mode, uid, gid) = (small()?, small()?, small()?);
    let mtime = Mtime {
        secs: i64::from_le_bytes(input.take::<8>()?),
        nanos: u32::from_le_bytes(input.take::<4>()?),
    };
    let content = match input.byte()? {
        0 => None,
        _ => Some(input.field()?.to_vec()),
    };
    let mut xattrs = BTreeMap::new();
    for _ in 0..u32::from_le_bytes(input.take::<4>()?) {
        let name = input.field()?.to_vec();
        xattrs.insert(name, input.field()?.to_vec());
    }
    Some(Listed {
        kind,
        meta: Meta {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
        content,
    })
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn long(&mut self) -> Option<u64> {
        self.take::<8>().map(u64::from_le_bytes)
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.take::<4>()?) as usize;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
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
            assert_eq!(Listing::parse(&listing.to_bytes()).as_ref(), Some(listing));
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
        assert_eq!(listing.get(Path::new("etc/zz")), Some(passwd));
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
            .to_bytes();
        for cut in 0..bytes.len() {
            let shorter = Listing::parse(&bytes[..cut]);
            assert!(shorter.is_none_or(|l| l.to_bytes().len() == cut), "{cut}");
        }
    }
}
